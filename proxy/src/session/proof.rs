//! What a peer proves on a live connection, judged by the current view.

use std::sync::Arc;
use std::time::Duration;

use countersign_config::View;
use countersign_config::view::session::{SessionEvidence, SessionLog, same_tee};
use countersign_evidence::policy::Level;
use countersign_evidence::{Denial, Finding, Reason, RegisterState, UnixTime};
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::Admission;
use countersign_ratls::session::{Acceptance, Demands, Received};
use rustls_pki_types::CertificateDer;

use super::{Session, terms};
use crate::context::Context;
use crate::live::Hop;

impl Hop {
    /// Judges the answer to a challenge. The proof is kept before the machine hears
    /// of it, and judged again if the view changed meanwhile: one that comes later
    /// finds it.
    pub(super) fn appraise(
        &self,
        session: &Session,
        received: &Received,
        ctx: &Context,
    ) -> Result<Acceptance, Denial> {
        // How far the log was replayed before; from its beginning if it starts anew.
        let before = session.proof.load_full();
        let replayed = before.as_ref().and_then(|proof| proof.registers.as_ref());
        let replayed = replayed.filter(|registers| registers.next() == received.event_log_from);
        let fresh = RegisterState::default();
        let event_log = received.event_log.as_ref().map(|(media_type, value)| SessionLog {
            media_type,
            value,
            replayed: replayed.unwrap_or(&fresh),
        });
        let evidence = SessionEvidence {
            media_type: &received.media_type,
            value: &received.evidence,
            event_log,
            report_data: &received.report_data,
            challenged: UnixTime::since_unix_epoch(Duration::from_secs(received.challenged)),
        };
        let judge = match received.event_log_wanted {
            true => View::judge_session,
            // Asked before a policy wanted it: the next round does.
            false => View::judge_session_before_log,
        };
        loop {
            let view = ctx.view.load_full();
            let check = ctx.clock.check();
            let judged =
                check.and_then(|()| judge(&view, &self.me, &self.admission(), &evidence, ctx.clock.now()));
            let judged = judged.map(Arc::new);
            let proof = judged.inspect_err(|denial| ctx.metrics.denied(denial, self.role))?;
            session.proof.store(Some(Arc::clone(&proof)));
            self.kept(ctx);
            if self.still_holds(&view, &proof.dependencies, ctx) {
                self.audited(&proof.audited, ctx);
                let event_log = proof.registers.as_ref().map(RegisterState::next);
                return Ok(Acceptance { until: proof.valid_until, event_log });
            }
        }
    }

    /// Judges a certificate that replaces the peer's on this connection, as in a
    /// handshake: it must be the same peer.
    pub(super) fn judge_renewed(
        &self,
        chain: &[CertificateDer<'static>],
        ctx: &Context,
    ) -> Result<Arc<Admission>, Denial> {
        loop {
            let view = ctx.view.load_full();
            let judged = self.judge(chain, ctx).and_then(|admission| {
                let (before, now) = (self.admission(), &admission.presented);
                if now.id == before.presented.id {
                    // The connection has one end there, whatever the certificate says.
                    if let (Some(certified), Some(presented)) = (&before.claims, &admission.claims) {
                        same_tee(certified, presented)?;
                    }
                    return Ok(admission);
                }
                let name = |id: &Option<SpiffeId>| id.as_ref().map_or("none", SpiffeId::as_str).to_owned();
                let (expected, presented) = (name(&before.presented.id), name(&now.id));
                Err(Finding::new(Reason::IdentityMismatch, "renewed certificate", expected, presented).into())
            });
            let admission = judged.inspect_err(|denial| ctx.metrics.denied(denial, self.role))?;
            self.readmitted(Arc::clone(&admission), ctx);
            if self.still_holds(&view, &admission.dependencies, ctx) {
                return Ok(admission);
            }
        }
    }

    /// What our policies demand of the peer now, if there are any.
    pub(super) fn demanded(&self, ctx: &Context) -> Option<Arc<Demands>> {
        let admission = self.admission();
        let demands = ctx.view.load().demands(&self.me, admission.presented.id.as_ref()?).ok()?;
        Some(terms::demands(&demands, ctx))
    }

    /// Whether this connection still gives what the current view demands of it,
    /// beyond the certificate: the level, and what the peer proved last.
    pub(crate) fn reattest(&self, admission: &Admission, ctx: &Context) -> Result<(), Denial> {
        let view = ctx.view.load();
        let peer = admission.presented.id.as_ref().ok_or_else(|| {
            Denial::from(Finding::new(Reason::SvidInvalid, "the peer's certificate", "a SPIFFE ID", "none"))
        })?;
        let Some(session) = &self.session else {
            let gives = if admission.claims.is_some() { Level::L1 } else { Level::L0 };
            let audited = view.check_level(&self.me, peer, gives)?;
            self.audited(&audited, ctx);
            return Ok(());
        };
        let demands = terms::demands(&view.demands(&self.me, peer)?, ctx);
        self.demand(session, demands, ctx);
        let Some(last) = session.proof.load_full() else { return Ok(()) };
        let proof = match view.rejudge_session(&self.me, admission, &last, ctx.clock.now()) {
            Err(denial) if denial.reason == Reason::EvidenceStale => {
                return self.outdated(session, denial, ctx);
            }
            proof => proof?,
        };
        self.audited(&proof.audited, ctx);
        let until = proof.valid_until;
        // A proof that came meanwhile was judged by its own round.
        let kept = session.proof.compare_and_swap(&last, Some(Arc::new(proof)));
        if !kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, &last)) {
            return Ok(());
        }
        self.kept(ctx);
        self.reviewed(session, until, ctx)
    }
}
