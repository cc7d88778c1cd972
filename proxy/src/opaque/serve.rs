//! The called side: one call, its permission, the workload.

use std::time::Duration;

use countersign_config::bootstrap::Inbound;
use countersign_evidence::{Denial, Finding, Reason};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::SemaphorePermit;
use tokio::time::sleep;

use super::line::{Event, Expects};
use super::record::{Answer, Connect, Kind};
use super::run::{Run, Turn};
use super::window::WINDOW;
use crate::context::Context;
use crate::gate::Rest;
use crate::inbound::Opened;
use crate::observe::access::Record;
use crate::verdict::Appraised;
use crate::{inbound, route};

/// A call that is on its way when a drain begins is told to go elsewhere.
const FAREWELL: Duration = Duration::from_secs(1);

/// A place among the dedicated hops, if there was one.
pub(crate) type Place<'a> = Option<SemaphorePermit<'a>>;

/// Serves a hop on which the peer may call once.
pub(crate) async fn serve<S>(
    hop: &Appraised,
    stream: Rest<S>,
    place: Place<'_>,
    config: &Inbound,
    ctx: &Context,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut run = Run::new(hop, stream, Expects::Connect, ctx);
    let drained = async {
        ctx.drain.beginning().await;
        sleep(FAREWELL).await;
    };
    let turn = tokio::select! {
        biased;
        turn = run.turn() => Some(turn),
        () = drained => None,
        () = sleep(ctx.limits.handshake_timeout) => None,
    };
    match turn {
        Some(Turn::Event(Event::Connect(connect))) => call(run, hop, place, &connect, config, ctx).await,
        Some(turn) => {
            // Without a stream there is nobody to tell what it came to: the hop has said it.
            if let Err(denial) = run.end(turn, None).await {
                tracing::debug!(hop = hop.id, %denial, "no call on the hop");
            }
        }
        None => {
            if !ctx.drain.begun() {
                tracing::info!(hop = hop.id, peer.address = %hop.address, "hop closed: no call in time");
            }
            run.close().await;
        }
    }
}

async fn call<S>(
    mut run: Run<'_, S>,
    hop: &Appraised,
    place: Place<'_>,
    connect: &Connect,
    config: &Inbound,
    ctx: &Context,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut record = Record::new(hop.role, hop.address, hop.peer(), hop.me.to_string(), &ctx.metrics);
    record.trace(connect.traceparent.as_deref());
    record.peer(&hop.admission());
    let opened = async {
        let port = route::authority_port(&connect.authority)?;
        record.port(port);
        if place.is_none() {
            return Err(no_place());
        }
        match inbound::open(hop, port, config, ctx).await? {
            (permitted, Opened::Bytes(socket, connection)) => Ok((permitted, socket, connection)),
            // They would be decided about as one, and their headers left as they came.
            (_, Opened::Requests(_)) => Err(no_requests(port)),
        }
    };
    let result = match run.meanwhile(opened).await {
        Ok(Ok((permitted, socket, _connection))) => {
            record.permitted(&permitted);
            let answer = Answer { status: 200, window: WINDOW, reason: None };
            run.line.say(Kind::Answer, &answer.encode());
            run.forward(permitted, socket, connect.window).await
        }
        Ok(Err(denial)) => {
            inbound::refused_to("stream", hop, &denial, ctx);
            run.line.say(Kind::Answer, &refusal(&denial).encode());
            run.close().await;
            Err(denial)
        }
        Err(turn) => run.end(turn, None).await,
    };
    record.finish(result);
}

/// A dedicated hop carries bytes; requests need `ratls-h2/1`.
fn no_requests(port: u16) -> Denial {
    let field = format!("protocol of a hop to port {port}, whose requests are decided about one by one");
    Finding::new(Reason::NoApplicationProtocol, field, "ratls-h2/1", "ratls-tcp/1").into()
}

fn no_place() -> Denial {
    Finding::new(Reason::Overloaded, "dedicated hops", "fewer than half of limits.hops", "as many").into()
}

fn refusal(denial: &Denial) -> Answer {
    let reason = Some(denial.reason.code().to_owned());
    Answer { status: denial.reason.http_status(), window: 0, reason }
}
