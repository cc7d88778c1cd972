//! Two attested peers, and the plain ones that they are compared with.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use arc_swap::ArcSwap;
use countersign_attester::Attester;
use countersign_attester::emulated::{TdxSpec, Vendor};
use countersign_config::{Guard, Inputs, View, parse};
use countersign_evidence::Denial;
use countersign_evidence::collateral::Marks;
use countersign_ratls::ca::Leaf;
use countersign_ratls::csr::{AttestedRequest, Pending};
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::peer::{Admission, Judge, Presented, Role};
use countersign_ratls::tls::{ALPN_H2, ALPN_MESH, Acceptor, Connector, Profile};
use countersign_ratls::{Authority, Bundle, IdPattern, Identity, SpiffeId, TrustDomain};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use crate::fixture::now;

const CLIENT: &str = "spiffe://bench.example/ns/a/sa/client";
const SERVER: &str = "spiffe://bench.example/ns/a/sa/server";

/// A clock that stands still.
#[derive(Debug)]
pub struct Still;

impl TimeProvider for Still {
    fn current_time(&self) -> Option<UnixTime> {
        Some(now())
    }
}

/// Judges every peer anew.
#[derive(Debug)]
struct Forgetful {
    me: SpiffeId,
    view: Arc<View>,
}

impl Judge for Forgetful {
    fn judge(&self, chain: &[CertificateDer<'_>], _: Role, now: UnixTime) -> Result<Arc<Admission>, Denial> {
        self.view.judge_hop(&self.me, Presented::parse(chain)?, now).map(Arc::new)
    }
}

/// A trust domain with two attested workloads.
pub struct Peers {
    client: Identity,
    server: Identity,
    machines: [Arc<dyn Attester>; 2],
    view: Arc<ArcSwap<View>>,
    guards: [Arc<Guard>; 2],
    plain: Plain,
}

/// The same keys in ordinary certificates, for ordinary rustls.
struct Plain {
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
}

impl Peers {
    /// Issues everything.
    ///
    /// # Errors
    /// When a step of the set-up fails.
    pub fn new() -> Result<Self> {
        let trust_domain = TrustDomain::parse("bench.example")?;
        let vendor = Vendor::generate(now(), Duration::from_secs(86_400 * 30))?;
        let authority = Authority::create(&trust_domain, 86_400, now())?;
        let machines: [Arc<dyn Attester>; 2] =
            [vendor.tdx(TdxSpec::default())?, vendor.tdx(TdxSpec::default())?];
        let (client, client_key) = attested(&authority, machines[0].as_ref(), CLIENT)?;
        let (server, server_key) = attested(&authority, machines[1].as_ref(), SERVER)?;
        let bundle = Bundle {
            trust_domain,
            x509_authorities: vec![authority.certificate.clone()],
            snapshot_keys: Vec::new(),
            sequence: 1,
            refresh_hint: None,
        };
        let resources =
            parse("bench.yaml", &resources(&vendor)).map_err(|problems| anyhow!("{problems:?}"))?;
        let inputs = Inputs {
            generation: 1,
            resources: resources.into_iter().map(Arc::new).collect(),
            bundles: vec![bundle],
            collateral: vendor.collateral(now())?,
        };
        let built = View::build(inputs, &mut Marks::default(), now());
        anyhow::ensure!(built.rejected.is_empty() && built.refused_collateral.is_empty(), "{built:?}");
        let view = Arc::new(ArcSwap::from_pointee(built.view));
        let plain = Plain::new(&authority, &client_key, &server_key)?;
        let guard =
            |id| Ok::<_, anyhow::Error>(Arc::new(Guard::new(SpiffeId::parse(id)?, Arc::clone(&view), 1024)));
        let guards = [guard(CLIENT)?, guard(SERVER)?];
        Ok(Self { client, server, machines, guards, view, plain })
    }

    /// The judges with their verdicts: client's, server's.
    #[must_use]
    pub fn guards(&self) -> [Arc<dyn Judge>; 2] {
        self.guards.clone().map(|guard| guard as Arc<dyn Judge>)
    }

    /// Judges that remember no verdict; certificate chains of machines are known.
    ///
    /// # Panics
    /// Never: the IDs are constants.
    #[must_use]
    pub fn forgetful(&self) -> [Arc<dyn Judge>; 2] {
        [CLIENT, SERVER].map(|id| {
            let me = SpiffeId::parse(id).expect("an ID");
            Arc::new(Forgetful { me, view: self.view.load_full() }) as Arc<dyn Judge>
        })
    }

    /// The chain that the client presents.
    #[must_use]
    pub fn client_chain(&self) -> &[CertificateDer<'static>] {
        &self.client.chain
    }

    /// The identities: client's, server's.
    #[must_use]
    pub const fn identities(&self) -> [&Identity; 2] {
        [&self.client, &self.server]
    }

    /// Their machines: client's, server's.
    #[must_use]
    pub const fn machines(&self) -> &[Arc<dyn Attester>; 2] {
        &self.machines
    }

    /// The configuration of both.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Both ends, ready for handshakes.
    ///
    /// # Panics
    /// When the set-up is broken.
    #[must_use]
    pub fn ends(&self, [client, server]: [Arc<dyn Judge>; 2]) -> (Connector, Acceptor) {
        let profile = Profile { alpn: vec![ALPN_MESH.to_vec()], require_pq: false, clock: Arc::new(Still) };
        let expected = IdPattern::parse(SERVER).expect("a pattern");
        (
            Connector::new(&self.client, client, expected, &profile).expect("a connector"),
            Acceptor::new(&self.server, server, &profile).expect("an acceptor"),
        )
    }

    /// One full attested handshake, both ends on this thread.
    ///
    /// # Panics
    /// When it fails.
    pub fn handshake(&self, (connector, acceptor): &(Connector, Acceptor)) {
        let (a, b) = tokio::io::duplex(64 << 10);
        let both = async { tokio::join!(connector.connect(a), acceptor.accept(b)) };
        let (client, server) = drive(both);
        client.expect("the client accepts");
        server.expect("the server accepts");
    }

    /// One full ordinary mutual handshake, both ends on this thread.
    ///
    /// # Panics
    /// When it fails.
    pub fn plain_handshake(&self) {
        let (a, b) = tokio::io::duplex(64 << 10);
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.plain.client));
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&self.plain.server));
        let name = ServerName::try_from("bench.example").expect("a name");
        let both = async { tokio::join!(connector.connect(name, a), acceptor.accept(b)) };
        let (client, server) = drive(both);
        client.expect("the client accepts");
        server.expect("the server accepts");
    }
}

/// Runs a future that waits for nothing but itself.
pub(crate) fn drive<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

/// An identity with evidence of this machine.
pub(crate) fn attested(
    authority: &Authority,
    attester: &dyn Attester,
    id: &str,
) -> Result<(Identity, PrivateKey)> {
    let key = PrivateKey::generate(KeyType::EcP256)?;
    let pending = Pending::new(&key, &[9; 32])?;
    let evidence = attester.evidence(&pending.report_data)?;
    let request = AttestedRequest::parse(&pending.finish(&key, evidence.media_type, &evidence.value)?)?;
    let id = SpiffeId::parse(id)?;
    let leaf = Leaf { spki: &request.spki, id: &id, lifetime: 3600, cmw: Some(&request.cmw) };
    Ok((Identity::new(authority.issue(&leaf, now())?, &key)?, key))
}

#[allow(clippy::disallowed_methods, reason = "the floor is rustls without anything of ours")]
impl Plain {
    fn new(authority: &Authority, client: &PrivateKey, server: &PrivateKey) -> Result<Self> {
        let issuer = rcgen::Issuer::from_ca_cert_der(
            &authority.certificate,
            rcgen::KeyPair::from_pem(&authority.key().to_pem())?,
        )?;
        let ordinary = |key: &PrivateKey| -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
            let pair = rcgen::KeyPair::from_pem(&key.to_pem())?;
            let mut params = rcgen::CertificateParams::new(vec!["bench.example".to_owned()])?;
            let at = now().as_secs().cast_signed();
            params.not_before = time::OffsetDateTime::from_unix_timestamp(at - 10)?;
            params.not_after = time::OffsetDateTime::from_unix_timestamp(at + 3600)?;
            let certificate = params.signed_by(&pair, &issuer)?;
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialize_der()));
            Ok((vec![certificate.der().clone()], key))
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.certificate.clone())?;
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::clone(&roots),
            Arc::clone(&provider),
        )
        .build()
        .context("client verifier")?;
        let (chain, key) = ordinary(server)?;
        let mut server = rustls::ServerConfig::builder_with_details(Arc::clone(&provider), Arc::new(Still))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        server.send_tls13_tickets = 0;
        server.alpn_protocols = vec![ALPN_H2.to_vec()];
        let (chain, key) = ordinary(client)?;
        let mut client = rustls::ClientConfig::builder_with_details(provider, Arc::new(Still))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        client.resumption = rustls::client::Resumption::disabled();
        client.alpn_protocols = vec![ALPN_H2.to_vec()];
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }
}

fn resources(vendor: &Vendor) -> String {
    let root = vendor.intel_root();
    format!(
        "apiVersion: countersign.dev/v1alpha1
kind: TrustDomain
metadata: {{ name: bench.example }}
spec: {{}}
---
apiVersion: countersign.dev/v1alpha1
kind: WorkloadIdentity
metadata: {{ name: client, namespace: a }}
spec: {{ spiffeId: \"{CLIENT}\", attestation: {{ policy: peers }} }}
---
apiVersion: countersign.dev/v1alpha1
kind: WorkloadIdentity
metadata: {{ name: server, namespace: a }}
spec: {{ spiffeId: \"{SERVER}\", attestation: {{ policy: peers }} }}
---
apiVersion: countersign.dev/v1alpha1
kind: ReferenceValues
metadata: {{ name: guest, namespace: a }}
spec:
  tdx:
    - {{ name: guest, mrTd: \"{mr_td}\" }}
---
apiVersion: countersign.dev/v1alpha1
kind: AttestationPolicy
metadata: {{ name: peers, namespace: a }}
spec:
  anyOf:
    - tdx: {{ emulatedRoots: [\"{root}\"], measurements: {{ fromReferenceValues: guest }} }}
",
        mr_td = mr_td()
    )
}

/// MRTD of the emulated guests, in lower-case hexadecimal.
fn mr_td() -> String {
    TdxSpec::default().mr_td.iter().map(|byte| format!("{byte:02x}")).collect()
}
