//! Who may connect, and what each class of caller may do.
//!
//! | certificate | class | services |
//! |---|---|---|
//! | self-signed, without a SPIFFE ID | bootstrap | Identity |
//! | SVID with evidence that its policy accepts | workload | Identity, Mesh |
//! | SVID `spiffe://TRUST_DOMAIN/operator/<name>`, without evidence | operator | Operator |

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_evidence::{Denial, Finding, Reason, UnixTime};
use countersign_ratls::peer::{Admission, Judge, Presented, Role};
use countersign_ratls::{Bundle, SpiffeId};
use countersign_wire::refusal;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tonic::{Request, Status};

use crate::challenge::Challenges;
use crate::cut::Cut;
use crate::status::Proxies;

/// The path under which operators' IDs are.
pub(crate) const OPERATORS: &str = "/operator/";
/// The path under which our own IDs are.
pub(crate) const OURS: &str = "/countersign/";

/// What a caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Has no SVID yet.
    Bootstrap,
    /// A proxy.
    Workload,
    /// A person, or a tool of one.
    Operator,
}

/// A connection's caller. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Caller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    class: Class,
    admission: Arc<Admission>,
    address: SocketAddr,
    challenges: Mutex<Challenges>,
}

impl Caller {
    pub(crate) fn new(admission: Arc<Admission>, address: SocketAddr) -> Self {
        let class = classify(&admission.presented);
        Self(Arc::new(Inner { class, admission, address, challenges: Mutex::default() }))
    }

    /// The caller of a request, if it is of one of these classes.
    pub(crate) fn of<T>(request: &Request<T>, allowed: &[Class]) -> Result<Self, Status> {
        let caller = request
            .extensions()
            .get::<Self>()
            .ok_or_else(|| refusal::with_reason(Reason::Internal, "the connection has no caller"))?;
        if allowed.contains(&caller.class()) {
            return Ok(caller.clone());
        }
        let presented = match caller.class() {
            Class::Bootstrap => "a certificate without a SPIFFE ID",
            Class::Workload => "the SVID of a workload",
            Class::Operator => "the SVID of an operator",
        };
        let expected = match allowed {
            [Class::Operator] => "the SVID of an operator",
            [Class::Workload] => "the SVID of a workload",
            _ => "a certificate with evidence, or one to bootstrap from",
        };
        let finding = Finding::new(Reason::AuthorizationDenied, "client certificate", expected, presented);
        Err(refusal::status(&finding.into()))
    }

    pub(crate) fn class(&self) -> Class {
        self.0.class
    }

    pub(crate) fn admission(&self) -> &Arc<Admission> {
        &self.0.admission
    }

    pub(crate) fn id(&self) -> Option<&SpiffeId> {
        self.0.admission.presented.id.as_ref()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// The challenges that were given over this connection.
    pub(crate) fn with_challenges<T>(&self, act: impl FnOnce(&mut Challenges) -> T) -> T {
        act(&mut self.0.challenges.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn classify(presented: &Presented) -> Class {
    match &presented.id {
        None => Class::Bootstrap,
        Some(id) if id.path().starts_with(OPERATORS) && presented.evidence.is_none() => Class::Operator,
        Some(_) => Class::Workload,
    }
}

/// Judges those who connect, by the view of the moment.
#[derive(Debug)]
pub(crate) struct Doorkeeper {
    pub(crate) bundle: Bundle,
    pub(crate) cuts: watch::Receiver<Arc<Cut>>,
    pub(crate) proxies: Arc<Proxies>,
}

impl Judge for Doorkeeper {
    fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        _role: Role,
        now: UnixTime,
    ) -> Result<Arc<Admission>, Denial> {
        let presented = Presented::parse(chain)?;
        let view = Arc::clone(&self.cuts.borrow().view);
        match classify(&presented) {
            Class::Workload => {
                let id = presented.id.clone();
                let judged = view.judge_workload(presented, now).map(Arc::new);
                if let (Some(id), Err(denial)) = (id, &judged) {
                    self.proxies.turned_away(id.as_str(), denial);
                }
                judged
            }
            Class::Operator => {
                let valid_until = self.bundle.validate(&presented, now)?;
                Ok(without_evidence(presented, valid_until, view.generation))
            }
            Class::Bootstrap => {
                within_validity(&presented, now)?;
                let valid_until = presented.not_after;
                Ok(without_evidence(presented, valid_until, view.generation))
            }
        }
    }
}

fn without_evidence(presented: Presented, valid_until: u64, generation: u64) -> Arc<Admission> {
    Arc::new(Admission::without_evidence(presented, valid_until, generation))
}

fn within_validity(presented: &Presented, now: UnixTime) -> Result<(), Finding> {
    let seconds = now.as_secs();
    if !presented.self_signed {
        let expected = "a SPIFFE ID, or a self-signed certificate to bootstrap from";
        return Err(Finding::new(Reason::SvidInvalid, "client certificate", expected, "neither"));
    }
    if (presented.not_before..=presented.not_after).contains(&seconds) {
        return Ok(());
    }
    let expected = format!("{} to {}", presented.not_before, presented.not_after);
    Err(Finding::new(Reason::SvidExpired, "bootstrap certificate validity", expected, seconds.to_string()))
}
