//! The TLS profile, over memory, between our own two sides.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unreachable_pub, reason = "test code")]

mod common;

use std::sync::Arc;

use common::{Clock, Gatekeeper, Mesh, NOW, profile};
use countersign_evidence::{Denial, Reason};
use countersign_ratls::peer::Judge;
use countersign_ratls::tls::{
    ALPN_H2, ALPN_MESH, Acceptor, Connector, HandshakeError, Handshaken, Profile, peer_refusal,
};
use countersign_ratls::{IdPattern, Identity};
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

type Server = Result<Handshaken<tokio_rustls::server::TlsStream<DuplexStream>>, HandshakeError>;
type Client = Result<Handshaken<tokio_rustls::client::TlsStream<DuplexStream>>, HandshakeError>;

const CLIENT: &str = "spiffe://td/ns/a/client";
const SERVER: &str = "spiffe://td/ns/a/server";

struct Hop {
    acceptor: Acceptor,
    connector: Connector,
}

impl Hop {
    fn new(
        (client, server): (&Identity, &Identity),
        (judge_of_clients, judge_of_servers): (Arc<dyn Judge>, Arc<dyn Judge>),
        expected: &str,
        profile: &Profile,
    ) -> Self {
        let expected = IdPattern::parse(expected).unwrap();
        Self {
            acceptor: Acceptor::new(server, judge_of_clients, profile).unwrap(),
            connector: Connector::new(client, judge_of_servers, expected, profile).unwrap(),
        }
    }

    async fn handshake(&self) -> (Client, Server) {
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::join!(self.connector.connect(near), self.acceptor.accept(far))
    }
}

fn denial<S>(outcome: Result<S, HandshakeError>) -> Denial {
    match outcome {
        Err(HandshakeError::Denied(denial)) => denial,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("admitted"),
    }
}

#[tokio::test]
async fn both_sides_learn_who_is_there_and_talk() {
    let (mesh, clock) = (Mesh::new(), Clock::new());
    let (client, server) = (mesh.attested(CLIENT), mesh.attested(SERVER));
    let judges = (Gatekeeper::new(&mesh.bundle), Gatekeeper::new(&mesh.bundle));
    let hop = Hop::new((&client, &server), (judges.0, judges.1), "spiffe://td/ns/a/*", &profile(&clock));
    let (near, far) = hop.handshake().await;
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    assert_eq!(near.admission.presented.id.as_ref().unwrap().as_str(), SERVER);
    assert_eq!(far.admission.presented.id.as_ref().unwrap().as_str(), CLIENT);
    assert!(near.admission.presented.evidence.is_some() && far.admission.presented.evidence.is_some());
    near.stream.write_all(b"hello").await.unwrap();
    near.stream.flush().await.unwrap();
    let mut buffer = [0; 5];
    far.stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"hello");
    let connection = far.stream.get_ref().1;
    assert_eq!(
        connection.negotiated_key_exchange_group().unwrap().name(),
        rustls::NamedGroup::X25519MLKEM768
    );
}

#[tokio::test]
async fn every_connection_is_a_full_handshake_with_a_judgement_on_both_sides() {
    let (mesh, clock) = (Mesh::new(), Clock::new());
    let (client, server) = (mesh.plain(CLIENT), mesh.plain(SERVER));
    let (of_clients, of_servers) = (Gatekeeper::new(&mesh.bundle), Gatekeeper::new(&mesh.bundle));
    let judges = (Arc::clone(&of_clients) as _, Arc::clone(&of_servers) as _);
    let hop = Hop::new((&client, &server), judges, SERVER, &profile(&clock));
    for round in 1..=3 {
        let (near, far) = hop.handshake().await;
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        // Read through everything that the server sends of its own accord.
        far.stream.write_all(b"x").await.unwrap();
        far.stream.flush().await.unwrap();
        near.stream.read_exact(&mut [0]).await.unwrap();
        assert_eq!(near.stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(far.stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(near.stream.get_ref().1.tls13_tickets_received(), 0);
        assert_eq!((of_clients.asked(), of_servers.asked()), (round, round));
    }
}

#[tokio::test]
async fn a_connector_towards_another_server_has_its_name_and_its_protocols() {
    let (mesh, clock) = (Mesh::new(), Clock::new());
    let (client, server) = (mesh.attested(CLIENT), mesh.attested(SERVER));
    let judges = (Gatekeeper::new(&mesh.bundle) as _, Gatekeeper::new(&mesh.bundle) as _);
    let both = Profile { alpn: vec![ALPN_H2.to_vec(), ALPN_MESH.to_vec()], ..profile(&clock) };
    let mut hop = Hop::new((&client, &server), judges, CLIENT, &both);
    assert_eq!(denial(hop.handshake().await.0).reason, Reason::IdentityMismatch);
    let base = hop.connector.clone();
    hop.connector = base.towards(IdPattern::parse(SERVER).unwrap(), &[ALPN_MESH]).unwrap();
    let (near, far) = hop.handshake().await;
    assert_eq!(
        (near.unwrap().agreed.alpn, far.unwrap().agreed.alpn),
        (ALPN_MESH.to_vec(), ALPN_MESH.to_vec())
    );
    hop.connector = base.towards(IdPattern::parse(CLIENT).unwrap(), &[ALPN_MESH]).unwrap();
    assert_eq!(denial(hop.handshake().await.0).reason, Reason::IdentityMismatch);
    assert!(base.towards(IdPattern::parse(SERVER).unwrap(), &[]).is_err());
}

#[tokio::test]
async fn a_denied_client_learns_of_it_by_an_alert_with_its_first_read() {
    let (mesh, clock) = (Mesh::new(), Clock::new());
    let (client, server) = (mesh.plain(CLIENT), mesh.plain(SERVER));
    let judges = (
        Gatekeeper::denying(&mesh.bundle, Reason::MeasurementMismatch) as _,
        Gatekeeper::new(&mesh.bundle) as _,
    );
    let hop = Hop::new((&client, &server), judges, "*", &profile(&clock));
    let (near, far) = hop.handshake().await;
    let denial = denial(far);
    assert_eq!((denial.reason, denial.findings[0].field.as_str()), (Reason::MeasurementMismatch, "test"));
    let error = near.unwrap().stream.read(&mut [0]).await.unwrap_err();
    let finding = peer_refusal(&error).unwrap();
    assert!(finding.presented.contains("access_denied"), "{finding}");
}

#[tokio::test]
async fn a_denied_server_learns_of_it_by_an_alert() {
    let (mesh, clock) = (Mesh::new(), Clock::new());
    let (client, server) = (mesh.plain(CLIENT), mesh.plain(SERVER));
    let judges =
        (Gatekeeper::new(&mesh.bundle), Gatekeeper::denying(&mesh.bundle, Reason::CertificateRevoked));
    let hop = Hop::new((&client, &server), (judges.0.clone(), judges.1), "*", &profile(&clock));
    let (near, far) = hop.handshake().await;
    assert_eq!(denial(near).reason, Reason::CertificateRevoked);
    let Err(HandshakeError::Tls { finding }) = far else { panic!() };
    assert!(finding.presented.contains("certificate_revoked"), "{finding}");
    // Our own certificate was not even asked for.
    assert_eq!(judges.0.asked(), 0);
}

#[tokio::test]
async fn another_server_than_the_expected_one_is_refused() {
    let (mesh, clock) = (Mesh::new(), Clock::new());
    let (client, server) = (mesh.plain(CLIENT), mesh.plain(SERVER));
    let judge = Gatekeeper::new(&mesh.bundle);
    for expected in ["spiffe://td/ns/b/*", "spiffe://td/ns/a", CLIENT] {
        let judges = (Arc::clone(&judge) as _, Arc::clone(&judge) as _);
        let hop = Hop::new((&client, &server), judges, expected, &profile(&clock));
        let (near, far) = hop.handshake().await;
        assert_eq!(denial(near).reason, Reason::IdentityMismatch);
        assert!(far.is_err());
    }
}

#[tokio::test]
async fn a_connection_to_ourselves_is_refused() {
    let (mesh, clock) = (Mesh::new(), Clock::new());
    let own = mesh.plain(CLIENT);
    let judges = (Gatekeeper::new(&mesh.bundle), Gatekeeper::new(&mesh.bundle));
    let hop = Hop::new((&own, &own), (judges.0, judges.1), "*", &profile(&clock));
    assert_eq!(denial(hop.handshake().await.0).reason, Reason::SelfConnection);
}

#[tokio::test]
async fn a_peer_of_another_trust_domain_or_time_is_refused() {
    let (mesh, other, clock) = (Mesh::new(), Mesh::new(), Clock::new());
    let (client, server) = (mesh.plain(CLIENT), other.plain(SERVER));
    let judges = || (Gatekeeper::new(&mesh.bundle) as _, Gatekeeper::new(&mesh.bundle) as _);
    let hop = Hop::new((&client, &server), judges(), "*", &profile(&clock));
    assert_eq!(denial(hop.handshake().await.0).reason, Reason::SvidUntrusted);

    let server = mesh.plain(SERVER);
    let hop = Hop::new((&client, &server), judges(), "*", &profile(&clock));
    assert!(hop.handshake().await.0.is_ok());
    clock.set(NOW + 3601);
    assert_eq!(denial(hop.handshake().await.0).reason, Reason::SvidExpired);
}

#[tokio::test]
async fn sides_without_a_common_protocol_part_with_the_alert_that_says_so() {
    let (mesh, clock) = (Mesh::new(), Clock::new());
    let (client, server) = (mesh.plain(CLIENT), mesh.plain(SERVER));
    let judge = Gatekeeper::new(&mesh.bundle);
    let other = Profile { alpn: vec![b"other".to_vec()], ..profile(&clock) };
    let connector =
        Connector::new(&client, Arc::clone(&judge) as _, IdPattern::parse("*").unwrap(), &other).unwrap();
    let acceptor = Acceptor::new(&server, judge, &profile(&clock)).unwrap();
    let (near, far) = tokio::io::duplex(1 << 20);
    let (near, far) = tokio::join!(connector.connect(near), acceptor.accept(far));
    assert_eq!(denial(far).reason, Reason::NoApplicationProtocol);
    let Err(HandshakeError::Tls { finding }) = near else { panic!() };
    assert!(finding.presented.contains("no_application_protocol"), "{finding}");
    assert!(
        Acceptor::new(&server, Gatekeeper::new(&mesh.bundle), &Profile { alpn: vec![], ..other }).is_err()
    );
}

#[tokio::test]
async fn an_acceptor_that_offers_less_meets_nobody_who_wants_more() {
    let (mesh, clock) = (Mesh::new(), Clock::new());
    let (client, server) = (mesh.plain(CLIENT), mesh.plain(SERVER));
    let judge = Gatekeeper::new(&mesh.bundle);
    let both = Profile { alpn: vec![ALPN_MESH.to_vec(), ALPN_H2.to_vec()], ..profile(&clock) };
    let any = || IdPattern::parse("*").unwrap();
    let connector = Connector::new(&client, Arc::clone(&judge) as _, any(), &both).unwrap();
    let acceptor = Acceptor::new(&server, Arc::clone(&judge) as _, &both).unwrap();
    let meet = async |acceptor: &Acceptor| {
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::join!(connector.connect(near), acceptor.accept(far))
    };
    let agreed = |(near, far): (Client, Server)| (near.unwrap().agreed.alpn, far.unwrap().agreed.alpn);
    assert_eq!(agreed(meet(&acceptor).await), (ALPN_MESH.to_vec(), ALPN_MESH.to_vec()));
    let plain = acceptor.offering(&[ALPN_H2]);
    assert_eq!(agreed(meet(&plain).await), (ALPN_H2.to_vec(), ALPN_H2.to_vec()));
    let (_, far) = meet(&acceptor.offering(&[])).await;
    assert_eq!(denial(far).reason, Reason::NoApplicationProtocol);
}

#[tokio::test]
async fn a_handshake_hands_out_both_keys() {
    let (mesh, clock) = (Mesh::new(), Clock::new());
    let (client, server) = (mesh.plain(CLIENT), mesh.plain(SERVER));
    let judges = (Gatekeeper::new(&mesh.bundle) as _, Gatekeeper::new(&mesh.bundle) as _);
    let (near, far) = Hop::new((&client, &server), judges, SERVER, &profile(&clock)).handshake().await;
    let (near, far) = (near.unwrap().agreed, far.unwrap().agreed);
    assert_eq!((near.own_spki_sha256, near.peer_spki_sha256), (client.spki_sha256, server.spki_sha256));
    assert_eq!((far.own_spki_sha256, far.peer_spki_sha256), (server.spki_sha256, client.spki_sha256));
}

#[tokio::test]
async fn post_quantum_only_sides_agree_on_a_hybrid() {
    let (mesh, clock) = (Mesh::new(), Clock::new());
    let (client, server) = (mesh.plain(CLIENT), mesh.plain(SERVER));
    let strict = Profile { require_pq: true, ..profile(&clock) };
    let judges = (Gatekeeper::new(&mesh.bundle) as _, Gatekeeper::new(&mesh.bundle) as _);
    let hop = Hop::new((&client, &server), judges, "*", &strict);
    let (near, far) = hop.handshake().await;
    let group = near.unwrap().stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    assert!(far.is_ok());
}

/// A server by rustls with its defaults: tickets, and no application protocol
/// unless `alpn`.
fn default_server(identity: &Identity, alpn: &[&[u8]]) -> tokio_rustls::TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certified = rustls::sign::CertifiedKey::new(identity.chain.clone(), Arc::clone(&identity.key));
    let mut config = rustls::ServerConfig::builder_with_details(provider, Clock::new())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config).into()
}

#[tokio::test]
async fn a_server_that_selects_no_protocol_is_refused() {
    let (mesh, clock) = (Mesh::new(), Clock::new());
    let judge = Gatekeeper::new(&mesh.bundle);
    let any = IdPattern::parse("*").unwrap();
    let connector = Connector::new(&mesh.plain(CLIENT), judge, any, &profile(&clock)).unwrap();
    let server = default_server(&mesh.plain(SERVER), &[]);
    let (near, far) = tokio::io::duplex(1 << 20);
    let (near, _far) = tokio::join!(connector.connect(near), server.accept(far));
    assert_eq!(denial(near).reason, Reason::NoApplicationProtocol);
}

#[tokio::test]
async fn tickets_that_a_server_sends_are_not_used() {
    let (mesh, clock) = (Mesh::new(), Clock::new());
    let judge = Gatekeeper::new(&mesh.bundle);
    let any = IdPattern::parse("*").unwrap();
    let connector =
        Connector::new(&mesh.plain(CLIENT), Arc::clone(&judge) as _, any, &profile(&clock)).unwrap();
    let server = default_server(&mesh.plain(SERVER), &[b"h2"]);
    for round in 1..=2 {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (near, far) = tokio::join!(connector.connect(near), server.accept(far));
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        far.write_all(b"x").await.unwrap();
        far.flush().await.unwrap();
        near.stream.read_exact(&mut [0]).await.unwrap();
        assert!(near.stream.get_ref().1.tls13_tickets_received() > 0, "the server did offer");
        assert_eq!(far.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(judge.asked(), round);
    }
}
