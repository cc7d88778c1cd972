//! Fourth stage: the verdict. The peer has proved what is demanded of it, and
//! holds under the current view.

use std::sync::Arc;

use countersign_evidence::{Denial, UnixTime};
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::{Admission, Judge, Presented, Role};
use countersign_ratls::throttle::Throttle;
use rustls_pki_types::CertificateDer;

use crate::context::Context;
use crate::gate::{Attested, Rest};
use crate::live::Registered;
use crate::observe::explain::Explanation;

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
    throttle: Throttle,
}

impl Witness {
    /// Watches `inner`, who judges on behalf of `me`.
    pub(crate) fn new(inner: Arc<dyn Judge>, me: SpiffeId) -> Self {
        Self { inner, me, throttle: Throttle::default() }
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
            let Some(line) = self.throttle.line(now.as_secs()) else { return };
            let peer = Presented::parse(chain).ok().and_then(|p| p.id);
            let peer = peer.as_ref().map_or("unknown", SpiffeId::as_str);
            let (source, destination) = match role {
                Role::Client => (peer, self.me.as_str()),
                Role::Server => (self.me.as_str(), peer),
            };
            tracing::warn!(reason = %denial.reason, line.suppressed, "handshake refused\n{}", Explanation { source, destination, denial });
        })
    }
}
