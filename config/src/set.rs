//! Checks across resources.

mod routes;
mod services;

use std::collections::{BTreeMap, BTreeSet};

use countersign_evidence::claims::Tee;

use crate::document::Position;
use crate::kinds::assurance::Level;
use crate::kinds::attestation_policy::Alternative;
use crate::kinds::scalar::Name;
use crate::kinds::{Selector, WorkloadIdentitySpec};
use crate::labels::Labelled;
use crate::problem::Problem;
use crate::resource::{Key, Kind, Metadata, ROOT_NAMESPACE, Resource};
use crate::schema::check::nearest;

/// How many dangling names get a hint: to look for what was meant takes time.
const MAX_HINTS: usize = 100;

/// Checks across resources (dangling references, unused reference values, ...).
/// Errors make the set unusable, warnings do not.
#[must_use]
pub fn check_set(resources: &[Resource]) -> Vec<Problem> {
    check_set_at(resources, None)
}

/// The same at a time in seconds since the epoch, so that expired Reference
/// Values are seen as well.
#[must_use]
pub fn check_set_at(resources: &[Resource], now: Option<u64>) -> Vec<Problem> {
    check_all(&Set::new(resources), now)
}

/// The same of some of a mesh's resources: a name that nothing among them has may be
/// that of another, and is a warning.
#[must_use]
pub fn check_part(resources: &[Resource]) -> Vec<Problem> {
    check_all(&Set { partial: true, ..Set::new(resources) }, None)
}

fn check_all(set: &Set<'_>, now: Option<u64>) -> Vec<Problem> {
    let mut problems = Vec::new();
    set.duplicates(&mut problems);
    set.identities(&mut problems);
    set.policies(&mut problems);
    set.callers(&mut problems);
    set.unused(&mut problems);
    set.expired(now, &mut problems);
    set.selectors(&mut problems);
    set.services(&mut problems);
    set.routes(&mut problems);
    problems
}

struct Set<'a> {
    resources: &'a [Resource],
    keys: BTreeSet<Key>,
    /// There may be others besides.
    partial: bool,
}

fn error(key: &Key, path: &str, message: String) -> Problem {
    let path = if path.is_empty() { key.to_string() } else { format!("{key}, {path}") };
    Problem::error("", Position::default(), &path, message)
}

/// What an alternative of a policy names: the field, and the kind that is meant.
fn named(alternative: &Alternative) -> [(&'static str, Kind, &[Name]); 3] {
    [
        ("runtimeEvents.fromReferenceValues", Kind::ReferenceValues, alternative.event_sets()),
        ("measurements.fromReferenceValues", Kind::ReferenceValues, alternative.measurements().names()),
        ("platformsFrom", Kind::PlatformList, alternative.platform_lists()),
    ]
}

impl<'a> Set<'a> {
    fn new(resources: &'a [Resource]) -> Self {
        Self { keys: resources.iter().map(Resource::key).collect(), resources, partial: false }
    }

    fn workloads(&self) -> impl Iterator<Item = (&'a Metadata, &'a WorkloadIdentitySpec)> {
        self.resources.iter().filter_map(|resource| match resource {
            Resource::WorkloadIdentity(metadata, spec) => Some((metadata, spec)),
            _ => None,
        })
    }

    fn duplicates(&self, problems: &mut Vec<Problem>) {
        let mut seen = BTreeSet::new();
        for key in self.resources.iter().map(Resource::key) {
            if !seen.insert(key.clone()) {
                problems.push(error(&key, "", "is defined twice".to_owned()));
            }
        }
    }

    fn identities(&self, problems: &mut Vec<Problem>) {
        let trust_domains: BTreeSet<&str> = self
            .resources
            .iter()
            .filter(|r| r.kind() == Kind::TrustDomain)
            .map(|r| r.metadata().name.as_str())
            .collect();
        let unattested: BTreeSet<(&str, &str)> = self
            .resources
            .iter()
            .filter_map(|resource| match resource {
                Resource::AttestationPolicy(m, s) if s.level == Level::L0 => {
                    Some((m.namespace.as_str(), m.name.as_str()))
                }
                _ => None,
            })
            .collect();
        let mut owners: BTreeMap<&str, Key> = BTreeMap::new();
        for resource in self.resources {
            let Resource::WorkloadIdentity(metadata, spec) = resource else { continue };
            let key = resource.key();
            let id = &spec.spiffe_id.0;
            if let Some(owner) = owners.get(id.as_str()) {
                let message = format!("{id} is already given to {owner}");
                problems.push(error(&key, "spec.spiffeId", message));
            } else {
                owners.insert(id.as_str(), key.clone());
            }
            let domain = id.trust_domain();
            if !trust_domains.is_empty() && !trust_domains.contains(domain.as_str()) {
                let known: Vec<&str> = trust_domains.iter().copied().collect();
                let message = format!("{id} is outside the trust domain {}", known.join(", "));
                problems.push(error(&key, "spec.spiffeId", message));
            }
            let policy = &spec.attestation.policy.0;
            if unattested.contains(&(metadata.namespace.as_str(), policy.as_str())) {
                let message =
                    format!("{policy} is of level L0, which asks for no evidence: nobody gets {id}");
                problems.push(error(&key, "spec.attestation.policy", message));
            }
            let place = || (key, "spec.attestation.policy".to_owned());
            self.exists(Kind::AttestationPolicy, &metadata.namespace, policy, place, problems);
        }
    }

    fn policies(&self, problems: &mut Vec<Problem>) {
        for resource in self.resources {
            let Resource::AttestationPolicy(metadata, spec) = resource else { continue };
            for (i, alternative) in spec.any_of.iter().enumerate() {
                let tee = Tee::from(alternative.tee());
                for (field, kind, names) in named(alternative) {
                    for name in names {
                        let place = || (resource.key(), format!("spec.anyOf[{i}].{tee}.{field}"));
                        self.exists(kind, &metadata.namespace, &name.0, place, problems);
                    }
                }
            }
        }
    }

    /// Policies that callers must have satisfied.
    fn callers(&self, problems: &mut Vec<Problem>) {
        for resource in self.resources {
            let Resource::AuthorizationPolicy(metadata, spec) = resource else { continue };
            for (path, attestation) in spec.attestations() {
                let Some(policy) = &attestation.policy else { continue };
                let place = || (resource.key(), format!("{path}.policy"));
                self.exists(Kind::AttestationPolicy, &metadata.namespace, &policy.0, place, problems);
            }
        }
    }

    /// Reports a name that nothing has.
    fn exists(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        place: impl FnOnce() -> (Key, String),
        problems: &mut Vec<Problem>,
    ) {
        let wanted = Key { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        if self.keys.contains(&wanted) {
            return;
        }
        let (key, path) = place();
        let problem = match self.partial {
            true => error(&key, &path, format!("{wanted} is not in these files: not checked")).as_warning(),
            false => error(&key, &path, format!("there is no {wanted}")),
        };
        if problems.len() >= MAX_HINTS {
            problems.push(problem);
            return;
        }
        let same = self.keys.iter().filter(|k| k.kind == kind && k.namespace == namespace);
        let near = nearest(name, same.map(|k| k.name.as_str()));
        let elsewhere = self.keys.iter().find(|k| k.kind == kind && k.name == name);
        problems.push(match (near, elsewhere) {
            (_, Some(other)) => problem.hint(format!("{other} exists, but names are of the same namespace")),
            (Some(near), _) => problem.hint(format!("did you mean `{near}`?")),
            _ => problem,
        });
    }

    fn unused(&self, problems: &mut Vec<Problem>) {
        let mut used: BTreeSet<(Kind, &str, &str)> = BTreeSet::new();
        for resource in self.resources {
            let Resource::AttestationPolicy(metadata, spec) = resource else { continue };
            for (_, kind, names) in spec.any_of.iter().flat_map(named) {
                used.extend(names.iter().map(|name| (kind, metadata.namespace.as_str(), name.0.as_str())));
            }
        }
        for resource in self.resources {
            let (kind, metadata) = (resource.kind(), resource.metadata());
            if matches!(kind, Kind::ReferenceValues | Kind::PlatformList)
                && !used.contains(&(kind, &metadata.namespace, &metadata.name))
            {
                let message = "no AttestationPolicy of its namespace names it: it has no effect".to_owned();
                problems.push(error(&resource.key(), "", message).as_warning());
            }
        }
    }

    fn expired(&self, now: Option<u64>, problems: &mut Vec<Problem>) {
        for resource in self.resources {
            let Resource::ReferenceValues(_, spec) = resource else { continue };
            if let (Some(now), Some(until)) = (now, &spec.valid_until)
                && until.0 < now
            {
                let message = format!("ended at {until}: nothing is accepted on its word");
                problems.push(error(&resource.key(), "spec.validUntil", message).as_warning());
            }
        }
    }

    fn selectors(&self, problems: &mut Vec<Problem>) {
        let labels = Labelled::new(self.workloads().map(|(m, s)| (m.namespace.as_str(), &s.labels, ())));
        let mut known: BTreeMap<_, bool> = BTreeMap::new();
        let granting: BTreeSet<(&str, &str)> = self
            .workloads()
            .map(|(metadata, spec)| (metadata.namespace.as_str(), spec.attestation.policy.0.as_str()))
            .collect();
        for resource in self.resources {
            let selector: &Selector = match resource {
                Resource::AttestationPolicy(_, s) => &s.selector,
                Resource::AuthorizationPolicy(_, s) => &s.selector,
                _ => continue,
            };
            let metadata = resource.metadata();
            let grants = resource.kind() == Kind::AttestationPolicy
                && granting.contains(&(&metadata.namespace, &metadata.name));
            // Thousands of policies may select by the same labels.
            let mut selects = || {
                let same = (metadata.namespace.as_str(), &selector.match_labels);
                let scope = Some(metadata.namespace.as_str()).filter(|name| *name != ROOT_NAMESPACE);
                *known.entry(same).or_insert_with(|| labels.selected(scope, selector).next().is_some())
            };
            if !grants && !selects() {
                let message = "selects no WorkloadIdentity of its namespace: it has no effect on hops";
                problems.push(error(&resource.key(), "spec.selector", message.to_owned()).as_warning());
            }
        }
    }
}
