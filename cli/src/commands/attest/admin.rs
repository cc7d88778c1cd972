//! The admin port of a proxy on this host.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::hops::Hop;
use crate::failure::{Failure, Result};

/// How long a proxy may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer: a few kilobytes for each of the most hops that a proxy has.
const LIMIT: u64 = 64 << 20;

/// The hops of the proxy whose admin port this is.
pub(super) async fn hops(address: SocketAddr) -> Result<Vec<Hop>> {
    let value = json(address, "GET /attestation").await?;
    Ok(Hop::all_of(&address.to_string(), &value))
}

/// Asks for proofs of these peers (of all, if none is named) now. The hops that
/// were not asked, and why.
pub(super) async fn ask(address: SocketAddr, peer: &str) -> Result<Vec<(u64, String)>> {
    let query = if peer.is_empty() { String::new() } else { format!("?peer={peer}") };
    let answer = json(address, &format!("POST /attest{query}")).await?;
    let held = answer.get("held").and_then(Value::as_array).into_iter().flatten();
    let of = |held: &Value| Some((held.get("hop")?.as_u64()?, held.get("why")?.as_str()?.to_owned()));
    Ok(held.filter_map(of).collect())
}

async fn json(address: SocketAddr, request: &str) -> Result<Value> {
    let named = |why: &dyn std::fmt::Display| Failure::failed(format!("proxy at {address}: {why}"));
    let answer = tokio::time::timeout(PATIENCE, exchange(address, request))
        .await
        .map_err(|_| named(&format!("no answer within {} s", PATIENCE.as_secs())))?
        .map_err(|e| named(&e))?;
    let (head, body) = split(&answer).ok_or_else(|| named(&"it does not speak HTTP"))?;
    if head.split(' ').nth(1) != Some("200") {
        let status = head.lines().next().unwrap_or_default();
        return Err(named(&format!("this is not the admin port of a proxy: {status}")));
    }
    serde_json::from_slice(body).map_err(|e| named(&e))
}

async fn exchange(address: SocketAddr, request: &str) -> std::io::Result<Vec<u8>> {
    let mut io = TcpStream::connect(address).await?;
    let request = format!("{request} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    io.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut bounded = io.take(LIMIT);
    bounded.read_to_end(&mut answer).await?;
    if bounded.limit() == 0 {
        return Err(std::io::Error::other("the answer is too large"));
    }
    Ok(answer)
}

/// The head and the body of an answer of HTTP/1.0, which has no chunks.
fn split(answer: &[u8]) -> Option<(&str, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    Some((head, answer.get(end + 4..)?)).filter(|(head, _)| head.starts_with("HTTP/1."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_head_and_a_body() {
        assert_eq!(
            split(b"HTTP/1.0 200 OK\r\nx: y\r\n\r\n{}"),
            Some(("HTTP/1.0 200 OK\r\nx: y", &b"{}"[..]))
        );
        for other in [&b"SSH-2.0-x\r\n\r\n"[..], b"HTTP/1.0 200 OK\r\n", b"", b"\xff\xff\r\n\r\n"] {
            assert_eq!(split(other), None);
        }
    }
}
