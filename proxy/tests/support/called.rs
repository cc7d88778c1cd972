//! The web's proxy alone: its destination is a peer of ours.

use std::sync::atomic::{AtomicU64, Ordering};

use countersign_attester::emulated::TdxSpec;
use countersign_config::bootstrap::{Hop, Outbound, ProxyBootstrap};
use countersign_ratls::SpiffeId;
use countersign_ratls::session::Level;
use countersign_ratls::tls::{ALPN_MESH, ALPN_TCP};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::peer::{Peer, Who};
use super::{LEDGER, Policy, Proxy, WEB, World, within};

const PORT: u16 = 4711;

/// What the application says as soon as it is connected.
pub const SECRET: &[u8] = b"bytes of an application";

pub struct Called {
    pub world: World,
    pub web: Proxy,
    impostor: TcpListener,
    level: &'static str,
    more: &'static str,
    alpn: &'static [u8],
    generation: AtomicU64,
}

impl Called {
    /// A proxy that demands this level, and `more` in its policy.
    pub async fn new(level: &'static str, more: &'static str) -> Self {
        Self::over(Hop::Shared, level, more).await
    }

    /// The same, with connections that travel like this.
    pub async fn over(hop: Hop, level: &'static str, more: &'static str) -> Self {
        Self::build(hop, level, more, |_| {}).await
    }

    /// The same, with another bootstrap file.
    pub async fn build(
        hop: Hop,
        level: &'static str,
        more: &'static str,
        change: impl Fn(&mut ProxyBootstrap),
    ) -> Self {
        let (world, impostor) = (World::new(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let mapping = Outbound {
            listen: "127.0.0.1:0".parse().unwrap(),
            to: SpiffeId::parse(LEDGER).unwrap(),
            address: impostor.local_addr().unwrap().to_string(),
            port: PORT,
            hop,
        };
        let view = world.view_with(1, &Policy { mr_td: 0xd0, ports: vec![PORT], level }, more);
        let platform = world.platform(TdxSpec::default());
        let mut bootstrap = world.bootstrap("web", None, vec![mapping]);
        change(&mut bootstrap);
        let web = world.start(&bootstrap, world.identity(WEB, &*platform), &view);
        let alpn = if hop == Hop::Dedicated { ALPN_TCP } else { ALPN_MESH };
        Self { world, web, impostor, level, more, alpn, generation: AtomicU64::new(1) }
    }

    pub fn policy(&self) -> Policy {
        Policy { mr_td: 0xd0, ports: vec![PORT], level: self.level }
    }

    /// Another configuration that says the same: what was refused may be tried again at once.
    pub fn again(&self) {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        self.web.ctx.install(&self.world.view_with(generation, &self.policy(), self.more));
    }

    /// The application speaks, and its proxy calls a peer that demands this of it.
    pub async fn dialled(&self, level: Level) -> (TcpStream, Peer) {
        self.again();
        let application = self.application().await;
        (application, self.next(level).await)
    }

    /// A connection of the application, which speaks at once.
    pub async fn application(&self) -> TcpStream {
        let mut application = TcpStream::connect(self.web.addresses.outbound[0]).await.unwrap();
        application.write_all(SECRET).await.unwrap();
        application
    }

    /// The next hop that the proxy opens.
    pub async fn next(&self, level: Level) -> Peer {
        let who = Who::new(&self.world, LEDGER, level).over(self.alpn);
        Peer::answer(&self.world, who, self.connection().await).await
    }

    /// The same, and nothing is said yet.
    pub async fn connection(&self) -> TcpStream {
        within("a call of the proxy", self.impostor.accept()).await.unwrap().0
    }

    /// Whether nobody has connected meanwhile.
    pub fn has_no_other_call(&self) -> bool {
        let waker = std::task::Waker::noop();
        self.impostor.poll_accept(&mut std::task::Context::from_waker(waker)).is_pending()
    }
}
