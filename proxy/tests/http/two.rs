//! HTTP/2 and gRPC.

use bytes::Bytes;
use countersign_config::kinds::service::AppProtocol::{Grpc, Http};
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::net::TcpStream;

use crate::spoken::{Spoken, nobody_called, pair, pair_with};
use crate::support::{Pair, WEB, within};

/// A client of HTTP/2 that runs by itself.
async fn client(pair: &Pair) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(pair.web.addresses.outbound[0]).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    within("a connection", client.ready()).await.unwrap()
}

/// The workload, whose next connection speaks HTTP/2.
async fn server(pair: &Pair) -> h2::server::Connection<TcpStream, Bytes> {
    let socket = Spoken::workload(pair).await.0;
    within("HTTP/2", h2::server::handshake(socket)).await.unwrap()
}

fn post(path: &str) -> Request<()> {
    let request = Request::builder().method(Method::POST).uri(format!("http://ledger{path}"));
    request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

#[tokio::test]
async fn a_call_of_grpc_passes_with_its_trailers() {
    for protocol in [Http, Grpc] {
        let pair = pair(protocol).await;
        let mut client = client(&pair).await;
        let mut request = post("/ledger.Ledger/Book");
        request.headers_mut().insert("x-countersign-peer", "spiffe://evil".parse().unwrap());
        let (response, mut body) = client.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"ask"), false).unwrap();
        let mut server = server(&pair).await;
        let (request, mut respond) = within("a request", server.accept()).await.unwrap().unwrap();
        let serving = tokio::spawn(async move { while server.accept().await.is_some() {} });
        assert_eq!(request.uri().to_string(), "http://ledger/ledger.Ledger/Book");
        let peers: Vec<_> = request.headers().get_all("x-countersign-peer").iter().collect();
        assert_eq!(peers, [WEB]);
        assert_eq!(request.headers()["te"], "trailers");
        let mut asked = request.into_body();
        assert_eq!(within("bytes", asked.data()).await.unwrap().unwrap(), "ask");
        // Both sides speak at once.
        let mut answer = respond.send_response(Response::new(()), false).unwrap();
        answer.send_data(Bytes::from_static(b"one"), false).unwrap();
        let mut response = within("an answer", response).await.unwrap().into_body();
        assert_eq!(within("bytes", response.data()).await.unwrap().unwrap(), "one");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-countersign-peer", "spiffe://evil".parse().unwrap());
        trailers.insert("x-sum", "3".parse().unwrap());
        body.send_trailers(trailers).unwrap();
        assert!(within("the end", asked.data()).await.is_none());
        let came = within("trailers", asked.trailers()).await.unwrap().unwrap();
        assert_eq!((came.len(), &came["x-sum"]), (1, &"3".parse().unwrap()));
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "5".parse().unwrap());
        answer.send_trailers(trailers).unwrap();
        assert!(within("the end", response.data()).await.is_none());
        let trailers = within("trailers", response.trailers()).await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "5");
        crate::support::eventually("a count", || {
            let metrics = pair.ledger.metrics();
            metrics.contains("grpc_response_status=\"5\",reporter=\"destination\",request_protocol=\"grpc\"")
        })
        .await;
        serving.abort();
        pair.end().await;
    }
}

#[tokio::test]
async fn requests_of_a_connection_share_one_to_the_workload() {
    let pair = pair(Http).await;
    let mut client = client(&pair).await;
    let mut answers = Vec::new();
    for i in 0..20 {
        let request = Request::builder().uri(format!("http://ledger/{i}")).body(()).unwrap();
        answers.push(client.send_request(request, true).unwrap().0);
    }
    let mut server = server(&pair).await;
    let serving = tokio::spawn(async move {
        while let Some(Ok((_, mut respond))) = server.accept().await {
            respond.send_response(Response::new(()), true).unwrap();
        }
    });
    for answer in answers {
        assert_eq!(within("an answer", answer).await.unwrap().status(), StatusCode::OK);
    }
    assert!(nobody_called(&pair));
    assert_eq!(pair.ledger.ctx.live.hops()[0].streams().len(), 1);
    serving.abort();
    pair.end().await;
}

#[tokio::test]
async fn a_refusal_is_one_of_grpc_where_that_is_spoken() {
    let mut pair = pair(Grpc).await;
    let (elsewhere, _) = crate::support::workload().await;
    drop(std::mem::replace(&mut pair.workload, elsewhere));
    let mut client = client(&pair).await;
    let (response, _) = client.send_request(post("/a.B/C"), true).unwrap();
    let response = within("an answer", response).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["countersign-reason"], "connect-failed");
    let plain = Request::builder().uri("http://ledger/").body(()).unwrap();
    let (response, _) = client.send_request(plain, true).unwrap();
    assert_eq!(within("an answer", response).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    pair.end().await;
}

/// Frames by hand: what no client of HTTP/2 sends.
mod by_hand {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A field without any compression (RFC 7541, section 6.2.2).
    fn field(name: &str, value: &str) -> Vec<u8> {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat();
        [&[0][..], &text(name), &text(value)].concat()
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const END: u8 = 5;

    async fn preface(pair: &Pair) -> TcpStream {
        let mut socket = TcpStream::connect(pair.web.addresses.outbound[0]).await.unwrap();
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        socket.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        socket
    }

    async fn next(socket: &mut TcpStream) -> (u8, Vec<u8>) {
        let mut head = [0; 9];
        within("a frame", socket.read_exact(&mut head)).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        within("a frame", socket.read_exact(&mut payload)).await.unwrap();
        (head[3], payload)
    }

    /// The first frame about the request: a status, or the code of its reset.
    async fn outcome(socket: &mut TcpStream) -> Result<Vec<u8>, u32> {
        loop {
            match next(socket).await {
                (HEADERS, block) => return Ok(block),
                (RST_STREAM, code) => return Err(u32::from_be_bytes(code.try_into().unwrap())),
                (GOAWAY, code) => return Err(u32::from_be_bytes(code[4..8].try_into().unwrap())),
                _ => {}
            }
        }
    }

    #[tokio::test]
    async fn games_with_pseudo_headers_are_refused_and_the_workload_sees_nothing() {
        let pair = pair(Http).await;
        let usual = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "ledger")];
        let with = |more: &[(&'static str, &'static str)]| [&usual[..], more].concat();
        let without = |name: &str| usual.iter().copied().filter(|(n, _)| *n != name).collect::<Vec<_>>();
        let but = |name: &'static str, value: &'static str| {
            usual
                .iter()
                .copied()
                .map(|(n, v)| if n == name { (n, value) } else { (n, v) })
                .collect::<Vec<_>>()
        };
        for fields in [
            with(&[(":method", "POST")]),
            with(&[(":path", "/admin")]),
            with(&[(":authority", "other")]),
            with(&[("x", "1"), (":path", "/admin")]),
            with(&[(":status", "200")]),
            with(&[(":unknown", "1")]),
            with(&[(":protocol", "websocket")]),
            without(":method"),
            without(":scheme"),
            without(":path"),
            without(":authority"),
            but(":path", ""),
            but(":path", "admin"),
            but(":path", "/a b"),
            but(":path", "//../admin"),
            but(":path", "/ HTTP/1.1\r\nx: y"),
            but(":method", "GET /admin HTTP/1.1"),
            but(":method", "CONNECT"),
            but(":authority", "me@ledger"),
            but(":authority", "ledger/x"),
            with(&[("host", "other")]),
            with(&[("connection", "close")]),
            with(&[("transfer-encoding", "chunked")]),
            with(&[("upgrade", "websocket")]),
            with(&[("te", "gzip")]),
            with(&[("X-Upper", "1")]),
            with(&[("x y", "1")]),
            with(&[("x", "a\r\nb: c")]),
            with(&[("x", "a\0b")]),
            with(&[("", "1")]),
            with(&[("content-length", "5")]),
            with(&[("content-length", "0"), ("content-length", "5")]),
        ] {
            let mut socket = preface(&pair).await;
            let block: Vec<u8> = fields.iter().flat_map(|(name, value)| field(name, value)).collect();
            socket.write_all(&frame(HEADERS, END, 1, &block)).await.unwrap();
            match outcome(&mut socket).await {
                // PROTOCOL_ERROR, COMPRESSION_ERROR
                Err(code) => assert!([1, 9].contains(&code), "{fields:?}: {code}"),
                // 400 is in the static table (RFC 7541, appendix A).
                Ok(block) => assert_eq!(block[0], 0x80 | 12, "{fields:?}"),
            }
            assert!(nobody_called(&pair), "{fields:?}");
        }
        pair.end().await;
    }

    #[tokio::test]
    async fn who_takes_back_what_it_asks_again_and_again_loses_the_connection() {
        let pair = pair_with(Http, |bootstrap| bootstrap.limits.http.requests_per_connection = 10).await;
        let mut socket = preface(&pair).await;
        let usual = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "ledger")];
        let block: Vec<u8> = usual.iter().flat_map(|(name, value)| field(name, value)).collect();
        let flood: Vec<u8> = (0..10_000)
            .flat_map(|i| {
                let stream = 2 * i + 1;
                [frame(HEADERS, END, stream, &block), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())]
            })
            .flatten()
            .collect();
        let (mut read, mut write) = socket.split();
        let flooding = async {
            // It ends by the end of the connection.
            let _ = write.write_all(&flood).await;
        };
        let listening = async {
            let mut all = Vec::new();
            let _ = read.read_to_end(&mut all).await;
            all
        };
        let ((), all) = within("the end", async { tokio::join!(flooding, listening) }).await;
        let mut rest = &all[..];
        let mut gone = false;
        while rest.len() >= 9 {
            let length = usize::try_from(u32::from_be_bytes([0, rest[0], rest[1], rest[2]])).unwrap();
            gone |= rest[3] == GOAWAY;
            rest = rest.get(9 + length..).unwrap_or_default();
        }
        assert!(gone, "no GOAWAY in {} bytes", all.len());
        pair.end().await;
    }
}
