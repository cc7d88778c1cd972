//! How hops and streams are cut: a switch that is thrown once, with a cause.

use std::sync::{Arc, OnceLock};

use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::session::WireReason;
use tokio_util::sync::CancellationToken;

/// Why a live hop or stream was cut.
#[derive(Clone, Debug)]
pub enum Cause {
    /// The peer's verdict became a denial.
    Verdict(Denial),
    /// What the hop rests on ended: a certificate, collateral, reference values.
    Expired(Denial),
    /// The session protocol: the peer did not prove itself again.
    Session(Denial, WireReason),
    /// The peer does not want the hop.
    Peer(Denial),
    /// No AuthorizationPolicy allows the stream any more.
    Authorization(Denial),
    /// The proxy ends.
    Drained,
}

impl Cause {
    /// The label of the metric.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Verdict(_) => "verdict",
            Self::Expired(_) => "expired",
            Self::Session(_, wire) => wire.code(),
            Self::Peer(_) => "peer",
            Self::Authorization(_) => "authorization",
            Self::Drained => "drained",
        }
    }

    /// Whether the peer is to be told: not who ends the hop himself, nor anybody
    /// when everything ends.
    pub(super) const fn is_told(&self) -> bool {
        matches!(self, Self::Verdict(_) | Self::Expired(_) | Self::Session(..))
    }

    /// The denial that it amounts to.
    #[must_use]
    pub fn denial(&self) -> Denial {
        match self {
            Self::Verdict(denial)
            | Self::Expired(denial)
            | Self::Session(denial, _)
            | Self::Peer(denial)
            | Self::Authorization(denial) => denial.clone(),
            Self::Drained => draining(),
        }
    }
}

/// The denial of everything that comes while we shut down.
#[must_use]
pub fn draining() -> Denial {
    Finding::new(Reason::Draining, "proxy", "a proxy that accepts work", "shutting down").into()
}

/// A switch that is thrown once, with a cause.
#[derive(Debug)]
pub struct Cut {
    token: CancellationToken,
    cause: Arc<OnceLock<Cause>>,
    /// That of the switch with which this one is thrown.
    above: Option<Arc<OnceLock<Cause>>>,
}

impl Cut {
    pub(super) fn new() -> Self {
        Self { token: CancellationToken::new(), cause: Arc::default(), above: None }
    }

    /// A switch that is thrown with this one, and can be thrown alone.
    pub(super) fn child(&self) -> Self {
        let above = Some(Arc::clone(&self.cause));
        Self { token: self.token.child_token(), cause: Arc::default(), above }
    }

    /// Resolves when it is thrown.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Whether it is thrown.
    #[must_use]
    pub fn is_thrown(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Why, once it is thrown.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        self.cause.get().or_else(|| self.above.as_ref()?.get())
    }

    /// Whether this call was the one that threw it.
    pub(super) fn throw(&self, cause: Cause) -> bool {
        let first = self.cause.set(cause).is_ok();
        self.token.cancel();
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_that_ends_with_its_hop_knows_at_once_why() {
        let hop = Cut::new();
        let (stream, alone) = (hop.child(), hop.child());
        let authorization = Finding::new(Reason::AuthorizationDenied, "port 1", "a", "b");
        assert!(alone.throw(Cause::Authorization(authorization.into())));
        let verdict = Finding::new(Reason::MeasurementMismatch, "mrTd", "a", "b");
        assert!(hop.throw(Cause::Verdict(verdict.into())));
        // Before anybody goes from stream to stream: whoever waits is awake by now.
        stream.cancelled().await;
        assert_eq!(stream.cause().unwrap().denial().reason, Reason::MeasurementMismatch);
        assert_eq!(
            alone.cause().unwrap().denial().reason,
            Reason::AuthorizationDenied,
            "its own comes first"
        );
    }
}
