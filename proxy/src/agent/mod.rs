//! The agent: what the data path needs from the control plane, and the state
//! that outlives a restart.
//!
//! Private keys are made in memory and stay there, so that a proxy which starts
//! without its control plane has a configuration but no certificate: it says so
//! and is not ready.

mod compile;
mod control;
mod identity;
mod refusal;
mod report;
mod store;
mod subscription;
mod successor;

use std::sync::Arc;
use std::time::Duration;

use countersign_config::bootstrap::ProxyBootstrap;
use countersign_evidence::{Denial, Finding, Reason};
use tokio::sync::watch;

pub(crate) use compile::Compiler;
pub use subscription::Applied;

use crate::context::Context;
use crate::readiness::Need;
use control::Control;
use identity::IdentityAgent;
use store::Store;
use subscription::SubscriptionAgent;

/// How often what depends on the clock is looked at.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// The two halves of the agent: certificates and configuration; and what
/// becomes of the latter with time.
pub(crate) struct Agent {
    pub identity: IdentityAgent,
    pub subscription: SubscriptionAgent,
    pub compiler: Arc<Compiler>,
}

impl Agent {
    /// Opens the state directory and puts what is stored there to use.
    ///
    /// # Errors
    /// When the state directory cannot be used or the control plane's ID is not one.
    pub(crate) fn new(bootstrap: &ProxyBootstrap, ctx: &Arc<Context>) -> Result<Self, AgentError> {
        let store = Store::open(&bootstrap.state_dir).map_err(|source| AgentError::State {
            path: bootstrap.state_dir.display().to_string(),
            source,
        })?;
        let marks = store.marks();
        ctx.clock.floor().raise(marks.newest_issue());
        ctx.clock.floor().raise(store.signed());
        ctx.check_clock();
        let (bundle, watched) = watch::channel(Arc::new(bootstrap.bundle.clone()));
        let control =
            Arc::new(Control::new(bootstrap.control_plane.clone(), &bootstrap.bundle, &marks, &store, ctx)?);
        let address = control.address();
        let waits = format!("waiting for the control plane at {address}");
        ctx.readiness.miss(Need::Identity, format!("{waits} to issue a certificate"));
        ctx.readiness.miss(Need::Snapshot, waits);
        let names = (bootstrap.name.clone(), bootstrap.workload.clone());
        let ports: Vec<u16> =
            bootstrap.inbound.iter().flat_map(|inbound| &inbound.ports).map(|p| p.port).collect();
        let compiler = Arc::new(Compiler::new(Arc::clone(&control), marks));
        let both = (Arc::clone(&control), Arc::clone(&compiler));
        let subscription =
            SubscriptionAgent::new(Arc::clone(ctx), both, store.clone(), bundle, names, &ports);
        let identity = IdentityAgent {
            ctx: Arc::clone(ctx),
            control,
            bundle: watched,
            store,
            workload: bootstrap.workload.clone(),
        };
        Ok(Self { identity, subscription, compiler })
    }
}

/// Why there is no agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The state directory.
    #[error("state directory {path}: {source}")]
    State {
        /// The directory.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The control plane's identity.
    #[error("control plane: {0}")]
    Control(#[from] Finding),
}

/// What a status of the control plane means.
fn denial(status: &tonic::Status) -> Denial {
    // Its own finding, policy and remedy, not ours about it.
    if let Some(denial) = countersign_wire::refusal::denial(status) {
        return denial;
    }
    let reason = countersign_wire::refusal::reason(status).unwrap_or(match status.code() {
        // The client's own word for a connection that ended under a call.
        tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled => Reason::ConnectFailed,
        tonic::Code::DeadlineExceeded => Reason::Timeout,
        _ => Reason::BadRequest,
    });
    Finding::new(reason, "answer of the control plane", "success", status.message()).into()
}

/// A random number that spreads retries. Without randomness they are not spread.
fn jitter() -> u32 {
    let mut bytes = [0; 4];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}
