//! Our own identity: an SVID with our own evidence, by the same attested request
//! that workloads make, renewed at half life.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::rand;
use countersign_attester::emulated::Vendor;
use countersign_attester::{Attester, Produced};
use countersign_config::bootstrap::{AttesterChoice, Machine};
use countersign_evidence::{Denial, Finding, Reason};
use countersign_quoting::broker::Client;
use countersign_quoting::{Local, Quoter, Source};
use countersign_ratls::csr::{AttestedRequest, Pending};
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::peer::{Conveyed, Judge};
use countersign_ratls::rotation::{Action, Rotation};
use countersign_ratls::tls::{Acceptor, Profile};
use countersign_ratls::{Identity, SpiffeId};
use countersign_wire::ALPN;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::error::Error;
use crate::issue::Issuer;
use crate::metrics::Metrics;
use crate::pin;
use crate::ready::{IDENTITY, Ready};

/// Opens what quotes for us, as the bootstrap file names it. The log of runtime
/// events is kept under `state`.
///
/// # Errors
/// When it cannot be used, with what is missing.
pub(crate) async fn open(
    choice: &AttesterChoice,
    state: &Path,
) -> Result<Arc<dyn Source>, countersign_attester::Error> {
    let attester = match choice {
        AttesterChoice::Device => {
            countersign_attester::open_measuring(Path::new("/"), &state.join("events"))?
        }
        AttesterChoice::Broker { socket } => return Ok(Arc::new(Client::open(socket).await?)),
        AttesterChoice::Emulated { vendor, machine } => emulated(&Vendor::load(vendor)?, machine)?,
    };
    Ok(Arc::new(Local::new(attester)))
}

fn emulated(vendor: &Vendor, machine: &Machine) -> Result<Arc<dyn Attester>, countersign_attester::Error> {
    Ok(match machine {
        Machine::Tdx(spec) => vendor.tdx((**spec).clone())?,
        Machine::Sgx(spec) => vendor.sgx((**spec).clone())?,
        Machine::SevSnp(spec) => vendor.snp((**spec).clone())?,
    })
}

/// What our own identity is now.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) acceptor: Acceptor,
    pub(crate) evidence: Conveyed,
    pub(crate) not_after: u64,
}

/// Makes and renews our own identity.
#[derive(Debug)]
pub(crate) struct Renewer {
    pub(crate) id: SpiffeId,
    pub(crate) quoter: Quoter,
    /// Where the policy by which operators judge us belongs, if we write it.
    pub(crate) pinned: Option<PathBuf>,
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) judge: Arc<dyn Judge>,
    pub(crate) clock: Clock,
}

impl Renewer {
    /// The kind of key that the trust domain asks for.
    fn key_type(&self) -> KeyType {
        self.issuer.view().svid_key_type()
    }

    /// A new key, new evidence, a new certificate.
    async fn renew(self: &Arc<Self>) -> Result<(Own, Identity), Error> {
        let key = PrivateKey::generate(self.key_type())?;
        let mut challenge = [0; 32];
        rand::fill(&mut challenge)
            .map_err(|_| Finding::new(Reason::Internal, "challenge", "random numbers", "none"))?;
        let pending = Pending::new(&key, &challenge)?;
        let produced = self.quoter.key(pending.context()).await.map_err(Finding::from)?;
        let ours = Arc::clone(self);
        tokio::task::spawn_blocking(move || ours.issue(&key, &challenge, pending, &produced))
            .await
            .map_err(|e| Error::Task(format!("identity: {e}")))?
    }

    /// Blocks until the issuance is written down.
    fn issue(
        &self,
        key: &PrivateKey,
        challenge: &[u8; 32],
        pending: Pending,
        produced: &Produced,
    ) -> Result<(Own, Identity), Error> {
        let pending = pending.with_event_log(produced.event_log_from(0));
        let csr = pending.finish(key, produced.media_type, &produced.value)?;
        let request = AttestedRequest::parse(&csr)?;
        if request.challenge != *challenge {
            let (expected, presented) = ("the challenge that we gave", "another");
            return Err(Finding::new(Reason::BindingMismatch, "challenge", expected, presented).into());
        }
        let platform = self.quoter.platform();
        let chain = self.issuer.issue_to_ourselves(&request, &self.id, platform)?;
        let identity = Identity::new(chain, key)?;
        // Before anybody can connect, who then finds by what to judge us.
        if let Some(path) = &self.pinned {
            pin::pin(path, &request.evidence, platform.emulated)?;
        }
        let clock = self.clock.provider();
        let profile = Profile { alpn: vec![ALPN.to_vec()], require_pq: false, clock };
        let acceptor = Acceptor::new(&identity, Arc::clone(&self.judge), &profile)?;
        Ok((Own { acceptor, evidence: request.evidence, not_after: identity.not_after }, identity))
    }
}

/// What our own view says of our own evidence. Proxies decide by the policy of
/// their bootstrap file; this is for people who wonder why they refuse us.
pub(crate) fn verify_own(own: &Own, issuer: &Issuer, clock: &Clock) -> Result<String, Denial> {
    let claims = issuer.view().verify_conveyed(&own.evidence, clock.now())?;
    let emulated = if claims.emulated { " (emulated)" } else { "" };
    Ok(format!("{}{emulated}", claims.tee))
}

/// Keeps our identity fresh until shutdown.
pub(crate) async fn keep_renewing(
    renewer: Arc<Renewer>,
    own: watch::Sender<Option<Own>>,
    mut tick: watch::Receiver<u64>,
    (ready, metrics): (Arc<Ready>, Arc<Metrics>),
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut rotation = Rotation::new();
    let mut kind = renewer.key_type();
    loop {
        let now = renewer.clock.seconds();
        if std::mem::replace(&mut kind, renewer.key_type()) != kind {
            rotation.expedite(now);
        }
        if rotation.poll(now) == Action::Renew {
            let outcome = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                outcome = renewer.renew() => outcome,
            };
            match outcome {
                Ok((new, identity)) => {
                    tracing::info!(id = %renewer.id, not_after = new.not_after, "renewed our own identity");
                    metrics.identity_expiry(new.not_after);
                    rotation.renewed(identity.not_before, identity.not_after, jitter());
                    own.send_replace(Some(new));
                    ready.done(IDENTITY);
                }
                Err(e @ Error::Task(_)) => return Err(e),
                Err(e) => {
                    tracing::error!(error = %e, driver = renewer.quoter.platform().driver, "cannot renew our own identity");
                    rotation.failed(now, jitter());
                    let usable = own.borrow().as_ref().is_some_and(|own| own.not_after > now);
                    if !usable {
                        ready.missing(IDENTITY, e.to_string());
                    }
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = tick.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

/// Spreads renewals. Without random numbers there is no spread.
fn jitter() -> u32 {
    let mut bytes = [0; 4];
    match rand::fill(&mut bytes) {
        Ok(()) => u32::from_ne_bytes(bytes),
        Err(_) => 0,
    }
}
