//! Requests of the workload to a Service that has routes: each goes where they say.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Cursor;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use countersign_config::view::route::{Changes, RouteRule, Routed as Chosen};
use countersign_config::{Called, RouteDecision, RouteRequest, Target};
use countersign_evidence::{Denial, Finding, Reason};
use countersign_net::Severable;
use countersign_ratls::peer::Role;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::attempts::Attempts;
use super::body::AnswerBody;
use super::exchange::{Answered, refusal, upgraded};
use super::headers;
use super::io::PREFACE;
use super::line::{Common, Line};
use super::request::{self, Asked};
use super::serve::{
    CONNECTION_WINDOW, RESETS_OURS, RESETS_PENDING, SEND_BUFFER, STREAM_WINDOW, unserved, until_left,
};
use super::tasks::Tasks;
use super::upstream::Upstream;
use super::way::Way;
use crate::context::Context;
use crate::live::draining;
use crate::outbound::{From, find};
use crate::pool::Destination;
use crate::pools::Pools;

/// Peers to which one connection of the workload keeps connections.
const PEERS: usize = 64;
/// Copies of requests at once, of one connection, and how long each may take.
const COPIES: usize = 16;
const MIRRORED: Duration = Duration::from_secs(10);

/// How many requests may be made again: a fifth of all, and a few at the beginning.
#[derive(Debug)]
pub(crate) struct RetryBudget(AtomicI64);

impl RetryBudget {
    const SHARE: i64 = 200;
    const ONE: i64 = 1000;
    const MOST: i64 = 100 * Self::ONE;

    /// A request was made.
    pub(super) fn deposit(&self) {
        let more = |left: i64| Some(left.saturating_add(Self::SHARE).min(Self::MOST));
        // It always succeeds.
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
    }

    /// Whether one may be made again.
    pub(super) fn withdraw(&self) -> bool {
        let less = |left: i64| left.checked_sub(Self::ONE).filter(|left| *left >= 0);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok()
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self(AtomicI64::new(10 * Self::ONE))
    }
}

/// What the requests of one connection of the workload share.
#[derive(Debug)]
pub(super) struct Routed {
    pub(super) ctx: Arc<Context>,
    pub(super) pools: Arc<Pools>,
    pub(super) tasks: Tasks,
    target: Target,
    from: From,
    common: Arc<Common>,
    peers: Mutex<HashMap<(Destination, u16), Arc<Upstream>>>,
    /// Leave to make copies of requests.
    copies: Arc<Semaphore>,
}

/// Serves requests of the workload until it has ended.
pub(crate) async fn serve(
    socket: TcpStream,
    target: Target,
    from: From,
    me: String,
    pools: &Arc<Pools>,
    ctx: &Arc<Context>,
) -> Result<(), Denial> {
    let tasks = Tasks::new(None, ctx);
    let unknown = "unknown";
    let common = Arc::new(Common {
        role: Role::Server,
        client: from.peer,
        series: ctx.metrics.requests(&me, unknown, Role::Server),
        source: me,
        destination: unknown.to_owned(),
        port: 0,
        stream: None,
    });
    let routed = Arc::new(Routed {
        ctx: Arc::clone(ctx),
        pools: Arc::clone(pools),
        tasks: tasks.clone(),
        target,
        from,
        common,
        peers: Mutex::default(),
        copies: Arc::new(Semaphore::new(COPIES)),
    });
    let ended = tokio::select! {
        biased;
        () = ctx.drain.forced() => Err(draining()),
        () = connection(socket, routed) => Ok(()),
    };
    if ended.is_err() {
        tasks.abandon();
    }
    tasks.ended().await;
    ended
}

async fn connection(socket: TcpStream, routed: Arc<Routed>) {
    let socket = Severable::new(socket, routed.tasks.abort().clone());
    let (mut read, write) = tokio::io::split(socket);
    let Ok((ahead, is_http2)) = preface(&mut read).await else { return };
    let io = TokioIo::new(tokio::io::join(Cursor::new(ahead).chain(read), write));
    let (tasks, common) = (routed.tasks.clone(), Arc::clone(&routed.common));
    let (ctx, limits) = (Arc::clone(&routed.ctx), routed.ctx.limits.http.clone());
    let leaving = async { ctx.drain.beginning().await };
    let service = service_fn(move |request| answer(Arc::clone(&routed), request));
    let result = if is_http2 {
        let connection = http2::Builder::new(tasks)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(limits.header_bytes)
            .max_concurrent_streams(limits.requests_per_connection)
            .max_pending_accept_reset_streams(RESETS_PENDING)
            .max_local_error_reset_streams(RESETS_OURS)
            .auto_date_header(false)
            .serve_connection(io, service);
        until_left(connection, leaving).await
    } else {
        let bytes = usize::try_from(limits.header_bytes).unwrap_or(usize::MAX);
        let connection = http1::Builder::new()
            .max_buf_size(bytes)
            .auto_date_header(false)
            .serve_connection(io, service)
            .with_upgrades();
        until_left(connection, leaving).await
    };
    if let Err(error) = result {
        unserved(&error, &common);
    }
}

/// The first bytes, by as few as tell whether they are of HTTP/2.
async fn preface(read: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(BytesMut, bool)> {
    let mut ahead = BytesMut::new();
    while PREFACE.starts_with(&ahead) && ahead.len() < PREFACE.len() {
        if read.read_buf(&mut ahead).await? == 0 {
            break;
        }
    }
    let is_http2 = ahead.starts_with(PREFACE);
    Ok((ahead, is_http2))
}

async fn answer(routed: Arc<Routed>, request: Request<Incoming>) -> Result<Response<AnswerBody>, Infallible> {
    let (head, body) = request.into_parts();
    let is_http2 = head.version == http::Version::HTTP_2;
    let mut line = Line::new(&routed.common, &head);
    Ok(match routed.exchange(head, body, &mut line).await {
        Ok(Answered::Response(response, lease)) => {
            let (head, body) = response.into_parts();
            line.answered(head.status.as_u16(), &head.headers);
            let body = AnswerBody::of(body, line, None, lease);
            // What breaks off must not look like an end; other requests may go on.
            let body = if is_http2 { body } else { body.or_reset(routed.tasks.abort()) };
            Response::from_parts(head, body)
        }
        Ok(Answered::Short(response)) => {
            line.answered(response.status().as_u16(), response.headers());
            response.map(|()| AnswerBody::empty(line))
        }
        Ok(Answered::Upgraded(response, caller, workload)) => {
            line.answered(response.status().as_u16(), response.headers());
            let tasks = routed.tasks.clone();
            routed.tasks.spawn(upgraded(tasks, caller, workload, line, None));
            response.map(|()| AnswerBody::silent())
        }
        Err(denial) => {
            line.refused(&denial);
            let head = refusal(&denial, line.is_grpc());
            line.answered(head.status().as_u16(), head.headers());
            head.map(|()| AnswerBody::empty(line))
        }
    })
}

impl Routed {
    async fn exchange(
        self: &Arc<Self>,
        mut head: Parts,
        body: Incoming,
        line: &mut Line,
    ) -> Result<Answered, Denial> {
        let mut asked = request::read(&head)?;
        line.asked(&asked);
        self.pools.retries().deposit();
        // The routes of this moment, and not those of when the connection began.
        let called = find(&self.target, &self.ctx)?;
        let facts = asked.facts.clone();
        let query = asked.target.query().map(str::to_owned);
        let decision = {
            let request = RouteRequest { facts: &facts, query: query.as_deref(), headers: &head.headers };
            let decision = called.match_request(&request);
            if let RouteDecision::Rule(chosen) = &decision
                && let Some(redirect) = &chosen.rule.redirect
                && let Some(location) = chosen.location(&request, "http", called.port)
            {
                line.routed(&chosen.rule.name, None);
                return redirected(redirect.status, &location);
            }
            decision
        };
        headers::strip(&mut head.headers);
        headers::trace(&mut head.headers, &*self.ctx.random);
        let chosen = match decision {
            RouteDecision::Service => {
                let attempts = Attempts { routed: self, called: &called, rule: None };
                return attempts.make(head, body, &asked, line).await;
            }
            RouteDecision::NotFound => return Err(no_route(&called, &asked)),
            RouteDecision::Ambiguous(why) => {
                return Err(
                    Finding::new(Reason::BadRequest, "path", "one with one meaning", why.text()).into()
                );
            }
            RouteDecision::Rule(chosen) => chosen,
        };
        let rule = chosen.rule;
        let backend = rule.backend(self.pools.draw());
        let Some((backend, to)) = backend.and_then(|b| Some((b, b.called.as_ref()?))) else {
            line.routed(&rule.name, None);
            let expected = "a Service, with a weight above 0";
            return Err(Finding::new(Reason::NoBackend, rule.name.as_str(), expected, "none").into());
        };
        rewrite(&chosen, &backend.changes, &mut asked)?;
        for changes in [&rule.changes, &backend.changes] {
            changes.request.apply(&mut head.headers);
        }
        if body.is_end_stream() {
            self.mirror(rule, &head, &asked);
        }
        let attempts = Attempts { routed: self, called: to, rule: Some(rule) };
        let made = attempts.make(head, body, &asked, line);
        let mut made = match rule.timeouts.request {
            Some(limit) => timeout(limit, made).await.map_err(|_| late("request", limit))?,
            None => made.await,
        };
        if let Ok(Answered::Response(response, _)) = &mut made {
            for changes in [&backend.changes, &rule.changes] {
                changes.response.apply(response.headers_mut());
            }
        }
        made
    }

    /// Makes copies of a request without a body, whose answers nobody hears.
    fn mirror(self: &Arc<Self>, rule: &RouteRule, head: &Parts, asked: &Asked) {
        for mirror in &rule.mirrors {
            let Some(called) = mirror.called.as_ref().filter(|_| mirror.takes(self.pools.draw())) else {
                continue;
            };
            let Ok(leave) = Arc::clone(&self.copies).try_acquire_owned() else { continue };
            let (me, called, asked) = (Arc::clone(self), Arc::clone(called), asked.clone());
            let mut head = head.clone();
            head.extensions.clear();
            self.tasks.spawn(async move {
                let attempts = Attempts { routed: &me, called: &called, rule: None };
                let copied = timeout(MIRRORED, attempts.copy(head, &asked)).await;
                if let Ok(Err(denial)) = copied {
                    tracing::debug!(service = %called.service, %denial, "no copy of a request");
                }
                drop(leave);
            });
        }
    }

    /// The connections to a port of a peer's workload.
    pub(super) fn peer(&self, destination: Destination, port: u16) -> Arc<Upstream> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= PEERS {
            // Those in use are held by their requests.
            peers.clear();
        }
        let made = peers.entry((destination, port)).or_insert_with_key(|(destination, port)| {
            let way = Way::through(&self.pools, destination.clone(), *port, self.from);
            Arc::new(Upstream::new(way, self.tasks.clone(), &self.ctx))
        });
        Arc::clone(made)
    }
}

/// Host and path as the backend is to see them.
fn rewrite(chosen: &Chosen<'_>, backend: &Changes, asked: &mut Asked) -> Result<(), Denial> {
    let path = asked.facts.path().ok().map(|path| chosen.path(path).into_owned());
    if let Some(path) = path.filter(|path| path != asked.target.path()) {
        let query = asked.target.query().map(|query| format!("?{query}")).unwrap_or_default();
        asked.target = PathAndQuery::try_from(format!("{path}{query}"))
            .map_err(|_| Finding::new(Reason::BadRequest, "path", "one that can be rewritten", path))?;
    }
    let host = backend.rewrite.hostname.as_ref().or(chosen.rule.changes.rewrite.hostname.as_ref());
    if let Some(host) = host {
        asked.host.clone_from(host);
    }
    Ok(())
}

fn redirected(status: u16, location: &str) -> Result<Answered, Denial> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
    let location = HeaderValue::try_from(location)
        .map_err(|_| Finding::new(Reason::BadRequest, "path", "one that can be redirected", location))?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(Answered::Short(response))
}

fn no_route(called: &Called, asked: &Asked) -> Denial {
    let presented = format!("{} {}", asked.facts.method(), asked.target.path());
    Finding::new(Reason::NoRoute, called.service.to_string(), "a request that a route matches", presented)
        .into()
}

pub(super) fn late(what: &str, limit: Duration) -> Denial {
    Finding::new(Reason::Timeout, what, format!("an answer in {limit:?}"), "none").into()
}
