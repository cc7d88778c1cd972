//! How a hop ends: the one place that drains and cuts.

use std::time::Duration;

use countersign_evidence::{Denial, Finding, Reason};

use super::action::{Action, Cut, Drain};
use super::common::{Failure, Outbox, Rejected, out_of_order};
use super::frame::Kind;
use super::message::{Farewell, Outcome, RoundResult};
use super::reason::{Ending, WireReason};
use super::terms::Moment;
use crate::binding::sha256;

/// The longest grace that we grant to a peer that drains.
const MAX_GRACE: Duration = Duration::from_secs(120);

/// Whether, and how, the hop comes to its end.
#[derive(Debug, Default)]
pub(super) struct End {
    drain: Option<Draining>,
    cut: bool,
    /// The peer has said that it drains.
    told: bool,
    /// Our Open is said, and what stands behind it is not read as frames.
    hushed: bool,
}

#[derive(Debug)]
struct Draining {
    until: Duration,
    why: Why,
}

/// Who ends the hop, and why.
#[derive(Clone, Debug)]
struct Why {
    denial: Box<Denial>,
    wire: WireReason,
    by_peer: bool,
}

impl Why {
    fn ours(denial: Box<Denial>) -> Self {
        Self { wire: WireReason::of(denial.reason), denial, by_peer: false }
    }

    fn theirs(wire: WireReason, field: &str) -> Self {
        Self { wire, denial: Box::new(wire.as_refusal(field)), by_peer: true }
    }
}

impl End {
    pub(super) const fn is_cut(&self) -> bool {
        self.cut
    }

    pub(super) const fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// Until the peer's Open, nothing more can be said.
    pub(super) const fn hush(&mut self, hushed: bool) {
        self.hushed = hushed;
    }

    pub(super) fn until(&self) -> Option<Duration> {
        self.drain.as_ref().map(|drain| drain.until)
    }

    /// Something failed: cuts or drains by the matrix. Without a grace everything cuts.
    pub(super) fn fail(&mut self, out: &mut Outbox, failure: Failure, grace: Duration, now: Moment) {
        if self.cut {
            return;
        }
        let Failure { denial, rejected, again } = failure;
        let drains = Ending::of(denial.reason) == Ending::Drain && !again && !grace.is_zero();
        let why = Why::ours(denial);
        if drains && self.drain.is_some() {
            return;
        }
        let hushed = self.hushed;
        let mut say = |kind, payload: Vec<u8>| {
            if !hushed {
                out.send(kind, &payload);
            }
        };
        let farewell = |grace: Duration| Farewell { reason: why.wire, grace: grace.as_secs() }.encode();
        match rejected {
            _ if drains => say(Kind::Drain, farewell(grace)),
            Some(rejected) => say(Kind::Result, reject(&rejected, why.wire)),
            None => say(Kind::Drain, farewell(Duration::ZERO)),
        }
        match drains {
            true => self.begin(out, why, grace, now),
            false => self.cut(out, why),
        }
    }

    /// The peer lets the hop end.
    pub(super) fn peer_drains(
        &mut self,
        out: &mut Outbox,
        farewell: Farewell,
        open: bool,
        now: Moment,
    ) -> Result<(), Failure> {
        let grace = Duration::from_secs(farewell.grace).min(MAX_GRACE);
        if !open || grace.is_zero() {
            self.refused(out, farewell.reason, "our connection");
            return Ok(());
        }
        if std::mem::replace(&mut self.told, true) {
            return Err(out_of_order("one Drain", "a second").into());
        }
        match &mut self.drain {
            Some(drain) => drain.until = drain.until.min(now.monotonic.saturating_add(grace)),
            None => self.begin(out, Why::theirs(farewell.reason, "our connection"), grace, now),
        }
        Ok(())
    }

    fn begin(&mut self, out: &mut Outbox, why: Why, grace: Duration, now: Moment) {
        let until = now.monotonic.saturating_add(grace);
        let Why { denial, wire, by_peer } = why.clone();
        out.push(Action::Drain(Drain { denial: *denial, wire, by_peer, until, grace }));
        self.drain = Some(Draining { until, why });
    }

    /// The peer says that it is over.
    pub(super) fn refused(&mut self, out: &mut Outbox, reason: WireReason, field: &str) {
        self.cut(out, Why::theirs(reason, field));
    }

    /// The channel is gone. After a drain that is how it ends.
    pub(super) fn channel_closed(&mut self, out: &mut Outbox) {
        let why = self.drain.take().map(|drain| drain.why).unwrap_or_else(|| {
            let (expected, presented) = ("one that stays", "the peer ended it without a reason");
            let finding = Finding::new(Reason::ChannelClosed, "our connection", expected, presented);
            Why::ours(Box::new(finding.into()))
        });
        self.cut(out, why);
    }

    /// Cuts when the grace is over.
    pub(super) fn tick(&mut self, out: &mut Outbox, now: Moment) {
        if let Some(drain) = self.drain.take_if(|drain| now.monotonic >= drain.until) {
            self.cut(out, drain.why);
        }
    }

    fn cut(&mut self, out: &mut Outbox, why: Why) {
        if std::mem::replace(&mut self.cut, true) {
            return;
        }
        self.drain = None;
        out.keep_writes();
        let Why { denial, wire, by_peer } = why;
        let distrust = !by_peer && Ending::of(denial.reason) == Ending::CutAndDistrust;
        out.push(Action::Cut(Cut { denial: *denial, wire, by_peer, distrust }));
    }
}

fn reject(rejected: &Rejected, reason: WireReason) -> Vec<u8> {
    let (round, binder_sha256) = (rejected.round, sha256(&rejected.binder));
    RoundResult { round, outcome: Outcome::Reject(reason), binder_sha256, next: 0 }.encode()
}
