//! The connection to the control plane: RA-TLS with a judge of its own, because
//! the control plane must prove itself before it has sent any configuration.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_config::bootstrap::ControlPlaneRef;
use countersign_config::{Guard, Inputs, View};
use countersign_evidence::collateral::{Item, Marks};
use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::peer::{Admission, Judge, Role};
use countersign_ratls::tls::{Connector, HandshakeError, Profile};
use countersign_ratls::{Bundle, IdPattern, Identity, SpiffeId};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::context::Context;
use crate::heard::{Heard, Listening};
use crate::verdict::Witness;

/// Verdicts about control planes that are kept.
const VERDICTS: usize = 64;
const KEEPALIVE: Duration = Duration::from_secs(20);

/// How to reach the control plane, and who judges it.
#[derive(Debug)]
pub(crate) struct Control {
    reference: ControlPlaneRef,
    view: Arc<ArcSwap<View>>,
    judge: Arc<dyn Judge>,
    expected: IdPattern,
}

/// A connection on which the control plane has proved itself.
pub(crate) struct Connected {
    pub channel: Channel,
    pub admission: Arc<Admission>,
    /// Whether the control plane refused us.
    pub heard: Heard,
}

impl Control {
    /// By what the bootstrap file says, until a snapshot brings newer collateral.
    pub(crate) fn new(
        reference: ControlPlaneRef,
        bundle: &Bundle,
        marks: &Marks,
        ctx: &Context,
    ) -> Result<Self, Finding> {
        let expected = IdPattern::parse(reference.id.as_str())?;
        // We have no identity yet. Policies of the bootstrap file speak of us all the same.
        let me = SpiffeId::parse(&format!("spiffe://{}/countersign/proxy", bundle.trust_domain))?;
        let first = build(&reference, bundle, &[], marks, ctx);
        let view = Arc::new(ArcSwap::from_pointee(first));
        let guard: Arc<dyn Judge> = Arc::new(Guard::new(me.clone(), Arc::clone(&view), VERDICTS));
        let judge = Arc::new(Witness::new(guard, me));
        Ok(Self { reference, view, judge, expected })
    }

    /// A snapshot brought another bundle or newer collateral. The policy stays
    /// that of the bootstrap file: a control plane does not say what it has to prove.
    pub(crate) fn refresh(&self, bundle: &Bundle, collateral: &[Item], marks: &Marks, ctx: &Context) {
        self.view.store(Arc::new(build(&self.reference, bundle, collateral, marks, ctx)));
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &str {
        &self.reference.address
    }

    /// Connects as `identity`. Every step is bounded in time.
    pub(crate) async fn connect(&self, identity: &Identity, ctx: &Context) -> Result<Connected, Denial> {
        let limit = ctx.limits.connect_timeout;
        let (socket, _) = crate::pool::connect(&self.reference.address, ctx).await?;
        let profile = Profile {
            alpn: vec![countersign_wire::ALPN.to_vec()],
            require_pq: false,
            clock: ctx.clock.provider(),
        };
        let connector = Connector::new(identity, Arc::clone(&self.judge), self.expected.clone(), &profile)?;
        let shaken = timeout(ctx.limits.handshake_timeout, connector.connect(socket))
            .await
            .map_err(|_| self.failed("a handshake in time"))?
            .map_err(|error| match error {
                HandshakeError::Denied(denial) => {
                    ctx.metrics.denied(&denial, Role::Server);
                    denial
                }
                other => self.failed(&other.to_string()),
            })?;
        // tonic dials again by itself; here each dial is ours, with a judge.
        let (stream, heard) = Listening::new(shaken.stream);
        let once = Mutex::new(Some(TokioIo::new(stream)));
        let connector = tower::service_fn(move |_: http::Uri| {
            let io = once.lock().unwrap_or_else(PoisonError::into_inner).take();
            std::future::ready(io.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)))
        });
        let endpoint = Endpoint::from_static("http://control-plane")
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        let channel = timeout(limit, endpoint.connect_with_connector(connector))
            .await
            .map_err(|_| self.failed("HTTP/2 in time"))?
            .map_err(|error| heard.explain(self.failed(&error.to_string())))?;
        Ok(Connected { channel, admission: shaken.admission, heard })
    }

    fn failed(&self, what: &str) -> Denial {
        let field = format!("control plane {}", self.reference.address);
        Finding::new(Reason::ConnectFailed, field, "a connection", what).into()
    }
}

fn build(reference: &ControlPlaneRef, bundle: &Bundle, newer: &[Item], marks: &Marks, ctx: &Context) -> View {
    let mut collateral = newer.to_vec();
    collateral.extend(reference.collateral.iter().cloned());
    let inputs = Inputs {
        generation: 0,
        resources: reference.attestation.iter().cloned().map(Arc::new).collect(),
        bundles: vec![bundle.clone()],
        collateral,
    };
    let built = View::for_control_plane(inputs, &mut marks.clone(), ctx.clock.now());
    for (key, reason) in &built.rejected {
        tracing::error!(resource = %key, reason, "a resource for the control plane cannot be used");
    }
    built.view
}
