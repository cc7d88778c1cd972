//! The Operator service: what the CLI calls.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use countersign_config::problem::Severity;
use countersign_config::{Key, Kind, Problem};
use countersign_evidence::Reason;
use countersign_ratls::SpiffeId;
use countersign_wire::proto::operator_server::Operator;
use countersign_wire::{proto, refusal};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::admit::{Admission, AdmitError, Admitted, Outcome};
use crate::authority::Keys;
use crate::caller::{Caller, Class};
use crate::clock::Clock;
use crate::cut::Cut;
use crate::metrics::Metrics;
use crate::platforms::Platforms;
use crate::ready::Ready;
use crate::resources::{self, Resources};
use crate::status::Proxies;
use crate::store::StoreError;
use crate::watchers::{Told, Watchers, What, Wish};

/// How long a change waits for the generation that has it.
const CUT_WITHIN: Duration = Duration::from_secs(2);
/// How long proxies may take to tell what an operator asks.
pub(crate) const TELL_WITHIN: Duration = Duration::from_secs(1);
/// Among so many is one of somebody who proved who he is, if there is any: proxies
/// tell of those first.
const LATEST_REFUSALS: u32 = 1;
/// The most files of a call, or names.
const MAX_FILES: usize = 1000;

/// The Operator service.
#[derive(Clone, Debug)]
pub(crate) struct OperatorService(pub(crate) Arc<Shared>);

/// What it stands on.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) admission: Arc<Admission>,
    pub(crate) resources: Arc<Resources>,
    pub(crate) platforms: Arc<Platforms>,
    pub(crate) cuts: watch::Receiver<Arc<Cut>>,
    pub(crate) proxies: Arc<Proxies>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) ready: Arc<Ready>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    pub(crate) watchers: Arc<Watchers>,
}

#[tonic::async_trait]
impl Operator for OperatorService {
    type WatchAttestationStream = Told;

    async fn watch_attestation(
        &self,
        request: Request<proto::WatchAttestationRequest>,
    ) -> Result<Response<Told>, Status> {
        operator(&request)?;
        let wanted = request.into_inner().proxies;
        if wanted.len() > MAX_FILES {
            return Err(refusal::with_reason(Reason::Oversized, format!("more than {MAX_FILES} proxies")));
        }
        let now = self.0.clock.seconds();
        let present = || self.0.proxies.present(now);
        self.0.watchers.join(wanted, Instant::now(), present).map(Response::new)
    }

    async fn attest_now(
        &self,
        request: Request<proto::AttestNowRequest>,
    ) -> Result<Response<proto::AttestNowResponse>, Status> {
        let operator = operator(&request)?;
        let proto::AttestNowRequest { proxies, peer } = request.into_inner();
        if proxies.is_empty() || proxies.len() > MAX_FILES {
            let why = format!("name 1 to {MAX_FILES} proxies");
            return Err(refusal::with_reason(Reason::BadRequest, why));
        }
        if !peer.is_empty() {
            SpiffeId::parse(&peer).map_err(|finding| refusal::status(&finding.into()))?;
        }
        let proxies: BTreeSet<String> = proxies.into_iter().collect();
        let asked = self.0.proxies.present(0).into_iter().filter(|p| p.reports && proxies.contains(&p.proxy));
        let asked: Vec<_> = asked.map(|proxy| proxy.proxy).collect();
        tracing::info!(operator, peer, proxies = asked.len(), "an operator asks for proofs");
        self.0.watchers.wish(Wish { proxies, what: What::Prove(peer) });
        Ok(Response::new(proto::AttestNowResponse { asked }))
    }

    async fn apply(
        &self,
        request: Request<proto::ApplyRequest>,
    ) -> Result<Response<proto::ApplyResponse>, Status> {
        let who = operator(&request)?;
        let proto::ApplyRequest { files, dry_run } = request.into_inner();
        if files.len() > MAX_FILES {
            return Err(refusal::with_reason(Reason::Oversized, format!("more than {MAX_FILES} files")));
        }
        let files: Vec<_> = files.into_iter().map(|file| (file.name, file.text)).collect();
        let admission = Arc::clone(&self.0.admission);
        let admitted = self.admit(move || admission.apply(&files, dry_run)).await?;
        let response = match admitted {
            Ok(admitted) => {
                self.0.log(&who, "apply", dry_run, &admitted);
                let generation = self.generation_with(admitted.revision).await;
                let results = admitted.results.iter().map(|(key, outcome)| applied(key, *outcome)).collect();
                proto::ApplyResponse { results, problems: problems(&admitted.warnings), generation }
            }
            Err(found) => {
                let problems = problems(&found);
                proto::ApplyResponse { results: Vec::new(), problems, generation: self.generation() }
            }
        };
        Ok(Response::new(response))
    }

    async fn delete(
        &self,
        request: Request<proto::DeleteRequest>,
    ) -> Result<Response<proto::DeleteResponse>, Status> {
        let who = operator(&request)?;
        let proto::DeleteRequest { keys, dry_run } = request.into_inner();
        let keys: Vec<Key> = keys.into_iter().map(key_of).collect::<Result<_, _>>()?;
        let admission = Arc::clone(&self.0.admission);
        let admitted = self.admit(move || admission.delete(&keys, dry_run)).await?;
        let response = match admitted {
            Ok(admitted) => {
                self.0.log(&who, "delete", dry_run, &admitted);
                let generation = self.generation_with(admitted.revision).await;
                proto::DeleteResponse {
                    deleted: admitted.results.iter().map(|(key, _)| key_to(key)).collect(),
                    absent: admitted.absent.iter().map(key_to).collect(),
                    problems: problems(&admitted.warnings),
                    generation,
                }
            }
            Err(found) => proto::DeleteResponse {
                problems: problems(&found),
                generation: self.generation(),
                ..Default::default()
            },
        };
        Ok(Response::new(response))
    }

    async fn list(
        &self,
        request: Request<proto::ListRequest>,
    ) -> Result<Response<proto::ListResponse>, Status> {
        operator(&request)?;
        let wanted = request.into_inner();
        let kind = match wanted.kind.as_str() {
            "" => None,
            kind => Some(kind_of(kind)?),
        };
        let shared = Arc::clone(&self.0);
        let set = tokio::task::spawn_blocking(move || shared.resources.load())
            .await
            .map_err(|e| internal(&e))?
            .map_err(|e| internal(&e))?;
        let cut = self.cut();
        let mut items: Vec<_> = set
            .resources
            .into_iter()
            .map(|(name, kept)| (name, kept.resource.key(), kept.resource))
            .filter(|(_, key, _)| kind.is_none_or(|kind| key.kind == kind))
            .filter(|(_, key, _)| wanted.namespace.is_empty() || key.namespace == wanted.namespace)
            .filter(|(_, key, _)| wanted.name.is_empty() || key.name == wanted.name)
            .collect();
        items.sort_by_key(|(_, key, _)| {
            let order = Kind::ALL.iter().position(|kind| *kind == key.kind);
            (order, key.namespace.clone(), key.name.clone())
        });
        let items = items
            .into_iter()
            .map(|(name, _, resource)| proto::Item {
                json: resource.to_json(),
                status: Some(self.0.item_status(&name, &cut)),
            })
            .collect();
        Ok(Response::new(proto::ListResponse { items, generation: cut.snapshot.generation() }))
    }

    async fn status(
        &self,
        request: Request<proto::StatusRequest>,
    ) -> Result<Response<proto::StatusResponse>, Status> {
        operator(&request)?;
        if request.into_inner().refusals {
            // What they tell is kept with what is known of them.
            self.0.watchers.ask(self.0.proxies.telling(), (0, LATEST_REFUSALS), TELL_WITHIN).await?;
        }
        Ok(Response::new(self.0.status()))
    }

    async fn explain(
        &self,
        request: Request<proto::ExplainRequest>,
    ) -> Result<Response<proto::ExplainResponse>, Status> {
        operator(&request)?;
        self.0.explain(&request.into_inner()).await.map(Response::new)
    }

    async fn platforms(
        &self,
        request: Request<proto::PlatformsRequest>,
    ) -> Result<Response<proto::PlatformsResponse>, Status> {
        operator(&request)?;
        self.inventory().await.map(Response::new)
    }

    async fn approve_platform(
        &self,
        request: Request<proto::ApprovePlatformRequest>,
    ) -> Result<Response<proto::EnrolResponse>, Status> {
        let who = operator(&request)?;
        self.approve(who, request.into_inner()).await.map(Response::new)
    }

    async fn revoke_platform(
        &self,
        request: Request<proto::RevokePlatformRequest>,
    ) -> Result<Response<proto::EnrolResponse>, Status> {
        let who = operator(&request)?;
        self.revoke(who, request.into_inner()).await.map(Response::new)
    }
}

impl OperatorService {
    fn cut(&self) -> Arc<Cut> {
        Arc::clone(&self.0.cuts.borrow())
    }

    pub(crate) fn generation(&self) -> u64 {
        self.cut().snapshot.generation()
    }

    /// The generation that contains a revision of the store, once it is cut.
    pub(crate) async fn generation_with(&self, revision: u64) -> u64 {
        let mut cuts = self.0.cuts.clone();
        let waited = tokio::time::timeout(CUT_WITHIN, cuts.wait_for(|cut| cut.revision >= revision)).await;
        match waited {
            Ok(Ok(cut)) => cut.snapshot.generation(),
            _ => self.generation(),
        }
    }

    pub(crate) async fn admit<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> Result<T, AdmitError> + Send + 'static,
    ) -> Result<Result<T, Vec<Problem>>, Status> {
        match tokio::task::spawn_blocking(act).await.map_err(|e| internal(&e))? {
            Ok(admitted) => Ok(Ok(admitted)),
            Err(AdmitError::Problems(found)) => {
                self.0.metrics.applied("rejected");
                Ok(Err(found))
            }
            Err(AdmitError::Store(e @ StoreError::Conflict { .. })) => {
                Err(refusal::with_reason(Reason::Overloaded, format!("somebody else writes: {e}")))
            }
            Err(AdmitError::Store(e)) => Err(internal(&e)),
        }
    }
}

impl Shared {
    pub(crate) fn log(&self, who: &str, verb: &str, dry_run: bool, admitted: &Admitted) {
        let changed = admitted.results.iter().filter(|(_, outcome)| *outcome != Outcome::Unchanged).count();
        if !dry_run {
            self.metrics.applied(if changed > 0 { "applied" } else { "unchanged" });
            tracing::info!(target: "audit", operator = who, verb, changed, revision = admitted.revision, "changed");
        }
        for (key, outcome) in &admitted.results {
            tracing::debug!(target: "audit", operator = who, verb, dry_run, %key, ?outcome, "resource");
        }
    }

    /// How proxies are with one resource.
    fn item_status(&self, name: &str, cut: &Cut) -> proto::ItemStatus {
        let version = cut.snapshot.entries().get(name).map(|entry| entry.version());
        let mut status = proto::ItemStatus {
            rejected_here: cut
                .rejected
                .iter()
                .find(|(rejected, _)| rejected == name)
                .map_or_else(String::new, |(_, why)| why.clone()),
            generation: cut.changed_in.get(name).copied().unwrap_or_default(),
            ..Default::default()
        };
        self.proxies.each(|proxy| {
            if !proxy.connected {
                return;
            }
            status.proxies += 1;
            status.applied += u32::from(version.is_some_and(|version| proxy.applied(name, version)));
            if let Some((_, reason)) = proxy.status.rejected.get(name) {
                let rejected = proto::Rejected { name: proxy.peer.proxy.clone(), reason: reason.clone() };
                status.rejected.push(rejected);
            }
        });
        status
    }

    pub(crate) fn status(&self) -> proto::StatusResponse {
        let generation = self.cuts.borrow().snapshot.generation();
        proto::StatusResponse {
            trust_domain: self.keys.bundle.trust_domain.as_str().to_owned(),
            generation,
            proxies: self.proxies.each(|proxy| proxy.to_proto(generation)),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            now: self.clock.seconds(),
            missing: self.ready.report(),
            ca_not_after: self.keys.not_after,
        }
    }
}

/// The operator's ID, if the caller is one.
fn operator<T>(request: &Request<T>) -> Result<String, Status> {
    let caller = Caller::of(request, &[Class::Operator])?;
    Ok(caller.id().map_or_else(String::new, ToString::to_string))
}

fn kind_of(name: &str) -> Result<Kind, Status> {
    Kind::from_name(name).ok_or_else(|| {
        let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        let text = format!("{name:?} is no kind of resource; there are {}", known.join(", "));
        refusal::with_reason(Reason::BadRequest, text)
    })
}

fn key_of(key: proto::ResourceKey) -> Result<Key, Status> {
    let proto::ResourceKey { kind, namespace, name } = key;
    let key = Key { kind: kind_of(&kind)?, namespace, name };
    if countersign_wire::name::is_well_formed(&resources::name(&key)) {
        return Ok(key);
    }
    Err(refusal::with_reason(Reason::BadRequest, "a name is empty, too long or not printable"))
}

fn key_to(key: &Key) -> proto::ResourceKey {
    proto::ResourceKey {
        kind: key.kind.name().to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

pub(crate) fn applied(key: &Key, outcome: Outcome) -> proto::Applied {
    let outcome = match outcome {
        Outcome::Created => proto::applied::Outcome::Created,
        Outcome::Configured => proto::applied::Outcome::Configured,
        Outcome::Unchanged => proto::applied::Outcome::Unchanged,
    };
    proto::Applied { key: Some(key_to(key)), outcome: outcome.into() }
}

pub(crate) fn problems(problems: &[Problem]) -> Vec<proto::Problem> {
    let severity = |problem: &Problem| match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    problems
        .iter()
        .map(|problem| proto::Problem {
            severity: severity(problem).to_owned(),
            file: problem.file.clone(),
            line: problem.line,
            column: problem.column,
            path: problem.path.clone(),
            message: problem.message.clone(),
            hint: problem.hint.clone().unwrap_or_default(),
        })
        .collect()
}

pub(crate) fn internal(error: &impl std::fmt::Display) -> Status {
    tracing::error!(%error, "internal error");
    refusal::with_reason(Reason::Internal, error.to_string())
}
