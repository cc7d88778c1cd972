//! A workload that a proxy calls on behalf of a peer.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::wait::within;

/// A listener whose connections the test accepts by hand, so that it sees
/// exactly what reaches the workload.
#[derive(Debug)]
pub struct Workload {
    listener: TcpListener,
    /// Its port.
    pub port: u16,
}

impl Workload {
    /// Listens.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { listener, port }
    }

    /// The next connection.
    ///
    /// # Panics
    /// When none comes.
    pub async fn accept(&self) -> TcpStream {
        within("a connection of the proxy to its workload", self.listener.accept()).await.unwrap().0
    }

    /// Answers every connection with `answer` to its first bytes, until dropped.
    ///
    /// # Panics
    /// In the background, when accepting fails.
    pub fn answer(self, answer: String) -> u16 {
        let port = self.port;
        tokio::spawn(async move {
            loop {
                let mut socket = self.accept().await;
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    if socket.read(&mut request).await.is_ok() {
                        let _ = socket.write_all(answer.as_bytes()).await;
                    }
                });
            }
        });
        port
    }
}

/// Sends `text` over one end and reads it at the other.
///
/// # Panics
/// When it does not arrive as it was sent.
pub async fn passes(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) {
    from.write_all(text).await.unwrap();
    let mut arrived = vec![0; text.len()];
    within("bytes through the hop", to.read_exact(&mut arrived)).await.unwrap();
    assert_eq!(arrived, text);
}

/// Asserts that a socket ends by a reset, with no further byte.
///
/// # Panics
/// When it ends in order, stays, or has bytes.
pub async fn is_reset(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    let ended = within("the end of a socket", socket.read_to_end(&mut rest)).await;
    assert_eq!(ended.expect_err("an orderly end").kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(rest, b"", "bytes before the reset");
}
