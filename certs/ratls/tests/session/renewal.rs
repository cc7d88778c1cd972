//! New certificates on a live hop.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use countersign_evidence::Reason;
use countersign_ratls::Identity;
use countersign_ratls::binding::Ekm;
use countersign_ratls::binding::session::{IdentityStatement, hello_hash};
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::session::frame::Kind;
use countersign_ratls::session::message::NewIdentity;
use countersign_ratls::session::{Party, Side};
use rustls::SignatureScheme;

use crate::common::{Mesh, NOW};
use crate::pump::*;

static MESH: LazyLock<Mesh> = LazyLock::new(Mesh::new);

fn identity(side: Side) -> Arc<Identity> {
    Arc::new(MESH.attested(party(side).id.as_str()))
}

fn as_party(identity: &Identity) -> Party {
    Party {
        id: identity.id.clone().unwrap(),
        spki_sha256: identity.spki_sha256,
        not_after: identity.not_after,
    }
}

/// An open hop whose ends have these identities, and the hash of its Hellos.
fn hop_of(client: &Identity, server: &Identity) -> (Hop, [u8; 64]) {
    let mut hop = Hop::mutual();
    for (side, own, peer) in [(Side::Client, client, server), (Side::Server, server, client)] {
        let channel = countersign_ratls::session::Channel {
            own: as_party(own),
            peer: as_party(peer),
            ..channel(side, 0x55)
        };
        *hop.node(side) = Node::new(channel, demands(), offer(), side as u64 + 10);
    }
    hop.client.pump(hop.now);
    hop.server.pump(hop.now);
    let hellos = hello_hash(&hop.client.sent[0].1, &hop.server.sent[0].1);
    hop.settle();
    assert!(hop.client.is_open());
    (hop, hellos)
}

fn hop() -> (Hop, Arc<Identity>, Arc<Identity>) {
    let (client, server) = (identity(Side::Client), identity(Side::Server));
    (hop_of(&client, &server).0, client, server)
}

#[test]
fn both_ends_renew_and_the_rounds_go_on_under_the_new_keys() {
    for sides in [vec![Side::Client], vec![Side::Server], vec![Side::Client, Side::Server]] {
        let (mut hop, ..) = hop();
        hop.pass(60.0);
        for side in &sides {
            let now = hop.now;
            hop.node(*side).endpoint.renew(&identity(*side), now).unwrap();
        }
        hop.settle();
        for side in &sides {
            assert_eq!(hop.node(*side).endpoint.state().own_serial, 1);
            assert_eq!(hop.node(side.other()).endpoint.state().peer_serial, 1);
        }
        // A fresh round of the one who renewed follows within ten seconds.
        hop.pass(10.0);
        for side in &sides {
            assert_eq!(hop.node(side.other()).accepted(), [0, 1], "{sides:?}");
        }
        hop.pass(2000.0);
        assert!(hop.client.cut().is_none() && hop.server.cut().is_none());
        assert!(hop.client.drain().is_none() && hop.client.accepted().len() > 5);
    }
}

#[test]
fn renewals_carry_a_hop_beyond_its_first_certificates() {
    let (mut hop, ..) = hop();
    assert!(hop.client.endpoint.state().ends.as_secs() <= 3600);
    // Certificates of the tests last an hour from NOW: longer ones are made here.
    let long = |side: Side, lifetime| {
        use countersign_ratls::ca::Leaf;
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let cmw = crate::common::cmw_with(crate::common::sha256(&key.spki()), |expected| expected);
        let leaf = Leaf { spki: &key.spki(), id: &party(side).id, lifetime, cmw: Some(&cmw) };
        Arc::new(Identity::new(MESH.authority.issue(&leaf, crate::common::now()).unwrap(), &key).unwrap())
    };
    hop.pass(1800.0);
    let ends = hop.client.endpoint.state().ends;
    let (client, server) = (long(Side::Client, 10_000), long(Side::Server, 20_000));
    assert!(client.not_after >= NOW + 10_000);
    hop.client.endpoint.renew(&client, hop.now).unwrap();
    hop.settle();
    // The server's still ends it.
    assert_eq!(hop.client.endpoint.state().ends, ends);
    hop.server.endpoint.renew(&server, hop.now).unwrap();
    hop.settle();
    hop.pass(5000.0);
    assert!(hop.client.endpoint.usable(hop.now) && hop.server.endpoint.usable(hop.now));
    hop.pass(4000.0);
    assert!(hop.client.cut().is_some() || hop.client.drain().is_some());
}

#[test]
fn frames_that_cross_a_renewal_mean_the_same_to_both_ends() {
    // In each case something is under way in one direction when a side renews.
    for renewer in [Side::Client, Side::Server] {
        for prover in [Side::Client, Side::Server] {
            for held in ["challenge", "quote", "evidence", "appraisal"] {
                let (mut hop, ..) = hop();
                let verifier = prover.other();
                // Up to the moment at which the verifier challenges.
                let due = hop.node(verifier).endpoint.state().peer.next.unwrap();
                let other = hop.node(prover).endpoint.state().peer.next.unwrap();
                if other < due + Duration::from_secs(30) {
                    // Out of the way: the other direction is not what is looked at.
                    hop.node(prover).verdict = 0;
                }
                hop.node(prover).verdict = 30 * 86_400;
                hop.node(prover).quotes_at_once = held != "quote";
                hop.node(verifier).accepts_at_once = held != "appraisal";
                let now = after(due.as_secs_f64() + 0.01);
                hop.now = now;
                hop.node(verifier).pump(now);
                let steps = match held {
                    "challenge" => 0,
                    "quote" => 1,
                    "evidence" => 1,
                    _ => 2,
                };
                for _ in 0..steps {
                    hop.carry();
                }
                hop.node(renewer).endpoint.renew(&identity(renewer), now).unwrap();
                hop.node(renewer).pump(now);
                for _ in 0..3 {
                    hop.carry();
                }
                if held == "quote" {
                    while !hop.node(prover).quotes.is_empty() {
                        hop.node(prover).quote(now);
                    }
                    hop.node(prover).quotes_at_once = true;
                }
                hop.node(verifier).accepts_at_once = true;
                while !hop.node(verifier).received.is_empty() {
                    hop.node(verifier).accept(now);
                }
                hop.pass(30.0);
                let what = format!("{renewer:?} renews, {prover:?} proves, {held}");
                for side in [Side::Client, Side::Server] {
                    let node = hop.node(side);
                    assert!(node.cut().is_none() && node.drain().is_none(), "{what}: {:?}", node.events);
                }
                assert_eq!(hop.node(renewer.other()).endpoint.state().peer_serial, 1, "{what}");
                assert!(hop.node(verifier).accepted().len() >= 2, "{what}");
            }
        }
    }
}

#[test]
fn a_renewal_waits_for_the_quote_that_is_being_made() {
    let (mut hop, ..) = hop();
    hop.server.quotes_at_once = false;
    hop.until(1.0, |hop| !hop.server.quotes.is_empty());
    hop.server.endpoint.renew(&identity(Side::Server), hop.now).unwrap();
    hop.settle();
    assert_eq!(hop.server.endpoint.state().own_serial, 0);
    hop.server.quote(hop.now);
    hop.settle();
    assert_eq!(hop.server.endpoint.state().own_serial, 1);
    assert_eq!(hop.client.accepted(), [0, 1]);
}

#[test]
fn renewals_keep_their_distance_and_the_newest_wins() {
    let (mut hop, ..) = hop();
    let newest = identity(Side::Client);
    for identity in [identity(Side::Client), identity(Side::Client), Arc::clone(&newest)] {
        hop.client.endpoint.renew(&identity, hop.now).unwrap();
        hop.settle();
    }
    assert_eq!(hop.client.endpoint.state().own_serial, 1);
    hop.pass(10.0);
    assert_eq!(hop.server.endpoint.state().peer_serial, 2);
    hop.pass(1000.0);
    assert_eq!(hop.server.endpoint.state().peer_serial, 2);
    assert!(hop.client.cut().is_none());
}

#[test]
fn only_our_own_identity_is_announced() {
    let (mut hop, ..) = hop();
    let other = Arc::new(MESH.attested("spiffe://td/other"));
    let finding = hop.client.endpoint.renew(&other, hop.now).unwrap_err();
    assert_eq!(finding.reason, Reason::IdentityMismatch);
    let bootstrap = PrivateKey::generate(KeyType::EcP256).unwrap();
    let bootstrap = Arc::new(Identity::bootstrap(&bootstrap, crate::common::now()).unwrap());
    assert!(hop.client.endpoint.renew(&bootstrap, hop.now).is_err());
}

/// An Identity frame of the client, made from outside with everything that is
/// needed for it; `change` spoils it.
fn forged(change: impl FnOnce(&mut Forgery)) -> (Hop, Vec<u8>) {
    let client = identity(Side::Client);
    let (hop, hellos) = hop_of(&client, &identity(Side::Server));
    let identity = identity(Side::Client);
    let mut forgery = Forgery {
        signer: Arc::clone(&identity),
        chain: identity,
        ekm: 0x55,
        server: false,
        serial: 1,
        old: client.spki_sha256,
        hellos,
    };
    change(&mut forgery);
    let new = forgery.chain.spki_sha256;
    let message = IdentityStatement {
        renewer_is_server: forgery.server,
        ekm: &Ekm::new([forgery.ekm; 32].into()),
        hellos: &forgery.hellos,
        serial: forgery.serial,
        new_spki_sha256: &new,
        old_spki_sha256: &forgery.old,
    }
    .digest();
    let schemes = [SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384];
    let signature = forgery.signer.key.choose_scheme(&schemes).unwrap().sign(&message).unwrap();
    let frame = NewIdentity { chain: forgery.chain.chain.clone(), signature, serial: forgery.serial };
    (hop, frame.encode())
}

struct Forgery {
    signer: Arc<Identity>,
    chain: Arc<Identity>,
    ekm: u8,
    server: bool,
    serial: u64,
    old: [u8; 32],
    hellos: [u8; 64],
}

fn outcome(change: impl FnOnce(&mut Forgery)) -> Option<Reason> {
    let (mut hop, frame) = forged(change);
    hop.server.give(Kind::Identity, &frame, hop.now);
    let reason = hop.server.ended().map(|(reason, _)| reason);
    assert_eq!(reason.is_none(), hop.server.endpoint.state().peer_serial == 1);
    reason
}

#[test]
fn nobody_brings_a_certificate_along_that_is_not_his_for_this_session() {
    assert_eq!(outcome(|_| {}), None);
    // A stolen chain, without its key.
    assert_eq!(outcome(|f| f.signer = identity(Side::Client)), Some(Reason::BadSignature));
    // The statement of another session, role, serial number or predecessor.
    assert_eq!(outcome(|f| f.ekm = 0x56), Some(Reason::BadSignature));
    assert_eq!(outcome(|f| f.hellos = [0; 64]), Some(Reason::BadSignature));
    assert_eq!(outcome(|f| f.server = true), Some(Reason::BadSignature));
    assert_eq!(outcome(|f| f.old = [0; 32]), Some(Reason::BadSignature));
    // Another ID, with everything else in order.
    let other = || Arc::new(MESH.attested("spiffe://td/other"));
    let somebody = |f: &mut Forgery| {
        f.chain = other();
        f.signer = Arc::clone(&f.chain);
    };
    assert_eq!(outcome(somebody), Some(Reason::IdentityMismatch));
    // One without an ID.
    let bootstrap = |f: &mut Forgery| {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        f.chain = Arc::new(Identity::bootstrap(&key, crate::common::now()).unwrap());
        f.signer = Arc::clone(&f.chain);
    };
    assert_eq!(outcome(bootstrap), Some(Reason::IdentityMismatch));
    // Numbers that were used, or skip one.
    assert_eq!(outcome(|f| f.serial = 0), Some(Reason::Malformed));
    assert_eq!(outcome(|f| f.serial = 2), Some(Reason::Malformed));
}

#[test]
fn keys_on_p384_renew_as_well() {
    let key = PrivateKey::generate(KeyType::EcP384).unwrap();
    let cmw = crate::common::cmw_with(crate::common::sha256(&key.spki()), |expected| expected);
    let chain = MESH.chain(&key, party(Side::Client).id.as_str(), Some(&cmw));
    let identity = Arc::new(Identity::new(chain, &key).unwrap());
    let (mut hop, ..) = hop();
    hop.client.endpoint.renew(&identity, hop.now).unwrap();
    hop.settle();
    assert_eq!(hop.server.endpoint.state().peer_serial, 1);
}

#[test]
fn a_renewal_is_not_replayed() {
    let (mut hop, frame) = forged(|_| {});
    hop.server.give(Kind::Identity, &frame, hop.now);
    assert_eq!(hop.server.endpoint.state().peer_serial, 1);
    hop.server.give(Kind::Identity, &frame, hop.now);
    assert_eq!(hop.server.ended(), Some((Reason::Malformed, false)));
}

#[test]
fn a_flood_of_renewals_is_cut() {
    let (mut hop, ..) = hop();
    let mut sent = 0;
    while hop.server.cut().is_none() {
        sent += 1;
        // Straight past the spacing that an honest sender keeps.
        hop.client.endpoint.renew(&identity(Side::Client), hop.now).unwrap();
        let later = after(hop.now.monotonic.as_secs_f64() + f64::from(sent) * 10.0);
        hop.client.pump(later);
        let frame = hop.client.take(Kind::Identity);
        hop.server.give(Kind::Identity, &frame, hop.now);
        assert!(sent < 10);
    }
    assert_eq!((sent, hop.server.ended()), (4, Some((Reason::Malformed, false))));
}

#[test]
fn nothing_is_taken_in_while_a_certificate_is_judged() {
    let (mut hop, ..) = hop();
    hop.pass(30.0);
    hop.client.endpoint.renew(&identity(Side::Client), hop.now).unwrap();
    hop.client.pump(hop.now);
    hop.server.admits_at_once = false;
    let identity = hop.client.take(Kind::Identity);
    let bytes = [
        countersign_ratls::session::frame::encode(Kind::Identity, &identity),
        countersign_ratls::session::frame::encode(Kind::Changed, b"\xa1\x01\x01"),
    ]
    .concat();
    let taken = hop.server.endpoint.receive(&bytes, hop.now);
    assert_eq!(taken, bytes.len() - 8);
    hop.server.pump(hop.now);
    assert_eq!(hop.server.endpoint.receive(&bytes[taken..], hop.now), 0);
    assert_eq!(hop.server.endpoint.state().peer_serial, 0);
    let now = hop.now;
    hop.server.admit(now);
    assert_eq!(hop.server.endpoint.receive(&bytes[taken..], hop.now), 8);
    assert_eq!(hop.server.endpoint.state().peer_serial, 1);
}

#[test]
fn a_certificate_that_is_refused_ends_the_hop_by_the_matrix() {
    for (reason, drains) in [
        (Reason::SvidUntrusted, false),
        (Reason::SvidExpired, false),
        (Reason::MeasurementMismatch, false),
        (Reason::CollateralMissing, true),
    ] {
        let (mut hop, ..) = hop();
        hop.server.admits_at_once = false;
        hop.client.endpoint.renew(&identity(Side::Client), hop.now).unwrap();
        hop.settle();
        hop.server.endpoint.judged(Err(denial(reason)), hop.now);
        hop.settle();
        assert_eq!(hop.server.cut().is_none(), drains, "{reason}");
        assert_eq!(hop.server.endpoint.state().peer_serial, 0);
        hop.pass(25.0);
        assert_eq!(hop.server.cut().is_none(), drains, "{reason}: {:?}", hop.server.events);
        hop.pass(10.0);
        assert_eq!(hop.server.ended(), Some((reason, false)));
    }
}

/// Evidence for the refused key may be on its way: it accuses nobody.
#[test]
fn a_hop_that_drains_over_a_certificate_is_not_cut_for_its_evidence() {
    let (mut hop, ..) = hop();
    hop.server.admits_at_once = false;
    let due = hop.server.endpoint.state().peer.next.unwrap();
    hop.pass((due - hop.now.monotonic).as_secs_f64() - 0.5);
    hop.client.endpoint.renew(&identity(Side::Client), hop.now).unwrap();
    hop.client.pump(hop.now);
    hop.now = after(due.as_secs_f64() + 0.1);
    hop.server.pump(hop.now);
    // The Identity and the Challenge cross.
    assert_eq!(hop.server.sent.back().unwrap().0, Kind::Challenge);
    hop.carry();
    hop.server.endpoint.judged(Err(denial(Reason::CollateralMissing)), hop.now);
    hop.pass(20.0);
    assert!(hop.client.endpoint.state().own.in_round);
    assert!(hop.server.drain().is_some() && hop.server.cut().is_none(), "{:?}", hop.server.events);
    hop.pass(15.0);
    assert_eq!(hop.server.ended(), Some((Reason::CollateralMissing, false)));
}

#[test]
fn a_certificate_for_our_own_key_is_none_of_the_peer() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let with = |side: Side| {
        let cmw = crate::common::cmw_with(crate::common::sha256(&key.spki()), |expected| expected);
        let chain = MESH.chain(&key, party(side).id.as_str(), Some(&cmw));
        Arc::new(Identity::new(chain, &key).unwrap())
    };
    let (client, server) = (identity(Side::Client), with(Side::Server));
    let (mut hop, _) = hop_of(&client, &server);
    // Somebody who has our key, and a certificate for it by the peer's name.
    hop.client.endpoint.renew(&with(Side::Client), hop.now).unwrap();
    hop.settle();
    assert_eq!(hop.server.ended(), Some((Reason::SelfConnection, false)));
}

#[test]
fn a_judgement_on_another_chain_is_none() {
    let (mut hop, ..) = hop();
    hop.server.admits_at_once = false;
    hop.client.endpoint.renew(&identity(Side::Client), hop.now).unwrap();
    hop.settle();
    let other = countersign_ratls::Presented::parse(&identity(Side::Client).chain).unwrap();
    hop.server.endpoint.judged(Ok(&other), hop.now);
    hop.settle();
    assert_eq!(hop.server.endpoint.state().peer_serial, 0);
    assert_eq!(hop.server.drain().unwrap().denial.reason, Reason::Internal);
}
