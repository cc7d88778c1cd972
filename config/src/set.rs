//! Checks across resources.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::Position;
use crate::kinds::Selector;
use crate::kinds::assurance::Level;
use crate::problem::Problem;
use crate::resource::{Key, Kind, ROOT_NAMESPACE, Resource};
use crate::schema::check::nearest;

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
    let set = Set { keys: resources.iter().map(Resource::key).collect(), resources };
    let mut problems = Vec::new();
    set.duplicates(&mut problems);
    set.identities(&mut problems);
    set.policies(&mut problems);
    set.reference_values(now, &mut problems);
    set.selectors(&mut problems);
    problems
}

struct Set<'a> {
    resources: &'a [Resource],
    keys: BTreeSet<Key>,
}

fn error(key: &Key, path: &str, message: String) -> Problem {
    let path = if path.is_empty() { key.to_string() } else { format!("{key}, {path}") };
    Problem::error("", Position::default(), &path, message)
}

impl Set<'_> {
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
            self.exists(Kind::AttestationPolicy, &metadata.namespace, policy, || {
                (key, "spec.attestation.policy".to_owned())
            })
            .map_or_else(|p| problems.push(p), |()| {});
        }
    }

    fn policies(&self, problems: &mut Vec<Problem>) {
        for resource in self.resources {
            let Resource::AttestationPolicy(metadata, spec) = resource else { continue };
            for (i, alternative) in spec.any_of.iter().enumerate() {
                for name in alternative.measurements().names() {
                    let place = || {
                        let tee = countersign_evidence::claims::Tee::from(alternative.tee());
                        (resource.key(), format!("spec.anyOf[{i}].{tee}.measurements.fromReferenceValues"))
                    };
                    let known = self.exists(Kind::ReferenceValues, &metadata.namespace, &name.0, place);
                    problems.extend(known.err());
                }
            }
        }
    }

    fn exists(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        place: impl FnOnce() -> (Key, String),
    ) -> Result<(), Problem> {
        let wanted = Key { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        if self.keys.contains(&wanted) {
            return Ok(());
        }
        let (key, path) = place();
        let problem = error(&key, &path, format!("there is no {wanted}"));
        let same = self.keys.iter().filter(|k| k.kind == kind && k.namespace == namespace);
        let near = nearest(name, same.map(|k| k.name.as_str()));
        let elsewhere = self.keys.iter().find(|k| k.kind == kind && k.name == name);
        Err(match (near, elsewhere) {
            (_, Some(other)) => problem.hint(format!("{other} exists, but names are of the same namespace")),
            (Some(near), _) => problem.hint(format!("did you mean `{near}`?")),
            _ => problem,
        })
    }

    fn reference_values(&self, now: Option<u64>, problems: &mut Vec<Problem>) {
        let mut used: BTreeSet<(&str, &str)> = BTreeSet::new();
        for resource in self.resources {
            let Resource::AttestationPolicy(metadata, spec) = resource else { continue };
            let names = spec.any_of.iter().flat_map(|a| a.measurements().names());
            used.extend(names.map(|name| (metadata.namespace.as_str(), name.0.as_str())));
        }
        for resource in self.resources {
            let Resource::ReferenceValues(metadata, spec) = resource else { continue };
            let key = resource.key();
            if !used.contains(&(metadata.namespace.as_str(), metadata.name.as_str())) {
                let message = "no AttestationPolicy of its namespace names it: it has no effect".to_owned();
                problems.push(error(&key, "", message).as_warning());
            }
            if let (Some(now), Some(until)) = (now, &spec.valid_until)
                && until.0 < now
            {
                let message = format!("ended at {until}: nothing is accepted on its word");
                problems.push(error(&key, "spec.validUntil", message).as_warning());
            }
        }
    }

    fn selectors(&self, problems: &mut Vec<Problem>) {
        for resource in self.resources {
            let selector: &Selector = match resource {
                Resource::AttestationPolicy(_, s) => &s.selector,
                Resource::AuthorizationPolicy(_, s) => &s.selector,
                _ => continue,
            };
            let namespace = &resource.metadata().namespace;
            let selects = self.resources.iter().any(|r| match r {
                Resource::WorkloadIdentity(m, s) => {
                    (*namespace == m.namespace || namespace == ROOT_NAMESPACE) && selector.matches(&s.labels)
                }
                _ => false,
            });
            let named = resource.kind() == Kind::AttestationPolicy && self.grants_identity(resource);
            if !selects && !named {
                let message = "selects no WorkloadIdentity of its namespace: it has no effect on hops";
                problems.push(error(&resource.key(), "spec.selector", message.to_owned()).as_warning());
            }
        }
    }

    fn grants_identity(&self, policy: &Resource) -> bool {
        let wanted = policy.metadata();
        self.resources.iter().any(|r| match r {
            Resource::WorkloadIdentity(m, s) => {
                m.namespace == wanted.namespace && s.attestation.policy.0 == wanted.name
            }
            _ => false,
        })
    }
}
