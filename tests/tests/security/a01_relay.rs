//! A1. The attack: somebody has the real TLS keys of both ends, or of one, ends TLS
//! between them, and passes on the genuine frames of a genuine session. The defence:
//! evidence is made for the exporter of one TLS session, and he has two. Mutation
//! `a01-exporter`: the exporter is not in what is quoted; `a01-compare`: report data
//! is not compared.

use countersign_evidence::Reason;
use countersign_ratls::session::frame::Kind;
use countersign_ratls::session::{Side, WireReason};
use countersign_tests::attacker::{Offer, Raw};
use countersign_tests::middle::{Act, frames, refusal};
use countersign_tests::{Middle, Pair, Platform, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{calls_until, stolen};

/// For how long a key that was cut for cause is refused without a look.
const DISTRUST: u64 = 11;

/// Waits until both ends have found out by themselves, and have said so on the wire.
async fn both_say_binding(pair: &Pair, middle: &Middle, what: &str, before: (f64, f64)) {
    let denials = || {
        let of = |proxy: &countersign_tests::Proxy| proxy.denials(Reason::BindingMismatch);
        (of(&pair.web), of(&pair.ledger))
    };
    calls_until(pair, &format!("web refuses {what}"), || denials().0 > before.0).await;
    eventually(&format!("ledger refuses {what}"), async || {
        let seen =
            (denials().1 > before.1, [Side::Client, Side::Server].map(|s| refusal(&middle.heard_of(s))));
        match seen {
            (true, [Some(WireReason::Binding), Some(WireReason::Binding)]) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn genuine_frames_under_stolen_keys_fail_with_binding_at_both_ends() {
    let (pair, middle) = Pair::with_a_middle().await;
    let machine = Platform::default().attester(&pair.mesh.vendor);
    let (web, ledger) = (stolen(&pair.web).await, stolen(&pair.ledger).await);
    // Identities of his own, on a machine that the policy admits.
    let own_web = pair.mesh.plane().enrol(&*machine, "web").await.unwrap();
    let own_ledger = pair.mesh.plane().enrol(&*machine, "ledger").await.unwrap();

    for (what, as_server, as_client) in [
        ("both stolen keys", &ledger, &web),
        ("the server's stolen key", &ledger, &own_web),
        ("the client's stolen key", &own_ledger, &web),
    ] {
        let before =
            (pair.web.denials(Reason::BindingMismatch), pair.ledger.denials(Reason::BindingMismatch));
        middle.relay(as_server, as_client);
        both_say_binding(&pair, &middle, what, before).await;
        for side in [Side::Client, Side::Server] {
            let said = middle.heard_of(side);
            assert!(said.iter().any(|frame| frame.kind == Kind::Evidence), "{what}: it was a relay");
            assert!(said.iter().all(|frame| frame.kind != Kind::Open), "{what}: a gate opened");
        }
        pair.mesh.clock.advance(DISTRUST);
    }
    middle.act(Act::Wire);
    pair.another_generation().await;
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_an_earlier_session_prove_nothing_in_another() {
    let (pair, middle) = Pair::with_a_middle().await;
    let (web, ledger) = (stolen(&pair.web).await, stolen(&pair.ledger).await);
    middle.relay(&ledger, &web);
    both_say_binding(&pair, &middle, "a relay", (0.0, 0.0)).await;
    let (of_web, of_ledger) = (middle.recording(Side::Client), middle.recording(Side::Server));
    pair.mesh.clock.advance(DISTRUST);

    // To ledger, by the key of web.
    let before = pair.ledger.denials(Reason::BindingMismatch);
    let thief = Raw::new(Offer::of(&web), &pair.mesh.clock);
    let mut session = thief.handshake(pair.ledger.inbound()).await.unwrap();
    session.write_all(&of_web).await.unwrap();
    session.flush().await.unwrap();
    let mut answer = Vec::new();
    // However it ends: the frames before count.
    let _ = within("the end of a replay", session.read_to_end(&mut answer)).await;
    assert_eq!(refusal(&frames(Side::Server, &answer)), Some(WireReason::Binding));
    assert_eq!(pair.ledger.denials(Reason::BindingMismatch), before + 1.0);

    // To web, by the key of ledger.
    let before = pair.web.denials(Reason::BindingMismatch);
    middle.act(Act::Say { server: Box::new(ledger), frames: of_ledger });
    calls_until(&pair, "web refuses a replay", || pair.web.denials(Reason::BindingMismatch) > before).await;

    middle.act(Act::Wire);
    pair.mesh.clock.advance(DISTRUST);
    pair.another_generation().await;
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}
