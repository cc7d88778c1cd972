//! Issuance: an attested request becomes an SVID, if the policy of the
//! WorkloadIdentity that was asked for holds. The ID is the policy's, never the
//! request's.

use std::sync::Arc;

use countersign_config::View;
use countersign_evidence::{Claims, Denial, Finding, Fingerprint, Reason};
use countersign_quoting::Platform;
use countersign_ratls::SpiffeId;
use countersign_ratls::ca::Leaf;
use countersign_ratls::csr::AttestedRequest;
use countersign_ratls::throttle::Throttle;
use countersign_wire::proto::identity_server::Identity;
use countersign_wire::{proto, refusal};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::authority::{Keys, serial};
use crate::caller::{Caller, Class, OPERATORS, OURS};
use crate::clock::Clock;
use crate::cut::Cut;
use crate::keep::{Issued, Keep};
use crate::metrics::Metrics;
use crate::platforms::Platforms;

/// Issuances between two looks for expired records.
const FORGET_EVERY: u64 = 256;
/// As which workload we ask ourselves for our own identity.
const OURSELVES: &str = "control plane";
/// The longest `namespace/name`.
const MAX_WORKLOAD: usize = 512;

/// Issues certificates by the view of the moment.
#[derive(Debug)]
pub(crate) struct Issuer {
    pub(crate) keys: Arc<Keys>,
    pub(crate) keep: Keep,
    pub(crate) cuts: watch::Receiver<Arc<Cut>>,
    pub(crate) clock: Clock,
    /// Our own ID.
    pub(crate) own: SpiffeId,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) count: std::sync::atomic::AtomicU64,
    pub(crate) throttle: Throttle,
    pub(crate) platforms: Arc<Platforms>,
}

/// What is written down of the machine that an identity is issued to.
struct Machine<'a> {
    tee: &'static str,
    emulated: bool,
    claims: Option<&'a Claims>,
}

impl<'a> Machine<'a> {
    fn of(claims: &'a Claims) -> Self {
        Self { tee: claims.tee.name(), emulated: claims.emulated, claims: Some(claims) }
    }

    fn platform(&self) -> String {
        self.claims.and_then(Claims::platform).map_or_else(String::new, |platform| platform.to_string())
    }
}

impl Issuer {
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.cuts.borrow().view)
    }

    /// Appraises a request and issues. Blocks for a disk write.
    fn issue(
        &self,
        caller: &Caller,
        workload: &str,
        csr: &[u8],
    ) -> Result<Vec<CertificateDer<'static>>, Denial> {
        self.clock.check()?;
        let now = self.clock.now();
        if workload.len() > MAX_WORKLOAD {
            return Err(Finding::new(Reason::Oversized, "workload", "namespace/name", "a longer text").into());
        }
        let request = AttestedRequest::parse(csr)?;
        caller.with_challenges(|open| open.take(&request.challenge, now.as_secs()))?;
        let view = self.view();
        let claims = view.verify_conveyed(&request.evidence, now)?;
        let entitled = view.entitle(workload, &claims, now);
        let (id, verdict) = entitled.inspect_err(|denial| self.refused(&claims, workload, denial.reason))?;
        not_reserved(&id, &self.own)?;
        same_as_before(caller, &id)?;
        let policy = verdict.policy.to_string();
        self.sign(&request, &id, view.svid_lifetime(), &Machine::of(&claims), workload, policy)
    }

    /// Our own certificate. Who runs us on which machine is for proxies to judge.
    pub(crate) fn issue_to_ourselves(
        &self,
        request: &AttestedRequest,
        id: &SpiffeId,
        platform: Platform,
    ) -> Result<Vec<CertificateDer<'static>>, Denial> {
        self.clock.check()?;
        let view = self.view();
        let claims = view.verify_conveyed(&request.evidence, self.clock.now());
        let claims = claims.inspect_err(|denial| {
            tracing::info!(%denial, "our own view does not verify our own evidence; proxies judge it by theirs");
        });
        let machine = match &claims {
            Ok(claims) => Machine::of(claims),
            // Unverified, it is still our own device that says what it is.
            Err(_) => Machine { tee: platform.tee.name(), emulated: platform.emulated, claims: None },
        };
        self.sign(request, id, view.svid_lifetime(), &machine, "", "our own".to_owned())
    }

    fn sign(
        &self,
        request: &AttestedRequest,
        id: &SpiffeId,
        lifetime: u64,
        machine: &Machine<'_>,
        workload: &str,
        policy: String,
    ) -> Result<Vec<CertificateDer<'static>>, Denial> {
        let now = self.clock.now();
        let leaf = Leaf { spki: &request.spki, id, lifetime, cmw: Some(&request.cmw) };
        let chain = self.keys.authority.issue(&leaf, now)?;
        let internal =
            |what: &str, presented: String| Finding::new(Reason::Internal, "issuance", what, presented);
        let leaf = chain.first().ok_or_else(|| internal("a certificate", "none".to_owned()))?;
        let (serial, not_after) =
            serial(leaf).ok_or_else(|| internal("a certificate", "something else".to_owned()))?;
        let issued = Issued {
            serial,
            fingerprint: Fingerprint::of(leaf).to_string(),
            id: id.to_string(),
            workload: workload.to_owned(),
            tee: machine.tee.to_owned(),
            emulated: machine.emulated,
            platform: machine.platform(),
            policy,
            issued: now.as_secs(),
            not_after,
        };
        // No certificate leaves that is not written down.
        let asked_for = if workload.is_empty() { OURSELVES } else { workload };
        Keep::record(&issued)
            .and_then(|record| self.platforms.issued(machine.claims, asked_for, now.as_secs(), record))
            .map_err(|e| internal("a record of it", e.to_string()))?;
        tracing::info!(
            target: "issuance", id = issued.id, workload, serial = issued.serial, tee = issued.tee,
            emulated = issued.emulated, platform = issued.platform, policy = issued.policy, not_after,
            "issued"
        );
        self.forget_sometimes(now.as_secs());
        Ok(chain)
    }

    /// The machine is written down all the same: an operator may want to enrol it.
    fn refused(&self, claims: &Claims, workload: &str, reason: Reason) {
        if let Err(e) = self.platforms.refused(claims, workload, self.clock.seconds(), reason) {
            tracing::warn!(error = %e, "cannot write down which machine was refused");
        }
    }

    fn forget_sometimes(&self, now: u64) {
        let count = self.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if count.is_multiple_of(FORGET_EVERY)
            && let Err(e) = self.keep.forget_expired(now)
        {
            tracing::warn!(error = %e, "cannot forget expired issuances");
        }
    }
}

/// Paths of operators and of our own are nobody's to get by attestation.
fn not_reserved(id: &SpiffeId, own: &SpiffeId) -> Result<(), Finding> {
    if id == own || id.path().starts_with(OPERATORS) || id.path().starts_with(OURS) {
        let expected = format!("an ID outside {OPERATORS} and {OURS}, and not our own");
        return Err(Finding::new(Reason::IdentityMismatch, "spiffeId", expected, id.as_str()));
    }
    Ok(())
}

/// A workload renews its own identity and no other.
fn same_as_before(caller: &Caller, id: &SpiffeId) -> Result<(), Finding> {
    match caller.id() {
        Some(own) if own != id => {
            Err(Finding::new(Reason::IdentityMismatch, "workload", own.as_str(), id.as_str()))
        }
        _ => Ok(()),
    }
}

/// The Identity service.
#[derive(Clone, Debug)]
pub(crate) struct IdentityService(pub(crate) Arc<Issuer>);

const ALLOWED: &[Class] = &[Class::Bootstrap, Class::Workload];

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn challenge(
        &self,
        request: Request<proto::ChallengeRequest>,
    ) -> Result<Response<proto::ChallengeResponse>, Status> {
        let caller = Caller::of(&request, ALLOWED)?;
        let now = self.0.clock.seconds();
        let (nonce, expires) = caller
            .with_challenges(|open| open.give(now))
            .map_err(|finding| refusal::status(&finding.into()))?;
        Ok(Response::new(proto::ChallengeResponse { nonce: nonce.to_vec().into(), expires }))
    }

    async fn issue(
        &self,
        request: Request<proto::IssueRequest>,
    ) -> Result<Response<proto::IssueResponse>, Status> {
        let caller = Caller::of(&request, ALLOWED)?;
        let proto::IssueRequest { workload, csr } = request.into_inner();
        let issuer = Arc::clone(&self.0);
        let address = caller.address();
        let asked = workload.clone();
        let outcome = tokio::task::spawn_blocking(move || issuer.issue(&caller, &asked, &csr))
            .await
            .map_err(|e| refusal::with_reason(Reason::Internal, format!("issuance: {e}")))?;
        self.0.metrics.issuance(outcome.as_ref().err().map(|denial| denial.reason));
        let chain = outcome.map_err(|denial| {
            if let Some(line) = self.0.throttle.line(self.0.clock.seconds()) {
                tracing::warn!(
                    target: "issuance", workload = %workload.escape_default(), %address, reason = %denial.reason,
                    %denial, line.suppressed, "refused"
                );
            }
            refusal::status(&denial)
        })?;
        Ok(Response::new(proto::IssueResponse {
            chain: chain.iter().map(|certificate| certificate.to_vec().into()).collect(),
            bundle: self.0.keys.bundle.to_json(),
        }))
    }
}
