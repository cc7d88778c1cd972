//! From a snapshot to what a view is made from, entry by entry.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_config::{Inputs, Resource};
use countersign_evidence::collateral::Item;
use countersign_ratls::{Bundle, TrustDomain};

use crate::name::EntryName;
use crate::snapshot::{Entry, Snapshot, Version};

/// What a snapshot gave.
#[derive(Clone, Debug)]
pub struct Converted {
    /// For `View::build`.
    pub inputs: Inputs,
    /// The entries that cannot be read, by name, with the reason. The others are used.
    pub rejected: Vec<(String, String)>,
}

/// Reads snapshots and keeps the resources that do not change from one to the next.
#[derive(Debug, Default)]
pub struct Converter {
    resources: BTreeMap<Arc<str>, (Version, Arc<Resource>)>,
}

impl Converter {
    /// Without anything kept.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads every entry. Forms of entry that this build does not know are rejected.
    pub fn convert(&mut self, snapshot: &Snapshot) -> Converted {
        let mut kept = BTreeMap::new();
        let mut rejected = Vec::new();
        let mut inputs = Inputs {
            generation: snapshot.generation(),
            resources: Vec::new(),
            bundles: Vec::new(),
            collateral: Vec::new(),
        };
        for (name, entry) in snapshot.entries() {
            let outcome = match EntryName::parse(name) {
                Some(EntryName::Resource(key)) => self.resource(name, entry).and_then(|resource| {
                    if resource.key() != key {
                        return Err(format!("the body is {}", resource.key()));
                    }
                    kept.insert(Arc::clone(name), (entry.version(), Arc::clone(&resource)));
                    inputs.resources.push(resource);
                    Ok(())
                }),
                Some(EntryName::Bundle(domain)) => {
                    bundle(&domain, entry).map(|bundle| inputs.bundles.push(bundle))
                }
                Some(EntryName::Collateral(name)) => {
                    inputs.collateral.push(Item { name, bytes: entry.body().to_vec() });
                    Ok(())
                }
                None => Err("this version does not know such an entry".to_owned()),
            };
            if let Err(reason) = outcome {
                rejected.push((name.as_ref().to_owned(), reason));
            }
        }
        self.resources = kept;
        Converted { inputs, rejected }
    }

    fn resource(&self, name: &str, entry: &Entry) -> Result<Arc<Resource>, String> {
        if let Some((version, resource)) = self.resources.get(name)
            && *version == entry.version()
        {
            return Ok(Arc::clone(resource));
        }
        let json = std::str::from_utf8(entry.body()).map_err(|_| "not UTF-8".to_owned())?;
        Resource::from_json(json)
            .map(Arc::new)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }
}

fn bundle(domain: &str, entry: &Entry) -> Result<Bundle, String> {
    TrustDomain::parse(domain)
        .and_then(|domain| Bundle::parse(domain, entry.body()))
        .map_err(|finding| finding.to_string())
}
