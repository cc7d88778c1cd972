//! The real listener, called by a hostile peer.

use std::io::{ErrorKind, Read};
use std::net::TcpListener;

use countersign_ratls::session::frame::Kind;

use countersign_proxy::gate::Framing;

use super::http2::{self, SECRET};
use super::stalls::{GATE, Stall};
use super::states::{STATES, State};
use super::support::peer::{Peer, Who};
use super::support::records;
use super::support::{LEDGER, Pair, WEB, World, eventually, workload};

/// The workload's socket: whatever reaches it is in the kernel's queue at once.
struct Upstream(TcpListener);

impl Upstream {
    async fn of(pair: &mut Pair) -> Self {
        let (elsewhere, _) = workload().await;
        Self(std::mem::replace(&mut pair.workload, elsewhere).into_std().unwrap())
    }

    /// Nobody has connected.
    fn is_untouched(&self) -> bool {
        match self.0.accept() {
            Err(error) => error.kind() == ErrorKind::WouldBlock,
            Ok(_) => false,
        }
    }
}

async fn stalls(pair: &Pair, upstream: &Upstream, state: &State, stall: Stall, framing: Framing) {
    let case = format!("{}, {stall:?}, {}", state.name, framing.name());
    let who = Who::new(&pair.world, WEB, state.peer).over(framing.alpn());
    let mut peer = Peer::call(&pair.world, who, LEDGER, pair.ledger.inbound()).await;
    state.reach(&mut peer).await;
    let live = &pair.ledger.ctx.live;
    assert_eq!(live.len(), 1, "{case}");
    let call = if framing == Framing::Dedicated { records::call(pair.port) } else { http2::call(pair.port) };
    stall.act(&mut peer, &call, &pair.world).await;
    if stall.is_slow() {
        assert_eq!(live.len(), 1, "{case}: given up before the {GATE} s are over");
        pair.world.advance(1);
    }
    // Nothing but frames comes until the proxy hangs up, or `hear_out` says what did.
    peer.hear_out().await;
    eventually(&format!("{case}: the end of the hop"), || live.is_empty()).await;
    assert!(upstream.is_untouched(), "{case}: the workload was called");
    assert_eq!(peer.beyond, b"", "{case}: bytes behind the proxy's Open");
    if !peer.has_heard(Kind::Open) {
        assert_eq!(peer.told(), stall.reason(), "{case}: {:?}", peer.kinds());
    }
}

#[tokio::test]
async fn nothing_reaches_the_workload_before_both_have_opened() {
    for (level, framing) in [("L2", Framing::Shared), ("L1", Framing::Shared), ("L2", Framing::Dedicated)] {
        let mut pair = Pair::at(level, World::new(), |_| {}).await;
        let upstream = Upstream::of(&mut pair).await;
        let mut cases = 0;
        for state in STATES.iter().filter(|state| state.proxy == level) {
            for stall in Stall::all(state) {
                stalls(&pair, &upstream, state, stall, framing).await;
                cases += 1;
            }
        }
        println!("{level}, {}: {cases} cases", framing.name());
        let metrics = pair.ledger.metrics();
        let opened = metrics.lines().find(|line| line.starts_with("istio_tcp_connections_opened_total{"));
        assert!(opened.is_none_or(|line| line.ends_with(" 0")), "{metrics}");
        pair.end().await;
    }
}

/// What is watched would show it: the same bytes, behind a gate that is open.
#[tokio::test]
async fn the_same_bytes_reach_the_workload_when_both_have_opened() {
    for state in STATES {
        let mut pair = Pair::at(state.proxy, World::new(), |_| {}).await;
        let upstream = Upstream::of(&mut pair).await;
        let who = Who::new(&pair.world, WEB, state.peer);
        let mut peer = Peer::call(&pair.world, who, LEDGER, pair.ledger.inbound()).await;
        peer.pass().await;
        assert!(upstream.is_untouched());
        peer.write(&http2::call(pair.port)).await.unwrap();
        let mut accepted = None;
        eventually("a call of the workload", || {
            accepted = upstream.0.accept().ok();
            accepted.is_some()
        })
        .await;
        let mut socket = accepted.unwrap().0;
        socket.set_nonblocking(true).unwrap();
        let mut arrived = Vec::new();
        eventually("the secret", || {
            let mut some = [0; 64];
            let read = socket.read(&mut some).unwrap_or_default();
            arrived.extend_from_slice(&some[..read]);
            arrived.len() >= SECRET.len()
        })
        .await;
        assert_eq!(arrived, SECRET, "{}", state.name);
        pair.end().await;
    }
}
