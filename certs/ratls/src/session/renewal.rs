//! A new certificate on a live hop, in either direction (docs/session.md).
//!
//! The new key signs that it goes on with this very session, so that nobody can
//! bring a certificate along that is not his, nor replay the renewal of another
//! hop. A renewal takes effect where its frame stands in the stream of its
//! sender: for the sender's evidence after it, and for the sender's challenges
//! after it. Streams are ordered, so both ends agree without trying two keys.

use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::{Denial, Finding, Reason};
use rustls::SignatureScheme;
use rustls_pki_types::CertificateDer;

use super::common::{Common, Failure, Outbox, out_of_order};
use super::frame::Kind;
use super::message::NewIdentity;
use super::terms::{Moment, Side};
use crate::binding::session::IdentityStatement;
use crate::identity::Identity;
use crate::peer::{Presented, check_sizes};
use crate::{certificate, signature};

/// Between two renewals of one side.
const SPACING: Duration = Duration::from_secs(10);

/// As many more than the spacing allows: what a network that stalled delivers at once.
const BURST: u64 = 3;

/// The curve of the key decides; the frame does not say.
const SCHEMES: [SignatureScheme; 2] =
    [SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384];

/// Renewals of both sides.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// Ours that is not sent yet.
    pending: Option<Arc<Identity>>,
    sent_at: Option<Duration>,
    /// The peer's that is being judged.
    judging: Option<Judging>,
    pub(super) own_serial: u64,
    pub(super) peer_serial: u64,
}

/// A new identity of the peer that passed all checks but the judge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judging {
    /// Of its chain.
    digest: [u8; 32],
    spki_sha256: [u8; 32],
}

impl Renewal {
    /// We have a new identity. It is sent when it may be; the newest wins.
    pub(super) fn renew(&mut self, common: &Common, identity: &Arc<Identity>) -> Result<(), Finding> {
        let own = &common.channel.own.id;
        if identity.id.as_ref() != Some(own) {
            let presented = identity.id.as_ref().map_or("none", |id| id.as_str());
            return Err(Finding::new(Reason::IdentityMismatch, "new identity", own.as_str(), presented));
        }
        check_sizes(&identity.chain)?;
        if identity.key.choose_scheme(&SCHEMES).is_none() {
            return Err(unusable("a key on P-256 or P-384", "another"));
        }
        self.pending = Some(Arc::clone(identity));
        Ok(())
    }

    /// Sends ours, once the spacing allows it; whether it did. Not while evidence
    /// for the key in use is being made: the caller looks.
    pub(super) fn tick(
        &mut self,
        common: &mut Common,
        out: &mut Outbox,
        now: Moment,
    ) -> Result<bool, Failure> {
        if self.wake().is_none_or(|at| now.monotonic < at) {
            return Ok(false);
        }
        let Some(identity) = self.pending.take() else { return Ok(false) };
        let serial = self.own_serial + 1;
        let message = statement(common, common.channel.side, serial, &identity.spki_sha256)?;
        let signer = identity.key.choose_scheme(&SCHEMES);
        let signature = signer.and_then(|signer| signer.sign(&message).ok());
        let signature = signature.ok_or_else(|| unusable("a key that signs", "one that failed"))?;
        let frame = NewIdentity { chain: identity.chain.clone(), signature, serial };
        out.send(Kind::Identity, &frame.encode());
        common.channel.own.spki_sha256 = identity.spki_sha256;
        common.channel.own.not_after = identity.not_after;
        self.own_serial = serial;
        self.sent_at = Some(now.monotonic);
        Ok(true)
    }

    /// When ours may be sent, if there is one.
    pub(super) fn wake(&self) -> Option<Duration> {
        self.pending.as_ref()?;
        Some(self.sent_at.map_or(Duration::ZERO, |at| at.saturating_add(SPACING)))
    }

    /// The peer's came: everything is checked that needs no bundle and no
    /// policy. The chain is to be judged.
    pub(super) fn received(
        &mut self,
        common: &Common,
        payload: &[u8],
        open_for: Duration,
    ) -> Result<Vec<CertificateDer<'static>>, Failure> {
        let frame = NewIdentity::decode(payload)?;
        let expected = self.peer_serial + 1;
        if frame.serial != expected {
            let presented = frame.serial.to_string();
            return Err(
                Finding::new(Reason::Malformed, "Identity serial", expected.to_string(), presented).into()
            );
        }
        // A judgement costs milliseconds: not as often as the network allows.
        let allowed = BURST + open_for.as_secs() / SPACING.as_secs();
        if frame.serial > allowed {
            return Err(out_of_order("an identity in 10 s at most", "more").into());
        }
        let presented = Presented::parse(&frame.chain)?;
        let peer = &common.channel.peer;
        if presented.id.as_ref() != Some(&peer.id) {
            let id = presented.id.as_ref().map_or("none", |id| id.as_str());
            return Err(Finding::new(Reason::IdentityMismatch, "new identity", peer.id.as_str(), id).into());
        }
        if presented.spki_sha256 == common.channel.own.spki_sha256 {
            let finding =
                Finding::new(Reason::SelfConnection, "new identity", "another key than ours", "our own");
            return Err(finding.into());
        }
        let message = statement(common, common.channel.side.other(), frame.serial, &presented.spki_sha256)?;
        check_signature(&frame, &message)?;
        self.judging = Some(Judging { digest: presented.digest, spki_sha256: presented.spki_sha256 });
        Ok(frame.chain)
    }

    /// Whether the peer's new identity is being judged.
    pub(super) const fn is_judging(&self) -> bool {
        self.judging.is_some()
    }

    /// No judgement is awaited any more. What was judged.
    pub(super) const fn judged(&mut self) -> Option<Judging> {
        self.judging.take()
    }

    /// If it was admitted, the peer's new identity is the peer's from here on.
    pub(super) fn adopt(
        &mut self,
        common: &mut Common,
        judging: &Judging,
        judgement: Result<&Presented, Denial>,
    ) -> Result<(), Failure> {
        // Whatever comes of it, the peer's challenges name its new key from here
        // on: on a hop that drains for want of a judgement, our evidence must not
        // look forged.
        common.channel.peer.spki_sha256 = judging.spki_sha256;
        let presented = judgement?;
        if presented.digest != judging.digest {
            return Err(unusable("a judgement on the chain that came", "one on another").into());
        }
        common.channel.peer.not_after = presented.not_after;
        self.peer_serial += 1;
        Ok(())
    }
}

/// What the renewer's new key signs.
fn statement(common: &Common, renewer: Side, serial: u64, new: &[u8; 32]) -> Result<[u8; 64], Finding> {
    let channel = &common.channel;
    let old = if renewer == channel.side { &channel.own } else { &channel.peer };
    let statement = IdentityStatement {
        renewer_is_server: renewer.is_server(),
        ekm: &channel.ekm,
        hellos: &common.terms()?.hellos,
        serial,
        new_spki_sha256: new,
        old_spki_sha256: &old.spki_sha256,
    };
    Ok(statement.digest())
}

fn check_signature(frame: &NewIdentity, message: &[u8; 64]) -> Result<(), Finding> {
    let leaf = check_sizes(&frame.chain)?;
    let leaf = certificate::parse("new identity", leaf)?;
    match signature::verifies_by_curve(leaf.public_key(), message, &frame.signature) {
        true => Ok(()),
        false => Err(Finding::new(
            Reason::BadSignature,
            "Identity signature",
            "one of the new key over this session",
            "another",
        )),
    }
}

fn unusable(expected: &str, presented: &str) -> Finding {
    Finding::new(Reason::Internal, "new identity", expected, presented)
}
