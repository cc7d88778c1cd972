//! A tree of checks, as text.

use countersign_evidence::Reason;
use countersign_evidence::observe::{Entry, Group};

use crate::output::{BAD, DIM, GOOD, HEADING, clean, paint};

/// A check that holds.
pub(crate) fn pass(title: &str, detail: impl Into<String>) -> Entry {
    Entry::Check { title: title.to_owned(), detail: detail.into(), failure: None }
}

/// A check that does not.
pub(crate) fn fail(title: &str, detail: impl Into<String>, reason: Reason) -> Entry {
    Entry::Check { title: title.to_owned(), detail: detail.into(), failure: Some(reason) }
}

/// A group of entries.
pub(crate) fn group(title: &str, entries: Vec<Entry>) -> Entry {
    Entry::Group(Group { title: title.to_owned(), entries })
}

/// Whether every check in the tree holds.
pub(crate) fn holds(entries: &[Entry]) -> bool {
    entries.iter().all(|entry| match entry {
        Entry::Group(group) => holds(&group.entries),
        Entry::Check { failure, .. } => failure.is_none(),
    })
}

/// The lines of a tree.
pub(crate) fn lines(entries: &[Entry]) -> Vec<String> {
    let mut out = Vec::new();
    for entry in entries {
        push(entry, "", None, &mut out);
    }
    out
}

fn push(entry: &Entry, indent: &str, last: Option<bool>, out: &mut Vec<String>) {
    let (branch, below) = match last {
        None => ("", ""),
        Some(false) => ("├─ ", "│  "),
        Some(true) => ("└─ ", "   "),
    };
    let lead = format!("{DIM}{indent}{branch}{DIM:#}");
    match entry {
        Entry::Group(group) => {
            let mark = if holds(&group.entries) { String::new() } else { format!(" {}", paint(BAD, "✗")) };
            out.push(format!("{lead}{}{mark}", paint(HEADING, &group.title)));
            let indent = format!("{indent}{below}");
            for (i, inner) in group.entries.iter().enumerate() {
                push(inner, &indent, Some(i + 1 == group.entries.len()), out);
            }
        }
        Entry::Check { title, detail, failure } => {
            let mark = if failure.is_none() { paint(GOOD, "✓") } else { paint(BAD, "✗") };
            let reason = failure.map(|reason| paint(BAD, &format!(" [{reason}]"))).unwrap_or_default();
            let detail = if detail.is_empty() { String::new() } else { format!(": {}", clean(detail)) };
            out.push(format!("{lead}{mark} {}{detail}{reason}", clean(title)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_marks_the_group_of_a_failure() {
        let tree =
            [group("outer", vec![pass("one", "1 = 1"), group("in", vec![fail("two", "", Reason::Debug)])])];
        let text: Vec<String> =
            lines(&tree).iter().map(|l| anstream::adapter::strip_str(l).to_string()).collect();
        assert_eq!(text, ["outer ✗", "├─ ✓ one: 1 = 1", "└─ in ✗", "   └─ ✗ two [debug]"]);
        assert!(!holds(&tree));
    }
}
