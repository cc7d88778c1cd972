//! Hops that carry nothing, over any transport: handshake, gate and verdict as
//! everywhere, registered like every other, and cut like every other. What comes
//! after, HTTP/2 and its streams, is left out.
//!
//! For measuring what live hops cost, with more of them than a process has
//! descriptors.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;

use countersign_evidence::Denial;
use countersign_net::Abort;
use countersign_ratls::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::context::{Context, Credentials};
use crate::handshake::{self, Handshaken};
use crate::session::drive;
use crate::verdict::Appraised;
use crate::{gate, verdict};

/// A hop that is open for as long as this lives.
#[derive(Debug)]
pub struct Held {
    hop: Appraised,
}

impl Held {
    /// The server's side.
    ///
    /// # Errors
    /// The denial.
    pub async fn accept<S>(transport: S, address: SocketAddr, ctx: &Context) -> Result<Self, Denial>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        Self::hold(handshake::accept_over(transport, Abort::default(), address, None, ctx).await?, ctx).await
    }

    /// The client's side.
    ///
    /// # Errors
    /// The denial.
    pub async fn connect<S>(
        transport: S,
        address: SocketAddr,
        to: &SpiffeId,
        credentials: Arc<Credentials>,
        ctx: &Context,
    ) -> Result<Self, Denial>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let abort = Abort::default();
        Self::hold(handshake::connect_over(transport, abort, address, to, credentials, ctx).await?, ctx).await
    }

    async fn hold<S>(shaken: Handshaken<S>, ctx: &Context) -> Result<Self, Denial>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // The connection itself is not needed any more: nobody reads it.
        let (hop, _) = verdict::admit(gate::pass(shaken, ctx).await?, ctx)?;
        if let Some(session) = &hop.session {
            // As if the stream of the rounds had come.
            drive::attach(&hop, session, ready(Ok(())), ctx).await;
        }
        Ok(Self { hop })
    }

    /// Resolves when the hop is cut.
    pub async fn cut(&self) {
        self.hop.cut.cancelled().await;
    }
}
