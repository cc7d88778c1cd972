//! What our hops prove, for whoever watches by way of the control plane.

use std::time::Duration;

use countersign_evidence::policy::{Level, Mode};
use countersign_ratls::session::{Moment, Phase};
use countersign_wire::MAX_REPORTED_DENIAL;
use countersign_wire::client::{Subscription, Watch};
use countersign_wire::proto::{self, HopAttestation, ProxyMessage};
use countersign_wire::refusal::to_json;
use tokio::time::Instant;

use crate::context::Context;
use crate::live::Hop;
use crate::observe::metrics::direction;
use crate::observe::refused::Refusal;

/// Whether somebody watches, and when to tell them next.
#[derive(Debug, Default)]
pub(super) struct Watched(Option<Lease>);

/// What a proof takes, mostly.
const SOON: Duration = Duration::from_millis(200);

/// Policies of one hop that are named. Whoever wants all of them asks the proxy.
const MOST_POLICIES: usize = 16;

#[derive(Debug)]
struct Lease {
    watch: Watch,
    until: Instant,
    next: Instant,
}

impl Watched {
    /// Somebody asks. Whoever has just begun need not wait.
    pub(super) fn asked(&mut self, watch: Watch, now: Instant) {
        // Whoever asks who was refused waits for the answer.
        let waits = watch.refusals > 0;
        let known = self.0.as_ref().filter(|_| !waits);
        let next = known.map_or(now, |lease| lease.next.min(now + watch.every));
        self.0 = Some(Lease { watch, until: now + watch.lasting, next });
    }

    /// Something is about to change: whoever watches hears of it soon.
    pub(super) fn hasten(&mut self, now: Instant) {
        if let Some(lease) = &mut self.0 {
            lease.next = lease.next.min(now + SOON);
        }
    }

    /// What to tell now, if anything.
    pub(super) fn due(&mut self, now: Instant, ctx: &Context) -> Option<ProxyMessage> {
        self.next(now).map(|watch| attestation(ctx, watch))
    }

    fn next(&mut self, now: Instant) -> Option<Watch> {
        if self.0.as_ref().is_some_and(|lease| now >= lease.until) {
            self.0 = None;
        }
        let lease = self.0.as_mut().filter(|lease| now >= lease.next)?;
        lease.next = now + lease.watch.every;
        Some(lease.watch)
    }
}

/// What drains first, then the oldest proof; and the last refusals, if they are wanted.
fn attestation(ctx: &Context, wanted: Watch) -> ProxyMessage {
    let now = ctx.clock.moment();
    let mut hops: Vec<HopAttestation> = ctx.live.hops().iter().map(|hop| of(hop, now)).collect();
    let total = u64::try_from(hops.len()).unwrap_or(u64::MAX);
    hops.sort_by_key(|hop| (hop.reason.is_empty(), std::cmp::Reverse(hop.age), hop.hop));
    hops.truncate(wanted.hops);
    let refusals = || ctx.refused.all().into_iter().take(wanted.refusals).map(refusal).collect();
    Subscription::attestation(total, hops, (wanted.refusals > 0).then(refusals))
}

fn refusal(refusal: Refusal) -> proto::Refusal {
    proto::Refusal {
        direction: direction(refusal.role).to_owned(),
        peer: refusal.peer,
        proved: refusal.proved,
        stage: refusal.stage.name().to_owned(),
        by_peer: refusal.by_peer,
        first: refusal.first,
        last: refusal.last,
        times: refusal.times,
        generation: refusal.generation,
        denial: to_json(&refusal.denial, MAX_REPORTED_DENIAL),
    }
}

fn of(hop: &Hop, now: Moment) -> HopAttestation {
    let admission = hop.admission();
    let (proof, session) = (hop.proof(), hop.session.as_ref());
    let state = session.map(|session| session.state());
    let draining = session.and_then(|session| session.draining());
    // Over plain h2 nothing is proved but what the certificate carries.
    let carried = if admission.claims.is_some() { "L1" } else { "L0" };
    let level = |level: Option<Level>| match (&state, level) {
        (None, _) => carried.to_owned(),
        (Some(_), Some(level)) => level.to_string(),
        (Some(_), None) => String::new(),
    };
    let claims = proof.as_ref().map(|proof| &proof.claims).or(admission.claims.as_ref());
    let verdicts = proof.as_ref().map_or(&admission.verdicts, |proof| &proof.verdicts);
    let deciding = verdicts.iter().filter(|verdict| verdict.mode == Mode::Enforce);
    let seconds = |time: Duration| time.as_secs();
    HopAttestation {
        hop: hop.id,
        direction: direction(hop.role).to_owned(),
        peer: hop.peer(),
        level: level(state.as_ref().and_then(|state| state.peer.level)),
        own_level: level(state.as_ref().and_then(|state| state.own.level)),
        round: state.as_ref().and_then(|state| state.peer.round),
        age: state
            .as_ref()
            .and_then(|state| state.peer.since)
            .map(|since| seconds(now.monotonic.saturating_sub(since))),
        next: state
            .as_ref()
            .and_then(|state| state.peer.next)
            .map(|next| seconds(next.saturating_sub(now.monotonic))),
        tee: claims.map_or("", |claims| claims.tee.name()).to_owned(),
        emulated: claims.is_some_and(|claims| claims.emulated),
        platform: claims.and_then(|claims| claims.platform()).map_or_else(String::new, |p| p.to_string()),
        policies: deciding
            .take(MOST_POLICIES)
            .map(|v| format!("{}/{}", v.policy.namespace, v.policy.name))
            .collect(),
        state: match (draining, state.map_or(Phase::Open, |state| state.phase)) {
            (Some(_), _) | (None, Phase::Draining) => "draining",
            (None, Phase::Gate) => "gate",
            (None, Phase::Opening) => "opening",
            (None, Phase::Open) => "open",
            (None, Phase::Closed) => "closed",
        }
        .to_owned(),
        reason: draining.map_or("", |draining| draining.denial.reason.code()).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_is_told_at_once_then_now_and_then_until_the_lease_ends() {
        let begun = Instant::now();
        let second = |n| begun + Duration::from_secs(n);
        let watch =
            Watch { every: Duration::from_secs(2), lasting: Duration::from_secs(5), hops: 1, refusals: 0 };
        let mut watched = Watched::default();
        let mut told = Vec::new();
        let mut due = |watched: &mut Watched, n: u64| {
            if watched.next(second(n)).is_some() {
                told.push(n);
            }
        };
        due(&mut watched, 0);
        watched.asked(watch, second(1));
        (1..4).for_each(|n| due(&mut watched, n));
        // Asked again, it goes on at the pace that it has.
        watched.asked(watch, second(4));
        (4..20).for_each(|n| due(&mut watched, n));
        assert_eq!(told, [1, 3, 5, 7]);
        // Who wants to know of refusals is not kept waiting.
        watched.asked(watch, second(30));
        assert!(watched.next(second(30)).is_some() && watched.next(second(31)).is_none());
        watched.asked(Watch { refusals: 1, ..watch }, second(31));
        assert!(watched.next(second(31)).is_some());
    }
}
