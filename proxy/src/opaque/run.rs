//! One dedicated hop from the gate to its end, at either end of it.

use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use countersign_evidence::{Denial, Finding, Reason};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::SMALLEST;
use super::line::{Broken, Event, Expects, Line};
use super::record::Kind;
use crate::context::Context;
use crate::gate::Rest;
use crate::live::{Cause, Stream, draining};
use crate::policy::Permitted;
use crate::rounds::LAST_WORDS;
use crate::session::carrier::Raw;
use crate::verdict::Appraised;
use crate::{hop, rounds};

/// Between the session and the line.
const PIPE: usize = 16 << 10;
/// For how long a connection that is over may take to be closed by both sides.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often a stream is looked at that may be idle, or without its workload.
const LOOK: Duration = Duration::from_secs(2);

type Rounds<'a> = Pin<Box<dyn Future<Output = Said> + Send + 'a>>;
type Said = Option<Raw<DuplexStream>>;

/// One hop.
pub(super) struct Run<'a, S> {
    hop: &'a Appraised,
    ctx: &'a Context,
    /// On the heap: it goes from hand to hand.
    pub(super) line: Box<Line<S>>,
    rounds: Rounds<'a>,
    /// What they left when they ended.
    said: Option<Said>,
}

/// What ends a turn.
#[derive(Debug)]
pub(super) enum Turn {
    Event(Event),
    /// The hop was cut.
    Cut,
    Broken(Broken),
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Run<'a, S> {
    pub(super) fn new(hop: &'a Appraised, stream: Rest<S>, expects: Expects, ctx: &'a Context) -> Self {
        let (near, far) = duplex(PIPE);
        // The records of the session are there as soon as the gate is open.
        let channel = ready(Ok(Raw::reading(far, SMALLEST)));
        let rounds = Box::pin(rounds::run(hop, channel, ctx));
        Self { hop, ctx, line: Box::new(Line::new(stream, near, expects)), rounds, said: None }
    }

    /// Moves everything until something happens. Cancel-safe.
    pub(super) async fn turn(&mut self) -> Turn {
        tokio::select! {
            biased;
            () = self.hop.cut.cancelled() => Turn::Cut,
            // Before anything that a peer can keep busy.
            said = &mut self.rounds, if self.said.is_none() => {
                self.said = Some(said);
                Turn::Cut
            }
            event = poll_fn(|cx| self.line.poll(cx)) => event.map_or_else(Turn::Broken, Turn::Event),
        }
    }

    /// The same while something is waited for.
    pub(super) async fn meanwhile<T>(&mut self, what: impl Future<Output = T>) -> Result<T, Turn> {
        tokio::select! {
            biased;
            turn = self.turn() => Err(turn),
            done = what => Ok(done),
        }
    }

    /// Forwards between `socket` and the hop, to the end of both.
    pub(super) async fn forward(
        mut self,
        permitted: Permitted,
        socket: TcpStream,
        window: u32,
    ) -> Result<(), Denial> {
        let stream = Arc::clone(&permitted.stream);
        self.line.flow(permitted, socket, window);
        let idle = self.ctx.limits.idle_timeout;
        let (mut carried, mut since) = (0, Instant::now());
        let mut look = Box::pin(sleep(LOOK.min(idle)));
        let turn = loop {
            tokio::select! {
                biased;
                () = stream.cut.cancelled() => break Turn::Cut,
                // Before anything that a peer can keep busy.
                () = &mut look => {
                    look.as_mut().reset(Instant::now() + LOOK.min(idle));
                    self.line.tidy();
                    if let Some(error) = self.line.failure() {
                        break Turn::Broken(Broken::Workload(error));
                    }
                    let now = self.line.carried();
                    if now != carried {
                        (carried, since) = (now, Instant::now());
                    } else if since.elapsed() >= idle {
                        break Turn::Broken(Broken::Idle(idle));
                    }
                }
                turn = self.turn() => break turn,
            }
        };
        self.end(turn, Some(&stream)).await
    }

    /// The end of a hop, for whatever reason, and what it means for its stream.
    pub(super) async fn end(mut self, turn: Turn, stream: Option<&Stream>) -> Result<(), Denial> {
        match turn {
            Turn::Event(Event::Over) => {
                self.close().await;
                Ok(())
            }
            Turn::Event(_) => {
                let denial = unexpected();
                self.hop.channel_failed(denial.clone(), self.ctx);
                self.fall().await;
                Err(denial)
            }
            Turn::Broken(Broken::Format(finding)) => {
                self.hop.channel_failed(finding.into(), self.ctx);
                let cause = self.cause(stream);
                self.fall().await;
                Err(cause)
            }
            // A connection that broke when the hop was cut, broke by that.
            Turn::Cut | Turn::Broken(Broken::Hop(_) | Broken::Truncated)
                if self.hop.cut.cause().is_some() =>
            {
                let cause = self.cause(stream);
                self.fall().await;
                Err(cause)
            }
            // The stream alone: nothing else is on the hop.
            Turn::Cut => {
                let cause = self.cause(stream);
                self.hop.outlet.shut();
                if self.line.cease() && !self.hop.is_full() {
                    self.line.say(Kind::Reset, &[]);
                    self.leave().await;
                } else {
                    self.hop.hang_up();
                }
                Err(cause)
            }
            Turn::Broken(broken @ (Broken::Workload(_) | Broken::Idle(_))) => {
                self.line.give_up();
                self.leave().await;
                Err(denial(&broken))
            }
            Turn::Broken(broken @ Broken::Reset) => {
                self.line.cease();
                self.hop.hang_up();
                Err(denial(&broken))
            }
            // Who resets it has a reason, and may have said it.
            Turn::Broken(broken @ (Broken::Hop(_) | Broken::Truncated)) => {
                self.line.cease();
                self.line.hang_up();
                if self.said.is_none() {
                    // What has come is there; nothing else will.
                    let _ = timeout(LAST_WORDS, &mut self.rounds).await;
                }
                self.hop.hang_up();
                Err(self.hop.cut.cause().map_or_else(|| denial(&broken), Cause::denial))
            }
        }
    }

    fn cause(&self, stream: Option<&Stream>) -> Denial {
        let cause = stream.and_then(|stream| stream.cut.cause()).or_else(|| self.hop.cut.cause());
        cause.map_or_else(draining, Cause::denial)
    }

    /// The hop is cut: its stream ends at once, and the peer is told why.
    async fn fall(mut self) {
        // Looked at again: the last write may have been after the cut was.
        if !self.line.cease() || self.hop.is_full() {
            self.hop.hang_up();
        }
        let line = &mut self.line;
        let say = |cx: &mut std::task::Context<'_>| match line.poll_say(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            // There may be more to say.
            _ => Poll::Pending,
        };
        hop::farewell(self.hop, Pin::new(&mut self.rounds), self.said, say).await;
    }

    /// Closes the connection in order, when nothing is left to be said but what is queued.
    pub(super) async fn close(mut self) {
        // Whoever does not close it in time has had everything.
        let _ = timeout(FAREWELL, self.line.close()).await;
    }

    /// The same at the end of a stream that did not end in order: not in order either.
    async fn leave(mut self) {
        let _ = timeout(LAST_WORDS, self.line.close()).await;
        self.hop.hang_up();
    }
}

fn denial(broken: &Broken) -> Denial {
    Finding::new(Reason::ConnectFailed, "stream", "an orderly end", broken.to_string()).into()
}

/// A line says only what was asked of it: a defect.
fn unexpected() -> Denial {
    Finding::new(Reason::Internal, "record", "one that was waited for", "another one").into()
}
