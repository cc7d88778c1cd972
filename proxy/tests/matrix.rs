//! How a live hop ends: every row of the matrix (3-attestation, section 4.4) that a
//! change of configuration or a peer can bring about, and what its ending means for
//! streams, sockets, new streams and the peer's key.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use std::sync::Arc;

use countersign_attester::emulated::{CollateralSpec, TcbLevel, TdxSpec};
use countersign_attester::{Attester, Produced};
use countersign_config::View;
use countersign_evidence::Reason;
use countersign_evidence::claims::Tee;
use countersign_ratls::session::WireReason;
use countersign_ratls::session::frame::{self, Kind};
use countersign_ratls::session::message::Farewell;
use countersign_ratls::session::{Ending, Level};
use support::caller::Caller;
use support::peer::{Peer, Who};
use support::{LEDGER, Pair, WEB, World, assert_reset, eventually, resources, within};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// What changes for the ledger while the web calls it.
struct Row {
    name: &'static str,
    view: fn(&Pair) -> Arc<View>,
    reason: Reason,
    ending: Ending,
}

/// The same documents with something replaced.
fn replaced(pair: &Pair, from: &str, to: &str) -> Arc<View> {
    let text = pair.world.text(&pair.policy(), "");
    assert!(text.contains(from), "{text}");
    pair.world.view_of(2, resources(&text.replace(from, to)), &pair.world.collateral)
}

/// The same documents with `more` in the policy, and this collateral.
fn collateral(pair: &Pair, more: &str, spec: &CollateralSpec) -> Arc<View> {
    let spec = CollateralSpec { tcb_evaluation_data_number: 18, crl_number: 2, ..spec.clone() };
    let items = pair.world.vendor.collateral_with(&spec, pair.world.clock().now()).unwrap();
    pair.world.view_of(2, pair.world.resources_with(&pair.policy(), more), &items)
}

/// The machine's TCB has this status now.
fn status(pair: &Pair, more: &str, status: &str) -> Arc<View> {
    let spec = CollateralSpec::default();
    let mut tcb_levels = vec![TcbLevel::new(13, status, &[])];
    tcb_levels.extend(spec.tcb_levels.iter().skip(1).cloned());
    collateral(pair, more, &CollateralSpec { tcb_levels, ..spec })
}

const ROWS: &[Row] = &[
    Row {
        name: "measurement",
        view: |pair| replaced(pair, &"d0".repeat(48), &"aa".repeat(48)),
        reason: Reason::MeasurementMismatch,
        ending: Ending::CutAndDistrust,
    },
    Row {
        name: "another machine than the list has",
        view: |pair| {
            replaced(pair, "measurements:", &format!("platforms: [\"{}\"], measurements:", "77".repeat(16)))
        },
        reason: Reason::PlatformNotAllowed,
        ending: Ending::CutAndDistrust,
    },
    Row {
        name: "another kind of TEE",
        view: |pair| replaced(pair, "- tdx: {", "- sgx: {"),
        reason: Reason::TeeNotAccepted,
        ending: Ending::CutAndDistrust,
    },
    Row {
        name: "a PCK certificate that is revoked",
        view: |pair| {
            let machine = pair.world.vendor.tdx(TdxSpec::default()).unwrap();
            let revoked_pck = vec![machine.pck_serial().clone()];
            collateral(pair, "", &CollateralSpec { revoked_pck, ..CollateralSpec::default() })
        },
        reason: Reason::CertificateRevoked,
        ending: Ending::CutAndDistrust,
    },
    Row {
        name: "a TCB that is revoked",
        view: |pair| status(pair, "", "Revoked"),
        reason: Reason::TcbRevoked,
        ending: Ending::CutAndDistrust,
    },
    Row {
        name: "a TCB status that nobody accepts",
        view: |pair| status(pair, "", "SWHardeningNeeded"),
        reason: Reason::TcbStatusNotAccepted,
        ending: Ending::Cut,
    },
    Row {
        name: "a TCB that is out of date",
        view: |pair| status(pair, "", "OutOfDate"),
        reason: Reason::TcbOutOfDate,
        ending: Ending::Drain,
    },
    Row {
        name: "the same, and failures cut",
        view: |pair| status(pair, "  continuous: { onFailure: Cut }", "OutOfDate"),
        reason: Reason::TcbOutOfDate,
        ending: Ending::Cut,
    },
    Row {
        name: "the same without a grace",
        view: |pair| status(pair, "  continuous: { drainGrace: 0s }", "OutOfDate"),
        reason: Reason::TcbOutOfDate,
        ending: Ending::Cut,
    },
    Row {
        name: "no revocation lists",
        view: |pair| {
            collateral(pair, "", &CollateralSpec { without_crls: true, ..CollateralSpec::default() })
        },
        reason: Reason::CrlMissing,
        ending: Ending::Drain,
    },
    Row {
        name: "no TCB info: we cannot decide",
        view: |pair| {
            let mut items = pair.world.collateral.clone();
            items.retain(|item| !item.name.contains("tcb-info"));
            pair.world.view_of(2, pair.world.resources(&pair.policy()), &items)
        },
        reason: Reason::CollateralMissing,
        ending: Ending::Drain,
    },
    Row {
        name: "another trust bundle",
        view: |pair| World::new().view(2, &pair.policy()),
        reason: Reason::SvidUntrusted,
        ending: Ending::CutAndDistrust,
    },
    Row {
        name: "no policy any more",
        view: |pair| {
            replaced(
                pair,
                "kind: AttestationPolicy\nmetadata: { name: peers, namespace: payments }\nspec:\n",
                "kind: AttestationPolicy\nmetadata: { name: peers, namespace: payments }\nspec:\n  mode: Audit\n",
            )
        },
        reason: Reason::NoPolicy,
        ending: Ending::Cut,
    },
    Row {
        name: "another level",
        view: |pair| replaced(pair, "level: L2", "level: L1"),
        reason: Reason::PolicyChanged,
        ending: Ending::Drain,
    },
];

#[tokio::test]
async fn every_row_that_a_new_view_can_bring_about() {
    for row in ROWS {
        let pair = Pair::new().await;
        let caller = Caller::new(&pair, Level::L2).await;
        let hop = Arc::clone(&caller.hop);
        pair.ledger.ctx.install(&(row.view)(&pair));
        match row.ending {
            Ending::Drain => drains(&pair, caller, row.name, row.reason).await,
            Ending::Cut | Ending::CutAndDistrust => {
                cuts(caller, row.name, row.reason).await;
                let matrix = Ending::of(row.reason);
                assert!(matrix == row.ending || matrix == Ending::Drain, "{}", row.name);
            }
        }
        // However it went, it is over, and for this reason.
        eventually(row.name, || pair.ledger.ctx.live.is_empty()).await;
        assert_eq!(hop.cut.cause().unwrap().denial().reason, row.reason, "{}", row.name);
        // Nobody new gets in either.
        if row.reason != Reason::PolicyChanged {
            let mut application = TcpStream::connect(pair.web.addresses.outbound[0]).await.unwrap();
            within(row.name, assert_reset(&mut application)).await;
        }
        pair.end().await;
    }
}

/// Decided at once: told, every stream and both sockets ended.
async fn cuts(mut caller: Caller, name: &str, reason: Reason) {
    let cause = caller.hop.cut.cause().unwrap_or_else(|| panic!("{name}: not cut"));
    assert_eq!(cause.denial().reason, reason, "{name}");
    caller.peer.hear_out().await;
    assert_eq!(caller.peer.told(), Some(WireReason::of(reason)), "{name}");
    caller.assert_ended().await;
}

/// Told, with a grace: what flows goes on, nothing new begins, and then it is cut.
async fn drains(pair: &Pair, mut caller: Caller, name: &str, reason: Reason) {
    assert!(caller.hop.cut.cause().is_none(), "{name}: {:?}", caller.hop.cut.cause());
    caller.peer.until(name, |peer| peer.has_heard(Kind::Drain)).await;
    let farewell = Farewell::decode(&caller.peer.heard.last().unwrap().1).unwrap();
    assert_eq!((farewell.reason, farewell.grace), (WireReason::of(reason), 30), "{name}");
    caller.passes().await;
    caller.takes_no_stream(pair.port).await;
    pair.world.advance(29);
    caller.passes().await;
    pair.world.advance(1);
    caller.assert_ended().await;
}

/// A machine that quotes over something else than it is asked to.
#[derive(Debug)]
struct Elsewhere(Arc<dyn Attester>);

impl Attester for Elsewhere {
    fn tee(&self) -> Tee {
        self.0.tee()
    }
    fn driver(&self) -> &'static str {
        "elsewhere"
    }
    fn evidence(&self, report_data: &[u8; 64]) -> Result<Produced, countersign_attester::Error> {
        let mut other = *report_data;
        other[63] ^= 1;
        self.0.evidence(&other)
    }
}

/// Another guest, with everything else as it should be.
type Machine = fn(&World) -> Arc<dyn Attester>;

#[tokio::test]
async fn every_row_that_a_round_can_bring_about() {
    let rows: [(&str, Machine, Reason); 5] = [
        (
            "a quote over another binder",
            |world| Arc::new(Elsewhere(world.platform(TdxSpec::default()))),
            Reason::BindingMismatch,
        ),
        ("a machine of a stranger", |_| World::new().platform(TdxSpec::default()), Reason::UntrustedRoot),
        (
            "a guest that can be debugged",
            |world| {
                let td_attributes = [1, 0, 0, 0x10, 0, 0, 0, 0];
                world.platform(TdxSpec { td_attributes, ..TdxSpec::default() })
            },
            Reason::Debug,
        ),
        (
            "another measurement than the certificate's",
            |world| world.platform(TdxSpec { mr_td: [0xaa; 48], ..TdxSpec::default() }),
            Reason::OtherTee,
        ),
        (
            "a TCB that is out of date",
            |world| {
                let mut spec = TdxSpec::default();
                spec.platform.pce_svn = 5;
                world.platform(spec)
            },
            Reason::TcbOutOfDate,
        ),
    ];
    for (name, machine, reason) in rows {
        let pair = Pair::new().await;
        let mut caller = Caller::new(&pair, Level::L1).await;
        caller.peer.move_to(machine(&pair.world));
        pair.world.advance(360);
        if Ending::of(reason) == Ending::Drain {
            drains(&pair, caller, name, reason).await;
        } else {
            caller.peer.hear_out().await;
            assert_eq!(caller.peer.kinds().last(), Some(&Kind::Result), "{name}");
            cuts(caller, name, reason).await;
        }
        assert_round(&pair, "reject", reason);
        pair.end().await;
    }
}

/// One round ended so, and it is in the metrics.
fn assert_round(pair: &Pair, result: &str, reason: Reason) {
    let labels = format!("{{direction=\"inbound\",reason=\"{reason}\",result=\"{result}\"}}");
    let metrics = pair.ledger.metrics();
    assert!(metrics.contains(&format!("mesh_attestation_rounds_total{labels} 1\n")), "{metrics}");
}

/// The connection ends in one machine: another one's certificate is not taken up for it.
#[tokio::test]
async fn a_renewed_certificate_of_another_machine_ends_the_hop() {
    let pair = Pair::new().await;
    let mut caller = Caller::new(&pair, Level::L2).await;
    let mut spec = TdxSpec::default();
    (spec.platform.ppid, spec.platform.piid) = ([0x5c; 16], Some([0x5d; 16]));
    let elsewhere = pair.world.platform(spec);
    let identity = Arc::new(pair.world.identity(WEB, &*elsewhere));
    caller.peer.endpoint.renew(&identity, pair.world.clock().moment()).unwrap();
    caller.peer.speak().await;
    caller.peer.hear_out().await;
    cuts(caller, "another machine", Reason::OtherTee).await;
    pair.end().await;
}

/// Who says that it drains, before anything is wrong with it, does not choose how long it may stay.
#[tokio::test]
async fn a_peer_that_drains_first_gets_no_grace_that_the_policy_denies() {
    let pair = Pair::new().await;
    let mut caller = Caller::new(&pair, Level::L2).await;
    let farewell = Farewell { reason: WireReason::Unavailable, grace: 120 };
    caller.peer.write(&frame::encode(Kind::Drain, &farewell.encode())).await.unwrap();
    let drained = "mesh_connections_drained_total{cause=\"peer\"} 1";
    eventually("the drain", || pair.ledger.metrics().contains(drained)).await;
    caller.passes().await;
    pair.ledger.ctx.install(&status(&pair, "  continuous: { onFailure: Cut }", "OutOfDate"));
    cuts(caller, "a drain of the peer", Reason::TcbOutOfDate).await;
    pair.end().await;
}

#[tokio::test]
async fn the_first_timeout_drains_and_the_second_cuts() {
    let pair = Pair::new().await;
    let mut caller = Caller::new(&pair, Level::L1).await;
    caller.peer.withheld = vec![Kind::Evidence];
    pair.world.advance(360);
    caller.peer.until("the next challenge", |peer| peer.count(Kind::Challenge) == 2).await;
    pair.world.advance(14);
    caller.passes().await;
    assert!(!caller.peer.has_heard(Kind::Drain));
    pair.world.advance(1);
    caller.peer.until("the first timeout", |peer| peer.has_heard(Kind::Drain)).await;
    assert_eq!(caller.peer.told(), Some(WireReason::Timeout));
    caller.passes().await;
    caller.takes_no_stream(pair.port).await;
    pair.world.advance(15);
    let hop = Arc::clone(&caller.hop);
    caller.assert_ended().await;
    assert_eq!(hop.cut.cause().unwrap().denial().reason, Reason::Timeout);
    assert_round(&pair, "timeout", Reason::Timeout);
    let metrics = pair.ledger.metrics();
    assert!(metrics.contains("mesh_connections_drained_total{cause=\"timeout\"} 1"), "{metrics}");
    assert!(metrics.contains("mesh_connections_revoked_total{cause=\"timeout\"} 1"), "{metrics}");
    pair.end().await;
}

#[tokio::test]
async fn a_hop_whose_last_proof_is_two_intervals_old_is_cut() {
    let pair = Pair::new().await;
    let caller = Caller::new(&pair, Level::L1).await;
    // Nobody could ask in between: the machine slept.
    pair.world.advance(600);
    let hop = Arc::clone(&caller.hop);
    caller.assert_ended().await;
    assert_eq!(hop.cut.cause().unwrap().denial().reason, Reason::EvidenceStale);
    pair.end().await;
}

/// Who showed that it must not be trusted is not looked at again for a while; who
/// only came at a bad time is.
#[tokio::test]
async fn the_key_of_a_peer_that_lied_is_refused_for_a_while() {
    for (lies, machine) in [(true, [0xaa; 48]), (false, [0xd0; 48])] {
        let pair = Pair::new().await;
        let who = Who::new(&pair.world, WEB, Level::L1);
        let again = Who { identity: who.identity.clone(), ..Who::new(&pair.world, WEB, Level::L1) };
        let mut caller = Caller::by(&pair, who).await;
        caller.peer.move_to(pair.world.platform(TdxSpec { mr_td: machine, ..TdxSpec::default() }));
        if !lies {
            caller.peer.withheld = vec![Kind::Evidence];
        }
        pair.world.advance(360);
        if !lies {
            caller.peer.until("the next challenge", |peer| peer.count(Kind::Challenge) == 2).await;
            pair.world.advance(15);
            caller.peer.until("the first timeout", |peer| peer.has_heard(Kind::Drain)).await;
            pair.world.advance(15);
        }
        caller.peer.hear_out().await;
        eventually("the end of the hop", || pair.ledger.ctx.live.is_empty()).await;
        let mut peer = Peer::call(&pair.world, again, LEDGER, pair.ledger.inbound()).await;
        if lies {
            peer.hear_out().await;
            // Told why, and not looked at.
            assert_eq!(peer.kinds(), [Kind::Hello, Kind::Challenge, Kind::Drain]);
            assert_eq!(peer.told(), Some(WireReason::Identity));
        } else {
            peer.pass().await;
        }
        pair.end().await;
    }
}

/// A rule that is younger than the last proof finds it too old, and nothing else.
#[tokio::test]
async fn a_proof_that_a_new_policy_finds_too_old_is_asked_for_anew() {
    for answers in [true, false] {
        let pair = Pair::new().await;
        let mut caller = Caller::new(&pair, Level::L1).await;
        if !answers {
            caller.peer.withheld = vec![Kind::Evidence];
        }
        pair.world.advance(100);
        let fresh = "  freshness: { maxEvidenceAge: 60s }";
        pair.ledger.ctx.install(&pair.world.view_with(2, &pair.policy(), fresh));
        assert!(caller.hop.cut.cause().is_none(), "{:?}", caller.hop.cut.cause());
        caller.peer.until("a challenge at once", |peer| peer.count(Kind::Challenge) == 2).await;
        assert!(!caller.peer.has_heard(Kind::Drain));
        caller.passes().await;
        if answers {
            caller.peer.until("the verdict", |peer| peer.count(Kind::Result) == 2).await;
            assert!(caller.takes_a_stream(&pair).await);
            caller.passes().await;
        } else {
            // Nothing new meanwhile, and not for long.
            caller.takes_no_stream(pair.port).await;
            pair.world.advance(14);
            caller.passes().await;
            pair.world.advance(1);
            caller.peer.hear_out().await;
            assert_eq!(caller.peer.told(), Some(WireReason::Expired));
            let cause = caller.hop.cut.cause().unwrap().denial();
            assert_eq!(cause.reason, Reason::EvidenceStale);
            caller.assert_ended().await;
        }
        pair.end().await;
    }
}

/// The other way round: the caller's own policy ends a hop that it opened.
#[tokio::test]
async fn a_caller_that_drains_a_hop_opens_another_for_new_streams() {
    let pair = Pair::new().await;
    let (mut app, mut server) = pair.connect().await;
    let hop = pair.web.ctx.live.hops().remove(0);
    // A policy may let what is out of date drain; new hops fail closed.
    pair.web.ctx.install(&status(&pair, "", "OutOfDate"));
    assert!(hop.cut.cause().is_none());
    let mut refused = TcpStream::connect(pair.web.addresses.outbound[0]).await.unwrap();
    within("the refusal", assert_reset(&mut refused)).await;
    app.write_all(b"still").await.unwrap();
    let mut still = [0; 5];
    within("bytes", tokio::io::AsyncReadExt::read_exact(&mut server, &mut still)).await.unwrap();
    // Collateral is as it was: new streams go over a new hop, the old one still ends.
    pair.web.ctx.install(&pair.world.view(3, &pair.policy()));
    let (_other, _served) = pair.connect().await;
    assert!(pair.web.ctx.live.hops().iter().any(|other| other.id != hop.id && other.streams().len() == 1));
    pair.world.advance(30);
    within("the end of the old hop", assert_reset(&mut app)).await;
    within("the end of the old hop", assert_reset(&mut server)).await;
    pair.end().await;
}
