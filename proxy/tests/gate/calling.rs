//! The real connector, which calls a hostile peer.

use std::sync::atomic::{AtomicU64, Ordering};

use countersign_config::bootstrap::Outbound;
use countersign_ratls::SpiffeId;
use countersign_ratls::session::frame::Kind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::http2::{self, SECRET};
use super::stalls::{GATE, Stall};
use super::states::{STATES, State};
use super::support::peer::{Peer, Who};
use super::support::{LEDGER, Policy, Proxy, WEB, World, assert_reset, eventually, within};

const PORT: u16 = 4711;

/// The web's proxy, whose destination is a peer of ours.
struct Caller {
    world: World,
    web: Proxy,
    impostor: TcpListener,
    level: &'static str,
    generation: AtomicU64,
}

impl Caller {
    async fn new(level: &'static str) -> Self {
        let (world, impostor) = (World::new(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let mapping = Outbound {
            listen: "127.0.0.1:0".parse().unwrap(),
            to: SpiffeId::parse(LEDGER).unwrap(),
            address: impostor.local_addr().unwrap().to_string(),
            port: PORT,
        };
        let view = world.view(1, &Policy { mr_td: 0xd0, ports: vec![PORT], level });
        let platform = world.platform(countersign_attester::emulated::TdxSpec::default());
        let bootstrap = world.bootstrap("web", None, vec![mapping]);
        let web = world.start(&bootstrap, world.identity(WEB, &*platform), &view);
        Self { world, web, impostor, level, generation: AtomicU64::new(1) }
    }

    /// The application speaks at once, and its proxy calls us.
    async fn called(&self, state: &State) -> (TcpStream, Peer) {
        // Another configuration: what was refused before may be tried again at once.
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let policy = Policy { mr_td: 0xd0, ports: vec![PORT], level: self.level };
        self.web.ctx.install(&self.world.view(generation, &policy));
        let mut application = TcpStream::connect(self.web.addresses.outbound[0]).await.unwrap();
        application.write_all(SECRET).await.unwrap();
        let (socket, _) = within("a call of the proxy", self.impostor.accept()).await.unwrap();
        let who = Who::new(&self.world, LEDGER, state.peer);
        (application, Peer::answer(&self.world, who, socket).await)
    }
}

async fn stalls(caller: &Caller, state: &State, stall: Stall) {
    let case = format!("{}, {stall:?}", state.name);
    let (mut application, mut peer) = caller.called(state).await;
    state.reach(&mut peer).await;
    let live = &caller.web.ctx.live;
    assert_eq!(live.len(), 1, "{case}");
    stall.act(&mut peer, &http2::answer(), &caller.world).await;
    if stall.is_slow() {
        assert_eq!(live.len(), 1, "{case}: given up before the {GATE} s are over");
        caller.world.advance(1);
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
    for level in ["L2", "L1"] {
        let caller = Caller::new(level).await;
        let mut cases = 0;
        for state in STATES.iter().filter(|state| state.proxy == level) {
            for stall in Stall::all(state) {
                stalls(&caller, state, stall).await;
                cases += 1;
            }
        }
        println!("{level}: {cases} cases");
        caller.web.end().await;
    }
}

/// What is watched would show it: the same bytes, behind a gate that is open.
#[tokio::test]
async fn the_same_bytes_pass_both_ways_when_both_have_opened() {
    for state in STATES {
        let caller = Caller::new(state.proxy).await;
        let (mut application, mut peer) = caller.called(&state).await;
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
        caller.web.end().await;
    }
}
