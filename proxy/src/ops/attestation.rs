//! Who proved what, and when it must prove it again.

use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::policy::Mode;
use countersign_evidence::{RegisterState, Verdict};
use countersign_ratls::session::{Direction, Moment};
use serde_json::{Value, json};

use crate::context::Context;
use crate::live::Hop;
use crate::observe::access::verdict_digest;
use crate::observe::metrics::direction;
use crate::observe::refused::Refusal;
use crate::session::Session;

/// Our own evidence, and every hop.
pub(super) fn all(ctx: &Context) -> Value {
    let view = ctx.view.load();
    let own = ctx.evidence.load_full().map(|evidence| {
        let claims = view.verify(evidence.media_type, &evidence.value, ctx.clock.now());
        let claims = claims.and_then(|claims| match evidence.event_log_from(0) {
            Some((kind, log)) => {
                Ok(claims.with_event_log(kind, &log, &RegisterState::default()).map(|(c, _)| Arc::new(c))?)
            }
            None => Ok(claims),
        });
        let (claims, denial) = match claims {
            Ok(claims) => (Some(claims), None),
            Err(denial) => (None, Some(denial)),
        };
        json!({
            "mediaType": evidence.media_type,
            "bytes": evidence.value.len(),
            "emulated": claims.as_ref().map(|c| c.emulated),
            "claims": claims,
            "denial": denial,
        })
    });
    let now = ctx.clock.moment();
    let refusals: Vec<Value> = ctx.refused.all().iter().map(|told| refusal(told, now)).collect();
    let peers: Vec<Value> = ctx.live.hops().iter().map(|hop| peer(hop, now)).collect();
    json!({
        "generation": view.generation,
        "own": own,
        "collateral": view.collateral.inventory(),
        "peers": peers,
        "refusals": refusals,
    })
}

/// Who was refused lately, or refused us, and why.
fn refusal(refusal: &Refusal, now: Moment) -> Value {
    json!({
        "peer": refusal.peer,
        "proved": refusal.proved,
        "direction": direction(refusal.role),
        "stage": refusal.stage.name(),
        "byPeer": refusal.by_peer,
        "denial": refusal.denial,
        "remedy": refusal.denial.reason.remedy(),
        "generation": refusal.generation,
        "firstAt": refusal.first,
        "lastAt": refusal.last,
        "age": now.unix.saturating_sub(refusal.last),
        "times": refusal.times,
    })
}

fn peer(hop: &Hop, now: Moment) -> Value {
    let admission = hop.admission();
    json!({
        "hop": hop.id,
        "direction": direction(hop.role),
        "identity": hop.peer(),
        "tee": admission.claims.as_ref().map(|c| c.tee),
        "emulated": admission.claims.as_ref().map(|c| c.emulated),
        "verdicts": admission.verdicts,
        "verdictDigest": verdict_digest(&admission),
        "generation": admission.generation,
        "validUntil": hop.until(),
        "chainDigest": hex::encode(admission.presented.digest),
        "session": hop.session.as_ref().map(|session| self::session(hop, session, now)),
    })
}

/// What was proved on a hop, and what comes next. Times are seconds: since the
/// epoch if they end in `At`, from now otherwise.
fn session(hop: &Hop, session: &Session, now: Moment) -> Value {
    let state = session.state();
    let proof = hop.proof();
    let ago = |at: Duration| now.monotonic.saturating_sub(at).as_secs();
    // Rounded up: 0 says that it is due now.
    let ahead = |at: Duration| at.saturating_sub(now.monotonic).as_millis().div_ceil(1000);
    let direction = |direction: &Direction| {
        json!({
            "level": direction.level,
            "round": direction.round,
            "inRound": direction.in_round,
            "acceptedAt": direction.since.map(|at| now.unix.saturating_sub(ago(at))),
            "age": direction.since.map(ago),
            "nextChallenge": direction.next.map(ahead),
            "rounds": direction.accepted,
            "retries": direction.retries,
            "timeouts": direction.timeouts,
        })
    };
    json!({
        "alpn": hop.framing.name(),
        "phase": state.phase,
        "peer": direction(&state.peer),
        "own": direction(&state.own),
        "usableFor": state.accepted_until.map(ahead),
        "endsIn": ahead(state.ends),
        "renewals": { "own": state.own_serial, "peer": state.peer_serial },
        "tee": proof.as_ref().map(|p| p.claims.tee),
        "platform": proof.as_ref().and_then(|p| p.claims.platform()).map(|p| p.to_string()),
        "runtimeEvents": proof.as_ref().and_then(|p| p.claims.runtime_events()),
        "policies": proof.as_ref().map(|p| deciding(&p.verdicts)),
        "policyId": hex::encode(session.demands().policy_id),
        "draining": session.draining().map(|draining| json!({
            "reason": draining.denial.reason,
            "byPeer": draining.by_peer,
            "cutIn": ahead(draining.until),
        })),
    })
}

/// The policies among them that decide.
fn deciding(verdicts: &[Verdict]) -> Vec<String> {
    let enforced = verdicts.iter().filter(|verdict| verdict.mode == Mode::Enforce);
    enforced.map(|verdict| verdict.policy.to_string()).collect()
}
