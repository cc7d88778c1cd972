//! Documents that are written to do harm.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use countersign_config::{Problem, Resource, parse};

fn read(kind: &str, spec: &str) -> Result<Vec<Resource>, Vec<Problem>> {
    parse(
        "t.yaml",
        &format!(
            "apiVersion: countersign.dev/v1alpha1\nkind: {kind}\nmetadata: {{ name: x, namespace: n }}\n\
             spec: {spec}\n"
        ),
    )
}

fn identity(id: &str, labels: &str) -> Result<Vec<Resource>, Vec<Problem>> {
    read(
        "WorkloadIdentity",
        &format!("{{ spiffeId: '{id}', labels: {{{labels}}}, attestation: {{ policy: p }} }}"),
    )
}

#[test]
fn no_workload_gets_the_identity_of_an_operator_or_of_the_control_plane() {
    for id in ["operator/admin", "operator", "countersign/control-plane", "countersign"] {
        let problems = identity(&format!("spiffe://td/{id}"), "").unwrap_err();
        assert_eq!(problems[0].path, "spec.spiffeId", "{id}");
    }
    for id in ["operators/admin", "ns/operator/x", "countersign-demo"] {
        assert!(identity(&format!("spiffe://td/{id}"), "").is_ok(), "{id}");
    }
}

#[test]
fn an_identity_that_only_looks_like_another_is_refused() {
    for id in ["spiffe://td/\u{430}", "spiffe://\u{442}d/a", "spiffe://td/a\u{200d}", "spiffe://td/a/%61"] {
        assert!(identity(id, "").is_err(), "{id}");
    }
}

#[test]
fn what_is_empty_never_means_everything() {
    for value in ["~", "[]", "[~]", "{}"] {
        for field in ["principals", "notPrincipals", "tees"] {
            let rules = format!("{{ rules: [{{ from: [{{ {field}: {value} }}] }}] }}");
            assert!(read("AuthorizationPolicy", &rules).is_err(), "{rules}");
        }
        for rule in ["from", "to"] {
            let rules = format!("{{ rules: [{{ {rule}: {value} }}] }}");
            assert!(read("AuthorizationPolicy", &rules).is_err(), "{rules}");
        }
        for field in ["platforms", "roots", "tcbStatus", "mrConfigId", "tdAttributes"] {
            let spec = format!("{{ anyOf: [{{ tdx: {{ measurements: Any, {field}: {value} }} }}] }}");
            assert!(read("AttestationPolicy", &spec).is_err(), "{spec}");
        }
        for field in ["peers", "acceptForms"] {
            let spec = format!("{{ {field}: {value}, anyOf: [{{ tdx: {{ measurements: Any }} }}] }}");
            assert!(read("AttestationPolicy", &spec).is_err(), "{spec}");
        }
        assert!(read("AttestationPolicy", &format!("{{ anyOf: {value} }}")).is_err());
    }
}

#[test]
fn ten_thousands_of_mistakes_are_reported_as_the_first_hundred() {
    let labels: String = (0..40_000).map(|i| format!("-{i}: x, ")).collect();
    assert_eq!(identity("spiffe://td/a", &labels).unwrap_err().len(), 100);
    let advisories = "x,".repeat(90_000);
    let spec = format!("{{ anyOf: [{{ tdx: {{ measurements: Any, advisories: [{advisories}] }} }}] }}");
    assert_eq!(read("AttestationPolicy", &spec).unwrap_err().len(), 100);
}

#[test]
fn a_word_of_a_megabyte_is_no_misspelling() {
    let word = format!("AuthorizationPolic{}", "y".repeat(1_000_000));
    let problems = read(&word, "{}").unwrap_err();
    assert!(problems[0].message.len() < 200, "{}", problems[0].message);
    assert!(problems[0].hint.as_ref().unwrap().starts_with("known: "), "{}", problems[0]);
}
