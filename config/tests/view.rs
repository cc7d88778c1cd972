//! What a view decides, with real evidence of emulated machines.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use common::{AUDIT, LEDGER, NOW, WORLD, at, id, other_release, policy, resources};
use countersign_attester::Attester as _;
use countersign_attester::emulated::TdxSpec;
use countersign_config::view::explain::Known;
use countersign_config::{Guard, View};
use countersign_evidence::collateral::Marks;
use countersign_evidence::{Denial, Reason};
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::peer::{Admission, Form, Judge as _, Presented, Role};
use rustls_pki_types::CertificateDer;

fn authorization(name: &str, action: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: countersign.dev/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{ name: {name}, namespace: payments }}\n\
         spec: {{ selector: {{ matchLabels: {{ app: audit }} }}, action: {action}, rules: {rules} }}\n"
    )
}

fn judge(view: &View, presented: Presented, seconds: u64) -> Result<Admission, Denial> {
    view.judge_hop(&id(AUDIT), presented, at(seconds))
}

fn reason(result: Result<Admission, Denial>) -> Reason {
    result.map(drop).unwrap_err().reason
}

#[test]
fn an_approved_peer_is_admitted_until_the_first_of_its_proofs_ends() {
    let view = WORLD.view(&resources());
    let admission = judge(&view, WORLD.presented(LEDGER, TdxSpec::default()), 60).unwrap();
    assert_eq!((admission.generation, admission.verdicts.len()), (17, 1));
    assert!(admission.claims.unwrap().emulated);
    assert_eq!(admission.valid_until, NOW + 7200, "the SVID ends first");

    let fresh = "freshness: { maxEvidenceAge: 1h }\n  level: L1";
    let view = WORLD.view(&(resources() + &policy("payments", "fresh", fresh, "Any")));
    let admission = judge(&view, WORLD.presented(LEDGER, TdxSpec::default()), 60).unwrap();
    assert_eq!(admission.valid_until, admission.presented.not_before + 3600);
    let stale = judge(&view, WORLD.presented(LEDGER, TdxSpec::default()), 3700);
    assert_eq!(reason(stale), Reason::EvidenceStale);
}

#[test]
fn another_release_is_refused_with_field_and_policy() {
    let denial = judge(&WORLD.view(&resources()), WORLD.presented(LEDGER, other_release()), 60).unwrap_err();
    assert_eq!(denial.reason, Reason::MeasurementMismatch);
    assert_eq!(denial.rule, "anyOf[0].tdx");
    assert_eq!(denial.policy.as_ref().unwrap().to_string(), "payments/everyone (generation 17)");
    assert_eq!(denial.findings[0].field, "rtmr[2]", "{denial}");
}

#[test]
fn every_enforced_policy_must_hold_and_audits_are_only_recorded() {
    let lenient = resources().replace("{ fromReferenceValues: release }", "Any");
    assert!(judge(&WORLD.view(&lenient), WORLD.presented(LEDGER, other_release()), 60).is_ok());
    let strict =
        |more| lenient.clone() + &policy("payments", "strict", more, "{ fromReferenceValues: release }");
    let denied = judge(&WORLD.view(&strict("mode: Enforce")), WORLD.presented(LEDGER, other_release()), 60);
    assert_eq!(denied.unwrap_err().policy.unwrap().name, "strict");
    let audited =
        judge(&WORLD.view(&strict("mode: Audit")), WORLD.presented(LEDGER, other_release()), 60).unwrap();
    let allowed: Vec<_> = audited.verdicts.iter().map(|v| (v.policy.name.as_str(), v.allows())).collect();
    assert_eq!(allowed, [("everyone", true), ("strict", false)]);
    // A policy about other peers has no say.
    let others = strict("peers: [\"spiffe://demo.example/other/*\"]");
    assert!(judge(&WORLD.view(&others), WORLD.presented(LEDGER, other_release()), 60).is_ok());
}

#[test]
fn without_an_enforced_policy_nobody_is_admitted() {
    let peer = || WORLD.presented(LEDGER, TdxSpec::default());
    let audit_only = resources().replace("spec:\n  \n", "spec:\n  mode: Audit\n");
    let denial = judge(&WORLD.view(&audit_only), peer(), 60).unwrap_err();
    assert_eq!(denial.reason, Reason::NoPolicy);
    assert!(denial.to_string().contains("only with mode Audit"), "{denial}");

    let view = WORLD.view(&resources());
    let stranger = view.judge_hop(&id("spiffe://demo.example/x"), peer(), at(60)).unwrap_err();
    assert_eq!(stranger.reason, Reason::NoPolicy);
    assert_eq!(stranger.findings[0].field, "WorkloadIdentity");

    // Policies select in their own namespace, except those of the root namespace.
    let elsewhere =
        resources().replace("name: everyone, namespace: payments", "name: everyone, namespace: other");
    let built = WORLD.build(&elsewhere);
    assert_eq!(reason(judge(&built.view, peer(), 60)), Reason::NoPolicy);
    assert_eq!(built.rejected.len(), 3, "two identities without policy, a policy without reference values");
    let root = elsewhere + &policy("countersign-system", "mesh", "", "Any");
    assert!(judge(&WORLD.build(&root).view, peer(), 60).is_ok());
}

#[test]
fn a_policy_whose_reference_values_are_missing_refuses() {
    let text = resources().replace("name: release,", "name: other,");
    let built = WORLD.build(&text);
    assert_eq!(built.rejected.len(), 1);
    assert!(built.rejected[0].1.contains("payments/release"), "{}", built.rejected[0].1);
    let denied = judge(&built.view, WORLD.presented(LEDGER, TdxSpec::default()), 60);
    assert_eq!(reason(denied), Reason::ReferenceValuesUnusable);
}

#[test]
fn the_path_and_the_evidence_are_checked_before_policies() {
    let view = WORLD.view(&resources());
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let bare = Presented::parse(&WORLD.issue(&key.spki(), LEDGER, None)).unwrap();
    assert_eq!(reason(judge(&view, bare, 60)), Reason::EvidenceMissing);
    let late = judge(&view, WORLD.presented(LEDGER, TdxSpec::default()), 7300);
    assert_eq!(reason(late), Reason::SvidExpired);
    let mut inputs = WORLD.inputs(&resources());
    inputs.bundles.clear();
    let view = View::build(inputs, &mut Marks::default(), at(0)).view;
    let unknown = judge(&view, WORLD.presented(LEDGER, TdxSpec::default()), 60);
    assert_eq!(reason(unknown), Reason::SvidUntrusted);
}

/// 2.23.133.5.4.9 with `60000([quote, claims-buffer])` of CCC Interoperable RA-TLS.
fn ccc_extension(key: &PrivateKey) -> rcgen::CustomExtension {
    let spki_hash = digest::digest(&digest::SHA256, &key.spki());
    let claims = [b"\xa1\x6bpubkey-hash\x58\x24\x82\x01\x58\x20", spki_hash.as_ref()].concat();
    let mut report_data = [0; 64];
    report_data[..32].copy_from_slice(digest::digest(&digest::SHA256, &claims).as_ref());
    let quote = WORLD.vendor.tdx(TdxSpec::default()).unwrap().quote(&report_data).unwrap();
    let length = u16::try_from(quote.len()).unwrap().to_be_bytes();
    let claims_length = [0x58, u8::try_from(claims.len()).unwrap()];
    let value = [b"\xd9\xea\x60\x82\x59", &length[..], &quote[..], &claims_length[..], &claims[..]].concat();
    rcgen::CustomExtension::from_oid_content(&[2, 23, 133, 5, 4, 9], value)
}

/// An SVID of this CA whose evidence stands in these extensions.
fn svid_with(key: &PrivateKey, extensions: Vec<rcgen::CustomExtension>) -> Vec<CertificateDer<'static>> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = time::OffsetDateTime::from_unix_timestamp(i64::try_from(NOW).unwrap()).unwrap();
    params.not_after = params.not_before + Duration::from_secs(7200);
    params.subject_alt_names = vec![rcgen::SanType::URI(LEDGER.try_into().unwrap())];
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.custom_extensions = extensions;
    let issuer =
        rcgen::Issuer::from_ca_cert_der(&WORLD.authority.certificate, WORLD.authority.key()).unwrap();
    vec![params.signed_by(key, &issuer).unwrap().der().clone()]
}

/// From the bytes of a certificate on, as in a handshake.
#[test]
fn foreign_forms_of_evidence_are_accepted_on_request() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let chain = svid_with(&key, vec![ccc_extension(&key)]);
    let foreign = || {
        let presented = Presented::parse(&chain).unwrap();
        assert_eq!(presented.evidence.as_ref().unwrap().form, Form::Ccc);
        presented
    };
    let thief = PrivateKey::generate(KeyType::EcP256).unwrap();
    let stolen = Presented::parse(&svid_with(&thief, vec![ccc_extension(&key)])).unwrap_err();
    assert_eq!(stolen.reason, Reason::BindingMismatch);
    let native = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 35], vec![4, 1, 0xa0]);
    let both = Presented::parse(&svid_with(&key, vec![native, ccc_extension(&key)])).unwrap_err();
    assert_eq!(both.reason, Reason::EvidenceDuplicate);

    let denial = judge(&WORLD.view(&resources()), foreign(), 60).unwrap_err();
    assert_eq!((denial.reason, denial.rule.as_str()), (Reason::UnsupportedFormat, "acceptForms"));
    let lenient = resources().replace("spec:\n  \n", "spec:\n  acceptForms: [Native, Ccc]\n");
    assert!(judge(&WORLD.view(&lenient), foreign(), 60).is_ok());
    let audited = lenient + &policy("payments", "native", "mode: Audit", "Any");
    let admission = judge(&WORLD.view(&audited), foreign(), 60).unwrap();
    assert_eq!(admission.verdicts.iter().filter(|v| !v.allows()).count(), 1);
}

#[test]
fn an_emulated_root_that_no_policy_names_is_not_admitted() {
    let stranger = "00".repeat(32);
    let text = resources().replace("ROOT", &stranger);
    let denied = judge(&WORLD.build(&text).view, WORLD.presented(LEDGER, TdxSpec::default()), 60);
    let reason = reason(denied);
    assert!(matches!(reason, Reason::UntrustedRoot | Reason::CollateralMissing), "{reason}");
}

#[test]
fn an_emulated_root_among_those_of_vendors_is_still_an_emulated_one() {
    let built = WORLD.build(&resources().replace("emulatedRoots", "roots"));
    let denial = judge(&built.view, WORLD.presented(LEDGER, TdxSpec::default()), 60).unwrap_err();
    assert_eq!(denial.reason, Reason::EmulatedNotAdmitted, "{denial}");
}

#[test]
fn identities_are_given_for_the_proof_that_their_policy_demands() {
    let view = WORLD.view(&resources());
    let claims = |spec| {
        let produced = WORLD.vendor.tdx(spec).unwrap().evidence(&[1; 64]).unwrap();
        view.verify(produced.media_type, &produced.value, at(1)).unwrap()
    };
    let (given, verdict) = view.entitle("payments/ledger", &claims(TdxSpec::default()), at(1)).unwrap();
    assert_eq!((given, verdict.allows()), (id(LEDGER), true));
    let denied = view.entitle("payments/ledger", &claims(other_release()), at(1)).unwrap_err();
    assert_eq!(denied.reason, Reason::MeasurementMismatch);
    let unknown = view.entitle("payments/nobody", &claims(TdxSpec::default()), at(1)).unwrap_err();
    assert_eq!(unknown.reason, Reason::UnknownWorkload);
    assert!(view.judge_workload(WORLD.presented(LEDGER, TdxSpec::default()), at(60)).is_ok());
    assert!(view.judge_workload(WORLD.presented(LEDGER, other_release()), at(60)).is_err());

    // Somebody else claims the ledger's SPIFFE ID in another namespace.
    let thief = resources()
        + &policy("aaa", "weak", "", "Any")
        + "---\napiVersion: countersign.dev/v1alpha1\nkind: WorkloadIdentity\n\
           metadata: { name: ledger, namespace: aaa }\n\
           spec: { spiffeId: spiffe://demo.example/ns/payments/ledger, attestation: { policy: weak } }\n";
    let view = WORLD.build(&thief).view;
    assert!(view.entitle("aaa/ledger", &claims(other_release()), at(1)).is_err());
}

#[test]
fn calls_are_decided_in_the_order_of_istio() {
    let view = |more: &str| WORLD.view(&(resources() + more));
    let peer = judge(&view(""), WORLD.presented(LEDGER, TdxSpec::default()), 60).unwrap();
    let decide = |more: &str| view(more).authorize(&peer, &id(AUDIT), 8443);

    let decision = decide("");
    assert!(
        !decision.allowed && decision.rule.starts_with("default deny: no AuthorizationPolicy"),
        "{decision:?}"
    );
    let allow = |rules: &str| authorization("allow", "Allow", rules);
    for (rules, expected) in [
        ("[{}]", true),
        ("[]", false),
        ("[{ from: [{ principals: [\"spiffe://demo.example/ns/payments/*\"] }] }]", true),
        ("[{ from: [{ principals: [\"spiffe://demo.example/x\"] }] }, { to: [{ ports: [8443] }] }]", true),
        ("[{ from: [{ principals: [\"*\"], notPrincipals: [\"spiffe://demo.example/ns/*\"] }] }]", false),
        ("[{ from: [{ tees: [tdx] }], to: [{ ports: [8443] }] }]", true),
        ("[{ from: [{ tees: [sevSnp, sgx] }] }]", false),
        ("[{ from: [{ tees: [tdx] }], to: [{ ports: [80] }] }]", false),
    ] {
        let decision = decide(&allow(rules));
        assert_eq!(decision.allowed, expected, "{rules}: {decision:?}");
        if expected {
            assert!(decision.rule.starts_with("AuthorizationPolicy payments/allow, rules["), "{decision:?}");
        }
    }
    let ports = decide(&allow(
        "[{ to: [{ ports: [9] }] }, { from: [{ principals: [\"spiffe://demo.example/x\"] }] }]",
    ));
    assert_eq!(
        ports.rule,
        format!(
            "default deny: no rule of payments/allow allows port 8443: payments/allow rules[0] allows ports 9, \
             asked: 8443; payments/allow rules[1] allows callers spiffe://demo.example/x, asked by: {LEDGER} (tdx)"
        )
    );
    let many = decide(&allow(&format!("[{}]", ["{ to: [{ ports: [1, 2, 3, 4, 5, 6] }] }"; 9].join(","))));
    assert!(many.rule.contains("1, 2, 3, 4 and 2 more") && many.rule.ends_with("; and 5 more"), "{many:?}");
    let denied = decide(&(allow("[{}]") + &authorization("deny", "Deny", "[{ to: [{ ports: [8443] }] }]")));
    assert_eq!(
        (denied.allowed, denied.rule.as_str()),
        (false, "AuthorizationPolicy payments/deny, rules[0]")
    );
    let audited = decide(&(allow("[{}]") + &authorization("audit", "Audit", "[{}]")));
    assert_eq!((audited.allowed, audited.audited.len()), (true, 1));
    assert!(!view(&allow("[{}]")).authorize(&peer, &id(LEDGER), 8443).allowed, "not selected");
}

#[test]
fn a_view_for_the_control_plane_guards_without_identities() {
    let text = policy("default", "control-plane", "peers: [\"spiffe://demo.example/cp\"]", "Any")
        + &policy(
            "default",
            "selecting",
            "selector: { matchLabels: { a: b } }",
            "{ fromReferenceValues: none }",
        );
    let view = View::for_control_plane(WORLD.inputs(&text), &mut Marks::default(), at(0)).view;
    let me = id("spiffe://demo.example/whoever");
    let cp = "spiffe://demo.example/cp";
    assert!(view.judge_hop(&me, WORLD.presented(cp, TdxSpec::default()), at(60)).is_ok());
    let other = view.judge_hop(&me, WORLD.presented(LEDGER, TdxSpec::default()), at(60));
    assert_eq!(reason(other), Reason::NoPolicy);
}

#[test]
fn the_next_view_takes_over_what_is_still_true() {
    let first = WORLD.view(&resources());
    let next = |text: &str| View::build_after(&first, WORLD.inputs(text), &mut Marks::default(), at(0)).view;
    assert_eq!(next(&resources()).id(), first.id());
    let changed = next(&resources().replace("name: v1,", "name: v2,"));
    assert_ne!(changed.id(), first.id());
    assert_eq!(changed.collateral.id(), first.collateral.id());
    assert!(judge(&changed, WORLD.presented(LEDGER, TdxSpec::default()), 60).is_ok());
}

#[test]
fn the_guard_remembers_for_one_view_and_no_longer_than_it_holds() {
    let view = Arc::new(ArcSwap::from_pointee(WORLD.view(&resources())));
    let guard = Guard::new(id(AUDIT), Arc::clone(&view), 64);
    let good = WORLD.chain(LEDGER, TdxSpec::default());
    let bad = WORLD.chain(LEDGER, other_release());

    let first = guard.judge(&good, Role::Client, at(60)).unwrap();
    assert!(Arc::ptr_eq(&first, &guard.judge(&good, Role::Client, at(7200)).unwrap()));
    assert_eq!(guard.cache_use(), (1, 1));
    assert_eq!(guard.judge(&good, Role::Client, at(7201)).unwrap_err().reason, Reason::SvidExpired);
    assert!(!Arc::ptr_eq(&first, &guard.judge(&good, Role::Client, at(59)).unwrap()), "the clock went back");

    assert!(guard.judge(&bad, Role::Client, at(60)).is_err());
    let (hits, misses) = guard.cache_use();
    assert!(guard.judge(&bad, Role::Client, at(65)).is_err());
    assert_eq!(guard.cache_use(), (hits + 1, misses));
    assert!(guard.judge(&bad, Role::Client, at(66)).is_err());
    assert_eq!(guard.cache_use(), (hits + 1, misses + 1));

    // A policy changes, at the same generation (files): what is remembered is not used.
    view.store(Arc::new(WORLD.view(&resources().replace(&"d3".repeat(48), &"ee".repeat(48)))));
    assert_eq!(guard.judge(&good, Role::Client, at(61)).unwrap_err().reason, Reason::MeasurementMismatch);
    assert!(guard.judge(&bad, Role::Client, at(61)).is_ok());
}

#[test]
fn an_explanation_says_who_demands_what() {
    let text = resources() + &authorization("allow", "Allow", "[{ to: [{ ports: [8443] }] }]");
    let view = WORLD.view(&text);
    let claims = judge(&view, WORLD.presented(LEDGER, TdxSpec::default()), 60).unwrap().claims;
    let known = Known { source: claims, destination: None };
    let explanation = view.explain(&id(LEDGER), &id(AUDIT), 8443, &known, at(60));
    let json = serde_json::to_value(&explanation).unwrap();
    let demand = &json["sourceMustProve"]["policies"][0];
    assert_eq!(demand["policy"], "AttestationPolicy payments/everyone");
    assert!(demand["anyOf"][0].as_str().unwrap().contains("measurements of release"));
    assert!(demand["verdict"]["outcome"]["allow"].is_object());
    assert_eq!(json["destinationMustProve"]["guard"], LEDGER);
    assert_eq!(json["authorization"]["allowed"], true);
    let nobody = view.explain(&id("spiffe://demo.example/x"), &id(AUDIT), 80, &Known::default(), at(60));
    assert_eq!(nobody.destination_must_prove.refused.unwrap().reason, Reason::NoPolicy);
    assert!(!nobody.authorization.allowed && !nobody.assumptions.is_empty());
}

#[test]
fn a_revocation_that_was_issued_ahead_of_our_clock_counts_from_then_on() {
    use countersign_attester::emulated::CollateralSpec;
    let machine = WORLD.vendor.tdx(TdxSpec::default()).unwrap();
    let newer = CollateralSpec {
        issued: Some(NOW + 60),
        crl_number: 2,
        revoked_pck: vec![machine.pck_serial().clone()],
        ..CollateralSpec::default()
    };
    let inputs = || {
        let mut inputs = WORLD.inputs(&resources());
        inputs.collateral.extend(WORLD.vendor.collateral_with(&newer, at(0)).unwrap());
        inputs
    };
    // Signatures are random: the very same items each time.
    let (first, second, third) = {
        let items = inputs();
        (items.clone(), items.clone(), items)
    };
    let mut marks = Marks::default();
    let view = View::build(first, &mut marks, at(0)).view;
    assert_eq!(view.renew_at(), Some(NOW + 60));
    assert!(judge(&view, WORLD.presented(LEDGER, TdxSpec::default()), 30).is_ok());
    let view = View::build_after(&view, second, &mut marks, at(59)).view;
    // Nothing that was decided before it counts holds beyond.
    let admission = judge(&view, WORLD.presented(LEDGER, TdxSpec::default()), 59).unwrap();
    assert_eq!(admission.valid_until, NOW + 59);
    let view = View::build_after(&view, third, &mut marks, at(60)).view;
    assert_eq!(view.renew_at(), None);
    for judged in [
        judge(&view, WORLD.presented(LEDGER, TdxSpec::default()), 60),
        view.rejudge_hop(&id(AUDIT), &admission, at(60)),
    ] {
        assert_eq!(judged.unwrap_err().reason, Reason::CertificateRevoked);
    }
}
