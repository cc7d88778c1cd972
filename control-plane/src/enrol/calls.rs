//! The calls of the Operator service by which machines are enrolled.

use std::sync::Arc;

use countersign_config::{Key, Kind, Problem, Resource};
use countersign_evidence::Reason;
use countersign_wire::{proto, refusal};
use tonic::Status;

use super::{Decision, Machine, Wanted};
use crate::admit::{Admitted, EditError};
use crate::operator::{OperatorService, applied, internal, problems};
use crate::platforms::Platform;
use crate::resources::{self, Set};
use crate::store::StoreError;

/// The machine that was meant, and what came of the lists.
type Edited = (Machine, Vec<Resource>);

impl OperatorService {
    /// Everybody who was seen or is listed.
    pub(crate) async fn inventory(&self) -> Result<proto::PlatformsResponse, Status> {
        let shared = Arc::clone(&self.0);
        let both = move || {
            let set = shared.resources.load()?;
            Ok::<_, StoreError>((set, shared.platforms.all()?))
        };
        let both = tokio::task::spawn_blocking(both).await.map_err(|e| internal(&e))?;
        let (set, seen) = both.map_err(|e| internal(&e))?;
        Ok(proto::PlatformsResponse {
            platforms: super::inventory(&set, &seen),
            now: self.0.clock.seconds(),
            generation: self.generation(),
        })
    }

    /// Puts a machine on a list.
    pub(crate) async fn approve(
        &self,
        who: String,
        asked: proto::ApprovePlatformRequest,
    ) -> Result<proto::EnrolResponse, Status> {
        let wanted = Wanted::parse(&asked.id, &asked.tee).map_err(bad)?;
        let list = list(&asked.namespace, &asked.name)?;
        let decision = Decision { by: who.clone(), at: self.0.clock.seconds(), note: asked.note };
        let edit = move |set: &Set, seen: &[Platform]| {
            let (machine, changed) = super::approve(set, seen, &wanted, &list, &decision)?;
            Ok((machine, vec![changed]))
        };
        self.enrol(&who, "approve", asked.dry_run, edit).await
    }

    /// Takes a machine away from lists.
    pub(crate) async fn revoke(
        &self,
        who: String,
        asked: proto::RevokePlatformRequest,
    ) -> Result<proto::EnrolResponse, Status> {
        let wanted = Wanted::parse(&asked.id, &asked.tee).map_err(bad)?;
        let list = match (asked.namespace.as_str(), asked.name.as_str()) {
            ("", "") => None,
            (namespace, name) => Some(list(namespace, name)?),
        };
        let edit = move |set: &Set, seen: &[Platform]| super::revoke(set, seen, &wanted, list.as_ref());
        self.enrol(&who, "revoke", asked.dry_run, edit).await
    }

    async fn enrol(
        &self,
        who: &str,
        verb: &'static str,
        dry_run: bool,
        edit: impl FnOnce(&Set, &[Platform]) -> Result<Edited, String> + Send + 'static,
    ) -> Result<proto::EnrolResponse, Status> {
        let shared = Arc::clone(&self.0);
        let act = move || {
            let seen = shared.platforms.all()?;
            match shared.admission.edit(dry_run, |set| edit(set, &seen)) {
                Ok(done) => Ok(Ok(done)),
                Err(EditError::Refused(why)) => Ok(Err(why)),
                Err(EditError::Admit(error)) => Err(error),
            }
        };
        let (machine, admitted): (Machine, Admitted) = match self.admit(act).await? {
            Ok(Ok(done)) => done,
            Ok(Err(why)) => return Err(bad(why)),
            Err(found) => return Ok(refused(&found, self.generation())),
        };
        self.0.log(who, verb, dry_run, &admitted);
        let (tee, id) = &machine;
        tracing::info!(target: "audit", operator = who, verb, dry_run, tee, id, "platform");
        let generation = self.generation_with(admitted.revision).await;
        let known = self.inventory().await?.platforms.into_iter().find(|p| p.tee == *tee && p.id == *id);
        // Taken from the only list, it may never have been seen.
        let unknown = || proto::Platform { tee: (*tee).to_owned(), id: id.clone(), ..Default::default() };
        Ok(proto::EnrolResponse {
            platform: Some(known.unwrap_or_else(unknown)),
            results: admitted.results.iter().map(|(key, outcome)| applied(key, *outcome)).collect(),
            problems: problems(&admitted.warnings),
            generation,
        })
    }
}

fn refused(found: &[Problem], generation: u64) -> proto::EnrolResponse {
    proto::EnrolResponse { problems: problems(found), generation, ..Default::default() }
}

fn list(namespace: &str, name: &str) -> Result<Key, Status> {
    let key = Key { kind: Kind::PlatformList, namespace: namespace.to_owned(), name: name.to_owned() };
    if namespace.is_empty()
        || name.is_empty()
        || !countersign_wire::name::is_well_formed(&resources::name(&key))
    {
        return Err(bad(format!("{namespace:?}/{name:?} names no PlatformList: give NAMESPACE/NAME")));
    }
    Ok(key)
}

#[allow(clippy::needless_pass_by_value, reason = "a mapping of errors")]
fn bad(why: String) -> Status {
    refusal::with_reason(Reason::BadRequest, why)
}
