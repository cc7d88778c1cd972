//! What we write ourselves is read as it was meant, and what operators shorten.
#![allow(clippy::unwrap_used, reason = "test code")]

use countersign_config::parse;

/// A resource with this specification in the namespace `n`.
fn resource(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: x, namespace: n}}\nspec: {spec}\n"
    )
}

#[test]
fn yaml_that_we_write_says_what_was_meant() {
    let values = [
        "true",
        "null",
        "~",
        "1.5",
        "0x10",
        "yes",
        "",
        " a",
        "a: b",
        "- x",
        "# c",
        "1e3",
        "é\n x",
        "|",
        "2027-01-01",
    ];
    let annotations: Vec<String> =
        values.iter().enumerate().map(|(i, v)| format!("a{i}: {}", serde_json::Value::from(*v))).collect();
    for digest in ["0".repeat(96), format!("1e{}", "0".repeat(94)), format!("{}e5", "9".repeat(94))] {
        let spec = format!("{{sevSnp: [{{name: '1', measurement: '{digest}'}}]}}");
        let text = resource("ReferenceValues", &spec)
            .replace("namespace: n", &format!("namespace: n, annotations: {{{}}}", annotations.join(", ")));
        let resources = parse("f.yaml", &text).unwrap();
        let yaml = resources[0].to_yaml();
        assert_eq!(parse("f.yaml", &yaml).unwrap(), resources, "{yaml}");
    }
}

#[test]
fn kinds_have_their_usual_names() {
    use countersign_config::Kind;
    for (name, kind) in [
        ("attpol", Kind::AttestationPolicy),
        ("AttestationPolicy", Kind::AttestationPolicy),
        ("attestationpolicies", Kind::AttestationPolicy),
        ("td", Kind::TrustDomain),
        ("WID", Kind::WorkloadIdentity),
    ] {
        assert_eq!(Kind::from_name(name), Some(kind), "{name}");
    }
    assert_eq!(Kind::from_name("pod"), None);
}
