//! The smallest mesh that carries a request: `web` calls `ledger`.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::mesh::{Mesh, Platform};
use crate::policy::Policy;
use crate::proxy::Proxy;
use crate::wait::within;
use crate::workload::{Workload, passes};

/// Asserts that `proxy` resets a connection of its application, which speaks at once.
///
/// # Panics
/// When the connection stays, ends in order or is answered, or there is no listener.
pub async fn refused(proxy: &Proxy) {
    let attempt = async {
        let mut application = TcpStream::connect(proxy.outbound()).await?;
        application.write_all(b"a secret").await?;
        let mut answer = Vec::new();
        application.read_to_end(&mut answer).await.map(|_| answer)
    };
    // A reset shows wherever the application is by then.
    let ended = within("the refusal of a connection", attempt).await;
    let kind = ended.expect_err("an orderly end").kind();
    assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{kind}");
}

/// A mesh with two sidecars and a workload.
#[derive(Debug)]
pub struct Pair {
    /// The mesh.
    pub mesh: Mesh,
    /// The caller's sidecar.
    pub web: Proxy,
    /// The called one's.
    pub ledger: Proxy,
    /// What is called.
    pub workload: Workload,
}

impl Pair {
    /// Two default TDX guests.
    pub async fn start() -> Self {
        Self::with(&Policy::default(), [&Platform::default(), &Platform::default()]).await
    }

    /// By `policy`, on these platforms.
    pub async fn with(policy: &Policy, [web, ledger]: [&Platform; 2]) -> Self {
        let mesh = Mesh::with(policy).await;
        let workload = Workload::start().await;
        let ledger = mesh.sidecar("ledger").on(ledger).serving(&[workload.port]).ready().await;
        let caller = mesh.sidecar("web").on(web).calling("ledger", ledger.inbound(), workload.port);
        let web = caller.ready().await;
        Self { mesh, web, ledger, workload }
    }

    /// A connection of web's application, and what ledger's workload has of it.
    ///
    /// # Panics
    /// When nothing comes through.
    pub async fn connect(&self) -> (TcpStream, TcpStream) {
        let mut application = self.dial().await;
        let mut served = self.workload.accept().await;
        passes(&mut application, &mut served, b"hello").await;
        (application, served)
    }

    /// Lets time pass as it does for a mesh that lives: in steps, after each of
    /// which everything that was due has happened.
    pub async fn live(&self, seconds: u64) {
        const STEP: u64 = 60;
        for passed in (0..seconds).step_by(STEP as usize) {
            self.mesh.clock.advance(STEP.min(seconds - passed));
            for proxy in [&self.web, &self.ledger] {
                proxy.settled().await;
            }
        }
    }

    /// A connection of web's application to its sidecar.
    ///
    /// # Panics
    /// When the sidecar does not listen.
    pub async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.web.outbound()).await.unwrap()
    }

    /// The next generation, which decides as the one before: what is remembered of
    /// failures for one generation is forgotten.
    pub async fn another_generation(&self) {
        let same = Policy { svid_lifetime: 3599, ..Policy::default() };
        let generation = self.mesh.apply(&same).await;
        self.web.uses(generation).await;
        self.ledger.uses(generation).await;
    }

    /// Asserts that a connection of the application is refused.
    pub async fn is_refused(&self) {
        refused(&self.web).await;
    }

    /// Asserts that the next connection that the workload sees is one that is
    /// made now and passes: none that was tried before has reached it.
    ///
    /// # Panics
    /// When another one arrives first.
    pub async fn nothing_reached_the_workload(&self) {
        let mut application = self.dial().await;
        let mut served = self.workload.accept().await;
        passes(&mut application, &mut served, b"the first of all").await;
        passes(&mut served, &mut application, b"it is").await;
    }

    /// Ends all of it.
    pub async fn end(self) {
        self.web.end().await;
        self.ledger.end().await;
        if let Some(plane) = self.mesh.plane {
            plane.stop().await;
        }
    }
}
