//! From what the control plane sent to the view in use.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_config::{Inputs, Key, View};
use countersign_evidence::Finding;
use countersign_evidence::collateral::Marks;
use tokio::time::Instant;

use super::control::Control;
use crate::context::Context;

/// Compiles views and puts them to use, one after the other: when the control
/// plane sends something, and when time makes another view of what it sent.
#[derive(Debug)]
pub(crate) struct Compiler {
    control: Arc<Control>,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    marks: Marks,
    inputs: Option<Inputs>,
}

/// What could not become part of a view.
pub(crate) struct Unused {
    pub resources: Vec<(Key, String)>,
    pub collateral: Vec<(String, Finding)>,
}

impl Compiler {
    pub(crate) const fn new(control: Arc<Control>, marks: Marks) -> Self {
        Self { control, last: Mutex::new(Last { marks, inputs: None }) }
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest issues that were in use.
    pub(crate) fn marks(&self) -> Marks {
        self.last().marks.clone()
    }

    /// Puts inputs to use that arrived at `since`.
    pub(crate) fn apply(&self, inputs: Inputs, since: Instant, ctx: &Context) -> Unused {
        let mut last = self.last();
        last.inputs = Some(inputs);
        last.compile(since, ctx)
    }

    /// Makes the view again when it is time, and that by which the control plane is judged.
    pub(crate) fn renew(&self, ctx: &Context) {
        self.control.renew(ctx);
        let now = ctx.clock.seconds();
        if ctx.view.load().renew_at().is_none_or(|at| at > now) {
            return;
        }
        tracing::info!("collateral that was ahead of our clock comes into use");
        for (item, finding) in self.last().compile(Instant::now(), ctx).collateral {
            tracing::warn!(item, %finding, "collateral not used");
        }
        ctx.check_own_evidence();
    }
}

impl Last {
    /// Under the lock, so that views are put to use in the order in which they are made.
    fn compile(&mut self, since: Instant, ctx: &Context) -> Unused {
        let Some(inputs) = self.inputs.clone() else {
            return Unused { resources: Vec::new(), collateral: Vec::new() };
        };
        let previous = ctx.view.load_full();
        let built = View::build_after(&previous, inputs, &mut self.marks, ctx.clock.now());
        ctx.clock.floor().raise(self.marks.newest_issue());
        ctx.install_since(&Arc::new(built.view), since);
        Unused { resources: built.rejected, collateral: built.refused_collateral }
    }
}
