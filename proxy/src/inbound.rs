//! Hops that end here: handshake, gate, verdict, and for each CONNECT the policy,
//! the workload, the bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use countersign_config::bootstrap::Inbound;
use countersign_config::kinds::service::AppProtocol;
use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::Role;
use countersign_ratls::throttle::Say;
use h2::RecvStream;
use h2::server::SendResponse;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::context::Context;
use crate::hop::REASON_HEADER;
use crate::listener::{self, Accepted};
use crate::live::{Carries, draining};
use crate::observe::access::Record;
use crate::observe::refused::{Peer, Stage};
use crate::policy::Permitted;
use crate::session::carrier::StreamOne;
use crate::session::drive;
use crate::verdict::Appraised;
use crate::{forward, gate, gather, handshake, hop, http, opaque, policy, rounds, route, verdict};

/// How long a peer may take to close a hop that has no streams and takes none.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves the inbound listener until a drain has ended.
pub(crate) async fn serve(listener: TcpListener, config: Arc<Inbound>, ctx: Arc<Context>) {
    let handshakes = Arc::new(Semaphore::new(ctx.limits.handshakes_in_progress));
    let hops = Arc::new(Hops::new(ctx.limits.hops));
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = ctx.drain.beginning() => break,
            Some(ended) = tasks.join_next() => reap(&ended, &ctx),
            accepted = listener::accept(&listener, &handshakes, "inbound", &ctx) => {
                tasks.spawn(one_hop(accepted, Arc::clone(&hops), Arc::clone(&config), Arc::clone(&ctx)));
            }
        }
    }
    drop(listener);
    while let Some(ended) = tasks.join_next().await {
        reap(&ended, &ctx);
    }
}

/// Places for hops. One caller with many connections of bulk data does not take those
/// that all others share.
#[derive(Debug)]
struct Hops {
    all: Semaphore,
    dedicated: Semaphore,
}

impl Hops {
    fn new(limit: usize) -> Self {
        Self { all: Semaphore::new(limit), dedicated: Semaphore::new(limit.div_ceil(2)) }
    }
}

fn reap(ended: &Result<(), tokio::task::JoinError>, ctx: &Context) {
    if ended.as_ref().is_err_and(tokio::task::JoinError::is_panic) {
        ctx.task_lost("inbound hop");
    }
}

async fn one_hop(accepted: Accepted, hops: Arc<Hops>, config: Arc<Inbound>, ctx: Arc<Context>) {
    let peer = accepted.peer;
    let appraised = tokio::select! {
        biased;
        () = ctx.drain.forced() => return,
        appraised = appraise(accepted, &ctx) => appraised,
    };
    let Some((hop, stream)) = appraised else { return };
    let Ok(_permit) = hops.all.try_acquire() else {
        if let Some(line) = ctx.refusals.line(ctx.clock.seconds()) {
            tracing::warn!(peer.address = %peer, line.suppressed, "hop refused: too many are open");
        }
        ctx.metrics.refused("inbound", Reason::Overloaded);
        return;
    };
    if hop.framing == gate::Framing::Dedicated {
        let place = hops.dedicated.try_acquire().ok();
        return Box::pin(opaque::serve(&hop, stream, place, &config, &ctx)).await;
    }
    let limit = ctx.limits.streams_per_hop;
    let handshake = drive::meanwhile(&hop, hop::server(limit).handshake(stream), &ctx);
    match timeout(ctx.limits.handshake_timeout, handshake).await {
        Ok(Some(Ok(connection))) => {
            let counted = hop.clone();
            let serve = Inside { hop, config, ctx, tasks: JoinSet::new() }.serve(connection);
            gather::after_others(serve, move || counted.has_several_streams()).await;
        }
        Ok(Some(Err(error))) => tracing::debug!(peer.address = %peer, %error, "no HTTP/2 on the hop"),
        // It is told where it was cut.
        Ok(None) => {}
        Err(_) => tracing::info!(peer.address = %peer, "hop closed: no HTTP/2 preface in time"),
    }
}

type Stream = gate::Rest<tokio_rustls::server::TlsStream<countersign_net::Severable>>;

/// From a connection to a hop. Says why there is none: about whom anybody could
/// be, and about those with a certificate that was admitted, so many lines each.
/// What they fail at is worth a look, and a flood of strangers does not hide it.
async fn appraise(accepted: Accepted, ctx: &Context) -> Option<(Appraised, Stream)> {
    let peer = accepted.peer;
    let shaken = handshake::accept(accepted, ctx).await.inspect_err(|denial| {
        match ctx.refused.stranger(peer.ip(), denial, ctx.clock.seconds()) {
            Say::Nothing => {}
            Say::Again { times, seconds } => tracing::info!(
                peer.address = %peer, reason = %denial.reason, "hop refused again, {times} times in {seconds} s"
            ),
            Say::InFull => {
                let Some(line) = ctx.throttle.line(ctx.clock.seconds()) else { return };
                tracing::info!(
                    peer.address = %peer, reason = %denial.reason, %denial, line.suppressed, "hop refused"
                );
            }
        }
    });
    let shaken = shaken.ok()?;
    let id = shaken.admission.presented.id.clone();
    let passed = async { verdict::admit(gate::pass(shaken, ctx).await?, ctx) }.await;
    passed.inspect_err(|denial| unproven(peer, id.as_ref(), denial, ctx)).ok()
}

/// A peer whose certificate was admitted did not prove itself, or refuses us.
fn unproven(address: SocketAddr, id: Option<&SpiffeId>, denial: &Denial, ctx: &Context) {
    let peer = id.map_or("unknown", SpiffeId::as_str);
    match ctx.refused(Peer::proved(Role::Client, id, Stage::Gate), denial) {
        Say::Nothing => {}
        Say::Again { times, seconds } => tracing::warn!(
            target: "gate", reason = %denial.reason, peer, peer.address = %address,
            "hop refused again, {times} times in {seconds} s"
        ),
        Say::InFull => {
            let Some(line) = ctx.unproven.line(ctx.clock.seconds()) else { return };
            tracing::warn!(
                target: "gate", reason = %denial.reason, peer, peer.address = %address, %denial,
                line.suppressed, "hop refused"
            );
        }
    }
}

/// A hop inside of HTTP/2.
struct Inside {
    hop: Appraised,
    config: Arc<Inbound>,
    ctx: Arc<Context>,
    tasks: JoinSet<()>,
}

/// The way of stream 1 to the rounds.
type Attach = oneshot::Sender<Result<StreamOne, Denial>>;

impl Inside {
    /// Serves the streams of one hop until it ends or is cut.
    async fn serve(mut self, mut connection: h2::server::Connection<Stream, Bytes>) {
        let (hop, ctx) = (self.hop.clone(), Arc::clone(&self.ctx));
        let (attach, attached) = oneshot::channel();
        let mut attach = hop.session.is_some().then_some(attach);
        let rounds = rounds::run(&hop, async { attached.await.unwrap_or_else(|_| Err(draining())) }, &ctx);
        let silence = hop::silence(connection.ping_pong());
        tokio::pin!(rounds, silence);
        let (mut leaving, mut said, mut over) = (Leaving::No, None, false);
        loop {
            tokio::select! {
                biased;
                () = hop.cut.cancelled() => break,
                // Before anything that a peer can keep busy: the runtime gives a task a
                // budget, and what comes last may find nothing left of it, each time.
                channel = &mut rounds => {
                    said = Some(channel);
                    break;
                }
                () = leaving.next(&hop, &ctx, self.tasks.is_empty()) => match leaving {
                    Leaving::No => {
                        leaving = Leaving::Streams;
                        connection.graceful_shutdown();
                    }
                    Leaving::Streams => {
                        leaving = Leaving::Peer(Instant::now() + FAREWELL);
                        hop.begin_drain(draining(), &ctx);
                    }
                    Leaving::Peer(_) => break,
                },
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => reap(&ended, &ctx),
                () = &mut silence => {
                    tracing::info!(hop = hop.id, "hop closed: the peer does not answer");
                    break;
                }
                request = connection.accept() => match request {
                    Some(Ok((request, respond))) => self.request(request, respond, &mut attach),
                    Some(Err(error)) => {
                        tracing::debug!(hop = hop.id, %error, "hop ended");
                        hop::hear_out(&error, rounds.as_mut()).await;
                        over = true;
                        break;
                    }
                    None => {
                        over = true;
                        break;
                    }
                },
            }
        }
        if !over {
            hop::farewell(&hop, rounds, said, |cx| connection.poll_closed(cx)).await;
        }
        // Without its connection every stream ends; those of a cut hop end by their own switch.
        drop(connection);
        while let Some(ended) = self.tasks.join_next().await {
            reap(&ended, &ctx);
        }
    }

    /// A stream begins. On a hop with a session the first one is for the rounds,
    /// and no other is.
    fn request(
        &mut self,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        attach: &mut Option<Attach>,
    ) {
        let is_attest = self.hop.session.is_some() && rounds::is_attest(&request);
        let channel = match (attach.take(), &self.hop.session) {
            (Some(attach), Some(session)) => {
                rounds::answer(request, respond, &session.window).map(|stream| drop(attach.send(Ok(stream))))
            }
            _ if is_attest => Err(rounds::refused("attest request", "one on each hop", "a second one")),
            _ => {
                let (hop, config, ctx) = (self.hop.clone(), Arc::clone(&self.config), Arc::clone(&self.ctx));
                self.tasks.spawn(one_stream(hop, request, respond, config, ctx));
                Ok(())
            }
        };
        if let Err(denial) = channel {
            self.hop.channel_failed(denial, &self.ctx);
        }
    }
}

/// How far a hop is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    /// It takes new streams.
    No,
    /// It takes none, and has some.
    Streams,
    /// It has none, and the peer may close it until then.
    Peer(Instant),
}

impl Leaving {
    /// Resolves when the next step is due.
    async fn next(self, hop: &Appraised, ctx: &Context, alone: bool) {
        match self {
            Self::No => tokio::select! {
                () = ctx.drain.beginning() => {}
                () = hop.drain_begins() => {}
            },
            // Over plain h2 the connection itself ends after its last stream.
            Self::Streams if alone && hop.session.is_some() => {}
            Self::Streams => std::future::pending().await,
            Self::Peer(until) => tokio::time::sleep_until(until).await,
        }
    }
}

async fn one_stream(
    hop: Appraised,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    config: Arc<Inbound>,
    ctx: Arc<Context>,
) {
    let (head, body) = request.into_parts();
    let mut record = Record::new(hop.role, hop.address, hop.peer(), hop.me.to_string(), &ctx.metrics);
    record.trace(head.headers.get("traceparent").and_then(|v| v.to_str().ok()));
    record.peer(&hop.admission());
    let opened = match route::requested_port(&head) {
        Ok(port) => {
            record.port(port);
            open(&hop, port, &config, &ctx).await
        }
        Err(denial) => Err(denial),
    };
    let result = match opened {
        Ok((permitted, opened)) => {
            record.permitted(&permitted);
            let port = permitted.stream.port;
            match (respond.send_response(accepted(&config, port), false), opened) {
                (Ok(send), Opened::Bytes(socket, _connection)) => {
                    forward::run(&permitted, socket, send, body).await
                }
                (Ok(send), Opened::Requests(protocol)) => {
                    record.of_requests();
                    let workload = (SocketAddr::new(config.workload, port), protocol);
                    Box::pin(http::serve(permitted, send, body, workload, &ctx)).await
                }
                (Err(error), _) => Err(hop::broken(&error)),
            }
        }
        Err(denial) => {
            refused_to("stream", &hop, &denial, &ctx);
            if denial.reason == Reason::Draining && !ctx.drain.begun() {
                // Only this hop takes no more: the caller tries another one.
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            } else {
                // The peer may be gone; its stream is then refused anyhow.
                let _ = respond.send_response(refused(&denial), true);
            }
            Err(denial)
        }
    };
    record.finish(result);
}

/// A peer that was admitted can ask as often as it likes, too.
pub(crate) fn refused_to(what: &str, hop: &Appraised, denial: &Denial, ctx: &Context) {
    let id = hop.admission().presented.id.clone();
    match ctx.refused(Peer::proved(hop.role, id.as_ref(), Stage::Stream), denial) {
        Say::Nothing => {}
        Say::Again { times, seconds } => tracing::warn!(
            target: "access", hop = hop.id, reason = %denial.reason, peer = hop.peer(),
            "{what} refused again, {times} times in {seconds} s"
        ),
        Say::InFull => {
            let Some(line) = ctx.refusals.line(ctx.clock.seconds()) else { return };
            tracing::warn!(
                target: "access", hop = hop.id, reason = %denial.reason, line.suppressed,
                "{what} refused\n{}", hop.explained(denial)
            );
        }
    }
}

/// What a stream that is permitted leads to.
pub(crate) enum Opened {
    /// The workload's socket, and the leave to have one.
    Bytes(TcpStream, tokio::sync::OwnedSemaphorePermit),
    /// Requests, each of which finds its way to the workload.
    Requests(AppProtocol),
}

/// Authorizes first, then connects: a caller without permission learns nothing
/// about the workload, and the workload nothing of the caller.
pub(crate) async fn open(
    hop: &Appraised,
    port: u16,
    config: &Inbound,
    ctx: &Context,
) -> Result<(Permitted, Opened), Denial> {
    let offered = route::offered(port, &config.ports);
    // The bootstrap file says what is spoken, or else the Services that lead here.
    let declared = offered.as_ref().ok().and_then(|offered| offered.protocol);
    let protocol = declared.or_else(|| ctx.view.load().spoken(&hop.me, port));
    let requests = protocol.filter(|protocol| offered.is_ok() && protocol.is_http());
    let carries = if requests.is_some() { Carries::Requests } else { Carries::Bytes };
    let permitted = policy::permit(hop, port, carries, ctx)?;
    offered?;
    if let Some(protocol) = requests {
        return Ok((permitted, Opened::Requests(protocol)));
    }
    let connection = Arc::clone(&ctx.connections).try_acquire_owned().map_err(|_| overloaded())?;
    let workload = SocketAddr::new(config.workload, port);
    let limit = ctx.limits.connect_timeout;
    let socket = tokio::select! {
        biased;
        () = permitted.stream.cut.cancelled() => {
            return Err(permitted.stream.cut.cause().map_or_else(draining, crate::live::Cause::denial));
        }
        socket = timeout(limit, countersign_net::connect(workload)) => socket,
    };
    match socket {
        Ok(Ok(socket)) => Ok((permitted, Opened::Bytes(socket, connection))),
        Ok(Err(error)) => Err(unreachable_workload(workload, &error.to_string())),
        Err(_) => Err(unreachable_workload(workload, &format!("no answer in {}", seconds(limit)))),
    }
}

pub(crate) fn unreachable_workload(workload: SocketAddr, why: &str) -> Denial {
    Finding::new(Reason::ConnectFailed, format!("workload {workload}"), "a connection", why).into()
}

pub(crate) fn overloaded() -> Denial {
    Finding::new(Reason::Overloaded, "connections", "fewer than the limit", "the limit").into()
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// The answer that says yes, with the way of the request (RFC 7239).
fn accepted(config: &Inbound, port: u16) -> Response<()> {
    let mut response = Response::new(());
    let workload = SocketAddr::new(config.workload, port);
    if let Ok(value) = HeaderValue::try_from(format!("by=\"{workload}\"")) {
        response.headers_mut().insert("forwarded", value);
    }
    response
}

/// The answer that says no, and why, by the reason table.
fn refused(denial: &Denial) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() =
        StatusCode::from_u16(denial.reason.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(REASON_HEADER, HeaderValue::from_static(denial.reason.code()));
    response
}
