//! The TLS profile (3-attestation section 2): the only place that builds rustls
//! configurations.

use std::sync::Arc;

use countersign_evidence::{Denial, Finding};
use rustls::time_provider::TimeProvider;

use crate::identity::Identity;
use crate::peer::{Admission, Judge};
use crate::spiffe::IdPattern;

/// HBONE: HTTP/2 CONNECT streams.
pub const ALPN_H2: &[u8] = b"h2";

/// What both sides of a connection have in common.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The application protocols, most wanted first. Agreement is enforced.
    pub alpn: Vec<Vec<u8>>,
    /// Drop the classical key exchanges.
    pub require_pq: bool,
    /// The clock.
    pub clock: Arc<dyn TimeProvider>,
}

/// Accepts hops. Cheap to clone; a new identity makes a new one.
#[derive(Clone, Debug)]
pub struct Acceptor(());

/// Opens hops.
#[derive(Clone, Debug)]
pub struct Connector(());

/// One handshake that was accepted: the stream, and who is there.
#[derive(Debug)]
pub struct Handshaken<S> {
    /// The encrypted stream.
    pub stream: S,
    /// The peer.
    pub admission: Arc<Admission>,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// We refused the peer.
    #[error("{0}")]
    Denied(Denial),
    /// The peer refused us, or TLS itself failed.
    #[error("{finding}")]
    Tls {
        /// What is known about it (the alert of the peer, for example).
        finding: Finding,
    },
    /// The transport failed.
    #[error("transport: {0}")]
    Io(std::io::Error),
}

impl Acceptor {
    /// For `identity`, with `judge` deciding about clients.
    ///
    /// # Errors
    /// When the identity's key cannot be used.
    pub fn new(identity: &Identity, judge: Arc<dyn Judge>, profile: &Profile) -> Result<Self, Finding> {
        let _ = (identity, judge, profile);
        todo!()
    }
}

impl Connector {
    /// For `identity`, with `judge` deciding about the server, which must be one of `expected`.
    ///
    /// # Errors
    /// When the identity's key cannot be used.
    pub fn new(
        identity: &Identity,
        judge: Arc<dyn Judge>,
        expected: IdPattern,
        profile: &Profile,
    ) -> Result<Self, Finding> {
        let _ = (identity, judge, expected, profile);
        todo!()
    }
}

impl Acceptor {
    /// Runs the server side of a handshake. Cancel-safe by dropping; the caller bounds the time.
    ///
    /// # Errors
    /// When the peer is refused, refuses us, or the transport fails.
    pub async fn accept<S>(
        &self,
        io: S,
    ) -> Result<Handshaken<tokio_rustls::server::TlsStream<S>>, HandshakeError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let _ = io;
        todo!()
    }
}

impl Connector {
    /// Runs the client side of a handshake. Cancel-safe by dropping; the caller bounds the time.
    ///
    /// # Errors
    /// When the peer is refused, refuses us, or the transport fails.
    pub async fn connect<S>(
        &self,
        io: S,
    ) -> Result<Handshaken<tokio_rustls::client::TlsStream<S>>, HandshakeError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let _ = io;
        todo!()
    }
}
