//! What the tests of this crate share: a clock, a mesh with one CA, judges.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unreachable_pub, reason = "test code")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use countersign_attester::Attester;
use countersign_attester::emulated::{TdxSpec, Vendor};
use countersign_evidence::{Denial, Finding, Reason, UnixTime};
use countersign_ratls::binding::{KeyContext, key_report_data};
use countersign_ratls::ca::{Authority, Leaf};
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::peer::{Admission, Judge, Presented, Role};
use countersign_ratls::tls::Profile;
use countersign_ratls::{Bundle, Identity, SpiffeId, TrustDomain, native};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::CertificateDer;

/// The time at which the tests take place.
pub const NOW: u64 = 1_790_000_000;

pub fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

pub fn now() -> UnixTime {
    at(NOW)
}

pub fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// A clock that stands still until it is set.
#[derive(Debug)]
pub struct Clock(AtomicU64);

impl Clock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(NOW)))
    }
    pub fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::SeqCst);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(at(self.0.load(Ordering::SeqCst)))
    }
}

/// One vendor and one TDX machine for all tests.
pub fn tdx() -> Arc<dyn Attester> {
    static TDX: LazyLock<Arc<dyn Attester>> = LazyLock::new(|| {
        let vendor = Vendor::generate(at(NOW - 1000), Duration::from_secs(1_000_000)).unwrap();
        vendor.tdx(TdxSpec::default()).unwrap()
    });
    Arc::clone(&TDX)
}

/// A native collection whose evidence carries `report_data(expected)`.
pub fn cmw_with(spki_sha256: [u8; 32], report_data: impl FnOnce([u8; 64]) -> [u8; 64]) -> Vec<u8> {
    let context = KeyContext { spki_sha256, challenge: (&[9; 32][..]).into(), id: None }.encode();
    let expected = *key_report_data(&context, &[]).as_bytes();
    let evidence = tdx().evidence(&report_data(expected)).unwrap();
    native::encode(&context, evidence.media_type, &evidence.value, None)
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().try_into().unwrap()
}

/// A trust domain with its CA.
pub struct Mesh {
    pub authority: Authority,
    pub bundle: Bundle,
}

impl Mesh {
    pub fn new() -> Self {
        let trust_domain = TrustDomain::parse("td").unwrap();
        let authority = Authority::create(&trust_domain, 86_400, now()).unwrap();
        let bundle = Bundle {
            trust_domain,
            x509_authorities: vec![authority.certificate.clone()],
            snapshot_keys: Vec::new(),
            sequence: 1,
            refresh_hint: None,
        };
        Self { authority, bundle }
    }

    pub fn chain(&self, key: &PrivateKey, name: &str, cmw: Option<&[u8]>) -> Vec<CertificateDer<'static>> {
        let leaf = Leaf { spki: &key.spki(), id: &id(name), lifetime: 3600, cmw };
        self.authority.issue(&leaf, now()).unwrap()
    }

    /// An identity with genuine (emulated) evidence.
    pub fn attested(&self, name: &str) -> Identity {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let cmw = cmw_with(sha256(&key.spki()), |expected| expected);
        Identity::new(self.chain(&key, name, Some(&cmw)), &key).unwrap()
    }

    /// An identity without evidence.
    pub fn plain(&self, name: &str) -> Identity {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        Identity::new(self.chain(&key, name, None), &key).unwrap()
    }
}

/// Admits whoever has a path to the bundle, unless it is told to deny. Counts.
#[derive(Debug)]
pub struct Gatekeeper {
    pub bundle: Bundle,
    pub deny: Option<Reason>,
    pub asked: AtomicUsize,
}

impl Gatekeeper {
    pub fn new(bundle: &Bundle) -> Arc<Self> {
        Arc::new(Self { bundle: bundle.clone(), deny: None, asked: AtomicUsize::new(0) })
    }
    pub fn denying(bundle: &Bundle, reason: Reason) -> Arc<Self> {
        Arc::new(Self { bundle: bundle.clone(), deny: Some(reason), asked: AtomicUsize::new(0) })
    }
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Judge for Gatekeeper {
    fn judge(&self, chain: &[CertificateDer<'_>], _: Role, now: UnixTime) -> Result<Arc<Admission>, Denial> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let presented = Presented::parse(chain)?;
        let valid_until = self.bundle.validate(&presented, now)?;
        if let Some(reason) = self.deny {
            return Err(Finding::new(reason, "test", "this", "that").into());
        }
        Ok(Arc::new(Admission::without_evidence(presented, valid_until, 1)))
    }
}

pub fn profile(clock: &Arc<Clock>) -> Profile {
    Profile { alpn: vec![b"h2".to_vec()], require_pq: false, clock: Arc::clone(clock) as _ }
}

/// The evidence corpus, where there is one.
pub fn corpus() -> Option<PathBuf> {
    let named = std::env::var_os("COUNTERSIGN_CORPUS").map(PathBuf::from);
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/evidence");
    Some(named.unwrap_or_else(beside)).filter(|path| path.join("manifest.toml").is_file())
}

/// The certificates of a PEM or DER file, in their order.
pub fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    use rustls_pki_types::pem::PemObject;
    let bytes = std::fs::read(path).unwrap();
    match bytes.first() {
        Some(0x30) => vec![bytes.into()],
        _ => CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok).collect(),
    }
}

pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
