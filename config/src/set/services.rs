//! Services and WorkloadEntries: whose name it is, who answers, and who nobody calls.

use std::collections::{BTreeMap, BTreeSet};

use super::{Set, error};
use crate::kinds::service::Claim;
use crate::kinds::{ServiceSpec, WorkloadEntrySpec};
use crate::labels::Labelled;
use crate::problem::Problem;
use crate::resource::{Key, Kind, Metadata, Resource};

impl<'a> Set<'a> {
    pub(super) fn services(&self, problems: &mut Vec<Problem>) {
        self.claims(problems);
        let entries: Vec<(&Metadata, &WorkloadEntrySpec)> = self
            .resources
            .iter()
            .filter_map(|resource| match resource {
                Resource::WorkloadEntry(metadata, spec) => Some((metadata, spec)),
                _ => None,
            })
            .collect();
        let labels = Labelled::new(entries.iter().map(|(m, s)| (m.namespace.as_str(), &s.labels, *m)));
        let mut called = BTreeSet::new();
        // Thousands of Services may select by the same labels.
        let mut known = BTreeSet::new();
        for (key, spec) in self.all_services() {
            let selector = &spec.selector;
            if known.insert((key.namespace.clone(), &selector.match_labels)) {
                let selected = labels.selected(Some(&key.namespace), selector);
                called.extend(selected.map(|m| (m.namespace.as_str(), m.name.as_str())));
            }
            if labels.selected(Some(&key.namespace), selector).next().is_none() {
                let message = "selects no WorkloadEntry of its namespace: nobody answers calls".to_owned();
                problems.push(error(&key, "spec.selector", message).as_warning());
            }
        }
        for (metadata, spec) in entries {
            let key = || Key {
                kind: Kind::WorkloadEntry,
                namespace: metadata.namespace.clone(),
                name: metadata.name.clone(),
            };
            let place = || (key(), "spec.workload".to_owned());
            self.exists(Kind::WorkloadIdentity, &metadata.namespace, &spec.workload.0, place, problems);
            if !called.contains(&(metadata.namespace.as_str(), metadata.name.as_str())) {
                let message = "no Service of its namespace selects it: nobody calls it".to_owned();
                problems.push(error(&key(), "spec.labels", message).as_warning());
            }
        }
    }

    /// Which of two Services is meant by a name that both have cannot be known.
    fn claims(&self, problems: &mut Vec<Problem>) {
        let mut owners: BTreeMap<Claim, Key> = BTreeMap::new();
        for (key, spec) in self.all_services() {
            let mut told = None;
            for (path, claim) in spec.claims() {
                match owners.get(&claim) {
                    // One line for an address, however many ports there are.
                    Some(owner) if told.as_ref() != Some(&path) => {
                        let message = format!("{claim} already belongs to {owner}");
                        problems.push(error(&key, &path.to_string(), message));
                        told = Some(path);
                    }
                    Some(_) => {}
                    None => {
                        owners.insert(claim, key.clone());
                    }
                }
            }
        }
    }

    fn all_services(&self) -> impl Iterator<Item = (Key, &'a ServiceSpec)> {
        self.resources.iter().filter_map(|resource| match resource {
            Resource::Service(_, spec) => Some((resource.key(), spec)),
            _ => None,
        })
    }
}
