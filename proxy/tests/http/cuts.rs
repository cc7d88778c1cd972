//! What is cut, and what ends in order.

use countersign_config::kinds::service::AppProtocol::Http;

use crate::spoken::{Spoken, exchanged, pair};
use crate::support::{Pair, Policy, assert_reset, eventually, within};

/// A connection with the beginning of an answer on it.
async fn half_answered(pair: &Pair) -> (Spoken, Spoken) {
    let mut application = Spoken::application(pair).await;
    application.get("/").await;
    let mut workload = Spoken::workload(pair).await;
    workload.head().await;
    workload.say("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
    application.head().await;
    application.hears("half").await;
    (application, workload)
}

#[tokio::test]
async fn a_cut_in_the_middle_of_an_answer_is_a_reset_on_both_sides() {
    let pair = pair(Http).await;
    let (mut application, mut workload) = half_answered(&pair).await;
    let changed = Policy { mr_td: 0xaa, ..pair.policy() };
    pair.ledger.ctx.install(&pair.world.view(2, &changed));
    within("the end", assert_reset(&mut application.0)).await;
    within("the end", assert_reset(&mut workload.0)).await;
    eventually("nothing is left", || pair.ledger.ctx.live.is_empty()).await;
    assert_eq!(pair.ledger.ctx.live.untracked(), 0);
    let metrics = pair.ledger.metrics();
    let cut = metrics.lines().find(|line| line.starts_with("istio_requests_total{")).unwrap();
    assert!(cut.contains("response_code=\"200\",response_flags=\"ATTEST_REFVAL\""), "{cut}");
    pair.end().await;
}

#[tokio::test]
async fn a_call_that_is_no_longer_authorized_ends_with_its_requests() {
    let pair = pair(Http).await;
    let (mut application, mut workload) = half_answered(&pair).await;
    let idle = {
        let mut application = Spoken::application(&pair).await;
        application.get("/").await;
        let mut workload = Spoken::workload(&pair).await;
        workload.head().await;
        workload.answer("").await;
        application.head().await;
        (application, workload)
    };
    let changed = Policy { ports: vec![1], ..pair.policy() };
    pair.ledger.ctx.install(&pair.world.view(2, &changed));
    for socket in [&mut application.0, &mut workload.0] {
        within("the end", assert_reset(socket)).await;
    }
    for mut socket in [idle.0.0, idle.1.0] {
        within("the end", assert_reset(&mut socket)).await;
    }
    pair.end().await;
}

#[tokio::test]
async fn a_cut_ends_an_upgraded_connection() {
    let pair = pair(Http).await;
    let mut application = Spoken::application(&pair).await;
    application.say("GET / HTTP/1.1\r\nhost: ledger\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.say("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhello").await;
    application.head().await;
    application.hears("hello").await;
    pair.ledger.ctx.install(&pair.world.view(2, &Policy { ports: vec![1], ..pair.policy() }));
    within("the end", assert_reset(&mut application.0)).await;
    within("the end", assert_reset(&mut workload.0)).await;
    pair.end().await;
}

#[tokio::test]
async fn a_workload_that_breaks_off_is_not_taken_for_one_that_ended() {
    let pair = pair(Http).await;
    let (mut application, workload) = half_answered(&pair).await;
    drop(workload);
    within("the end", assert_reset(&mut application.0)).await;
    pair.end().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_is_not_waited_for() {
    let pair = pair(Http).await;
    let (application, mut workload) = half_answered(&pair).await;
    countersign_net::abort(application.0);
    within("the end", assert_reset(&mut workload.0)).await;
    pair.end().await;
}

#[tokio::test]
async fn a_drain_ends_connections_after_the_answer_that_is_on_its_way() {
    let pair = pair(Http).await;
    let (mut application, mut workload) = half_answered(&pair).await;
    pair.ledger.drain.begin();
    workload.say("x".repeat(96)).await;
    application.hears("x".repeat(96)).await;
    // The end comes in order.
    assert_eq!(application.rest().await, "");
    assert_eq!(workload.rest().await, "");
    pair.end().await;
}

#[tokio::test]
async fn a_generation_that_changes_nothing_disturbs_no_request() {
    let pair = pair(Http).await;
    let (mut application, mut workload) = half_answered(&pair).await;
    pair.ledger.ctx.install(&pair.world.view(2, &pair.policy()));
    workload.say("x".repeat(96)).await;
    application.hears("x".repeat(96)).await;
    exchanged(&mut application, &mut workload, "/next").await;
    pair.end().await;
}
