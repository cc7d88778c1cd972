//! The network between proxies and the control plane: an address that stays,
//! behind which a test puts a control plane, another one, or nothing.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A TCP relay. Ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
}

impl Relay {
    /// A relay to nowhere.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (target, changes) = watch::channel(None);
        tokio::spawn(serve(listener, changes));
        Self { address, target }
    }

    /// From now on to `target`. Connections that exist are cut.
    pub fn point_to(&self, target: Option<SocketAddr>) {
        self.target.send_replace(target);
    }
}

async fn serve(listener: TcpListener, mut changes: watch::Receiver<Option<SocketAddr>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            changed = changes.changed() => {
                connections.shutdown().await;
                if changed.is_err() {
                    return;
                }
            }
            Some(_) = connections.join_next() => {}
            Ok((mut here, _)) = listener.accept() => {
                let Some(target) = *changes.borrow() else { continue };
                connections.spawn(async move {
                    if let Ok(mut there) = TcpStream::connect(target).await {
                        // Whoever ends the connection has a reason; the other end sees it.
                        let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                    }
                });
            }
        }
    }
}
