//! The judge of hops: the current view, with a cache of verdicts in front.

use std::sync::Arc;

use arc_swap::ArcSwap;
use countersign_evidence::{Denial, UnixTime};
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::{Admission, Judge, Role};
use rustls_pki_types::CertificateDer;

use crate::view::View;

/// Judges hops for one workload by whatever view is current.
#[derive(Debug)]
pub struct Guard {
    me: SpiffeId,
    view: Arc<ArcSwap<View>>,
}

impl Guard {
    /// A guard with a verdict cache of at most `entries`.
    #[must_use]
    pub fn new(me: SpiffeId, view: Arc<ArcSwap<View>>, entries: usize) -> Self {
        let _ = entries;
        Self { me, view }
    }

    /// The current view.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        let _ = &self.me;
        self.view.load_full()
    }
}

impl Judge for Guard {
    fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<Arc<Admission>, Denial> {
        let _ = (chain, role, now);
        todo!()
    }
}
