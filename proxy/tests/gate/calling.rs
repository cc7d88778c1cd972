//! The real connector, which calls a hostile peer.

use countersign_config::bootstrap::Hop;
use countersign_ratls::session::frame::Kind;
use tokio::io::AsyncReadExt;

use super::http2::{self, SECRET};
use super::stalls::{GATE, Stall};
use super::states::{STATES, State};
use super::support::called::Called;
use super::support::records;
use super::support::{assert_reset, eventually, within};

async fn stalls(called: &Called, state: &State, stall: Stall, hop: Hop) {
    let case = format!("{}, {stall:?}, {hop:?}", state.name);
    let (mut application, mut peer) = called.dialled(state.peer).await;
    state.reach(&mut peer).await;
    let live = &called.web.ctx.live;
    assert_eq!(live.len(), 1, "{case}");
    let answer = if hop == Hop::Dedicated { records::answer() } else { http2::answer() };
    stall.act(&mut peer, &answer, &called.world).await;
    if stall.is_slow() {
        assert_eq!(live.len(), 1, "{case}: given up before the {GATE} s are over");
        called.world.advance(1);
    }
    // Nothing but frames comes until the proxy hangs up, or `hear_out` says what did.
    peer.hear_out().await;
    // The application has no byte, and knows that this was no orderly end.
    within(&case, assert_reset(&mut application)).await;
    eventually(&format!("{case}: the end of the hop"), || live.is_empty()).await;
    assert_eq!(peer.beyond, b"", "{case}: bytes behind the proxy's Open");
    if !peer.has_heard(Kind::Open) {
        assert_eq!(peer.told(), stall.reason(), "{case}: {:?}", peer.kinds());
    }
}

#[tokio::test]
async fn nothing_of_the_application_leaves_before_both_have_opened() {
    for (level, hop) in [("L2", Hop::Shared), ("L1", Hop::Shared), ("L2", Hop::Dedicated)] {
        let called = Called::over(hop, level, "").await;
        let mut cases = 0;
        for state in STATES.iter().filter(|state| state.proxy == level) {
            for stall in Stall::all(state) {
                stalls(&called, state, stall, hop).await;
                cases += 1;
            }
        }
        println!("{level}, {hop:?}: {cases} cases");
        called.web.end().await;
    }
}

/// What is watched would show it: the same bytes, behind a gate that is open.
#[tokio::test]
async fn the_same_bytes_pass_both_ways_when_both_have_opened() {
    for state in STATES {
        let called = Called::new(state.proxy, "").await;
        let (mut application, mut peer) = called.dialled(state.peer).await;
        peer.pass().await;
        // Only now does the proxy say what HTTP/2 says first.
        let mut heard = std::mem::take(&mut peer.beyond);
        peer.write(&http2::answer()).await.unwrap();
        let holds = |heard: &[u8], what: &[u8]| heard.windows(what.len()).any(|window| window == what);
        while !holds(&heard, SECRET) {
            let read = within("the application's bytes", peer.tls().read_buf(&mut heard)).await.unwrap();
            assert_ne!(read, 0, "{}: the proxy hung up", state.name);
        }
        assert!(heard.starts_with(b"PRI * HTTP/2.0"), "{}", state.name);
        let mut arrived = [0; SECRET.len()];
        within("the peer's bytes", application.read_exact(&mut arrived)).await.unwrap();
        assert_eq!(arrived, SECRET);
        called.web.end().await;
    }
}
