//! Resources are checked together: what they name must be there, and only once.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use countersign_config::parse;

/// A resource with this specification in the namespace `n`.
fn resource(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: x, namespace: n}}\nspec: {spec}\n"
    )
}

#[test]
fn a_set_is_checked_across_its_resources() {
    let text = [
        resource(
            "WorkloadIdentity",
            "{spiffeId: spiffe://a/x, labels: {app: x}, attestation: {policy: polcy}}",
        ),
        resource("WorkloadIdentity", "{spiffeId: spiffe://a/x, attestation: {policy: policy}}")
            .replace("name: x", "name: y"),
        resource("WorkloadIdentity", "{spiffeId: spiffe://b/z, attestation: {policy: policy}}")
            .replace("x, namespace: n", "z, namespace: m"),
        resource("TrustDomain", "{}").replace("name: x, namespace: n", "name: a"),
        resource("AttestationPolicy", "{anyOf: [{sevSnp: {measurements: {fromReferenceValues: r1}}}]}")
            .replace("name: x", "name: policy"),
        resource("AttestationPolicy", "{anyOf: [{sgx: {measurements: Any, platformsFrom: [ours, our]}}]}")
            .replace("name: x", "name: listed"),
        resource(
            "AttestationPolicy",
            "{anyOf: [{tdx: {measurements: Any, runtimeEvents: {fromReferenceValues: ran}}}]}",
        )
        .replace("name: x", "name: measured"),
        resource("PlatformList", "{}").replace("name: x", "name: our"),
        resource("PlatformList", "{platforms: []}").replace("name: x", "name: idle"),
        resource(
            "ReferenceValues",
            &format!(
                "{{validUntil: 2026-01-01T00:00:00Z, sevSnp: [{{name: a, measurement: '{}'}}]}}",
                "00".repeat(48)
            ),
        ),
        resource("AuthorizationPolicy", "{selector: {matchLabels: {app: y}}, rules: [{}]}"),
    ]
    .join("---\n");
    let resources = parse("f.yaml", &text).unwrap();
    let problems: Vec<_> = countersign_config::set::check_set_at(&resources, Some(1_800_000_000))
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        problems,
        [
            "WorkloadIdentity n/x, spec.attestation.policy: there is no AttestationPolicy n/polcy (did you mean `policy`?)",
            "WorkloadIdentity n/y, spec.spiffeId: spiffe://a/x is already given to WorkloadIdentity n/x",
            "WorkloadIdentity m/z, spec.spiffeId: spiffe://b/z is outside the trust domain a",
            "WorkloadIdentity m/z, spec.attestation.policy: there is no AttestationPolicy m/policy \
             (AttestationPolicy n/policy exists, but names are of the same namespace)",
            "AttestationPolicy n/policy, spec.anyOf[0].sevSnp.measurements.fromReferenceValues: there is no ReferenceValues n/r1",
            "AttestationPolicy n/listed, spec.anyOf[0].sgx.platformsFrom: there is no PlatformList n/ours (did you mean `our`?)",
            "AttestationPolicy n/measured, spec.anyOf[0].tdx.runtimeEvents.fromReferenceValues: there is no ReferenceValues n/ran",
            "warning: PlatformList n/idle: no AttestationPolicy of its namespace names it: it has no effect",
            "warning: ReferenceValues n/x: no AttestationPolicy of its namespace names it: it has no effect",
            "warning: ReferenceValues n/x, spec.validUntil: ended at 2026-01-01T00:00:00Z: nothing is accepted on its word",
            "warning: AuthorizationPolicy n/x, spec.selector: selects no WorkloadIdentity of its namespace: it has no effect on hops",
        ]
    );
}

#[test]
fn an_identity_is_never_given_without_evidence() {
    let text = resource("AttestationPolicy", "{level: L0, acceptUnattested: true}")
        + "---\n"
        + &resource("WorkloadIdentity", "{spiffeId: spiffe://a/x, attestation: {policy: x}}");
    let resources = parse("f.yaml", &text).unwrap();
    let problems: Vec<_> =
        countersign_config::resource::check_set(&resources).iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "WorkloadIdentity n/x, spec.attestation.policy: x is of level L0, which asks for no evidence: nobody gets spiffe://a/x"
        ]
    );
}

#[test]
fn what_is_not_among_some_files_may_be_elsewhere() {
    let text = resource("WorkloadIdentity", "{spiffeId: spiffe://a/x, attestation: {policy: polcy}}")
        + "---\n"
        + &resource("WorkloadIdentity", "{spiffeId: spiffe://a/x, attestation: {policy: policy}}")
            .replace("name: x", "name: y")
        + "---\n"
        + &resource("AttestationPolicy", "{anyOf: [{tdx: {measurements: Any}}]}")
            .replace("name: x", "name: policy");
    let resources = parse("f.yaml", &text).unwrap();
    let problems: Vec<_> =
        countersign_config::resource::check_part(&resources).iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "warning: WorkloadIdentity n/x, spec.attestation.policy: AttestationPolicy n/polcy is not in these files: \
             not checked (did you mean `policy`?)",
            "WorkloadIdentity n/y, spec.spiffeId: spiffe://a/x is already given to WorkloadIdentity n/x",
        ]
    );
}
