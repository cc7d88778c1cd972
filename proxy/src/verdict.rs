//! Fourth stage: the verdict. The peer has proved what is demanded of it, and
//! holds under the current view.

use std::sync::Arc;

use countersign_evidence::{Denial, UnixTime};
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::{Admission, Judge, Presented, Role};
use countersign_ratls::throttle::{Say, Throttle};
use rustls_pki_types::CertificateDer;

use crate::context::Context;
use crate::gate::{Attested, Rest};
use crate::live::Registered;
use crate::observe::explain::Explanation;
use crate::observe::refused::{Peer, Refused};

/// Proof that the peer of a hop was appraised, and that the hop can be cut.
#[derive(Clone, Debug)]
pub(crate) struct Appraised(Arc<Registered>);

impl std::ops::Deref for Appraised {
    type Target = Registered;
    fn deref(&self) -> &Registered {
        &self.0
    }
}

/// Opens a hop whose peer holds under the view that is current by now.
pub(crate) fn admit<S>(attested: Attested<S>, ctx: &Context) -> Result<(Appraised, Rest<S>), Denial> {
    let Attested { mut hop, stream, .. } = attested;
    hop.accepting(ctx)?;
    hop.opened(&ctx.metrics);
    Ok((Appraised(Arc::new(hop)), stream))
}

/// The judge of handshakes: logs each refusal, within the limit of what strangers
/// may make us log, with everything that explains it, because only here it is known
/// who asked. Whoever runs the handshake counts it, together with the refusals for
/// which no judge is asked.
#[derive(Debug)]
pub(crate) struct Witness {
    inner: Arc<dyn Judge>,
    me: SpiffeId,
    refused: Arc<Refused>,
    throttle: Throttle,
}

impl Witness {
    /// Watches `inner`, who judges on behalf of `me`.
    pub(crate) fn new(inner: Arc<dyn Judge>, me: SpiffeId, refused: Arc<Refused>) -> Self {
        Self { inner, me, refused, throttle: Throttle::default() }
    }
}

impl Judge for Witness {
    fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<Arc<Admission>, Denial> {
        self.inner.judge(chain, role, now).inspect_err(|denial| {
            let id = Presented::parse(chain).ok().and_then(|p| p.id);
            let peer = id.as_ref().map_or("unknown", SpiffeId::as_str);
            match self.refused.note(Peer::claiming(role, id.as_ref()), denial, now.as_secs()) {
                Say::Nothing => {}
                Say::Again { times, seconds } => tracing::warn!(
                    reason = %denial.reason, peer, "handshake refused again, {times} times in {seconds} s"
                ),
                Say::InFull => {
                    let Some(line) = self.throttle.line(now.as_secs()) else { return };
                    let (source, destination) = match role {
                        Role::Client => (peer, self.me.as_str()),
                        Role::Server => (self.me.as_str(), peer),
                    };
                    let explanation = Explanation { source, destination, denial };
                    tracing::warn!(
                        reason = %denial.reason, line.suppressed, "handshake refused\n{explanation}"
                    );
                }
            }
        })
    }
}
