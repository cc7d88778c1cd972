//! Time: deadlines, ends, and what is due.

use std::time::Duration;

use countersign_evidence::{Finding, Reason};

use super::{Endpoint, Stage};
use crate::session::common::{Expiry, Failure};
use crate::session::frame::Kind;
use crate::session::message::{CHANGED_MEASUREMENT, encode_changed};
use crate::session::terms::Moment;

/// A hop does not live longer, whatever its certificates say (A24).
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Between two Changed of ours.
const CHANGED_SPACING: Duration = Duration::from_secs(10);

impl Endpoint {
    /// When certificates or age end the hop.
    pub(super) fn ends(&self) -> Duration {
        let age = self.born.saturating_add(LIFETIME);
        age.min(self.own_expires.monotonic).min(self.peer_expires.monotonic)
    }

    /// Lets time do its work.
    pub(super) fn tick(&mut self, now: Moment) {
        if self.end.is_cut() {
            return;
        }
        let done = self.expire(now);
        self.settle(done, now);
        for step in [Self::tick_own, Self::tick_peer] {
            if !self.end.is_cut() {
                let done = step(self, now);
                self.settle(done, now);
            }
        }
    }

    /// The ends of phases and of the hop.
    fn expire(&mut self, now: Moment) -> Result<(), Failure> {
        self.end.tick(&mut self.out, now);
        let passed = |deadline: &Duration| now.monotonic >= *deadline;
        match &self.stage {
            Stage::Gate { deadline, .. } if passed(deadline) => {
                let expected = format!("within {} s", self.common.demands.gate.as_secs());
                return Err(Finding::new(Reason::Timeout, "gate", expected, "not open").into());
            }
            Stage::Opening(deadline) if passed(deadline) => {
                let finding = Finding::new(
                    Reason::ChannelClosed,
                    "our connection",
                    "a channel for rounds in 2 s",
                    "the peer opens none",
                );
                return Err(finding.into());
            }
            _ => {}
        }
        for (field, expires) in
            [("our certificate", &self.own_expires), ("peer's certificate", &self.peer_expires)]
        {
            if expires.passed(now) {
                return Err(
                    Finding::new(Reason::SvidExpired, field, "a valid one", "one that is over").into()
                );
            }
        }
        let wind_down = self.wind_down();
        let failure =
            |age| Failure::from(Finding::new(Reason::Draining, "connection", "younger, or renewed", age));
        if now.monotonic >= self.ends() {
            return Err(Failure { again: true, ..failure("at its end") });
        }
        // In time to end in good order: what is renewed before does not end.
        if now.monotonic >= wind_down && !self.end.is_draining() && !self.is_gate() {
            return Err(failure("near its end"));
        }
        Ok(())
    }

    /// When a hop that nobody renews begins to drain.
    pub(super) fn wind_down(&self) -> Duration {
        let grace = self.common.demands.drain_grace;
        let age = self.born.saturating_add(LIFETIME).saturating_sub(grace);
        age.min(self.own_expires.wind_down(grace)).min(self.peer_expires.wind_down(grace))
    }

    fn tick_own(&mut self, now: Moment) -> Result<(), Failure> {
        self.prover.tick(&self.common, &mut self.out, now)?;
        if self.may_renew() && self.renewal.tick(&mut self.common, &mut self.out, now)? {
            self.own_expires = Expiry::new(self.common.channel.own.not_after, now);
        }
        if self.change_due().is_some_and(|at| now.monotonic >= at) {
            self.change = false;
            self.changed_at = Some(now.monotonic);
            self.out.send(Kind::Changed, &encode_changed(CHANGED_MEASUREMENT));
        }
        Ok(())
    }

    fn tick_peer(&mut self, now: Moment) -> Result<(), Failure> {
        if !self.common.demands.level.is_session_bound() {
            return Ok(());
        }
        let attached = self.is_attached();
        self.challenger.tick(&self.common, &mut self.out, attached, now)
    }

    pub(super) const fn is_attached(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    fn may_renew(&self) -> bool {
        self.is_attached() && !self.end.is_draining() && !self.prover.is_quoting()
    }

    fn change_due(&self) -> Option<Duration> {
        let wanted = self.change && self.is_attached() && self.common.is_demanded();
        wanted.then(|| self.changed_at.map_or(Duration::ZERO, |at| at.saturating_add(CHANGED_SPACING)))
    }

    /// When there is something to do without anybody's call.
    pub(super) fn wake(&self) -> Duration {
        let stage = match &self.stage {
            Stage::Gate { deadline, .. } | Stage::Opening(deadline) => Some(*deadline),
            Stage::Open => None,
        };
        let bound = self.common.demands.level.is_session_bound();
        let peer = if bound { self.challenger.wake(self.is_attached()) } else { None };
        let renewal = if self.may_renew() { self.renewal.wake() } else { None };
        let winds_down = self.end.until().is_none() && !self.is_gate();
        let ends = if winds_down { self.wind_down() } else { self.ends() };
        [stage, peer, self.prover.wake(), renewal, self.change_due(), self.end.until()]
            .into_iter()
            .flatten()
            .fold(ends, Duration::min)
    }
}
