//! Fifth stage: one stream is permitted. Forwarding takes a [`Permitted`], and
//! only this module makes one, from an appraised hop.

use std::sync::Arc;

use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::peer::{Admission, Role};

use crate::context::{Context, authorize};
use crate::live::{Stream, draining};
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
pub(crate) fn permit(hop: &Appraised, port: u16, ctx: &Context) -> Result<Permitted, Denial> {
    if hop.role == Role::Client && ctx.drain.begun() {
        return Err(draining());
    }
    // Registered before it is authorized: a view that comes in between finds it.
    let stream = hop.open_stream(port);
    let mut permitted = Permitted { hop: hop.clone(), stream, admission: hop.admission(), _private: () };
    for _ in 0..ATTEMPTS {
        let view = ctx.view.load_full();
        let admission = hop.accepting(ctx)?;
        if hop.role == Role::Client {
            authorize(&view, &admission, &hop.me, port)?;
        }
        if Arc::ptr_eq(&view, &ctx.view.load()) {
            permitted.admission = admission;
            return Ok(permitted);
        }
    }
    Err(Finding::new(Reason::NotReady, "configuration", "one that stands still", "several changes in a row")
        .into())
}
