//! A client that others wrote, and a workload that gives back what it gets.

use std::convert::Infallible;

use countersign_config::kinds::service::AppProtocol::Http;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::spoken::pair;
use crate::support::{Pair, WEB, within};

/// What `curl` prints for a request to this path.
async fn curl(pair: &Pair, version: &str, path: &str, more: &[&str]) -> Vec<u8> {
    let url = format!("http://{}{path}", pair.web.addresses.outbound[0]);
    let mut command = tokio::process::Command::new("curl");
    command.args(["-sS", "--noproxy", "*", version]).args(more).arg(url).kill_on_drop(true);
    let output = within("curl", command.output()).await.unwrap();
    assert!(output.status.success(), "{version} {path}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Gives back the body, and says who calls.
async fn echo(request: Request<Incoming>) -> Result<Response<Incoming>, Infallible> {
    let peer = request.headers()["x-countersign-peer"].clone();
    let response = Response::builder().header("x-peer", peer).header("x-method", request.method().as_str());
    Ok(response.body(request.into_body()).unwrap())
}

async fn serve(pair: &Pair, is_http2: bool) {
    loop {
        let io = TokioIo::new(pair.workload.accept().await.unwrap().0);
        if is_http2 {
            let server = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(io, service_fn(echo)));
        } else {
            tokio::spawn(http1::Builder::new().serve_connection(io, service_fn(echo)));
        }
    }
}

#[tokio::test]
async fn curl_gets_back_what_it_sends_over_either_version() {
    let pair = pair(Http).await;
    let file = pair.world.dir.path().join("body");
    let body: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 251) as u8).collect();
    std::fs::write(&file, &body).unwrap();
    let at = format!("@{}", file.display());
    for (version, is_http2) in [("--http1.1", false), ("--http2-prior-knowledge", true)] {
        let asking = async {
            assert_eq!(curl(&pair, version, "/a?b=c", &["-d", "hello"]).await, b"hello");
            // With a length, and with `Expect: 100-continue` where there is that.
            assert!(curl(&pair, version, "/", &["--data-binary", &at]).await == body);
            // Without one.
            let mut upload = vec!["-T", file.to_str().unwrap()];
            if !is_http2 {
                upload.extend(["-H", "Transfer-Encoding: chunked"]);
            }
            assert!(curl(&pair, version, "/put", &upload).await == body);
            let head = String::from_utf8(curl(&pair, version, "/", &["-I"]).await).unwrap();
            assert!(head.contains(&format!("x-peer: {WEB}\r\n")), "{head}");
            assert!(head.contains("x-method: HEAD\r\n"), "{head}");
            // Three on one connection, which curl 7.88 itself cannot over HTTP/2 with prior knowledge.
            if !is_http2 {
                let many = curl(&pair, version, "/[1-3]", &["-w", "%{http_code} %{num_connects},"]).await;
                assert_eq!(String::from_utf8(many).unwrap(), "200 1,200 0,200 0,");
            }
            let forged = ["-H", "X-Countersign-Peer: spiffe://evil", "-D", "-", "-o", "/dev/null"];
            let told = String::from_utf8(curl(&pair, version, "/", &forged).await).unwrap();
            assert!(told.contains(&format!("x-peer: {WEB}\r\n")), "{told}");
        };
        tokio::select! {
            () = asking => {}
            () = serve(&pair, is_http2) => {}
        }
    }
    pair.end().await;
}
