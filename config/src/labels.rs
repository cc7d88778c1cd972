//! Things that have labels, by namespace and by label: a selector that looks at
//! each of them would take minutes where there are thousands of both.

use std::collections::BTreeMap;

use crate::kinds::Selector;

/// An index of things with labels.
#[derive(Debug)]
pub(crate) struct Labelled<'a, T> {
    all: Vec<Item<'a, T>>,
    by_namespace: BTreeMap<&'a str, Vec<Item<'a, T>>>,
    by_label: BTreeMap<(&'a str, &'a str), Vec<Item<'a, T>>>,
}

#[derive(Clone, Copy, Debug)]
struct Item<'a, T> {
    namespace: &'a str,
    labels: &'a BTreeMap<String, String>,
    what: T,
}

impl<'a, T: Copy> Labelled<'a, T> {
    /// From the namespace, the labels, and the thing itself.
    pub(crate) fn new(things: impl Iterator<Item = (&'a str, &'a BTreeMap<String, String>, T)>) -> Self {
        let mut index = Self { all: Vec::new(), by_namespace: BTreeMap::new(), by_label: BTreeMap::new() };
        for (namespace, labels, what) in things {
            let item = Item { namespace, labels, what };
            index.all.push(item);
            index.by_namespace.entry(namespace).or_default().push(item);
            for (key, value) in labels {
                index.by_label.entry((key, value)).or_default().push(item);
            }
        }
        index
    }

    /// What a selector selects: of one namespace, or of all. In the order in which they came.
    pub(crate) fn selected<'s>(
        &'s self,
        namespace: Option<&'s str>,
        selector: &'s Selector,
    ) -> impl Iterator<Item = T> + 's {
        let scope = match namespace {
            None => Some(&self.all),
            Some(namespace) => self.by_namespace.get(namespace),
        };
        let labelled = selector
            .match_labels
            .iter()
            .map(|(key, value)| self.by_label.get(&(key.as_str(), value.as_str())));
        let lists: Option<Vec<_>> = std::iter::once(scope).chain(labelled).collect();
        let shortest = lists.and_then(|lists| lists.into_iter().min_by_key(|list| list.len()));
        shortest
            .into_iter()
            .flatten()
            .filter(move |item| {
                namespace.is_none_or(|n| n == item.namespace) && selector.matches(item.labels)
            })
            .map(|item| item.what)
    }
}
