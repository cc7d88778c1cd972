//! Nothing that a file holds makes us panic, and what is accepted round-trips.

#![allow(clippy::unwrap_used, reason = "test code")]

use countersign_config::{Resource, bootstrap, parse};
use proptest::prelude::*;

/// Words that mean something to us, and the syntax between them.
fn yaml_ish() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "apiVersion: countersign.dev/v1alpha1\n",
        "kind: AttestationPolicy\n",
        "kind: ReferenceValues\n",
        "kind: AuthorizationPolicy\n",
        "kind: TrustDomain\n",
        "kind: WorkloadIdentity\n",
        "kind: Service\n",
        "kind: WorkloadEntry\n",
        "apiVersion: gateway.networking.k8s.io/v1\n",
        "kind: HTTPRoute\n",
        "kind: GRPCRoute\n",
        "kind: ProxyBootstrap\n",
        "metadata: {name: x}\n",
        "metadata:\n",
        "spec:\n",
        "spec: {}\n",
        "  anyOf:\n",
        "  - tdx:\n",
        "    measurements: Any\n",
        "  rules: [{}]\n",
        "  ports: [{port: 80}]\n",
        "  hosts: [a.example]\n",
        "  parentRefs: [{group: '', kind: Service, name: x}]\n",
        "  backendRefs: [{name: x, port: 80}]\n",
        "  rules:\n",
        "  selector: {matchLabels: {a: b}}\n",
        "---\n",
        "...\n",
        "&a ",
        "*a ",
        "<<: ",
        "!!str ",
        "? ",
        "| \n",
        "> \n",
        "'",
        "\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        ": ",
        "- ",
        "\n",
        "  ",
        "\t",
        "#",
        "~",
        "null",
        "1e999",
        "0x1f",
        ".nan",
        "90s",
        "-1",
        "99999999999999999999",
        "spiffe://a/b",
        "\u{feff}",
        "\u{0}",
        "é",
        "%YAML 1.2\n",
    ]);
    prop::collection::vec(words, 0..40).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in yaml_ish()) {
        if let Ok(resources) = parse("f", &text) {
            for resource in resources {
                prop_assert_eq!(Resource::from_json(&resource.to_json()).unwrap(), resource);
            }
        }
        let _ = bootstrap::validate("f", &text);
        let _ = Resource::from_json(&text);
    }

    #[test]
    fn no_characters_panic(text in "\\PC{0,200}") {
        let _ = parse("f", &text);
    }

    #[test]
    fn no_damage_to_an_example_panics(at in 0usize..4000, length in 0usize..40, with in "\\PC{0,8}") {
        let example = include_str!("../examples/payments.yaml");
        let mut chars: Vec<char> = example.chars().collect();
        let from = at.min(chars.len());
        let to = (from + length).min(chars.len());
        chars.splice(from..to, with.chars());
        let _ = parse("f", &chars.into_iter().collect::<String>());
    }
}
