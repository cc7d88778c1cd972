//! From what a workload wants to reach to a stream that somebody has accepted:
//! which Service that is, which of its endpoints is asked, and who instead if that
//! one cannot be reached.

use countersign_config::kinds::service::AppProtocol;
use countersign_config::{Called, Target};
use countersign_evidence::{Denial, Finding, Reason};

use super::{From, Opened, Reached, tunnel};
use crate::context::Context;
use crate::observe::access::Record;
use crate::pool::Destination;
use crate::pools::Pools;

/// Endpoints that are asked for one connection.
const ATTEMPTS: usize = 3;

/// Opens a stream to whoever answers for `target`.
pub(super) async fn open(
    target: &Target,
    from: From,
    record: &mut Record,
    pools: &Pools,
    ctx: &Context,
) -> Result<Opened, Denial> {
    record.target(target.to_string());
    let called = find(target, ctx)?;
    record.service(format!("{}/{}", called.service.namespace, called.service.name));
    record.port(called.target_port);
    if called.routes.is_some() && called.protocol.is_some_and(AppProtocol::is_http) {
        return Ok(Opened::Requests(target.clone()));
    }
    let mut tried = Vec::new();
    let mut last = None;
    while tried.len() < ATTEMPTS {
        let Some(chosen) = pools.choose(&called.endpoints, &tried) else { break };
        let Some(endpoint) = called.endpoints.get(chosen) else { break };
        tried.push(chosen);
        record.destination(endpoint.id.to_string());
        let destination = Destination { to: endpoint.id.clone(), address: endpoint.address.clone() };
        match reach(&destination, called.target_port, from, pools, ctx).await {
            Ok(reached) => return Ok(Opened::Bytes(Box::new(reached))),
            // Nothing of the application was sent, so that asking another is safe.
            Err(denial) if another_may_do(&denial, ctx) => {
                tracing::debug!(service = %called.service, entry = endpoint.entry, %denial, "endpoint failed");
                last = Some(denial);
            }
            Err(denial) => return Err(denial),
        }
    }
    Err(last.unwrap_or_else(|| {
        let expected = "an endpoint: a WorkloadEntry with the labels of its selector";
        Finding::new(Reason::ConnectFailed, called.service.to_string(), expected, "none").into()
    }))
}

/// Opens a stream to a port behind one proxy, and remembers how that went.
pub(crate) async fn reach(
    destination: &Destination,
    port: u16,
    from: From,
    pools: &Pools,
    ctx: &Context,
) -> Result<Reached, Denial> {
    let in_use = pools.of(destination)?;
    let call = from.call(&destination.to, &destination.address, port);
    match tunnel::open(&call, in_use.pool(), ctx).await {
        Ok(tunnel) => {
            in_use.works();
            Ok(Reached { tunnel, in_use })
        }
        Err(denial) => {
            if another_may_do(&denial, ctx) {
                in_use.failed();
            }
            Err(denial)
        }
    }
}

/// The Service that is called so.
pub(crate) fn find(target: &Target, ctx: &Context) -> Result<std::sync::Arc<Called>, Denial> {
    let view = ctx.view.load();
    if view.generation == 0 {
        return Err(Finding::new(Reason::NotReady, "configuration", "one", "none yet").into());
    }
    if let Some(called) = view.destination(target) {
        return Ok(std::sync::Arc::clone(called));
    }
    const REASON: Reason = Reason::UnknownDestination;
    ctx.metrics.refused("outbound", REASON);
    if let Some(line) = ctx.throttle.line(ctx.clock.seconds()) {
        tracing::warn!(%target, reason = %REASON, remedy = REASON.remedy(), line.suppressed, "the workload calls nobody we know");
    }
    Err(Finding::new(
        REASON,
        "destination",
        "the host or address of a Service, and its port",
        target.to_string(),
    )
    .into())
}

/// Whether another endpoint may take what this one did not: not if we are the
/// reason, nor if the answer is about the caller.
pub(crate) fn another_may_do(denial: &Denial, ctx: &Context) -> bool {
    let about_the_caller = matches!(
        denial.reason,
        Reason::AuthorizationDenied | Reason::UnknownWorkload | Reason::PortNotOffered | Reason::BadRequest
    );
    !about_the_caller && !ctx.drain.begun() && ctx.credentials().is_ok()
}
