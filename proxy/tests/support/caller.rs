//! A peer that calls the ledger's proxy, and has a stream to its workload.

use std::sync::Arc;

use bytes::Bytes;
use countersign_proxy::live::Hop;
use countersign_ratls::session::Level;
use h2::client::SendRequest;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::peer::{Peer, Who, connect};
use super::{LEDGER, Pair, WEB, assert_reset, within};

pub struct Caller {
    pub peer: Peer,
    pub request: SendRequest<Bytes>,
    /// The hop, as the proxy sees it.
    pub hop: Arc<Hop>,
    send: h2::SendStream<Bytes>,
    recv: h2::RecvStream,
    workload: TcpStream,
}

impl Caller {
    /// Demands this level of the proxy.
    pub async fn new(pair: &Pair, level: Level) -> Self {
        Self::by(pair, Who::new(&pair.world, WEB, level)).await
    }

    pub async fn by(pair: &Pair, who: Who) -> Self {
        let peer = Peer::call(&pair.world, who, LEDGER, pair.ledger.inbound()).await;
        let (peer, mut request) = peer.calling().await;
        let hop = pair.ledger.ctx.live.hops().pop().unwrap();
        let (response, send) = request.send_request(connect(pair.port), false).unwrap();
        let (workload, _) = within("a call of the workload", pair.workload.accept()).await.unwrap();
        let response = within("an answer", response).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut caller = Self { peer, request, hop, send, recv: response.into_body(), workload };
        caller.passes().await;
        caller
    }

    /// Bytes pass, both ways.
    pub async fn passes(&mut self) {
        self.workload.write_all(b"hello").await.unwrap();
        assert_eq!(within("bytes", self.recv.data()).await.unwrap().unwrap(), "hello");
        self.recv.flow_control().release_capacity(5).unwrap();
        self.send.send_data(Bytes::from_static(b"hello"), false).unwrap();
        let mut hello = [0; 5];
        within("bytes", self.workload.read_exact(&mut hello)).await.unwrap();
        assert_eq!(&hello, b"hello");
    }

    /// Whether a new stream gets through to the workload.
    pub async fn takes_a_stream(&mut self, pair: &Pair) -> bool {
        let (response, _send) = self.request.send_request(connect(pair.port), false).unwrap();
        let accepted = within("a call of the workload", pair.workload.accept()).await.is_ok();
        accepted && within("an answer", response).await.unwrap().status() == StatusCode::OK
    }

    /// The hop takes no new stream: another one may.
    pub async fn takes_no_stream(&mut self, port: u16) {
        let refused = match self.request.send_request(connect(port), false) {
            Ok((response, _send)) => within("a refusal", response).await.unwrap_err(),
            Err(gone) => gone,
        };
        let reason = refused.reason();
        assert!(refused.is_go_away() || reason == Some(h2::Reason::REFUSED_STREAM), "{refused}");
    }

    /// Both ends are over: the workload's socket by a reset, the stream not in order.
    pub async fn assert_ended(mut self) {
        within("the end of the workload's socket", assert_reset(&mut self.workload)).await;
        let end = within("the end of the stream", self.recv.data()).await;
        assert!(end.is_some_and(|data| data.is_err()), "an orderly end, or bytes");
    }
}
