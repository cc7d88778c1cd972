//! What an operator sees: every class of error, at its place.

use countersign_config::{Resource, parse};

/// Each problem as one line.
fn problems(text: &str) -> Vec<String> {
    parse("f.yaml", text).err().into_iter().flatten().map(|p| p.to_string()).collect()
}

const POLICY: &str = r#"apiVersion: countersign.dev/v1alpha1
kind: AttestationPolicy
metadata: { name: ledger-peers, namespace: payments }
spec:
  selector: { matchLabels: { app: ledger } }
  peers: ["spiffe://prod.example/ns/payments/*"]
  mode: Enforce
  anyOf:
    - tdx:
        debug: false
        tcbStatus: [UpToDate, SWHardeningNeeded]
        tcbGracePeriod: 336h
        measurements: { fromReferenceValues: ledger-2026-11 }
    - sevSnp:
        minTcb: { bootloader: 9, tee: 0, snp: 23, microcode: 72 }
        vmpl: 0
        measurements: Any
  freshness: { maxEvidenceAge: 1h }
"#;

#[test]
fn a_policy_is_read() {
    let resources = parse("f.yaml", POLICY).unwrap();
    let [Resource::AttestationPolicy(metadata, spec)] = resources.as_slice() else { panic!() };
    assert_eq!((metadata.namespace.as_str(), spec.any_of.len()), ("payments", 2));
    let again = Resource::from_json(&resources[0].to_json()).unwrap();
    assert_eq!(again, resources[0]);
    assert_eq!(again.to_json(), resources[0].to_json());
    assert_eq!(parse("y", &again.to_yaml()).unwrap(), resources, "{}", again.to_yaml());
}

#[test]
fn all_problems_of_all_documents_are_reported() {
    let text = POLICY
        .replace("tcbStatus", "tcbStatu")
        .replace("mode: Enforce", "mode: Enforced")
        .replace("336h", "14d")
        .replace("debug: false", "debug: true")
        .replace("bootloader: 9", "bootloader: 900")
        .replace("vmpl: 0", "vmpl: zero")
        .replace("measurements: Any", "measurements: Some")
        .replace("maxEvidenceAge: 1h", "")
        + "---\nkind: AtestationPolicy\n---\n- x\n";
    assert_eq!(
        problems(&text),
        [
            "f.yaml:7:9: spec.mode: is `Enforced`, accepted: Enforce, Audit (did you mean `Enforce`?)",
            "f.yaml:10:16: spec.anyOf[0].tdx.debug: is `true`, accepted: `false` (a debuggable TEE can be read \
             by whoever runs the machine, so its evidence proves nothing: no policy can admit it; write false \
             or leave the field out)",
            "f.yaml:11:9: spec.anyOf[0].tdx.tcbStatu: unknown field `tcbStatu` (did you mean `tcbStatus`?)",
            "f.yaml:12:25: spec.anyOf[0].tdx.tcbGracePeriod: `14d`: the largest unit is h (hours)",
            "f.yaml:15:31: spec.anyOf[1].sevSnp.minTcb.bootloader: is 900, accepted: 0 to 255",
            "f.yaml:16:15: spec.anyOf[1].sevSnp.vmpl: is the text `zero`, accepted: a whole number",
            "f.yaml:17:23: spec.anyOf[1].sevSnp.measurements: is `Some`, accepted: Any, or a mapping with \
             fromReferenceValues",
            "f.yaml:18:14: spec.freshness: field `maxEvidenceAge` is missing (The age counts from the issue of \
             the certificate, for which the evidence was made)",
            "f.yaml:20:7: kind: unknown kind `AtestationPolicy` (did you mean `AttestationPolicy`?)",
            "f.yaml:22:1: is not a resource: accepted is a mapping with apiVersion, kind, metadata, spec (known: \
             TrustDomain, ReferenceValues, AttestationPolicy, WorkloadIdentity, AuthorizationPolicy)",
        ]
    );
}
