//! Fifth stage: one stream is permitted. Forwarding takes a [`Permitted`], and
//! only this module makes one, from an appraised hop.

use std::sync::Arc;

use countersign_config::RequestFacts;
use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::peer::{Admission, Role};

use crate::context::{Context, authorize};
use crate::live::{Carries, Cause, Request, Stream, draining};
use crate::verdict::Appraised;

/// How often a decision is taken again because the configuration changed meanwhile.
const ATTEMPTS: usize = 4;

/// Proof that a stream to one port of a workload may flow, for as long as it is not cut.
#[derive(Debug)]
pub(crate) struct Permitted {
    pub(crate) hop: Appraised,
    pub(crate) stream: Arc<Stream>,
    pub(crate) admission: Arc<Admission>,
    // Only this module makes one.
    _private: (),
}

impl Drop for Permitted {
    fn drop(&mut self) {
        self.hop.close_stream(self.stream.id);
    }
}

/// Permits a stream of `hop` to `port`: of ours if the peer calls us, of the
/// peer's workload if we call it.
pub(crate) fn permit(
    hop: &Appraised,
    port: u16,
    carries: Carries,
    ctx: &Context,
) -> Result<Permitted, Denial> {
    if hop.role == Role::Client && ctx.drain.begun() {
        return Err(draining());
    }
    // Registered before it is authorized: a view that comes in between finds it.
    let stream = hop.open_stream(port, carries);
    let mut permitted = Permitted { hop: hop.clone(), stream, admission: hop.admission(), _private: () };
    for _ in 0..ATTEMPTS {
        let view = ctx.view.load_full();
        let admission = hop.accepting(ctx)?;
        if hop.role == Role::Client {
            authorize(&view, &admission, &hop.me, &permitted.stream, None)?;
        }
        if Arc::ptr_eq(&view, &ctx.view.load()) {
            permitted.admission = admission;
            return Ok(permitted);
        }
    }
    Err(restless())
}

/// Proof that one request may be made, for as long as it is not cut.
#[derive(Debug)]
pub(crate) struct PermittedRequest {
    stream: Arc<Stream>,
    pub(crate) request: Arc<Request>,
    pub(crate) admission: Arc<Admission>,
    /// The rule that allows it.
    pub(crate) rule: String,
}

impl PermittedRequest {
    /// Resolves when it is cut.
    pub(crate) async fn cut(&self) {
        self.request.cut.cancelled().await;
    }

    /// Whether it is cut.
    pub(crate) fn is_cut(&self) -> bool {
        self.request.cut.is_thrown()
    }

    /// Why it is cut: by itself, or with its stream.
    pub(crate) fn cause(&self) -> Denial {
        let cause = self.request.cut.cause().or_else(|| self.stream.cut.cause());
        cause.map_or_else(draining, Cause::denial)
    }
}

impl Drop for PermittedRequest {
    fn drop(&mut self) {
        self.stream.finish(&self.request);
    }
}

/// Permits a request on a stream of a caller.
pub(crate) fn permit_request(
    permitted: &Permitted,
    facts: RequestFacts<'static>,
    ctx: &Context,
) -> Result<PermittedRequest, Denial> {
    let (hop, stream) = (&permitted.hop, Arc::clone(&permitted.stream));
    // As with streams: registered first.
    let request = stream.begin(facts);
    let admission = Arc::clone(&permitted.admission);
    let mut made = PermittedRequest { stream, request, admission, rule: String::new() };
    for _ in 0..ATTEMPTS {
        let view = ctx.view.load_full();
        made.admission = hop.current(ctx)?;
        let facts = Some(&made.request.facts);
        made.rule = authorize(&view, &made.admission, &hop.me, &made.stream, facts)?;
        if Arc::ptr_eq(&view, &ctx.view.load()) {
            return Ok(made);
        }
    }
    Err(restless())
}

fn restless() -> Denial {
    Finding::new(Reason::NotReady, "configuration", "one that stands still", "several changes in a row")
        .into()
}
