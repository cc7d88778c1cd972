//! Collateral that somebody puts beside the genuine one to do harm.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod common;

use std::sync::Arc;

use common::{DATA, NOW, VENDOR, at};
use countersign_attester::Attester;
use countersign_attester::emulated::{SgxSpec, SnpSpec, TdxSpec};
use countersign_evidence::collateral::{Appraised, Item, Marks};
use countersign_evidence::{Anchors, Claims, Collateral, Evidence, Finding, Fingerprint, Reason, verify};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, SerialNumber, SubjectPublicKeyInfo,
};
use x509_parser::pem::parse_x509_pem;

/// Somebody with a root of his own.
struct Stranger {
    root: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Stranger {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = params(name, IsCa::Ca(BasicConstraints::Unconstrained));
        let root = params.self_signed(&key).unwrap().der().to_vec();
        Self { root, issuer: Issuer::new(params, key) }
    }

    /// A certificate for somebody else's key.
    fn certify(&self, name: &str, spki: &[u8], is_ca: IsCa) -> Vec<u8> {
        let spki = SubjectPublicKeyInfo::from_der(spki).unwrap();
        params(name, is_ca).signed_by(&spki, &self.issuer).unwrap().der().to_vec()
    }
}

fn params(name: &str, is_ca: IsCa) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = is_ca;
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    params
}

fn item(bytes: Vec<u8>) -> Item {
    Item { name: "hostile".to_owned(), bytes }
}

fn genuine() -> Vec<Item> {
    VENDOR.collateral(at(NOW)).unwrap()
}

/// The DER of one of the vendor's certificates.
fn certificate(name: &str) -> Vec<u8> {
    let items = genuine();
    let pem = &items.iter().find(|i| i.name == format!("emulated/{name}")).unwrap().bytes;
    parse_x509_pem(pem).unwrap().1.contents
}

fn spki(certificate: &[u8]) -> Vec<u8> {
    x509_parser::parse_x509_certificate(certificate).unwrap().1.public_key().raw.to_vec()
}

fn anchors() -> Anchors {
    Anchors::new(Vec::new(), VENDOR.roots())
}

/// What comes of `hostile` in front of the genuine collateral.
fn appraise(hostile: Vec<Vec<u8>>, anchors: &Anchors) -> Appraised {
    let items: Vec<Item> = hostile.into_iter().map(item).chain(genuine()).collect();
    Collateral::appraise(&items, anchors, &mut Marks::default(), at(NOW))
}

fn machines() -> [Arc<dyn Attester>; 3] {
    [
        VENDOR.tdx(TdxSpec::default()).unwrap(),
        VENDOR.sgx(SgxSpec::default()).unwrap(),
        VENDOR.snp(SnpSpec::default()).unwrap(),
    ]
}

fn judge(
    machine: &dyn Attester,
    collateral: &Collateral,
    anchors: &Anchors,
    now: u64,
) -> Result<Arc<Claims>, Finding> {
    let produced = machine.evidence(&DATA).unwrap();
    let evidence = Evidence::parse(produced.media_type, &produced.value).unwrap();
    verify(&evidence, collateral, anchors, at(now), None, &mut ())
}

fn assert_unharmed(appraised: &Appraised, anchors: &Anchors) {
    assert!(appraised.refused.is_empty(), "{:?}", appraised.refused);
    for machine in machines() {
        let claims = judge(&*machine, &appraised.collateral, anchors, NOW).unwrap();
        assert!(VENDOR.roots().contains(&claims.root), "{claims:?}");
    }
}

#[test]
fn who_certifies_the_vendors_signing_key_takes_none_of_its_words_away() {
    let stranger = Stranger::new("Stranger");
    let signer =
        stranger.certify("Intel SGX TCB Signing", &spki(&certificate("intel-tcb-signing.pem")), IsCa::NoCa);
    let hostile = vec![signer, stranger.root.clone()];
    assert_unharmed(&appraise(hostile.clone(), &anchors()), &anchors());
    // Nor when a policy admits the stranger's root beside the vendor's.
    let mut both = anchors();
    both.admit_emulated(Fingerprint::of(&stranger.root));
    assert_unharmed(&appraise(hostile, &both), &both);
}

#[test]
fn authorities_of_the_vendors_names_do_not_use_up_the_search_for_its_own() {
    let mut hostile = Vec::new();
    for name in ["intel-root-ca.pem", "intel-pck-platform-ca.pem", "amd-ark.pem", "amd-ask.pem"] {
        let genuine = certificate(name);
        let key = spki(&genuine);
        let end = genuine.windows(key.len()).position(|part| part == key).unwrap() + key.len();
        for n in 1..=20 {
            // The same names, another key.
            let mut clone = genuine.clone();
            clone[end - 8] ^= n;
            hostile.push(clone);
        }
    }
    assert_unharmed(&appraise(hostile, &anchors()), &anchors());
}

#[test]
fn a_list_of_somebody_who_may_not_issue_certificates_is_none() {
    let stranger = Stranger::new("Root");
    let key = KeyPair::generate().unwrap();
    let leaf = params("Leaf", IsCa::ExplicitNoCa);
    let certificate = leaf.signed_by(&key, &stranger.issuer).unwrap().der().to_vec();
    let list = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2026, 1, 1),
        next_update: rcgen::date_time_ymd(2030, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&Issuer::new(leaf, key)).unwrap().der().to_vec();
    let anchors = Anchors::new(vec![Fingerprint::of(&stranger.root)], Vec::new());
    let items = [stranger.root, certificate, list].map(item);
    let mut marks = Marks::default();
    let appraised = Collateral::appraise(&items, &anchors, &mut marks, at(NOW));
    assert_eq!(appraised.refused.len(), 1);
    assert_eq!(appraised.refused[0].1.reason, Reason::CollateralInvalid);
    assert!(appraised.collateral.inventory().iter().all(|entry| entry.kind == "certificate"));
    assert_eq!(marks, Marks::default());
}

#[test]
fn a_root_of_one_family_ends_no_chain_of_the_other() {
    let (intel, amd) = (VENDOR.intel_root(), VENDOR.amd_root().unwrap());
    for machine in machines() {
        for anchors in [Anchors::new(vec![intel], vec![]), Anchors::new(vec![amd], vec![])] {
            let appraised = appraise(Vec::new(), &anchors);
            if let Ok(claims) = judge(&*machine, &appraised.collateral, &anchors, NOW) {
                let own =
                    if machine.tee() == countersign_evidence::claims::Tee::SevSnp { amd } else { intel };
                assert_eq!((claims.root, anchors.kind(&own).is_some()), (own, true));
            }
        }
    }
}

#[test]
fn no_time_is_too_early_or_too_late_to_be_refused() {
    let appraised = appraise(Vec::new(), &anchors());
    for now in [0, 1, u64::MAX - 1, u64::MAX] {
        for machine in machines() {
            assert!(judge(&*machine, &appraised.collateral, &anchors(), now).is_err(), "{now}");
        }
        let mut marks = Marks::default();
        let _ = Collateral::appraise(&genuine(), &anchors(), &mut marks, at(now));
        assert!(now > 1 || marks == Marks::default(), "a clock that is behind moves no mark");
    }
}
