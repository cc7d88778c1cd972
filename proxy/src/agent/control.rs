//! The connection to the control plane: RA-TLS with a judge of its own, because
//! the control plane must prove itself before it has sent any configuration.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_config::bootstrap::{ControlPlaneRef, read_collateral};
use countersign_config::{Guard, Inputs, View};
use countersign_evidence::collateral::{Item, Marks, Shelf};
use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::peer::{Judge, Role};
use countersign_ratls::tls::{Connector, HandshakeError, Profile};
use countersign_ratls::{Bundle, IdPattern, Identity, SpiffeId};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use super::refusal::LastRefusal;
use super::store::Store;
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
    known: Mutex<Known>,
    view: Arc<ArcSwap<View>>,
    judge: Arc<dyn Judge>,
    expected: IdPattern,
    /// With what the control plane refused us last.
    refusal: Mutex<LastRefusal>,
}

/// What the control plane is verified by.
#[derive(Debug)]
struct Known {
    bundle: Bundle,
    marks: Marks,
    /// From the directory of the bootstrap file.
    own: Vec<Item>,
    /// From the last snapshot.
    sent: Vec<Item>,
    /// Whatever it was verified by before, as long as it is good. A control plane
    /// that loses a piece takes it from its proxies too; without a memory they
    /// could never verify it again, and so never hear that it has the piece back.
    shelf: Shelf,
    /// Whether the shelf differs from what is on the disk.
    unsaved: bool,
}

/// A connection on which the control plane has proved itself.
pub(crate) struct Connected {
    pub channel: Channel,
    /// The last second at which the certificates of both sides hold.
    pub until: u64,
    /// Whether the control plane refused us.
    pub heard: Heard,
}

impl Control {
    /// By what the bootstrap file says, until a snapshot brings newer collateral.
    pub(crate) fn new(
        reference: ControlPlaneRef,
        bundle: &Bundle,
        marks: &Marks,
        store: &Store,
        ctx: &Context,
    ) -> Result<Self, Finding> {
        let expected = IdPattern::parse(reference.id.as_str())?;
        // We have no identity yet. Policies of the bootstrap file speak of us all the same.
        let me = SpiffeId::parse(&format!("spiffe://{}/countersign/proxy", bundle.trust_domain))?;
        let mut known = Known {
            bundle: bundle.clone(),
            marks: marks.clone(),
            own: reference.collateral.clone(),
            sent: Vec::new(),
            shelf: Shelf::new(store.collateral()),
            unsaved: false,
        };
        let first = known.build(&reference, ctx);
        let view = Arc::new(ArcSwap::from_pointee(first));
        let guard: Arc<dyn Judge> = Arc::new(Guard::new(me.clone(), Arc::clone(&view), VERDICTS));
        let judge = Arc::new(Witness::new(guard, me, Arc::clone(&ctx.refused)));
        Ok(Self { reference, known: Mutex::new(known), view, judge, expected, refusal: Mutex::default() })
    }

    /// A snapshot brought another bundle or newer collateral. The policy stays
    /// that of the bootstrap file: a control plane does not say what it has to prove.
    pub(crate) fn refresh(&self, bundle: &Bundle, collateral: &[Item], marks: &Marks, ctx: &Context) {
        let mut known = self.known();
        (known.bundle, known.sent, known.marks) = (bundle.clone(), collateral.to_vec(), marks.clone());
        self.view.store(Arc::new(known.build(&self.reference, ctx)));
    }

    /// Makes the view again when time makes another of it.
    pub(crate) fn renew(&self, ctx: &Context) {
        let now = ctx.clock.seconds();
        if self.view.load().renew_at().is_some_and(|at| at <= now) {
            self.view.store(Arc::new(self.known().build(&self.reference, ctx)));
        }
    }

    /// What is to be stored of the collateral, if that has changed.
    pub(crate) fn unsaved(&self) -> Option<Vec<Item>> {
        let mut known = self.known();
        std::mem::take(&mut known.unsaved).then(|| known.shelf.items().to_vec())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody may have refreshed the directory since: the next attempt knows it.
    async fn read_again(&self, ctx: &Context) {
        let Some(directory) = self.reference.collateral_dir.clone() else { return };
        let read = tokio::task::spawn_blocking(move || read_collateral(&directory)).await;
        let items = match read {
            Ok(Ok(items)) => items,
            Ok(Err(error)) => {
                tracing::warn!(%error, "controlPlane.collateral cannot be read again");
                return;
            }
            Err(_) => return,
        };
        let mut known = self.known();
        if known.own != items {
            tracing::info!(files = items.len(), "read controlPlane.collateral again");
            known.own = items;
            self.view.store(Arc::new(known.build(&self.reference, ctx)));
        }
    }

    /// The refusal of the control plane. What we lack to verify it by is our own,
    /// and no other proxy's, to be mended.
    fn refused(&self, mut denial: Denial) -> Denial {
        if denial.reason.is_about_collateral() {
            let presented = match &self.reference.collateral_dir {
                Some(directory) => format!("the files in {}", directory.display()),
                None => "not set".to_owned(),
            };
            denial.findings.push(Finding::new(
                denial.reason,
                "controlPlane.collateral of this proxy",
                format!("a directory with current collateral for the control plane at {}", self.address()),
                presented,
            ));
        }
        denial
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &str {
        &self.reference.address
    }

    /// Connects as `identity`. Every step is bounded in time.
    pub(crate) async fn connect(&self, identity: &Identity, ctx: &Context) -> Result<Connected, Denial> {
        // By a clock that is behind, nobody proves anything.
        ctx.clock.check()?;
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
            .map_err(|_| self.failed("a handshake in time"))?;
        let shaken = match shaken {
            Ok(shaken) => shaken,
            Err(HandshakeError::Denied(denial)) => {
                ctx.metrics.denied(&denial, Role::Server);
                self.read_again(ctx).await;
                return Err(self.refused(denial));
            }
            Err(other) => return Err(self.failed(&other.to_string())),
        };
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
            .map_err(|error| self.why(&heard, self.failed(&error.to_string()), ctx))?;
        let until = shaken.admission.valid_until.min(identity.not_after);
        Ok(Connected { channel, until, heard })
    }

    /// Why a connection ended on which the control plane had proved itself.
    pub(crate) fn why(&self, heard: &Heard, otherwise: Denial, ctx: &Context) -> Denial {
        let mut last = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        last.ended(heard.refusal(), otherwise, ctx.clock.seconds())
    }

    /// The control plane has answered: it does not refuse us.
    pub(crate) fn answered(&self) {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).forget();
    }

    fn failed(&self, what: &str) -> Denial {
        let field = format!("control plane {}", self.reference.address);
        Finding::new(Reason::ConnectFailed, field, "a connection", what).into()
    }
}

impl Known {
    fn build(&mut self, reference: &ControlPlaneRef, ctx: &Context) -> View {
        let items: Vec<_> = self.sent.iter().chain(&self.own).cloned().collect();
        let (stock, now) = (self.shelf.stock(&items), ctx.clock.now());
        let inputs = Inputs {
            generation: 0,
            resources: reference.attestation.iter().cloned().map(Arc::new).collect(),
            bundles: vec![self.bundle.clone()],
            collateral: stock.items.clone(),
        };
        let built = View::for_control_plane(inputs, &mut self.marks.clone(), now);
        for (key, reason) in &built.rejected {
            tracing::error!(resource = %key, reason, "a resource for the control plane cannot be used");
        }
        self.unsaved |= self.shelf.settle(&stock, &built.view.collateral, now);
        built.view
    }
}
