//! How a command ends: passed, denied, or not at all.

use std::fmt;

use countersign_config::Problem;

/// What a command that ran to its end found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything holds.
    Pass,
    /// A denial, or a check that failed. It has been shown already.
    Denied,
    /// What a command that was run for the operator ended with.
    Of(u8),
}

impl Outcome {
    /// Pass, if it is true.
    pub(crate) const fn pass_if(passed: bool) -> Self {
        if passed { Self::Pass } else { Self::Denied }
    }

    /// The exit code.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Denied => 1,
            Self::Of(code) => code,
        }
    }
}

/// Why a command could not run to its end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The operator's input is wrong: exit code 2.
    Input(anyhow::Error),
    /// The world is: exit code 1.
    Failed(anyhow::Error),
    /// Nobody answered: exit code 3, which no denial has.
    Unreachable(anyhow::Error),
    /// Documents with problems, and the text of each file for the snippets: exit code 2.
    Problems(Vec<Problem>, Vec<(String, String)>),
}

/// What commands return.
pub(crate) type Result<T = Outcome> = std::result::Result<T, Failure>;

impl Failure {
    /// The operator's input is wrong.
    pub(crate) fn input(what: impl fmt::Display) -> Self {
        Self::Input(anyhow::anyhow!("{what}"))
    }

    /// The world is.
    pub(crate) fn failed(what: impl fmt::Display) -> Self {
        Self::Failed(anyhow::anyhow!("{what}"))
    }

    /// Nobody answered.
    pub(crate) fn unreachable(what: impl fmt::Display) -> Self {
        Self::Unreachable(anyhow::anyhow!("{what}"))
    }

    /// The exit code.
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Unreachable(_) => 3,
            Self::Input(_) | Self::Problems(..) => 2,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(error) | Self::Failed(error) | Self::Unreachable(error) => write!(f, "{error:#}"),
            Self::Problems(problems, _) => write!(f, "{} problems", problems.len()),
        }
    }
}
