//! Our certificate: asked for with fresh evidence over a fresh key, renewed at half life.

use std::sync::Arc;
use std::time::Duration;

use countersign_attester::Produced;
use countersign_config::Guard;
use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::csr::Pending;
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::peer::{Judge, Presented};
use countersign_ratls::rotation::{Action, Rotation};
use countersign_ratls::throttle::Say;
use countersign_ratls::{Bundle, Identity};
use countersign_wire::MAX_MESSAGE;
use countersign_wire::proto::identity_client::IdentityClient;
use countersign_wire::proto::{ChallengeRequest, IssueRequest};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::control::{Connected, Control};
use super::store::Store;
use super::{TICK, jitter};
use crate::context::{Context, Credentials};
use crate::observe::appraisal::Timed;
use crate::observe::refused::Echo;
use crate::readiness::Need;

/// Verdicts about peers that are kept.
const VERDICTS: usize = 4096;
/// Between two answers of the control plane.
const CALL: Duration = Duration::from_secs(15);

/// Gets certificates and keeps them current.
pub(crate) struct IdentityAgent {
    pub ctx: Arc<Context>,
    pub control: Arc<Control>,
    pub bundle: watch::Receiver<Arc<Bundle>>,
    pub store: Store,
    pub workload: String,
}

impl IdentityAgent {
    /// Runs until a drain begins.
    pub(crate) async fn run(self) {
        let mut rotation = Rotation::new();
        let mut kind = self.key_type();
        let mut told = Echo::default();
        loop {
            let now = self.ctx.clock.seconds();
            self.check_validity(now);
            // The first snapshot, or an operator, may ask for another kind of key.
            if std::mem::replace(&mut kind, self.key_type()) != kind {
                rotation.expedite(now);
            }
            match rotation.poll(now) {
                Action::Renew => match self.renew().await {
                    Ok(credentials) => {
                        rotation.renewed(
                            credentials.identity.not_before,
                            credentials.identity.not_after,
                            jitter(),
                        );
                        self.install(credentials).await;
                    }
                    Err(denial) => {
                        rotation.failed(now, jitter());
                        self.report(&denial, rotation.alarm(now), &mut told);
                    }
                },
                Action::WaitUntil(second) => {
                    let left = Duration::from_secs(second.saturating_sub(now));
                    tokio::select! {
                        biased;
                        () = self.ctx.drain.beginning() => return,
                        // The wall clock may jump, and another kind of key be wanted.
                        () = tokio::time::sleep(TICK) => {}
                        () = self.ctx.clock.until(self.ctx.clock.monotonic() + left) => {}
                    }
                }
            }
        }
    }

    /// An identity that has ended makes us unready; peers refuse it anyhow.
    fn check_validity(&self, now: u64) {
        let ended = self.ctx.credentials.borrow().as_ref().is_some_and(|c| c.identity.not_after < now);
        if ended {
            self.ctx
                .readiness
                .miss(Need::Identity, "our certificate has expired; waiting for the control plane");
        }
    }

    async fn install(&self, credentials: Credentials) {
        let identity = Arc::clone(&credentials.identity);
        // It was valid by our clock when it came.
        let clock = &self.ctx.clock;
        let signed = clock.floor().raise_by_authority(identity.not_before, clock.monotonic());
        tracing::info!(id = %credentials.me, not_after = identity.not_after, emulated = self.ctx.quoter.platform().emulated, "certificate in use");
        self.ctx.metrics.identity_expiration.set(i64::try_from(identity.not_after).unwrap_or(i64::MAX));
        self.ctx.metrics.identity_refresh.set(i64::try_from(self.ctx.clock.seconds()).unwrap_or(i64::MAX));
        self.ctx.metrics.refreshed(true);
        self.ctx.present(&Arc::new(credentials));
        self.ctx.readiness.have(Need::Identity);
        self.ctx.check_own_evidence();
        self.remember(signed).await;
    }

    /// So that a restart does not forget what time it is not.
    async fn remember(&self, signed: u64) {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.keep_signed(signed)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the time of the certificate could not be stored"),
            Err(_) => self.ctx.task_lost("store"),
        }
    }

    fn report(&self, denial: &Denial, alarm: bool, told: &mut Echo) {
        self.ctx.metrics.refreshed(false);
        let address = self.control.address();
        let current = self.ctx.credentials.borrow().is_some();
        let said = told.say(denial, self.ctx.clock.seconds());
        if alarm {
            tracing::error!(address, reason = %denial.reason, %denial, "certificate not renewed for a long time");
        } else {
            let what = if current { "certificate not renewed yet" } else { "no certificate yet" };
            match said {
                Say::InFull => tracing::warn!(address, reason = %denial.reason, %denial, "{what}"),
                Say::Again { times, seconds } => tracing::warn!(
                    address, reason = %denial.reason, "{what}, again {times} times in {seconds} s"
                ),
                Say::Nothing => {}
            }
        }
        if !current {
            let why = format!(
                "waiting for the control plane at {address} to issue a certificate; last attempt: {denial}"
            );
            self.ctx.readiness.miss(Need::Identity, why);
        }
    }

    async fn renew(&self) -> Result<Credentials, Denial> {
        let now = self.ctx.clock.seconds();
        let current = self.ctx.credentials.borrow().clone().filter(|c| c.identity.not_after > now);
        let as_whom = match current {
            Some(current) => Arc::clone(&current.identity),
            None => Arc::new(self.bootstrap()?),
        };
        let Connected { channel, heard, .. } = self.control.connect(&as_whom, &self.ctx).await?;
        let issued = self.issue(channel).await;
        if issued.is_ok() {
            self.control.answered();
        }
        issued.map_err(|denial| self.control.why(&heard, denial, &self.ctx))
    }

    async fn issue(&self, channel: Channel) -> Result<Credentials, Denial> {
        let mut client = IdentityClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let challenge = answered(client.challenge(ChallengeRequest {})).await?;
        let key = PrivateKey::generate(self.key_type())?;
        let pending = Pending::new(&key, &challenge.nonce)?;
        let evidence = self.quote(pending.context()).await?;
        let pending = pending.with_event_log(evidence.event_log_from(0));
        let csr = pending.finish(&key, evidence.media_type, &evidence.value)?;
        let request = IssueRequest { workload: self.workload.clone(), csr: csr.into() };
        let issued = answered(client.issue(request)).await?;
        let chain: Vec<_> = issued.chain.into_iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        self.accept(chain, &key, evidence)
    }

    /// What was issued must be what peers will accept, and for our key.
    fn accept(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKey,
        evidence: Arc<Produced>,
    ) -> Result<Credentials, Denial> {
        let presented = Presented::parse(&chain)?;
        self.bundle.borrow().validate(&presented, self.ctx.clock.now())?;
        let identity = Identity::new(chain, key)?;
        let Some(me) = identity.id.clone() else {
            return Err(Finding::new(Reason::SvidInvalid, "issued certificate", "a SPIFFE ID", "none").into());
        };
        let kept = self.ctx.credentials.borrow().clone().filter(|c| c.me == me);
        let judge: Arc<dyn Judge> = match kept {
            // The same identity keeps its judge, and with it the verdicts that are cached.
            Some(current) => Arc::clone(&current.judge),
            None => {
                let guard = Arc::new(Guard::new(me, Arc::clone(&self.ctx.view), VERDICTS));
                Arc::new(Timed::new(guard, Arc::clone(&self.ctx.metrics)))
            }
        };
        let credentials = Credentials::new(identity, judge, &self.ctx)?;
        self.ctx.evidence.store(Some(evidence));
        Ok(credentials)
    }

    /// The kind of key that the trust domain asks for.
    fn key_type(&self) -> KeyType {
        self.ctx.view.load().svid_key_type()
    }

    /// A self-signed certificate for the first contact. It carries no SPIFFE ID
    /// (3-attestation, section 6.3).
    fn bootstrap(&self) -> Result<Identity, Finding> {
        let key = PrivateKey::generate(KeyType::default())?;
        Identity::bootstrap(&key, self.ctx.clock.now())
    }

    /// A quote over the key of `context`.
    async fn quote(&self, context: &[u8]) -> Result<Arc<Produced>, Denial> {
        match self.ctx.quoter.key(context).await {
            Ok(produced) => {
                self.ctx.readiness.have(Need::Evidence);
                Ok(produced)
            }
            Err(error) => {
                self.ctx.readiness.miss(Need::Evidence, error.to_string());
                Err(error.into())
            }
        }
    }
}

/// The answer to a call, in bounded time, or the denial that it brought.
async fn answered<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Denial> {
    match timeout(CALL, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(super::denial(&status)),
        Err(_) => {
            Err(Finding::new(Reason::Timeout, "control plane", format!("an answer in {CALL:?}"), "none")
                .into())
        }
    }
}
