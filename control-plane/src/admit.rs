//! Admission: every document is checked, alone and together with what is there,
//! before anything changes. All or nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_config::place::Places;
use countersign_config::problem::Severity;
use countersign_config::resource::check_set;
use countersign_config::{Key, Kind, Problem, Resource};
use countersign_ratls::{SpiffeId, TrustDomain};
use countersign_wire::{MAX_BODY, MAX_ENTRIES};

use crate::resources::{self, Kept, Resources, Set};
use crate::store::{Change, Store, StoreError};

/// Entries of a snapshot that are left for bundles and collateral.
const RESERVED_ENTRIES: usize = 1000;

/// What happens to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is new.
    Created,
    /// It was there with other content.
    Configured,
    /// It was there with this content.
    Unchanged,
}

/// What was done, or would be.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// One for each document, in their order; for a deletion the keys that were there.
    pub results: Vec<(Key, Outcome)>,
    /// Keys that were to be deleted and are not there.
    pub absent: Vec<Key>,
    /// What somebody should look at.
    pub warnings: Vec<Problem>,
    /// The revision of the store that has it; 0 when nothing was written.
    pub revision: u64,
}

/// Why nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// The documents have errors.
    #[error("{} problems", .0.len())]
    Problems(Vec<Problem>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an edit changed nothing.
#[derive(Debug)]
pub(crate) enum EditError {
    /// What is to be edited is not as it would have to be.
    Refused(String),
    /// What came of it was not admitted.
    Admit(AdmitError),
}

impl From<AdmitError> for EditError {
    fn from(error: AdmitError) -> Self {
        Self::Admit(error)
    }
}

/// The only writer of resources.
#[derive(Debug)]
pub struct Admission {
    trust_domain: TrustDomain,
    /// Our own ID.
    own: SpiffeId,
    store: Arc<dyn Store>,
    resources: Arc<Resources>,
    /// One admission at a time: each is checked against what the last one left.
    turn: Mutex<()>,
}

impl Admission {
    pub(crate) fn new(
        trust_domain: TrustDomain,
        own: SpiffeId,
        store: Arc<dyn Store>,
        resources: Arc<Resources>,
    ) -> Self {
        Self { trust_domain, own, store, resources, turn: Mutex::default() }
    }

    /// Applies files, each a name for messages and YAML text.
    ///
    /// # Errors
    /// Every problem of every document; then nothing changed.
    pub fn apply(&self, files: &[(String, String)], dry_run: bool) -> Result<Admitted, AdmitError> {
        let (documents, places) = read(files)?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.admit(&self.resources.load()?, documents, &places, dry_run)
    }

    /// Replaces resources by what `edit` makes of those that are there, as if
    /// they had been applied. Nobody writes in between.
    ///
    /// # Errors
    /// What `edit` says, or every problem of what it made; then nothing changed.
    pub(crate) fn edit<T>(
        &self,
        dry_run: bool,
        edit: impl FnOnce(&Set) -> Result<(T, Vec<Resource>), String>,
    ) -> Result<(T, Admitted), EditError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.resources.load().map_err(AdmitError::from)?;
        let (made, resources) = edit(&before).map_err(EditError::Refused)?;
        let documents = resources.iter().map(checked).collect::<Result<Vec<_>, _>>()?;
        Ok((made, self.admit(&before, documents, &Places::default(), dry_run)?))
    }

    fn admit(
        &self,
        before: &Set,
        documents: Vec<(String, Resource)>,
        places: &Places,
        dry_run: bool,
    ) -> Result<Admitted, AdmitError> {
        let mut problems = Vec::new();
        let mut results = Vec::new();
        let mut changes = Vec::new();
        let mut after = before.resources.clone();
        let mut origin = BTreeMap::new();
        for (file, resource) in documents {
            let key = resource.key();
            let name = resources::name(&key);
            if origin.insert(key.clone(), file.clone()).is_some() {
                problems.push(error(&file, &key, "the same resource is given twice"));
                continue;
            }
            self.check_own(&file, &resource, &mut problems);
            let json = resource.to_json();
            if json.len() > MAX_BODY {
                problems.push(error(&file, &key, &format!("is larger than {MAX_BODY} bytes")));
            }
            let old = before.resources.get(&name);
            let outcome = match old {
                None => Outcome::Created,
                Some(old) if old.resource.to_json() == json => Outcome::Unchanged,
                Some(_) => Outcome::Configured,
            };
            results.push((key, outcome));
            if outcome != Outcome::Unchanged {
                changes.push(Change::put(name.clone(), json, Some(old.map_or(0, |old| old.revision))));
                after.insert(name, Kept { revision: 0, resource: Arc::new(resource) });
            }
        }
        let warnings = check(&after, &origin, places, problems)?;
        let revision = self.write(&changes, dry_run)?;
        Ok(Admitted { results, absent: Vec::new(), warnings, revision })
    }

    /// Deletes resources. What is left must hold together.
    ///
    /// # Errors
    /// The references that would dangle; then nothing changed.
    pub fn delete(&self, keys: &[Key], dry_run: bool) -> Result<Admitted, AdmitError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut after = self.resources.load()?.resources;
        let mut results = Vec::new();
        let mut absent = Vec::new();
        let mut changes = Vec::new();
        for key in keys {
            let name = resources::name(key);
            if after.remove(&name).is_some() {
                changes.push(Change::delete(name));
                results.push((key.clone(), Outcome::Configured));
            } else {
                absent.push(key.clone());
            }
        }
        let warnings = check(&after, &BTreeMap::new(), &Places::default(), Vec::new())?;
        let revision = self.write(&changes, dry_run)?;
        Ok(Admitted { results, absent, warnings, revision })
    }

    fn write(&self, changes: &[Change], dry_run: bool) -> Result<u64, StoreError> {
        if dry_run || changes.is_empty() {
            return Ok(0);
        }
        self.store.commit(changes)
    }

    fn check_own(&self, file: &str, resource: &Resource, problems: &mut Vec<Problem>) {
        let key = resource.key();
        if key.kind == Kind::TrustDomain && key.name != self.trust_domain.as_str() {
            let message = format!("this control plane serves the trust domain {}", self.trust_domain);
            problems.push(error(file, &key, &message));
        }
        if let Resource::WorkloadIdentity(_, spec) = resource
            && spec.spiffe_id.0 == self.own
        {
            let message = format!("{} is this control plane: no workload gets its identity", self.own);
            problems.push(error(file, &key, &message));
        }
    }
}

/// A resource as if it had been written by somebody: with all of the rules of its kind.
fn checked(resource: &Resource) -> Result<(String, Resource), AdmitError> {
    let key = resource.key();
    let named = |problem: Problem| Problem { file: key.to_string(), ..problem };
    Resource::from_json(&resource.to_json())
        .map(|resource| (key.to_string(), resource))
        .map_err(|problems| AdmitError::Problems(problems.into_iter().map(named).collect()))
}

/// Reads all documents of all files.
fn read(files: &[(String, String)]) -> Result<(Vec<(String, Resource)>, Places), AdmitError> {
    let mut places = Places::default();
    let mut documents = Vec::new();
    let mut problems = Vec::new();
    for (file, text) in files {
        match places.parse(file, text) {
            Ok(resources) => documents.extend(resources.into_iter().map(|r| (file.clone(), r))),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok((documents, places)) } else { Err(AdmitError::Problems(problems)) }
}

/// The warnings, when there is no error.
fn check(
    after: &BTreeMap<String, Kept>,
    origin: &BTreeMap<Key, String>,
    places: &Places,
    mut problems: Vec<Problem>,
) -> Result<Vec<Problem>, AdmitError> {
    let limit = MAX_ENTRIES - RESERVED_ENTRIES;
    if after.len() > limit {
        let message = format!("{} resources are more than the limit of {limit}", after.len());
        problems.push(Problem { message, ..blank() });
    }
    let set: Vec<Resource> = after.values().map(|kept| (*kept.resource).clone()).collect();
    problems.extend(check_set(&set));
    let origin = origin.iter().map(|(key, file)| (key.to_string(), file)).collect();
    let problems: Vec<_> =
        problems.into_iter().map(|problem| in_its_file(places.place(problem), &origin)).collect();
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        return Err(AdmitError::Problems(problems));
    }
    Ok(problems)
}

/// Checks across resources know no files: their paths begin with the resource.
/// `origin` has the files by how paths name the resources.
fn in_its_file(mut problem: Problem, origin: &BTreeMap<String, &String>) -> Problem {
    if problem.file.is_empty() {
        let resource = problem.path.split_once(',').map_or(problem.path.as_str(), |(resource, _)| resource);
        if let Some(file) = origin.get(resource) {
            problem.file.clone_from(file);
        }
    }
    problem
}

fn error(file: &str, key: &Key, message: &str) -> Problem {
    Problem { file: file.to_owned(), path: key.to_string(), message: message.to_owned(), ..blank() }
}

const fn blank() -> Problem {
    Problem {
        severity: Severity::Error,
        file: String::new(),
        line: 0,
        column: 0,
        path: String::new(),
        message: String::new(),
        hint: None,
    }
}
