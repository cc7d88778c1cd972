//! Connections that the rules of countersign-init have sent here: where were they going?

use countersign_config::Target;
use countersign_evidence::{Denial, Finding, Reason};
use tokio::net::TcpStream;

use crate::context::Context;
use crate::route;

/// Where the workload wanted to go, which is not to ourselves.
pub(super) fn target(socket: &TcpStream, ctx: &Context) -> Result<Target, Denial> {
    let gone = |error: std::io::Error| {
        Denial::from(Finding::new(Reason::ConnectFailed, "workload", "a connection", error.to_string()))
    };
    let local = socket.local_addr().map_err(gone)?;
    let original = countersign_net::original_destination(socket).map_err(gone)?;
    if route::leads_back(local.ip(), original, &ctx.own) {
        let expected = "an address that is not ours";
        return Err(
            Finding::new(Reason::SelfConnection, "destination", expected, original.to_string()).into()
        );
    }
    Ok(Target::Address(original))
}
