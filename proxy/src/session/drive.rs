//! Moves the bytes of one session, and gets the quotes that it owes.

use std::future::pending;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use countersign_evidence::Denial;
use countersign_quoting::{QuoteError, Quoted, Quoter, Urgency};
use countersign_ratls::session::{Endpoint, QuoteRequest};
use tokio::time::{Instant, sleep};

use super::Session;
use super::carrier::{Carrier, Event};
use crate::context::Context;
use crate::live::Hop;

/// After a quote that failed, the first and the longest time without another attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

type Quote = Pin<Box<dyn Future<Output = Result<Quoted, QuoteError>> + Send>>;

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Until the gate is open and everything up to Open is written.
    Gate,
    /// For as long as the hop lives.
    Rounds,
}

/// What is left when the driver has ended.
#[derive(Debug)]
pub(crate) struct Left {
    /// What the peer sent after its Open.
    pub rest: BytesMut,
    /// Why the carrier ended, if it was the carrier.
    pub broken: Option<std::io::Error>,
}

impl Left {
    /// Keeps of `bytes` what `receive` does not take.
    fn take_in(&mut self, bytes: &[u8], receive: impl FnOnce(&mut BytesMut)) {
        self.rest.extend_from_slice(bytes);
        receive(&mut self.rest);
        if self.rest.is_empty() {
            // It has room for evidence, and a hop may live for a day.
            self.rest = BytesMut::new();
        }
    }
}

/// Drives the session of `hop` over `carrier` to its goal, or to the end of the
/// hop. Waits for nothing but the peer, the device and the clock, each of which
/// the machine bounds.
pub(crate) async fn drive<C: Carrier>(
    hop: &Hop,
    session: &Session,
    carrier: &mut C,
    goal: Goal,
    ctx: &Context,
) -> Left {
    let mut left = Left { rest: BytesMut::new(), broken: None };
    let mut quote: Option<(Quote, Option<u64>)> = None;
    hop.step(session, ctx, |_, _| {});
    while hop.cut.cause().is_none() {
        if carrier.is_idle() {
            let out = session.take_out();
            if out.is_empty() && goal == Goal::Gate && session.is_open() {
                break;
            }
            carrier.say(out);
        }
        if let Some(request) = session.take_quote() {
            quote = Some((start(&request, hop, ctx), request.event_log));
        }
        // What is not for now keeps the peer waiting, not our memory.
        let listening = left.rest.is_empty();
        tokio::select! {
            biased;
            () = hop.cut.cancelled() => {}
            () = session.wake.notified() => {}
            (quoted, log_from) = finished(&mut quote) => {
                quote = None;
                hop.quoted(session, quoted, log_from, ctx);
            }
            event = carrier.exchange(listening) => match event {
                Event::Written => {}
                Event::Read(bytes) => {
                    left.take_in(&bytes, |rest| hop.receive(session, rest, ctx));
                }
                Event::Ended(error) => {
                    left.broken = error;
                    hop.step(session, ctx, |endpoint, now| endpoint.end(now));
                    break;
                }
            },
            () = timer(session.wait(), ctx) => hop.step(session, ctx, |_, _| {}),
        }
    }
    left
}

/// Waits for something that is not of the session, in the time that the machine
/// gives. `None` when the hop was cut meanwhile.
pub(crate) async fn meanwhile<T>(hop: &Hop, what: impl Future<Output = T>, ctx: &Context) -> Option<T> {
    tokio::pin!(what);
    let Some(session) = &hop.session else {
        return tokio::select! {
            biased;
            () = hop.cut.cancelled() => None,
            done = what => Some(done),
        };
    };
    loop {
        tokio::select! {
            biased;
            () = hop.cut.cancelled() => return None,
            () = session.wake.notified() => {}
            done = &mut what => return Some(done),
            () = timer(session.wait(), ctx) => hop.step(session, ctx, |_, _| {}),
        }
    }
}

/// Waits for the channel of the rounds. `None` when the hop was cut meanwhile.
pub(crate) async fn attach<T>(
    hop: &Hop,
    session: &Session,
    channel: impl Future<Output = Result<T, Denial>>,
    ctx: &Context,
) -> Option<Result<T, Denial>> {
    let channel = meanwhile(hop, channel, ctx).await?;
    if channel.is_ok() {
        session.attached.store(true, Ordering::Release);
        hop.step(session, ctx, Endpoint::attached);
    }
    Some(channel)
}

/// Says what is still to be said, for as long as `patience` lasts.
pub(crate) async fn last_words<C: Carrier>(session: &Session, carrier: &mut C, patience: Duration) {
    let saying = async {
        loop {
            if carrier.is_idle() {
                let out = session.take_out();
                if out.is_empty() {
                    return;
                }
                carrier.say(out);
            }
            if let Event::Ended(_) = carrier.exchange(false).await {
                return;
            }
        }
    };
    // Best effort: whoever does not listen will not know.
    let _ = tokio::time::timeout(patience, saying).await;
}

/// Gets a quote. While the peer waits anyhow, a device that fails once, a broker
/// that is being restarted and a queue that is full are asked again: all hops
/// that share the device would otherwise end for a failure of a moment.
fn start(request: &QuoteRequest, hop: &Hop, ctx: &Context) -> Quote {
    let (quoter, clock, peer) = (ctx.quoter.clone(), ctx.clock.clone(), hop.peer_number());
    let request = request.clone();
    Box::pin(async move {
        let mut pause = FIRST_PAUSE;
        loop {
            let left = request.deadline.saturating_sub(clock.monotonic());
            let quoted = quote(&quoter, &request, peer, left).await;
            let Err(error) = &quoted else { return quoted };
            let may_pass =
                matches!(error, QuoteError::Refused(_) | QuoteError::Source(_) | QuoteError::Hung(_));
            let again = clock.monotonic().saturating_add(pause);
            if request.urgent || !may_pass || again >= request.deadline {
                return quoted;
            }
            tracing::debug!(round = request.round, %error, ?pause, "no quote yet");
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    })
}

async fn quote(
    quoter: &Quoter,
    request: &QuoteRequest,
    peer: u64,
    left: Duration,
) -> Result<Quoted, QuoteError> {
    let core = request.core.clone();
    let urgency = match request.urgent {
        true => Urgency::NewHop,
        false => Urgency::Round { by: (Instant::now() + left).into_std() },
    };
    match request.batch {
        true => quoter.session(core, peer, urgency).await,
        false => quoter.session_alone(core, peer, urgency).await,
    }
}

async fn finished(quote: &mut Option<(Quote, Option<u64>)>) -> (Result<Quoted, Denial>, Option<u64>) {
    match quote {
        Some((quote, log_from)) => (quote.await.map_err(Denial::from), *log_from),
        None => pending().await,
    }
}

async fn timer(at: Option<Duration>, ctx: &Context) {
    match at {
        Some(at) => ctx.clock.until(at).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf as _;

    use super::*;

    #[test]
    fn what_was_taken_leaves_no_buffer_behind() {
        let mut left = Left { rest: BytesMut::new(), broken: None };
        left.take_in(&[7; 6000], |rest| rest.advance(5999));
        assert_eq!(&left.rest[..], [7]);
        left.take_in(b"8", |rest| rest.clear());
        assert_eq!(left.rest.capacity(), 0);
    }
}
