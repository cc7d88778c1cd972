//! Certificates and requests: what is issued, what is accepted, what is refused.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unreachable_pub, reason = "test code")]

mod common;

use common::{Mesh, NOW, at, certificates, cmw_with, corpus, id, now, sha256, tdx};
use countersign_evidence::{Reason, UnixTime};
use countersign_ratls::ca::{Authority, Leaf};
use countersign_ratls::csr::{AttestedRequest, Pending};
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::peer::{Form, MAX_CHAIN_BYTES, Presented};
use countersign_ratls::{Bundle, Identity, TrustDomain, embedded, svid};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;

const ID_PE_CMW: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 1, 35];

fn octet_string(cbor: &[u8]) -> Vec<u8> {
    yasna::construct_der(|writer| writer.write_bytes(cbor))
}

#[test]
fn an_attested_request_becomes_an_svid_that_binds_its_key() {
    let mesh = Mesh::new();
    for kind in [KeyType::EcP256, KeyType::EcP384] {
        let key = PrivateKey::generate(kind).unwrap();
        let pending = Pending::new(&key, &[5; 32]).unwrap();
        let evidence = countersign_attester::Attester::evidence(&*tdx(), &pending.report_data).unwrap();
        let der = pending.finish(&key, evidence.media_type, &evidence.value).unwrap();

        let request = AttestedRequest::parse(&der).unwrap();
        assert_eq!((&request.spki, request.challenge.as_slice()), (&key.spki(), &[5; 32][..]));
        assert_eq!((request.evidence.form, &request.evidence.value), (Form::Native, &evidence.value));

        let name = id("spiffe://td/ns/prod/web");
        let leaf = Leaf { spki: &request.spki, id: &name, lifetime: 1800, cmw: Some(&request.cmw) };
        let chain = mesh.authority.issue(&leaf, now()).unwrap();
        let presented = Presented::parse(&chain).unwrap();
        assert_eq!(presented.id.as_ref(), Some(&name));
        assert_eq!(presented.evidence, Some(request.evidence));
        assert_eq!(presented.spki_sha256, sha256(&key.spki()));
        assert_eq!((presented.not_before, presented.not_after), (NOW - 10, NOW + 1800));
        assert_eq!(presented.digest, Presented::digest_of(&chain));
        assert!(!presented.self_signed);
        assert_eq!(mesh.bundle.validate(&presented, now()).unwrap(), NOW + 1800);
        let identity = Identity::new(chain, &key).unwrap();
        assert_eq!((identity.id, identity.spki_sha256), (Some(name), presented.spki_sha256));
    }
}

#[test]
fn a_flipped_bit_in_each_byte_of_the_report_data_is_refused() {
    let mesh = Mesh::new();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    for byte in 0..64 {
        let cmw = cmw_with(sha256(&key.spki()), |mut expected| {
            expected[byte] ^= 1 << (byte % 8);
            expected
        });
        let chain = mesh.chain(&key, "spiffe://td/a", Some(&cmw));
        assert_eq!(Presented::parse(&chain).unwrap_err().reason, Reason::BindingMismatch, "byte {byte}");
    }
    for constant in [[0; 64], [0xff; 64]] {
        let cmw = cmw_with(sha256(&key.spki()), |_| constant);
        let chain = mesh.chain(&key, "spiffe://td/a", Some(&cmw));
        assert_eq!(Presented::parse(&chain).unwrap_err().reason, Reason::BindingMismatch);
    }
}

#[test]
fn evidence_of_another_key_is_refused() {
    let mesh = Mesh::new();
    let (key, other) =
        (PrivateKey::generate(KeyType::EcP256).unwrap(), PrivateKey::generate(KeyType::EcP256).unwrap());
    let cmw = cmw_with(sha256(&other.spki()), |expected| expected);
    let chain = mesh.chain(&key, "spiffe://td/a", Some(&cmw));
    assert_eq!(Presented::parse(&chain).unwrap_err().reason, Reason::BindingMismatch);

    // The same in a request: possession of one key, evidence of another.
    let pending = Pending::new(&other, &[5; 32]).unwrap();
    let evidence = countersign_attester::Attester::evidence(&*tdx(), &pending.report_data).unwrap();
    let der = pending.finish(&key, evidence.media_type, &evidence.value).unwrap();
    assert_eq!(AttestedRequest::parse(&der).unwrap_err().reason, Reason::BindingMismatch);
}

#[test]
fn a_request_without_possession_or_with_another_challenge_size_is_refused() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    for size in [0, 15, 65] {
        assert_eq!(Pending::new(&key, &vec![1; size]).unwrap_err().reason, Reason::Malformed);
    }
    let pending = Pending::new(&key, &[5; 16]).unwrap();
    let evidence = countersign_attester::Attester::evidence(&*tdx(), &pending.report_data).unwrap();
    let mut der = pending.finish(&key, evidence.media_type, &evidence.value).unwrap();
    *der.last_mut().unwrap() ^= 1;
    assert_eq!(AttestedRequest::parse(&der).unwrap_err().reason, Reason::BadSignature);
    der.push(0);
    assert_eq!(AttestedRequest::parse(&der).unwrap_err().reason, Reason::Malformed);
    assert_eq!(AttestedRequest::parse(&vec![0x30; 60_000]).unwrap_err().reason, Reason::Oversized);
    let plain = CertificateParams::default().serialize_request(&key).unwrap();
    assert_eq!(AttestedRequest::parse(plain.der()).unwrap_err().reason, Reason::EvidenceMissing);
}

/// A leaf of the mesh's CA, after `change`.
fn leaf_with(mesh: &Mesh, change: impl FnOnce(&mut CertificateParams)) -> Vec<CertificateDer<'static>> {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = time::OffsetDateTime::from_unix_timestamp(i64::try_from(NOW - 10).unwrap()).unwrap();
    params.not_after = time::OffsetDateTime::from_unix_timestamp(i64::try_from(NOW + 600).unwrap()).unwrap();
    params.subject_alt_names = vec![uri("spiffe://td/a")];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    change(&mut params);
    let issuer = Issuer::from_ca_cert_der(&mesh.authority.certificate, mesh.authority.key()).unwrap();
    vec![params.signed_by(&key, &issuer).unwrap().der().clone()]
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn the_matrix_of_the_svid_profile_is_decided_as_the_specification_says() {
    use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};
    type Change = fn(&mut CertificateParams);
    let refused: &[(&str, Change)] = &[
        ("no SAN", |p| p.subject_alt_names.clear()),
        ("no URI SAN", |p| p.subject_alt_names = vec![SanType::DnsName("td".try_into().unwrap())]),
        ("two URI SANs", |p| p.subject_alt_names.push(uri("spiffe://td/b"))),
        ("another URI", |p| p.subject_alt_names = vec![uri("https://td/a")]),
        ("no path", |p| p.subject_alt_names = vec![uri("spiffe://td")]),
        ("cA", |p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
        ("no keyUsage", |p| p.key_usages.clear()),
        ("no digitalSignature", |p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
        ("keyCertSign", |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ("cRLSign", |p| p.key_usages.push(KeyUsagePurpose::CrlSign)),
        ("serverAuth only", |p| p.extended_key_usages = vec![ServerAuth]),
        ("clientAuth only", |p| p.extended_key_usages = vec![ClientAuth]),
        ("neither", |p| p.extended_key_usages = vec![CodeSigning]),
        ("keyUsage not critical", |p| {
            p.key_usages.clear();
            // BIT STRING digitalSignature
            p.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]));
        }),
        ("SAN not critical with an empty subject", |p| {
            p.subject_alt_names.clear();
            let name = b"spiffe://td/a";
            let san = [&[0x30, 2 + name.len() as u8, 0x86, name.len() as u8], &name[..]].concat();
            p.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], san));
        }),
    ];
    let accepted: &[(&str, Change)] = &[
        ("the least", |_| ()),
        ("other SANs", |p| p.subject_alt_names.push(SanType::DnsName("a.td".try_into().unwrap()))),
        ("more key usages", |p| {
            p.key_usages.extend([KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyAgreement]);
        }),
        ("both extended usages", |p| p.extended_key_usages = vec![ServerAuth, ClientAuth]),
        ("cA false", |p| p.is_ca = IsCa::ExplicitNoCa),
        ("a subject", |p| p.distinguished_name.push(DnType::CommonName, "x")),
    ];
    let mesh = Mesh::new();
    for (name, change) in refused {
        let reason = Presented::parse(&leaf_with(&mesh, change)).unwrap_err().reason;
        assert_eq!(reason, Reason::SvidInvalid, "{name}");
    }
    for (name, change) in accepted {
        let presented =
            Presented::parse(&leaf_with(&mesh, change)).unwrap_or_else(|finding| panic!("{name}: {finding}"));
        assert_eq!(presented.id.as_ref().unwrap().as_str(), "spiffe://td/a");
        mesh.bundle.validate(&presented, now()).unwrap_or_else(|finding| panic!("{name}: {finding}"));
    }
}

#[test]
fn paths_end_in_the_bundle_of_the_leaf_s_own_trust_domain_and_in_time() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let presented = Presented::parse(&mesh.chain(&key, "spiffe://td/a", None)).unwrap();
    let reason = |bundle: &Bundle, time: UnixTime| bundle.validate(&presented, time).unwrap_err().reason;
    assert_eq!(reason(&other.bundle, now()), Reason::SvidUntrusted);
    let renamed = Bundle { trust_domain: TrustDomain::parse("td2").unwrap(), ..mesh.bundle.clone() };
    assert_eq!(reason(&renamed, now()), Reason::SvidUntrusted);
    let empty = Bundle { x509_authorities: Vec::new(), ..mesh.bundle.clone() };
    assert_eq!(reason(&empty, now()), Reason::SvidUntrusted);
    assert_eq!(reason(&mesh.bundle, at(NOW + 3601)), Reason::SvidExpired);
    assert_eq!(reason(&mesh.bundle, at(NOW - 11)), Reason::SvidExpired, "not valid yet");
    // The leaf's own certificate as a root does not make it one.
    let leaf_as_root = Bundle { x509_authorities: presented.chain.clone(), ..mesh.bundle.clone() };
    assert_eq!(reason(&leaf_as_root, now()), Reason::SvidUntrusted);

    // A leaf does not sign.
    let mut chain = mesh.chain(&key, "spiffe://td/a", None);
    chain.extend(mesh.chain(&key, "spiffe://td/b", None));
    assert_eq!(Presented::parse(&chain).unwrap_err().reason, Reason::SvidInvalid);
}

#[test]
fn a_leaf_never_outlives_its_ca() {
    let mesh = Mesh::new();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let leaf = Leaf { spki: &key.spki(), id: &id("spiffe://td/a"), lifetime: u64::MAX, cmw: None };
    let presented = Presented::parse(&mesh.authority.issue(&leaf, now()).unwrap()).unwrap();
    assert_eq!(presented.not_after, NOW + 86_400);
    assert_eq!(mesh.bundle.validate(&presented, now()).unwrap(), NOW + 86_400);
    assert!(mesh.authority.issue(&leaf, at(NOW + 86_400)).is_err());
    let serials: Vec<_> = (0..2).map(|_| mesh.authority.issue(&leaf, now()).unwrap()).collect();
    assert_ne!(serials[0], serials[1]);
}

#[test]
fn an_authority_is_restored_with_its_own_key_only() {
    let mesh = Mesh::new();
    let again = PrivateKey::from_pem(&mesh.authority.key().to_pem()).unwrap();
    let certificate = mesh.authority.certificate.clone();
    let restored = Authority::from_parts(certificate.clone(), again).unwrap();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let leaf = Leaf { spki: &key.spki(), id: &id("spiffe://td/a"), lifetime: 60, cmw: None };
    let presented = Presented::parse(&restored.issue(&leaf, now()).unwrap()).unwrap();
    assert!(mesh.bundle.validate(&presented, now()).is_ok());
    assert!(Authority::from_parts(certificate, key).is_err());
}

#[test]
fn a_bootstrap_identity_has_no_spiffe_id_whatever_it_says() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let identity = Identity::bootstrap(&key, now()).unwrap();
    let presented = Presented::parse(&identity.chain).unwrap();
    assert!(presented.self_signed && presented.id.is_none() && presented.evidence.is_none());
    assert_eq!(Mesh::new().bundle.validate(&presented, now()).unwrap_err().reason, Reason::SvidInvalid);

    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri("spiffe://td/admin")];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let forged = params.self_signed(&key).unwrap();
    let presented = Presented::parse(&[forged.der().clone()]).unwrap();
    assert!(presented.self_signed && presented.id.is_none());
}

#[test]
fn sizes_are_bounded_on_both_sides() {
    let mesh = Mesh::new();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let big = vec![0; 32 * 1024 + 1];
    let leaf = Leaf { spki: &key.spki(), id: &id("spiffe://td/a"), lifetime: 60, cmw: Some(&big) };
    assert_eq!(mesh.authority.issue(&leaf, now()).unwrap_err().reason, Reason::Oversized);

    let with = |size: usize| {
        leaf_with(&mesh, |p| {
            let content = octet_string(&vec![0xa0; size]);
            p.custom_extensions.push(CustomExtension::from_oid_content(ID_PE_CMW, content));
        })
    };
    let reason = |size: usize| Presented::parse(&with(size)).unwrap_err().reason;
    assert_eq!(reason(48 * 1024 - 4), Reason::Malformed, "just fits, and is then read");
    assert_eq!(reason(48 * 1024 - 3), Reason::Oversized);
    assert_eq!(reason(66_000), Reason::Oversized);

    let plain = mesh.chain(&key, "spiffe://td/a", None);
    let long = vec![plain[0].clone(); 6];
    assert_eq!(Presented::parse(&long).unwrap_err().reason, Reason::Oversized);
    let heavy = [plain[0].clone(), vec![0x30; MAX_CHAIN_BYTES].into()];
    assert_eq!(Presented::parse(&heavy).unwrap_err().reason, Reason::Oversized);
    assert_eq!(Presented::parse(&[]).unwrap_err().reason, Reason::CertificateRequired);
}

#[test]
fn a_second_extension_and_foreign_contents_are_refused() {
    let mesh = Mesh::new();
    let with = |values: &[(&[u64], Vec<u8>)]| {
        let chain = leaf_with(&mesh, |p| {
            p.custom_extensions
                .extend(values.iter().map(|(oid, v)| CustomExtension::from_oid_content(oid, v.clone())));
        });
        Presented::parse(&chain).map(|presented| presented.evidence).map_err(|finding| finding.reason)
    };
    let cmw = octet_string(&[0xa0]);
    let dice: &[u64] = &[2, 23, 133, 5, 4, 9];
    assert_eq!(with(&[(ID_PE_CMW, cmw.clone()), (ID_PE_CMW, cmw)]), Err(Reason::EvidenceDuplicate));
    assert_eq!(with(&[(ID_PE_CMW, vec![0x0c, 2, b'{', b'}'])]), Err(Reason::UnsupportedFormat));
    assert_eq!(with(&[(ID_PE_CMW, vec![0x30, 0])]), Err(Reason::Malformed));
    assert_eq!(with(&[(ID_PE_CMW, vec![0x04, 0x81, 0x01, 0xa0])]), Err(Reason::Malformed));
    let deep = [vec![0x81; 10_000], vec![0]].concat();
    assert_eq!(with(&[(ID_PE_CMW, octet_string(&deep))]), Err(Reason::Oversized));
    assert_eq!(with(&[(dice, vec![0xda, 0x00, 0x1a, 0x75, 0x04, 0x80])]), Err(Reason::UnsupportedFormat));
    assert_eq!(with(&[(dice, vec![0xd9, 0xea, 0x61, 0x80])]), Err(Reason::UnsupportedFormat));
    assert_eq!(with(&[(dice, vec![0xd9, 0xea, 0x60, 0x80])]), Err(Reason::Truncated));
    assert_eq!(with(&[]), Ok(None));
}

#[test]
fn of_two_extensions_with_evidence_none_counts() {
    let mesh = Mesh::new();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let cmw = cmw_with(sha256(&key.spki()), |expected| expected);
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri("spiffe://td/a")];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
        .custom_extensions
        .push(CustomExtension::from_oid_content(&[2, 23, 133, 5, 4, 9], vec![0xd9, 0xea, 0x60]));
    params.custom_extensions.push(CustomExtension::from_oid_content(ID_PE_CMW, octet_string(&cmw)));
    let issuer = Issuer::from_ca_cert_der(&mesh.authority.certificate, mesh.authority.key()).unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap().der().clone();
    assert_eq!(Presented::parse(&[leaf]).unwrap_err().reason, Reason::EvidenceDuplicate);
}

#[test]
fn published_ccc_certificates_bind_their_keys() {
    let Some(corpus) = corpus() else { return };
    for (file, spki) in [
        ("ratls-gramine-interop.pem", "5a5a5b2d177433048e9d62409d1acc4ec526c06e294d09e69a36cff9369e4851"),
        ("ratls-ratstls-interop.pem", "72c0b70c2092741a4cfda0c2465487faf132998617b0aad53118aa5d6e180006"),
    ] {
        let chain = certificates(&corpus.join("ra-tls").join(file));
        let presented = Presented::parse(&chain).unwrap_or_else(|finding| panic!("{file}: {finding}"));
        assert!(presented.self_signed && presented.id.is_none(), "{file}");
        assert_eq!(hex::encode(presented.spki_sha256), spki);
        let evidence = presented.evidence.unwrap();
        assert_eq!(
            (evidence.form, evidence.media_type.as_str()),
            (Form::Ccc, "application/vnd.countersign.sgx-quote")
        );
    }
    // Evidence of one certificate under the key of another; evidence in a form
    // that is not accepted, which is as good as none; and a certificate whose own
    // signature does not hold: not self-signed, so that it would have to be an SVID.
    for (file, expected) in [
        ("neg-ratls-relayed-dice.der", Err(Reason::BindingMismatch)),
        ("neg-ratls-relayed-nitro.der", Ok(None)),
        ("neg-ratls-oe-ec-bad.der", Err(Reason::SvidInvalid)),
    ] {
        let chain = certificates(&corpus.join("ra-tls/negative").join(file));
        let outcome =
            Presented::parse(&chain).map(|presented| presented.evidence).map_err(|finding| finding.reason);
        assert_eq!(outcome, expected, "{file}");
    }
}

#[test]
fn all_evidence_of_published_certificates_is_found_with_its_binding() {
    let Some(corpus) = corpus() else { return };
    for (file, forms, bound) in [
        (
            "ratls-gramine-interop.pem",
            &["SGX quote (Gramine, SGX SDK)", "CCC Interoperable RA-TLS"][..],
            true,
        ),
        ("ratls-ratstls-interop.pem", &["CCC Interoperable RA-TLS"], true),
        ("ratls-ratstls-wolfssl.pem", &["SGX quote (Gramine, SGX SDK)"], true),
        ("ratls-maa-signing-uks.pem", &["Open Enclave report"], true),
        ("ratls-evervault-nitro.pem", &[], true),
        ("negative/neg-ratls-relayed-dice.der", &["CCC Interoperable RA-TLS"], false),
        ("negative/neg-ratls-relayed-nitro.der", &[], false),
    ] {
        let chain = certificates(&corpus.join("ra-tls").join(file));
        let found = embedded::find(&chain[0]).unwrap();
        assert_eq!(found.iter().map(|e| e.form).collect::<Vec<_>>(), forms, "{file}");
        assert!(found.iter().all(|e| e.binding.is_ok() == bound), "{file}: {found:?}");
    }
}

#[test]
fn svids_and_bundles_of_the_corpus_are_decided_as_expected() {
    let Some(corpus) = corpus() else { return };
    let svids = corpus.join("spiffe/x509-svid");
    assert_eq!(
        svid::check(&certificates(&svids.join("good-leaf-only.pem"))).unwrap(),
        id("spiffe://example.org/workload-1")
    );
    for file in std::fs::read_dir(svids).unwrap().map(|entry| entry.unwrap().path()) {
        let good = file.ends_with("good-leaf-only.pem");
        assert_eq!(svid::check(&certificates(&file)).is_ok(), good, "{}", file.display());
    }
    for (file, good) in [
        ("spiffebundle/spiffebundle_valid_1.json", true),
        ("spiffebundle/spiffebundle_missing_kid.json", false),
        ("spiffebundle/spiffebundle_multiple_x509.json", false),
        ("jwtbundle/jwks_valid_1.json", true),
        ("jwtbundle/jwks_valid_2.json", true),
        ("jwtbundle/jwks_missing_kid.json", false),
        ("x509bundle/certs.pem", true),
        ("x509bundle/corrupted.pem", false),
        ("x509bundle/empty.pem", true),
    ] {
        let document = std::fs::read(corpus.join("spiffe").join(file)).unwrap();
        let bundle = Bundle::parse(TrustDomain::parse("example.org").unwrap(), &document);
        assert_eq!(bundle.is_ok(), good, "{file}: {bundle:?}");
    }
}

#[test]
fn a_bundle_survives_its_document() {
    let mesh = Mesh::new();
    let snapshot = PrivateKey::generate(KeyType::EcP256).unwrap().spki()[26..].to_vec();
    let bundle = Bundle {
        snapshot_keys: vec![("snapshot-1".to_owned(), snapshot)],
        sequence: 7,
        refresh_hint: Some(300),
        ..mesh.bundle
    };
    let document = bundle.to_json();
    assert_eq!(Bundle::parse(bundle.trust_domain.clone(), document.as_bytes()).unwrap(), bundle);
    let json: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!((&json["keys"][0]["use"], &json["keys"][0]["crv"]), (&"x509-svid".into(), &"P-256".into()));
    assert_eq!(json["keys"][1]["use"], "countersign-snapshot");
    assert!(json["keys"][0].get("kid").is_none());

    let unknown = r#"{"keys": [{"use": "wit-svid", "kty": "OKP"}], "more": 1}"#;
    assert!(Bundle::parse(bundle.trust_domain.clone(), unknown.as_bytes()).is_ok());
    for broken in ["{", r#"{"keys": 1}"#, r#"{"keys": [{"use": "x509-svid", "kty": "EC"}]}"#, "hello"] {
        assert!(Bundle::parse(bundle.trust_domain.clone(), broken.as_bytes()).is_err(), "{broken}");
    }
}
