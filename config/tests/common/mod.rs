//! A vendor, a CA, and resources to begin with.
#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use countersign_attester::Attester as _;
use countersign_attester::emulated::{TdxSpec, Vendor};
use countersign_config::{Built, Inputs, View, parse};
use countersign_evidence::UnixTime;
use countersign_evidence::collateral::{Item, Marks};
use countersign_ratls::ca::Leaf;
use countersign_ratls::csr::{AttestedRequest, Pending};
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::peer::Presented;
use countersign_ratls::{Authority, Bundle, SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;

pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const LEDGER: &str = "spiffe://demo.example/ns/payments/ledger";
pub(crate) const AUDIT: &str = "spiffe://demo.example/ns/payments/audit";

pub(crate) fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW + seconds))
}

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// One vendor, one CA, for all tests.
pub(crate) struct World {
    pub(crate) vendor: Vendor,
    pub(crate) collateral: Vec<Item>,
    pub(crate) authority: Authority,
    pub(crate) bundle: Bundle,
}

pub(crate) static WORLD: LazyLock<World> = LazyLock::new(|| {
    let vendor = Vendor::generate(at(0), Duration::from_secs(90 * 86_400)).unwrap();
    let trust_domain = TrustDomain::parse("demo.example").unwrap();
    let authority = Authority::create(&trust_domain, 30 * 86_400, at(0)).unwrap();
    let bundle = Bundle {
        trust_domain,
        x509_authorities: vec![authority.certificate.clone()],
        snapshot_keys: Vec::new(),
        sequence: 1,
        refresh_hint: None,
    };
    World { collateral: vendor.collateral(at(0)).unwrap(), vendor, authority, bundle }
});

impl World {
    /// An SVID with evidence of a TDX guest, issued at the beginning.
    pub(crate) fn chain(&self, who: &str, spec: TdxSpec) -> Vec<CertificateDer<'static>> {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let pending = Pending::new(&key, &[7; 32]).unwrap();
        let produced = self.vendor.tdx(spec).unwrap().evidence(&pending.report_data).unwrap();
        let request = pending.finish(&key, produced.media_type, &produced.value).unwrap();
        let request = AttestedRequest::parse(&request).unwrap();
        self.issue(&request.spki, who, Some(&request.cmw))
    }

    pub(crate) fn issue(&self, spki: &[u8], who: &str, cmw: Option<&[u8]>) -> Vec<CertificateDer<'static>> {
        self.authority.issue(&Leaf { spki, id: &id(who), lifetime: 7200, cmw }, at(0)).unwrap()
    }

    pub(crate) fn presented(&self, who: &str, spec: TdxSpec) -> Presented {
        Presented::parse(&self.chain(who, spec)).unwrap()
    }

    pub(crate) fn inputs(&self, text: &str) -> Inputs {
        let text = text.replace("ROOT", &self.vendor.intel_root().to_string());
        Inputs {
            generation: 17,
            resources: parse("view.yaml", &text).unwrap().into_iter().map(Arc::new).collect(),
            bundles: vec![self.bundle.clone()],
            collateral: self.collateral.clone(),
        }
    }

    pub(crate) fn build(&self, text: &str) -> Built {
        View::build(self.inputs(text), &mut Marks::default(), at(0))
    }

    pub(crate) fn view(&self, text: &str) -> View {
        let built = self.build(text);
        assert_eq!(built.rejected, []);
        assert_eq!(built.refused_collateral, []);
        built.view
    }
}

/// `RELEASE` is an approved measurement of RTMR 2.
pub(crate) fn resources() -> String {
    let identity = |name: &str| {
        format!(
            "---\napiVersion: countersign.dev/v1alpha1\nkind: WorkloadIdentity\n\
             metadata: {{ name: {name}, namespace: payments }}\n\
             spec: {{ spiffeId: spiffe://demo.example/ns/payments/{name}, labels: {{ app: {name} }}, \
             attestation: {{ policy: everyone }} }}\n"
        )
    };
    let references = format!(
        "---\napiVersion: countersign.dev/v1alpha1\nkind: ReferenceValues\n\
         metadata: {{ name: release, namespace: payments }}\n\
         spec: {{ tdx: [{{ name: v1, mrTd: \"{}\", rtmr: {{ 2: \"{}\" }} }}] }}\n",
        "d0".repeat(48),
        "d3".repeat(48)
    );
    let policy = policy("payments", "everyone", "", "{ fromReferenceValues: release }");
    identity("ledger") + &identity("audit") + &references + &policy
}

pub(crate) fn policy(namespace: &str, name: &str, more: &str, measurements: &str) -> String {
    format!(
        "---\napiVersion: countersign.dev/v1alpha1\nkind: AttestationPolicy\n\
         metadata: {{ name: {name}, namespace: {namespace} }}\nspec:\n  {more}\n  anyOf:\n    - tdx:\n        \
         emulatedRoots: [\"ROOT\"]\n        measurements: {measurements}\n"
    )
}

pub(crate) fn other_release() -> TdxSpec {
    let mut spec = TdxSpec::default();
    spec.rtmr[2] = [0xee; 48];
    spec
}
