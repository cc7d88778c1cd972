//! Watching a verification: the same code that decides also explains.
//!
//! The verifiers report each check to an [`Observer`]. In the data path it is
//! `()`, which compiles to nothing; `countersign verify` uses a [`Tree`].

use crate::reason::Reason;

/// Somebody who is told of each check, in order.
pub trait Observer {
    /// A group of checks begins.
    fn enter(&mut self, _title: &'static str) {}
    /// The group ends.
    fn leave(&mut self) {}
    /// A check was made. `detail` is only called by observers that keep it.
    fn check(&mut self, _title: &'static str, _failure: Option<Reason>, _detail: impl FnOnce() -> String)
    where
        Self: Sized,
    {
    }
}

impl Observer for () {}

/// A group of checks, with groups inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Group {
    /// What the group is about.
    pub title: String,
    /// The checks and groups, in order.
    pub entries: Vec<Entry>,
}

/// A line of the tree.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Entry {
    /// A group.
    Group(Group),
    /// A check: what was compared, and why it failed if it did.
    Check {
        /// What was checked.
        title: String,
        /// What was compared with what.
        detail: String,
        /// The reason of the failure.
        #[serde(skip_serializing_if = "Option::is_none")]
        failure: Option<Reason>,
    },
}

/// Keeps every check as a tree.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    open: Vec<Group>,
    root: Group,
}

impl Tree {
    /// The checks so far. Groups that are still open (an error left them) are closed.
    #[must_use]
    pub fn finish(mut self) -> Group {
        while !self.open.is_empty() {
            self.leave();
        }
        self.root
    }

    fn current(&mut self) -> &mut Group {
        self.open.last_mut().unwrap_or(&mut self.root)
    }
}

impl Observer for Tree {
    fn enter(&mut self, title: &'static str) {
        self.open.push(Group { title: title.to_owned(), entries: Vec::new() });
    }

    fn leave(&mut self) {
        if let Some(group) = self.open.pop() {
            self.current().entries.push(Entry::Group(group));
        }
    }

    fn check(&mut self, title: &'static str, failure: Option<Reason>, detail: impl FnOnce() -> String) {
        let entry = Entry::Check { title: title.to_owned(), detail: detail(), failure };
        self.current().entries.push(entry);
    }
}
