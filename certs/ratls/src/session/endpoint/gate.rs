//! The frames of a hop, and its way through the gate.
//!
//! ```text
//! Gate ── both Hellos, what is demanded either way is proved ──> our Open sent
//!      ── the peer's Open, as we expect it ──> Opening ── attached ──> Open
//! ```

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use countersign_evidence::{Finding, Reason};

use super::{Endpoint, Stage};
use crate::binding::session::{OpenStatement, hello_hash};
use crate::session::action::Action;
use crate::session::common::{Failure, PeerTerms, out_of_order};
use crate::session::frame::Kind;
use crate::session::message::{Farewell, Hello, Outcome, decode_open, encode_open};
use crate::session::terms::{Moment, Side};

/// In which the channel for the rounds must be there after the gate.
const ATTACH: Duration = Duration::from_secs(2);

impl Endpoint {
    /// Whether a frame of this kind may come now, and how large.
    pub(super) fn admit(&self, kind: Kind) -> Result<usize, Finding> {
        use Kind::{Challenge, Changed, Drain, Evidence, Hello, Identity, Open, Result};
        let fits = match (&self.stage, kind) {
            (Stage::Gate { .. }, Hello) => self.common.peer.is_none(),
            (Stage::Gate { .. }, Drain) => true,
            (Stage::Gate { .. }, Challenge | Result | Open) => self.common.peer.is_some(),
            (Stage::Gate { .. }, Evidence) => {
                self.common.peer.is_some() && self.challenger.expects_evidence()
            }
            (Stage::Gate { .. }, Changed | Identity) | (_, Hello | Open) => false,
            (_, Evidence) => self.challenger.expects_evidence(),
            (_, Changed) => self.common.demands.level.is_session_bound(),
            (_, Challenge | Result | Drain | Identity) => true,
        };
        match fits {
            true => Ok(kind.cap(self.max_evidence)),
            false => Err(out_of_order("a frame that may come now", kind.name())),
        }
    }

    pub(super) fn frame(&mut self, kind: Kind, payload: &[u8], now: Moment) -> Result<(), Failure> {
        match kind {
            Kind::Hello => self.hello(payload),
            Kind::Challenge => {
                self.gate_round()?;
                self.prover.challenge(&self.common, payload, self.challenger.nonce(), now)
            }
            Kind::Evidence => self.challenger.take_evidence(&self.common, &mut self.out, payload),
            Kind::Result => self.result(payload, now),
            Kind::Drain => {
                let farewell = Farewell::decode(payload)?;
                let open = !self.is_gate();
                self.end.peer_drains(&mut self.out, farewell, open, now)
            }
            Kind::Changed => self.challenger.changed(payload, now),
            Kind::Open => self.opened(payload, now),
            Kind::Identity => {
                let open_for = now.monotonic.saturating_sub(self.born);
                let chain = self.renewal.received(&self.common, payload, open_for)?;
                self.out.push(Action::Judge(chain));
                Ok(())
            }
        }
    }

    /// Before the gate there is round 0 and no other.
    fn gate_round(&self) -> Result<(), Finding> {
        match self.is_gate() && self.prover.accepted().is_some() {
            true => Err(out_of_order("an Open after round 0", "a Challenge")),
            false => Ok(()),
        }
    }

    fn hello(&mut self, payload: &[u8]) -> Result<(), Failure> {
        let theirs = Hello::decode(payload)?;
        let Stage::Gate { hello, nonce, .. } = &mut self.stage else {
            return Err(out_of_order("no Hello after the gate", "one").into());
        };
        let side = self.common.channel.side;
        if theirs.side == side {
            return Err(out_of_order("a Hello of the other role", "one of ours").into());
        }
        if theirs.nonce == *nonce {
            let presented = "our own";
            return Err(Finding::new(Reason::BindingMismatch, "Hello nonce", "another", presented).into());
        }
        let accepted = &self.common.demands.accepted;
        let bound = self.common.demands.level.is_session_bound();
        if bound && !theirs.produces.iter().any(|kind| accepted.contains(kind)) {
            let (expected, presented) = (accepted.join(", "), theirs.produces.join(", "));
            return Err(Finding::new(Reason::UnsupportedFormat, "evidence types", expected, presented).into());
        }
        let ours = std::mem::take(hello);
        let hellos = if side.is_server() { hello_hash(payload, &ours) } else { hello_hash(&ours, payload) };
        self.common.peer = Some(PeerTerms {
            hellos,
            level: theirs.demands,
            max_evidence: theirs.max_evidence,
            features: theirs.features,
        });
        self.open_if_proved()
    }

    fn result(&mut self, payload: &[u8], now: Moment) -> Result<(), Failure> {
        match self.prover.result(payload, now)? {
            Outcome::Accept => self.open_if_proved(),
            Outcome::Retry(_) => Ok(()),
            Outcome::Reject(reason) => {
                self.end.refused(&mut self.out, reason, "our proof");
                Ok(())
            }
        }
    }

    /// Sends our Open once everything that is demanded, either way, is proved.
    pub(super) fn open_if_proved(&mut self) -> Result<(), Failure> {
        let value = self.open_value(self.common.channel.side)?;
        let Stage::Gate { open_sent: open_sent @ false, .. } = &mut self.stage else { return Ok(()) };
        let theirs = !self.common.demands.level.is_session_bound() || self.challenger.accepted().is_some();
        let ours = !self.common.is_demanded() || self.prover.accepted().is_some();
        if theirs && ours {
            *open_sent = true;
            self.out.send(Kind::Open, &encode_open(&value));
            self.end.hush(!self.common.channel.quic);
        }
        Ok(())
    }

    /// What an Open of this side says.
    fn open_value(&self, sender: Side) -> Result<[u8; 32], Finding> {
        let channel = &self.common.channel;
        let (own, peer) = (self.prover.accepted(), self.challenger.accepted());
        let (client, server) = if channel.side.is_server() { (peer, own) } else { (own, peer) };
        let statement = OpenStatement {
            sender_is_server: sender.is_server(),
            ekm: &channel.ekm,
            hellos: &self.common.terms()?.hellos,
            client,
            server,
        };
        Ok(statement.digest())
    }

    fn opened(&mut self, payload: &[u8], now: Moment) -> Result<(), Failure> {
        let value = decode_open(payload)?;
        // The peer has opened when it has our proof and our Result for its own;
        // so have we, then. There is no other order.
        if !matches!(self.stage, Stage::Gate { open_sent: true, .. }) {
            return Err(out_of_order("an Open when both sides have proved themselves", "one before").into());
        }
        let expected = self.open_value(self.common.channel.side.other())?;
        if verify_slices_are_equal(&value, &expected).is_err() {
            let (expected, presented) = (hex::encode(expected), hex::encode(value));
            return Err(Finding::new(Reason::BindingMismatch, "Open", expected, presented).into());
        }
        self.stage = match self.common.channel.quic {
            true => Stage::Open,
            false => Stage::Opening(now.monotonic.saturating_add(ATTACH)),
        };
        self.end.hush(false);
        self.out.push(Action::Open);
        Ok(())
    }
}
