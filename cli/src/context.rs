//! The operator's context: which control plane, and who we are to it.

mod document;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::{Denial, UnixTime};
use countersign_ratls::key::PrivateKey;
use countersign_ratls::peer::{Admission, Judge, Presented, Role};
use countersign_ratls::tls::{ALPN_H2, Connector, HandshakeError, Profile};
use countersign_ratls::{Bundle, IdPattern, Identity, TrustDomain};
use countersign_wire::proto;
use countersign_wire::proto::operator_client::OperatorClient;
use hyper_util::rt::TokioIo;
use rustls::time_provider::DefaultTimeProvider;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use self::document::Document;
use crate::appraisal::{Appraiser, Judged};
use crate::failure::{Failure, Result};
use crate::input;
use crate::output::Output;

/// How long a connection to the control plane may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// Which context to use.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ContextArgs {
    /// The operator's context: STATE/operator.yaml of the control plane
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_CONTEXT")]
    pub(crate) context: Option<PathBuf>,
}

/// A control plane, and who we are to it.
#[derive(Debug)]
pub(crate) struct Context {
    server: String,
    control_plane_id: IdPattern,
    bundle: Bundle,
    identity: Identity,
    appraiser: Option<Appraiser>,
}

impl Context {
    /// Reads the context that was named.
    pub(crate) fn load(args: &ContextArgs) -> Result<Self> {
        Self::load_if_named(args)?.ok_or_else(|| {
            Failure::input(
                "which control plane? Name its operator.yaml with --context FILE or COUNTERSIGN_CONTEXT \
                 (the control plane writes it into its state directory)",
            )
        })
    }

    /// Reads the context, if one was named.
    pub(crate) fn load_if_named(args: &ContextArgs) -> Result<Option<Self>> {
        args.context.as_deref().map(Self::read).transpose()
    }

    fn read(path: &Path) -> Result<Self> {
        let named = |what: &str, e: &dyn std::fmt::Display| {
            Failure::input(format!("{}: {what}: {e}", path.display()))
        };
        warn_of_others(path);
        let text = input::read_text(path)?;
        let document = Document::parse(&path.display().to_string(), &text).map_err(Failure::input)?;
        let trust_domain =
            TrustDomain::parse(&document.trust_domain).map_err(|e| named("trustDomain", &e))?;
        let chain =
            input::certificates(document.certificate.as_bytes()).map_err(|e| named("certificate", &e))?;
        let key = PrivateKey::from_pem(&document.key).map_err(|e| named("key", &e))?;
        let base = path.parent().unwrap_or_else(|| Path::new("."));
        let appraiser = match &document.attestation {
            None => None,
            Some(file) => {
                let collateral: Vec<_> = document.collateral.iter().map(|p| base.join(p)).collect();
                Some(Appraiser::from_files(&[base.join(file)], &collateral, input::now())?)
            }
        };
        Ok(Self {
            server: document.server,
            control_plane_id: IdPattern::parse(&document.control_plane_id)
                .map_err(|e| named("controlPlaneId", &e))?,
            bundle: Bundle::parse(trust_domain, document.bundle.as_bytes())
                .map_err(|e| named("bundle", &e))?,
            identity: Identity::new(chain, &key).map_err(|e| named("certificate and key", &e))?,
            appraiser,
        })
    }

    /// `host:port` of the control plane.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// Who we are.
    pub(crate) const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The trust domain's roots.
    pub(crate) const fn bundle(&self) -> &Bundle {
        &self.bundle
    }
}

/// Whoever can read the context is an operator.
fn warn_of_others(path: &Path) {
    let Ok(mode) = std::fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o777) else {
        return;
    };
    if mode & 0o044 != 0 {
        let file = path.display();
        Output::new().warning(format!(
            "{file}: others can read this file (mode {mode:03o}), and it holds the operator's private key: \
             chmod 600 {file}"
        ));
    }
}

/// Decides about the control plane: its SVID always, its evidence when the
/// context names a policy.
#[derive(Debug)]
struct ControlPlaneJudge {
    bundle: Bundle,
    appraiser: Option<Appraiser>,
}

impl Judge for ControlPlaneJudge {
    fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        _role: Role,
        now: UnixTime,
    ) -> std::result::Result<Arc<Admission>, Denial> {
        let presented = Presented::parse(chain)?;
        let valid_until = self.bundle.validate(&presented, now)?;
        let judged = match &self.appraiser {
            Some(appraiser) => appraiser.judge_presented(&presented, now),
            None => Judged::default(),
        };
        if let Some(denial) = judged.denial {
            return Err(denial);
        }
        Ok(Arc::new(Admission {
            claims: judged.claims,
            verdicts: judged.verdicts,
            ..Admission::without_evidence(presented, valid_until, 0)
        }))
    }
}

/// A connection to the control plane's Operator service.
#[derive(Debug)]
pub(crate) struct Client {
    inner: OperatorClient<Channel>,
    /// Who answered, and what it proved.
    pub(crate) peer: Arc<Admission>,
}

impl Client {
    /// Connects and judges who answers.
    pub(crate) async fn connect(context: &Context, timeout: Duration) -> Result<Self> {
        let judge = Arc::new(ControlPlaneJudge {
            bundle: context.bundle.clone(),
            appraiser: context.appraiser.clone(),
        });
        let connector =
            Connector::new(&context.identity, judge, context.control_plane_id.clone(), &profile())
                .map_err(Failure::failed)?;
        let named =
            |e: &dyn std::fmt::Display| Failure::failed(format!("control plane {}: {e}", context.server));
        let silent = |e: &dyn std::fmt::Display| {
            Failure::unreachable(format!("control plane {}: {e}", context.server))
        };
        let handshake = async {
            let io = TcpStream::connect(&context.server).await.map_err(HandshakeError::Io)?;
            let _ = io.set_nodelay(true);
            connector.connect(io).await
        };
        let handshaken = tokio::time::timeout(timeout, handshake)
            .await
            .map_err(|_| silent(&format!("no answer within {} s", timeout.as_secs())))?
            .map_err(|e| if matches!(e, HandshakeError::Io(_)) { silent(&e) } else { named(&e) })?;
        let peer = handshaken.admission.clone();
        let mut stream = Some(handshaken.stream);
        let channel = Endpoint::from_static("http://control-plane")
            .connect_with_connector(tower::service_fn(move |_: http::Uri| {
                let stream = stream.take().map(TokioIo::new);
                async move { stream.ok_or_else(|| std::io::Error::other("the connection was lost")) }
            }))
            .await
            .map_err(|e| named(&e))?;
        let inner = OperatorClient::new(channel)
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(64 << 20);
        Ok(Self { inner, peer })
    }

    /// What the control plane knows of itself and every proxy.
    pub(crate) async fn status(&mut self) -> Result<proto::StatusResponse> {
        Ok(self
            .inner
            .status(proto::StatusRequest { refusals: true })
            .await
            .map_err(|status| refused(&status))?
            .into_inner())
    }

    /// Applies all documents or none.
    pub(crate) async fn apply(&mut self, request: proto::ApplyRequest) -> Result<proto::ApplyResponse> {
        Ok(self.inner.apply(request).await.map_err(|status| refused(&status))?.into_inner())
    }

    /// Deletes all resources or none.
    pub(crate) async fn delete(&mut self, request: proto::DeleteRequest) -> Result<proto::DeleteResponse> {
        Ok(self.inner.delete(request).await.map_err(|status| refused(&status))?.into_inner())
    }

    /// The resources that match.
    pub(crate) async fn list(&mut self, request: proto::ListRequest) -> Result<proto::ListResponse> {
        Ok(self.inner.list(request).await.map_err(|status| refused(&status))?.into_inner())
    }

    /// Every machine that was seen or is approved.
    pub(crate) async fn platforms(&mut self) -> Result<proto::PlatformsResponse> {
        let asked = self.inner.platforms(proto::PlatformsRequest {}).await;
        Ok(asked.map_err(|status| refused(&status))?.into_inner())
    }

    /// Puts a machine on a PlatformList.
    pub(crate) async fn approve_platform(
        &mut self,
        request: proto::ApprovePlatformRequest,
    ) -> Result<proto::EnrolResponse> {
        Ok(self.inner.approve_platform(request).await.map_err(|status| refused(&status))?.into_inner())
    }

    /// Takes a machine away from PlatformLists.
    pub(crate) async fn revoke_platform(
        &mut self,
        request: proto::RevokePlatformRequest,
    ) -> Result<proto::EnrolResponse> {
        Ok(self.inner.revoke_platform(request).await.map_err(|status| refused(&status))?.into_inner())
    }

    /// What the hops of these proxies prove (of all, if none is named), for as long as it is read.
    pub(crate) async fn watch(
        &mut self,
        proxies: &[String],
    ) -> Result<tonic::Streaming<proto::ProxyAttestation>> {
        let request = proto::WatchAttestationRequest { proxies: proxies.to_vec() };
        Ok(self.inner.watch_attestation(request).await.map_err(|status| refused(&status))?.into_inner())
    }

    /// Has peers of these proxies prove themselves now. Names of the proxies that were asked.
    pub(crate) async fn attest_now(&mut self, proxies: &[String], peer: &str) -> Result<Vec<String>> {
        let request = proto::AttestNowRequest { proxies: proxies.to_vec(), peer: peer.to_owned() };
        let response = self.inner.attest_now(request).await.map_err(|status| refused(&status))?;
        Ok(response.into_inner().asked)
    }

    /// Whether one may call another, and why.
    pub(crate) async fn explain(&mut self, request: proto::ExplainRequest) -> Result<proto::ExplainResponse> {
        Ok(self.inner.explain(request).await.map_err(|status| refused(&status))?.into_inner())
    }
}

/// Connects to the control plane of the context and asks it something.
pub(crate) fn ask<T, F>(args: &ContextArgs, question: impl FnOnce(Client) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let context = Context::load(args)?;
    crate::commands::runtime()?.block_on(async { question(Client::connect(&context, TIMEOUT).await?).await })
}

/// The TLS profile of this program.
pub(crate) fn profile() -> Profile {
    Profile { alpn: vec![ALPN_H2.to_vec()], require_pq: false, clock: Arc::new(DefaultTimeProvider) }
}

fn refused(status: &tonic::Status) -> Failure {
    let text = format!("the control plane refuses: {}", status.message());
    match status.code() {
        tonic::Code::InvalidArgument | tonic::Code::NotFound => Failure::input(text),
        tonic::Code::Unavailable => Failure::unreachable(text),
        _ => Failure::failed(text),
    }
}
