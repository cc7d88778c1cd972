//! The calling side: a hop for each connection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_evidence::{Denial, Finding, Reason};
use countersign_net::Severable;
use countersign_ratls::peer::Role;
use countersign_ratls::throttle::Say;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use super::line::{Broken, Event, Expects};
use super::record::{Answer, Connect, Kind};
use super::run::{Run, Turn};
use super::window::WINDOW;
use crate::context::Context;
use crate::gate::Rest;
use crate::live::{Carries, draining};
use crate::observe::access::Record;
use crate::observe::refused::{Echo, Peer, Stage};
use crate::outbound::Call;
use crate::pause::Pause;
use crate::pool::{self, Destination};
use crate::verdict::Appraised;
use crate::{gate, handshake, policy, route, verdict};

/// Hops to one destination that are on their way through the gate at once: a peer
/// has places before it for 16 of one key, and for 64 of an identity with many.
const DIALS: usize = 4;
/// For how long a peer that does not speak `ratls-tcp/1` is believed to be so.
const ABSENCE: Duration = Duration::from_secs(60);

/// Opens dedicated hops to one destination.
#[derive(Debug)]
pub(crate) struct Dialer {
    destination: Destination,
    dials: Semaphore,
    hops: Semaphore,
    /// Until when nobody asks again whether the peer speaks it, in milliseconds on the
    /// monotonic clock.
    absent_until: AtomicU64,
    failing: Mutex<Failing>,
}

/// What is known of dials that failed.
#[derive(Debug, Default)]
struct Failing {
    pause: Pause,
    told: Echo,
}

/// What became of a connection.
#[derive(Debug)]
pub(crate) enum Carried {
    /// It is over.
    Done(Result<(), Denial>),
    /// The peer does not speak this protocol: another one may do.
    NotSpoken(TcpStream),
}

type Stream = Rest<TlsStream<Severable>>;

impl Dialer {
    pub(crate) fn new(destination: Destination, ctx: &Context) -> Self {
        Self {
            destination,
            dials: Semaphore::new(DIALS),
            hops: Semaphore::new(ctx.limits.hops),
            absent_until: AtomicU64::new(0),
            failing: Mutex::default(),
        }
    }

    /// Carries a connection of the application, on a hop of its own.
    pub(crate) async fn carry(
        &self,
        socket: TcpStream,
        call: &Call<'_>,
        record: &mut Record,
        ctx: &Context,
    ) -> Carried {
        let Ok(_hop) = self.hops.try_acquire() else {
            countersign_net::abort(socket);
            return Carried::Done(Err(self.too_many(ctx)));
        };
        // Once more, as on hops that are shared: nothing of the application has left.
        let mut again = true;
        loop {
            let dialled = tokio::select! {
                biased;
                () = ctx.drain.forced() => Err(draining()),
                () = gone(&socket) => return Carried::Done(Err(left())),
                dialled = self.dial(ctx) => dialled,
            };
            let (hop, stream) = match dialled {
                Ok(Some(dialled)) => dialled,
                Ok(None) => return Carried::NotSpoken(socket),
                Err(denial) => {
                    countersign_net::abort(socket);
                    self.no_hop(&denial, ctx);
                    return Carried::Done(Err(denial));
                }
            };
            let mut run = Run::new(&hop, stream, Expects::Answer, ctx);
            let failure = match ask(&mut run, &hop, call, ctx).await {
                Ok((permitted, window)) => {
                    self.lock().told.forget();
                    record.permitted(&permitted);
                    return Carried::Done(run.forward(permitted, socket, window).await);
                }
                Err(failure) => failure,
            };
            if failure.is_of_the_hop() && !ctx.drain.begun() && std::mem::take(&mut again) {
                let denial = failure.end(run).await;
                tracing::debug!(hop = hop.id, %denial, "the call is made again on another hop");
                continue;
            }
            if failure.is_of_the_port() {
                self.no_hop(&failure.end(run).await, ctx);
                return Carried::NotSpoken(socket);
            }
            countersign_net::abort(socket);
            return Carried::Done(Err(failure.end(run).await));
        }
    }

    /// A hop behind its gate, when it is our turn; none if the peer does not speak
    /// this protocol. While the destination fails, callers do not wait for each other.
    async fn dial(&self, ctx: &Context) -> Result<Option<(Appraised, Stream)>, Denial> {
        let limit = ctx.limits.connect_timeout;
        let turn = timeout(limit, self.dials.acquire()).await.map_err(|_| self.no_turn(limit))?;
        let Ok(_dial) = turn else { return Err(draining()) };
        let now = ctx.clock.monotonic();
        if now < Duration::from_millis(self.absent_until.load(Ordering::Relaxed)) {
            return Ok(None);
        }
        let generation = || ctx.view.load().generation;
        if let Some(denial) = self.lock().pause.refusal(Instant::now(), generation()) {
            return Err(denial);
        }
        let dialled = self.open(now, ctx).await;
        match &dialled {
            Ok(_) => self.lock().pause.end(),
            Err(denial) => self.lock().pause.failed(denial.clone(), Instant::now(), generation()),
        }
        dialled
    }

    async fn open(&self, now: Duration, ctx: &Context) -> Result<Option<(Appraised, Stream)>, Denial> {
        let Destination { to, address } = &self.destination;
        let credentials = pool::credentials(ctx).await?;
        let (socket, address) = pool::connect(address, ctx).await?;
        let shaken = match handshake::connect_dedicated(socket, address, to, credentials, ctx).await {
            Err(denial) if denial.reason == Reason::NoApplicationProtocol => {
                self.absent(now);
                return Ok(None);
            }
            shaken => shaken?,
        };
        let attested = async { verdict::admit(gate::pass(shaken, ctx).await?, ctx) }.await;
        let dialled = attested.inspect_err(|denial| {
            // Whoever wanted the hop logs it.
            let _ = ctx.refused(Peer::proved(Role::Server, Some(to), Stage::Gate), denial);
        })?;
        if self.absent_until.swap(0, Ordering::Relaxed) != 0 {
            tracing::info!(
                destination = %to, address = self.destination.address,
                "the peer speaks ratls-tcp/1 again"
            );
        }
        Ok(Some(dialled))
    }

    fn lock(&self) -> MutexGuard<'_, Failing> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says why there is no hop, and of the same reason again how often.
    fn no_hop(&self, denial: &Denial, ctx: &Context) {
        let Destination { to, address } = &self.destination;
        let said = self.lock().told.say(denial, ctx.clock.seconds());
        match said {
            Say::Nothing => {}
            Say::Again { times, seconds } => tracing::warn!(
                destination = %to, address, reason = %denial.reason,
                "no dedicated hop again, {times} times in {seconds} s"
            ),
            Say::InFull => tracing::warn!(
                destination = %to, address, reason = %denial.reason, %denial, "no dedicated hop"
            ),
        }
    }

    fn absent(&self, now: Duration) {
        let until = u64::try_from((now + ABSENCE).as_millis()).unwrap_or(u64::MAX);
        if self.absent_until.swap(until, Ordering::Relaxed) == 0 {
            tracing::warn!(
                destination = %self.destination.to, address = self.destination.address,
                "the peer does not speak ratls-tcp/1: its connections share hops"
            );
        }
    }

    fn no_turn(&self, limit: Duration) -> Denial {
        let (field, expected) = (format!("dial to {}", self.destination.to), format!("a turn in {limit:?}"));
        Finding::new(Reason::Overloaded, field, expected, "none").into()
    }

    fn too_many(&self, ctx: &Context) -> Denial {
        let expected = format!("at most {} to {}", ctx.limits.hops, self.destination.to);
        Finding::new(Reason::Overloaded, "dedicated hops", expected, "more").into()
    }
}

/// Resolves when the application has left by a reset: after an end it may still listen.
async fn gone(socket: &TcpStream) {
    // An error is an end, too.
    let _ = socket.ready(Interest::ERROR).await;
}

fn left() -> Denial {
    let presented = "it was reset before there was a hop";
    Finding::new(Reason::ConnectFailed, "stream", "an application", presented).into()
}

/// Why there is no stream.
enum Failure {
    Turn(Turn),
    /// The peer, or we, said no.
    Refused(Denial),
}

impl Failure {
    /// The hop ended before there was an answer, or takes no calls: another one may.
    fn is_of_the_hop(&self) -> bool {
        match self {
            Self::Turn(turn) => matches!(turn, Turn::Broken(Broken::Hop(_) | Broken::Truncated)),
            Self::Refused(denial) => denial.reason == Reason::Draining,
        }
    }

    /// The peer takes requests for the port, and decides about each: not over this protocol.
    fn is_of_the_port(&self) -> bool {
        matches!(self, Self::Refused(denial) if denial.reason == Reason::NoApplicationProtocol)
    }

    /// Ends the hop.
    async fn end(self, run: Run<'_, TlsStream<Severable>>) -> Denial {
        match self {
            Self::Turn(turn) => run.end(turn, None).await.err().unwrap_or_else(draining),
            Self::Refused(denial) => {
                run.close().await;
                denial
            }
        }
    }
}

impl From<Denial> for Failure {
    fn from(denial: Denial) -> Self {
        Self::Refused(denial)
    }
}

/// Asks for the stream. No byte of the application leaves before the peer has said yes.
async fn ask(
    run: &mut Run<'_, TlsStream<Severable>>,
    hop: &Appraised,
    call: &Call<'_>,
    ctx: &Context,
) -> Result<(policy::Permitted, u32), Failure> {
    let permitted = policy::permit(hop, call.port, Carries::Bytes, ctx)?;
    let connect = Connect {
        window: WINDOW,
        authority: route::authority(call.address, call.port)?.to_string(),
        forwarded: Some(format!("for=\"{}\";by=\"{}\"", call.peer, call.local)),
        traceparent: None,
    };
    run.line.say(Kind::Connect, &connect.encode());
    // The peer itself takes up to its own connect timeout to reach its workload.
    let limit = ctx.limits.connect_timeout.saturating_mul(2);
    let cut = &permitted.stream.cut;
    let turn = tokio::select! {
        biased;
        () = cut.cancelled() => return Err(Failure::Turn(Turn::Cut)),
        turn = timeout(limit, run.turn()) => turn.map_err(|_| no_answer(call))?,
    };
    match turn {
        Turn::Event(Event::Answer(Answer { status: 200, window, .. })) => Ok((permitted, window)),
        Turn::Event(Event::Answer(answer)) => {
            let denial = refusal(&answer, call);
            // The peer logs it, and we the record of the stream.
            let _ = ctx.refused(Peer::refusing(Role::Server, call.to, Stage::Stream), &denial);
            Err(denial.into())
        }
        turn => Err(Failure::Turn(turn)),
    }
}

/// What the peer said, in terms of the one reason table.
fn refusal(answer: &Answer, call: &Call<'_>) -> Denial {
    let code = answer.reason.as_deref();
    let reason = code.and_then(Reason::from_code).unwrap_or(Reason::ConnectFailed);
    let said = format!("{}{}", answer.status, code.map(|c| format!(" {c}")).unwrap_or_default());
    Finding::new(reason, format!("answer of {} for port {}", call.to, call.port), "200", said).into()
}

fn no_answer(call: &Call<'_>) -> Denial {
    Finding::new(Reason::Timeout, format!("answer of {}", call.to), "one in time", "none").into()
}
