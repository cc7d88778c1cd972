//! What evidence of a session, and a renewed identity on it, is made for
//! (3-attestation section 4.2, docs/session.md).

use zeroize::Zeroizing;

use super::{GPU, IDENTITY, OPEN, ReportData, SESSION, SESSION_CORE, TPM, companion_hash, digest, sha512};
use crate::cbor::Writer;

/// The exported keying material of a TLS session: zeroized, never shown.
pub struct Ekm(Zeroizing<[u8; 32]>);

impl Ekm {
    /// From what the exporter gave.
    #[must_use]
    pub const fn new(exported: Zeroizing<[u8; 32]>) -> Self {
        Self(exported)
    }
}

impl std::fmt::Debug for Ekm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ekm")
    }
}

/// The hash over both Hello payloads: key 8 of the context.
#[must_use]
pub fn hello_hash(client: &[u8], server: &[u8]) -> [u8; 64] {
    let length = |hello: &[u8]| u32::try_from(hello.len()).unwrap_or(u32::MAX).to_be_bytes();
    digest(&aws_lc_rs::digest::SHA512, &[&length(client), client, &length(server), server])
}

/// A binder that there may not be: no bytes then.
fn optional(binder: Option<&[u8; 64]>) -> &[u8] {
    binder.map_or(&[], |binder| &binder[..])
}

/// What a session's evidence is made for: all of it from the verifier's own
/// view of the connection, except the attester's nonce.
#[derive(Clone, Debug)]
pub struct SessionContext<'a> {
    /// Whether the attester is the server.
    pub attester_is_server: bool,
    /// Whether the transport is QUIC.
    pub quic: bool,
    /// The negotiated ALPN.
    pub alpn: &'a [u8],
    /// The exported keying material.
    pub ekm: &'a Ekm,
    /// SHA-256 of the client leaf's SPKI.
    pub client_spki_sha256: &'a [u8; 32],
    /// SHA-256 of the server leaf's SPKI.
    pub server_spki_sha256: &'a [u8; 32],
    /// The [`hello_hash`].
    pub hellos: &'a [u8; 64],
    /// The verifier's Challenge payload.
    pub challenge: &'a [u8],
    /// The attester's nonce.
    pub attester_nonce: &'a [u8; 32],
    /// The round.
    pub round: u64,
    /// The last accepted binder of this attester on this connection; `None` in round 0.
    pub previous: Option<&'a [u8; 64]>,
    /// The client's SPIFFE ID.
    pub client_id: &'a str,
    /// The server's SPIFFE ID.
    pub server_id: &'a str,
}

impl SessionContext<'_> {
    /// Deterministic CBOR (section 4.2). It contains the keying material.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // What is not of a fixed size, and more than the rest: growing would
        // leave copies of the keying material behind.
        let size = 640 + self.alpn.len() + self.client_id.len() + self.server_id.len();
        let mut writer = Writer(Vec::with_capacity(size));
        writer.map(14).uint(1).uint(1);
        writer.uint(2).uint(self.attester_is_server.into()).uint(3).uint(self.quic.into());
        writer.uint(4).bytes(self.alpn).uint(5).bytes(&self.ekm.0[..]);
        writer.uint(6).bytes(self.client_spki_sha256).uint(7).bytes(self.server_spki_sha256);
        writer.uint(8).bytes(self.hellos).uint(9).bytes(&sha512(self.challenge));
        writer.uint(10).bytes(self.attester_nonce).uint(11).uint(self.round);
        writer.uint(12).bytes(optional(self.previous));
        writer.uint(13).text(self.client_id).uint(14).text(self.server_id);
        debug_assert!(writer.0.len() <= size);
        Zeroizing::new(writer.0)
    }

    /// The core from which nonces and the binder are derived.
    #[must_use]
    pub fn core(&self) -> SessionCore {
        SessionCore(SESSION_CORE.d64(&[&self.encode()]))
    }
}

/// `K` of a session.
#[derive(Clone)]
pub struct SessionCore([u8; 64]);

impl SessionCore {
    /// A core that was computed in another process: a broker that quotes for a
    /// proxy gets it in this form. Only [`SessionCore::binder`] is ever quoted.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }
    /// The bytes, for the broker.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
    /// The SPDM nonce of the GPU with this index.
    #[must_use]
    pub fn gpu_nonce(&self, index: u16) -> [u8; 32] {
        GPU.d32(&[&self.0, &index.to_be_bytes()])
    }
    /// The qualifying data of a TPM that is a companion.
    #[must_use]
    pub fn tpm_qualifying_data(&self) -> [u8; 32] {
        TPM.d32(&[&self.0])
    }
    /// `B`, with the companion evidence that was made from this core.
    #[must_use]
    pub fn binder(&self, companions: &[(&str, &[u8])]) -> ReportData {
        ReportData(SESSION.d64(&[&self.0, &companion_hash(companions)]))
    }
}

impl std::fmt::Debug for SessionCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionCore")
    }
}

/// What the key of a renewed identity signs: that it goes on with this very
/// session (the idea of RFC 9261).
#[derive(Clone, Debug)]
pub struct IdentityStatement<'a> {
    /// Whether the one who renews is the server.
    pub renewer_is_server: bool,
    /// The exported keying material.
    pub ekm: &'a Ekm,
    /// The [`hello_hash`].
    pub hellos: &'a [u8; 64],
    /// The serial number of the identity on this connection.
    pub serial: u64,
    /// SHA-256 of the new leaf's SPKI.
    pub new_spki_sha256: &'a [u8; 32],
    /// SHA-256 of the SPKI that is replaced.
    pub old_spki_sha256: &'a [u8; 32],
}

impl IdentityStatement<'_> {
    /// The message to sign.
    #[must_use]
    pub fn digest(&self) -> [u8; 64] {
        let mut writer = Writer(Vec::with_capacity(256));
        writer.map(7).uint(1).uint(1).uint(2).uint(self.renewer_is_server.into());
        writer.uint(3).bytes(&self.ekm.0[..]).uint(4).bytes(self.hellos).uint(5).uint(self.serial);
        writer.uint(6).bytes(self.new_spki_sha256).uint(7).bytes(self.old_spki_sha256);
        debug_assert!(writer.0.len() <= 256);
        let statement = Zeroizing::new(writer.0);
        IDENTITY.d64(&[&statement])
    }
}

/// What an Open says: its sender has the keying material, and both ends have
/// seen the same Hellos and accepted the same binders. Binders alone would be
/// anybody's to hash, and without the role one's own Open could come back.
#[derive(Clone, Debug)]
pub struct OpenStatement<'a> {
    /// Whether the server sends it.
    pub sender_is_server: bool,
    /// The exported keying material.
    pub ekm: &'a Ekm,
    /// The [`hello_hash`].
    pub hellos: &'a [u8; 64],
    /// What the client proved in round 0, if that was demanded.
    pub client: Option<&'a [u8; 64]>,
    /// What the server proved in round 0, if that was demanded.
    pub server: Option<&'a [u8; 64]>,
}

impl OpenStatement<'_> {
    /// The value in the frame.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut writer = Writer(Vec::with_capacity(256));
        writer.map(6).uint(1).uint(1).uint(2).uint(self.sender_is_server.into());
        writer.uint(3).bytes(&self.ekm.0[..]).uint(4).bytes(self.hellos);
        writer.uint(5).bytes(optional(self.client)).uint(6).bytes(optional(self.server));
        debug_assert!(writer.0.len() <= 256);
        let statement = Zeroizing::new(writer.0);
        OPEN.d32(&[&statement])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made apart from this code; docs/session.md has them for other implementations.
    #[test]
    fn statements_are_those_of_the_vectors() {
        let page = include_str!("../../../../docs/session.md");
        let is =
            |computed: &[u8]| assert!(page.contains(&hex::encode(computed)), "{}", hex::encode(computed));
        let hellos = hello_hash(&[0xa2, 1, 1, 2, 0], &[0xa2, 1, 1, 2, 1]);
        is(&hellos);
        let ekm = Ekm::new([0x55; 32].into());
        let statement = IdentityStatement {
            renewer_is_server: true,
            ekm: &ekm,
            hellos: &hellos,
            serial: 7,
            new_spki_sha256: &[0x88; 32],
            old_spki_sha256: &[0x77; 32],
        };
        is(&statement.digest());
        let statement = OpenStatement {
            sender_is_server: false,
            ekm: &ekm,
            hellos: &hellos,
            client: None,
            server: Some(&[0x11; 64]),
        };
        is(&statement.digest());
    }

    #[test]
    fn keying_material_is_not_shown() {
        let (ekm, hellos) = (Ekm::new([0xe5; 32].into()), [0; 64]);
        let context = SessionContext {
            attester_is_server: true,
            quic: false,
            alpn: b"x",
            ekm: &ekm,
            client_spki_sha256: &[1; 32],
            server_spki_sha256: &[2; 32],
            hellos: &hellos,
            challenge: b"",
            attester_nonce: &[3; 32],
            round: u64::MAX,
            previous: Some(&[4; 64]),
            client_id: "c",
            server_id: "s",
        };
        // The longest there is fits into what was reserved for it.
        let encoded = context.encode();
        assert!(encoded.len() <= 640 + 3 && encoded.capacity() <= 650);
        let shown = format!("{ekm:?} {context:?} {:?}", context.core());
        assert!(!shown.contains("229") && !shown.contains("e5e5"), "{shown}");
    }
}
