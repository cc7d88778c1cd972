//! What an operator on this host may see and do. Private keys are not shown:
//! nothing here can reach them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use countersign_ratls::peer::fingerprint;
use http::{Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Answer, attestation, http as server};
use crate::context::{Context, Credentials};
use crate::observe::metrics::{direction, tee_labels};

const HELP: &str = "GET  /config_dump            what decides here, and what is not used\n\
GET  /attestation            our own evidence, and what each peer proved and when it must again\n\
POST /attest?peer=ID         have the peers of all hops prove themselves now, or those of ID, or of ?hop=N\n\
GET  /connections            hops and streams that are open\n\
GET  /certs                  our certificate chain; with ?format=pem the chain itself\n\
GET  /logging                the log filter\n\
POST /logging?level=FILTER   another log filter\n\
POST /drain                  finish what is open, then end\n\
POST /quitquitquit           end now\n";

/// Changes the log filter, or only tells it when there is none given.
pub type LogLevel = Arc<dyn Fn(Option<&str>) -> Result<String, String> + Send + Sync>;

/// Serves operators of this host until everything ends.
pub(crate) async fn serve(listener: TcpListener, level: Option<LogLevel>, ctx: Arc<Context>) {
    let state = Arc::clone(&ctx);
    let handler = move |request: &server::Head| answer(request, level.as_ref(), &state);
    server::serve(listener, Arc::new(handler), ctx).await;
}

fn answer(request: &server::Head, level: Option<&LogLevel>, ctx: &Context) -> Answer {
    if !from_this_host(request) {
        return server::text(StatusCode::FORBIDDEN, "admin is for this host alone\n");
    }
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/") => server::text(StatusCode::OK, HELP),
        ("GET", "/config_dump") => server::json(&config(ctx)),
        ("GET", "/attestation") => server::json(&attestation::all(ctx)),
        ("POST", "/attest") => attest(request, ctx),
        ("GET", "/connections") => server::json(&connections(ctx)),
        ("GET", "/certs") => certificates(request, ctx),
        ("GET" | "PUT" | "POST", "/logging") => logging(request, level),
        ("POST", "/drain") => {
            ctx.drain.begin();
            server::text(StatusCode::OK, "draining\n")
        }
        ("POST", "/quitquitquit") => {
            ctx.drain.force();
            server::text(StatusCode::OK, "ending\n")
        }
        (_, "/attest" | "/drain" | "/quitquitquit") => {
            server::text(StatusCode::METHOD_NOT_ALLOWED, "POST only\n")
        }
        _ => server::not_found(),
    }
}

/// Neither another host nor a page in a browser of this one (a foreign name that
/// resolves to this host, a form that posts here).
fn from_this_host(request: &server::Head) -> bool {
    let host = request.headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host });
    request.peer.ip().is_loopback()
        && matches!(name, "" | "localhost" | "127.0.0.1" | "[::1]")
        && !request.headers.contains_key(header::ORIGIN)
}

fn logging(request: &server::Head, level: Option<&LogLevel>) -> Answer {
    let wanted = request.query.split('&').find_map(|pair| pair.strip_prefix("level="));
    if wanted.is_some() && request.method == Method::GET {
        return server::text(StatusCode::METHOD_NOT_ALLOWED, "POST or PUT\n");
    }
    match level.map(|change| change(wanted)) {
        Some(Ok(filter)) => server::text(StatusCode::OK, format!("{filter}\n")),
        Some(Err(why)) => server::text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        None => server::text(StatusCode::NOT_IMPLEMENTED, "this process does not own the log\n"),
    }
}

/// Asks for proofs at once. They come in a moment: `/attestation` shows them.
fn attest(request: &server::Head, ctx: &Context) -> Answer {
    let wanted = |name: &str| request.query.split('&').find_map(|pair| pair.strip_prefix(name));
    let peer = wanted("peer=");
    let hop = match wanted("hop=").map(str::parse::<u64>) {
        None => None,
        Some(Ok(hop)) => Some(hop),
        Some(Err(_)) => return server::text(StatusCode::BAD_REQUEST, "hop: a number of /attestation\n"),
    };
    if !request.query.is_empty() && peer.is_none() && hop.is_none() {
        return server::text(StatusCode::BAD_REQUEST, "say ?peer=SPIFFE_ID, ?hop=N, or nothing for all\n");
    }
    let (mut asked, mut held) = (Vec::new(), Vec::new());
    for one in ctx.live.hops() {
        let id = one.peer();
        if peer.is_some_and(|peer| peer != id) || hop.is_some_and(|hop| hop != one.id) {
            continue;
        }
        match one.ask(ctx) {
            Ok(()) => asked.push(json!({ "hop": one.id, "peer": id })),
            Err(why) => held.push(json!({ "hop": one.id, "peer": id, "why": why })),
        }
    }
    tracing::info!(asked = asked.len(), held = held.len(), "an operator of this host asks for proofs");
    server::json(&json!({ "asked": asked, "held": held }))
}

fn config(ctx: &Context) -> Value {
    let applied = ctx.applied.load();
    let resources: Vec<Value> =
        applied.resources.iter().filter_map(|r| serde_json::from_str(&r.to_json()).ok()).collect();
    let rejected: Vec<Value> =
        applied.rejected.iter().map(|(entry, reason)| json!({"entry": entry, "reason": reason})).collect();
    json!({
        "generation": ctx.view.load().generation,
        "resources": resources,
        "rejected": rejected,
        "listeners": ctx.own,
        "readiness": ctx.readiness.report().lines().collect::<Vec<_>>(),
    })
}

fn connections(ctx: &Context) -> Value {
    let hops: Vec<Value> = ctx
        .live
        .hops()
        .iter()
        .map(|hop| {
            let (tee, emulated) = tee_labels(&hop.admission());
            let streams: Vec<Value> = hop
                .streams()
                .iter()
                .map(|s| {
                    json!({
                        "id": s.id,
                        "port": s.port,
                        "bytesSent": s.sent.load(Ordering::Relaxed),
                        "bytesReceived": s.received.load(Ordering::Relaxed),
                    })
                })
                .collect();
            json!({
                "hop": hop.id,
                "direction": direction(hop.role),
                "address": hop.address,
                "identity": hop.peer(),
                "tee": tee,
                "emulated": emulated == "true",
                "opened": hop.opened,
                "validUntil": hop.until(),
                "streams": streams,
            })
        })
        .collect();
    json!({ "hops": hops })
}

fn certificates(request: &server::Head, ctx: &Context) -> Answer {
    let credentials = ctx.credentials.borrow().clone();
    let format = request.query.split('&').find_map(|pair| pair.strip_prefix("format="));
    match (format, &credentials) {
        (Some("pem"), Some(credentials)) => {
            let pem = credentials.identity.to_pem();
            server::with_type(StatusCode::OK, "application/pem-certificate-chain", pem)
        }
        (Some("pem"), None) => server::text(StatusCode::NOT_FOUND, "no certificate yet\n"),
        (None | Some("json"), _) => server::json(&described(credentials.as_deref())),
        (Some(_), _) => server::text(StatusCode::BAD_REQUEST, "format: json or pem\n"),
    }
}

fn described(credentials: Option<&Credentials>) -> Value {
    match credentials {
        None => json!({ "identity": null }),
        Some(credentials) => {
            let chain: Vec<Value> = credentials
                .identity
                .chain
                .iter()
                .map(|c| json!({"sha256": fingerprint(c).to_string(), "bytes": c.len()}))
                .collect();
            json!({
                "identity": credentials.me.as_str(),
                "notBefore": credentials.identity.not_before,
                "notAfter": credentials.identity.not_after,
                "chain": chain,
            })
        }
    }
}
