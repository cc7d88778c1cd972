//! A hop of the web's identity without a proxy, for requests that no proxy sends.

use std::sync::Arc;

use bytes::Bytes;
use countersign_attester::emulated::TdxSpec;
use countersign_config::Guard;
use countersign_ratls::tls::{ALPN_H2, Connector, Profile};
use countersign_ratls::{IdPattern, SpiffeId};
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use tokio::net::TcpStream;

use super::{LEDGER, Pair, WEB};

pub struct Raw {
    send: SendRequest<Bytes>,
}

impl Raw {
    /// A hop that runs by itself.
    pub async fn connect(pair: &Pair) -> Self {
        let (mut hop, connection) = Self::unserved(pair).await;
        tokio::spawn(connection);
        hop.send = hop.send.ready().await.unwrap();
        hop
    }

    /// A hop, and what must run for it.
    pub async fn unserved(pair: &Pair) -> (Self, impl Future<Output = Result<(), h2::Error>> + use<>) {
        let platform = pair.world.platform(TdxSpec::default());
        let identity = pair.world.identity(WEB, &*platform);
        let guard = Arc::new(Guard::new(SpiffeId::parse(WEB).unwrap(), Arc::clone(&pair.web.ctx.view), 8));
        let profile =
            Profile { alpn: vec![ALPN_H2.to_vec()], require_pq: false, clock: pair.world.clock().provider() };
        let expected = IdPattern::parse(LEDGER).unwrap();
        let connector = Connector::new(&identity, guard, expected, &profile).unwrap();
        let socket = TcpStream::connect(pair.ledger.inbound()).await.unwrap();
        let shaken = connector.connect(socket).await.unwrap();
        let (send, connection) = h2::client::handshake(shaken.stream).await.unwrap();
        (Self { send }, connection)
    }

    pub async fn ask(&mut self, method: Method, uri: &str) -> (StatusCode, HeaderMap) {
        self.try_ask(method, uri).await.expect("an answer")
    }

    /// `None` when the hop ends before there is an answer.
    pub async fn try_ask(&mut self, method: Method, uri: &str) -> Option<(StatusCode, HeaderMap)> {
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse::<Uri>().unwrap();
        let mut send = self.send.clone().ready().await.ok()?;
        let (response, _stream) = send.send_request(request, false).ok()?;
        let (head, _) = response.await.map(Response::into_parts).ok()?;
        Some((head.status, head.headers))
    }
}
