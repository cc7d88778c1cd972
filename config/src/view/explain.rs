//! Why a hop is as it is: for `countersign explain SRC DST`.

use std::sync::Arc;

use countersign_evidence::claims::Tee;
use countersign_evidence::policy::Level;
use countersign_evidence::{Claims, Denial, UnixTime, Verdict, appraise};
use countersign_ratls::SpiffeId;

use super::authorize::{Asked, Call};
use super::{Decision, View};
use crate::kinds::attestation_policy::Mode;
use crate::request::RequestFacts;

/// Everything that decides about calls of one workload by another.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Who calls.
    pub source: String,
    /// Who is called.
    pub destination: String,
    /// The port of the destination; 0 when nobody has one in mind.
    pub port: u16,
    /// What the destination's side demands of the source, at its inbound listener.
    pub source_must_prove: Demands,
    /// What the source's side demands of the destination, before it sends a byte.
    pub destination_must_prove: Demands,
    /// Whether the destination lets the source call.
    pub authorization: Decision,
    /// What had to be assumed.
    pub assumptions: Vec<String>,
}

/// What one side demands of the other.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Demands {
    /// Whose policies these are.
    pub guard: String,
    /// Every policy that selects the guard and speaks of the peer.
    pub policies: Vec<Demand>,
    /// Why every hop is refused, whatever the peer proves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Denial>,
}

/// What one policy demands.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Demand {
    /// The policy, for example `AttestationPolicy payments/ledger-peers`.
    pub policy: String,
    /// Enforced, or only recorded.
    pub mode: Mode,
    /// How much the peer must prove.
    pub level: Level,
    /// One line an alternative; one of them must hold.
    pub any_of: Vec<String>,
    /// How old the evidence may be, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_evidence_age: Option<u64>,
    /// What the policy says of the claims that were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

/// Claims to explain with.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// What the source proved.
    pub source: Option<Arc<Claims>>,
    /// What the destination proved.
    pub destination: Option<Arc<Claims>>,
}

impl View {
    /// Explains calls of `destination` by `source`. Needs no peer: without
    /// claims it says what would have to be proved. Port 0 stands for every port.
    #[must_use]
    pub fn explain(
        &self,
        source: &SpiffeId,
        destination: &SpiffeId,
        port: u16,
        known: &Known,
        now: UnixTime,
    ) -> Explanation {
        self.explain_request(source, destination, port, None, known, now)
    }

    /// The same of a request, if there is one. Without it, what is said is true of
    /// bytes; that some request would be allowed is said as well.
    #[must_use]
    pub fn explain_request(
        &self,
        source: &SpiffeId,
        destination: &SpiffeId,
        port: u16,
        request: Option<&RequestFacts<'_>>,
        known: &Known,
        now: UnixTime,
    ) -> Explanation {
        let tee: Option<Tee> = known.source.as_ref().map(|claims| claims.tee);
        let mut assumptions = Vec::new();
        if tee.is_none() {
            assumptions.push(
                "no evidence of the source is at hand: authorization rules with `tees` count as not matching"
                    .to_owned(),
            );
        }
        if known.source.is_some() || known.destination.is_some() {
            assumptions.push("the evidence counts as fresh".to_owned());
        }
        let asking = |asked| {
            let at = |port| {
                self.decide(&Call {
                    view: self,
                    me: destination,
                    peer: Some(source),
                    namespace: self.namespace_of(source),
                    tee,
                    verdicts: None,
                    port,
                    asked,
                })
            };
            if port == 0 { self.decide_anywhere(destination, at) } else { at(port) }
        };
        let authorization = match request {
            Some(request) => asking(Asked::Request(request)),
            None => {
                let decision = asking(Asked::Bytes);
                let some = asking(Asked::Requests);
                if some.allowed && !decision.allowed {
                    assumptions.push(format!(
                        "the answer is that for bytes; where the port serves HTTP, {}: say which with a method, \
                         a path and a host",
                        some.rule
                    ));
                }
                decision
            }
        };
        Explanation {
            source: source.to_string(),
            destination: destination.to_string(),
            port,
            source_must_prove: self.side(destination, source, known.source.as_ref(), now),
            destination_must_prove: self.side(source, destination, known.destination.as_ref(), now),
            authorization,
            assumptions,
        }
    }

    fn side(&self, me: &SpiffeId, peer: &SpiffeId, claims: Option<&Arc<Claims>>, now: UnixTime) -> Demands {
        let policies: Vec<_> = match self.guarding(me) {
            Ok(policies) => policies.into_iter().filter(|p| p.speaks_of(peer)).collect(),
            Err(denial) => {
                return Demands { guard: me.to_string(), policies: Vec::new(), refused: Some(denial) };
            }
        };
        let enforced = policies.iter().any(|p| p.mode == Mode::Enforce);
        let refused = (!enforced).then(|| {
            let audits: Vec<_> = policies.iter().map(|p| (*p, p.mode)).collect();
            super::judge::no_policy(me, peer, &audits)
        });
        let demand = |policy: &super::compile::HopPolicy| Demand {
            policy: policy.key.to_string(),
            mode: policy.mode,
            level: policy.level,
            any_of: policy.demands.clone(),
            max_evidence_age: policy.policy.max_evidence_age,
            verdict: claims.filter(|_| policy.level > Level::L0).map(|claims| {
                // The evidence at hand is that of a certificate, before any round.
                let claims = match policy.level.is_session_bound() && policy.wants_event_log() {
                    true => Arc::new(claims.with_event_log_to_follow()),
                    false => Arc::clone(claims),
                };
                appraise(claims, &policy.policy, &self.references, 0, now)
            }),
        };
        Demands { guard: me.to_string(), policies: policies.into_iter().map(demand).collect(), refused }
    }
}
