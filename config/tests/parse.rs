//! What an operator sees: every class of error, at its place.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

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
             TrustDomain, ReferenceValues, PlatformList, AttestationPolicy, WorkloadIdentity, AuthorizationPolicy, \
             WorkloadEntry, Service, HTTPRoute, GRPCRoute)",
        ]
    );
}

/// A resource with this specification in the namespace `n`.
fn resource(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: x, namespace: n}}\nspec: {spec}\n"
    )
}

#[test]
fn each_class_of_error_has_its_place_and_says_what_is_accepted() {
    let wid = |spec: &str| resource("WorkloadIdentity", spec);
    let tdx = |block: &str| resource("AttestationPolicy", &format!("{{anyOf: [{{tdx: {block}}}]}}"));
    let authz = |spec: &str| resource("AuthorizationPolicy", spec);
    let refs = |spec: &str| resource("ReferenceValues", spec);
    let cases: Vec<(String, &[&str])> = vec![
        // --- YAML
        ("a: [1, 2\n".to_owned(), &["f.yaml:1:4: not valid YAML: unclosed bracket"]),
        ("a: 1\na: 2\n".to_owned(), &["f.yaml:2:1: not valid YAML: duplicate mapping key: a"]),
        ("a: &a {x: 1}\nb: {<<: *a}\n".to_owned(), &["f.yaml:2:5: not valid YAML"]),
        // --- the envelope
        ("x\n".to_owned(), &["f.yaml:1:1: is not a resource"]),
        (
            wid("{}").replace("v1alpha1", "v1"),
            &[
                "f.yaml:1:13: apiVersion: is the text `countersign.dev/v1`, accepted: `countersign.dev/v1alpha1`",
                "f.yaml:4:7: spec: field `spiffeId` is missing",
                "f.yaml:4:7: spec: field `attestation` is missing",
            ],
        ),
        (
            wid("").replace("name: x, ", ""),
            &[
                "f.yaml:3:11: metadata: field `name` is missing",
                "f.yaml:4:5: spec: is empty, accepted: a mapping (give a value or remove the field)",
            ],
        ),
        (
            "kind: ProxyBootstrap\n".to_owned(),
            &["f.yaml:1:7: kind: `ProxyBootstrap` is the file that a process"],
        ),
        (
            resource("TrustDomain", "{}"),
            &["f.yaml:3:21: metadata.namespace: unknown field `namespace` (known: "],
        ),
        (
            resource("TrustDomain", "{}").replace(", namespace: n", "").replace("name: x", "name: X"),
            &["f.yaml:3:18: metadata.name: trust domain is 'X' in \"X\", accepted: characters a-z 0-9 . - _"],
        ),
        (
            wid("{}").replace("name: x", "name: X_"),
            &[
                "f.yaml:3:18: metadata.name: `X_` is not a DNS-1123 name",
                "f.yaml:4:7: spec: field",
                "f.yaml:4:7: spec: field",
            ],
        ),
        // --- texts with a grammar
        (
            wid("{spiffeId: spiffe://A/x, attestation: {policy: p}}"),
            &["f.yaml:4:18: spec.spiffeId: trust domain is 'A'"],
        ),
        (
            wid("{spiffeId: http://a/x, attestation: {policy: p}}"),
            &["f.yaml:4:18: spec.spiffeId: SPIFFE ID is"],
        ),
        (
            wid("{spiffeId: 'spiffe://a', attestation: {policy: p}}"),
            &["f.yaml:4:18: spec.spiffeId: `spiffe://a` is the trust domain's own ID"],
        ),
        (
            wid("{spiffeId: 'spiffe://a/x', labels: {app: [x]}, attestation: {policy: p}}"),
            &["f.yaml:4:48: spec.labels.app: is a list, accepted: a text"],
        ),
        (
            wid("{spiffeId: 'spiffe://a/x', labels: {'a b': x, ok: '-'}, attestation: {policy: p}}"),
            &[
                "f.yaml:4:50: spec.labels[\"a b\"]: `a b` is not a label key",
                "f.yaml:4:57: spec.labels.ok: `-` is not a label value",
            ],
        ),
        (
            tdx("{measurements: Any, tdAttributes: 0011}"),
            &[
                "f.yaml:4:56: spec.anyOf[0].tdx.tdAttributes: is the number 11, accepted: a text (put it in quotes",
            ],
        ),
        (
            tdx("{measurements: Any, tdAttributes: '0011'}"),
            &["f.yaml:4:56: spec.anyOf[0].tdx.tdAttributes: `0011` has 4 hex digits, the field has 16"],
        ),
        (
            tdx("{measurements: Any, tdAttributes: 001122334455667F}"),
            &[
                "f.yaml:4:56: spec.anyOf[0].tdx.tdAttributes: `001122334455667F` holds 'F', which is no digit 0-9 a-f, write it in lower case",
            ],
        ),
        (
            tdx("{measurements: Any, tcbGracePeriod: 5}"),
            &["f.yaml:4:58: spec.anyOf[0].tdx.tcbGracePeriod: is the number 5, accepted: a text"],
        ),
        (
            tdx("{measurements: Any, advisories: [SA-1]}"),
            &["f.yaml:4:55: spec.anyOf[0].tdx.advisories[0]: `SA-1` is not an advisory"],
        ),
        (
            refs("{validUntil: tomorrow, tdx: []}"),
            &["f.yaml:4:20: spec.validUntil: `tomorrow` is not a time such as"],
        ),
        (
            refs("{sevSnp: [{name: \"a\\u001b[2Jb\", measurement: ''}]}"),
            &[
                "f.yaml:4:24: spec.sevSnp[0].name: holds the control character '\\u{1b}'",
                "f.yaml:4:52: spec.sevSnp[0].measurement: `` has 0 hex digits, the field has 96",
            ],
        ),
        // --- types, enums, ranges, alternatives
        (
            tdx("{measurements: Any, tcbStatus: UpToDate}"),
            &["f.yaml:4:53: spec.anyOf[0].tdx.tcbStatus: is the text `UpToDate`, accepted: a list"],
        ),
        (
            tdx("{measurements: Any, tcbStatus: [UptoDate, Revoked, true]}"),
            &[
                "f.yaml:4:54: spec.anyOf[0].tdx.tcbStatus[0]: is `UptoDate`, accepted: UpToDate, ",
                "f.yaml:4:64: spec.anyOf[0].tdx.tcbStatus[1]: is `Revoked`, accepted: ",
                "f.yaml:4:73: spec.anyOf[0].tdx.tcbStatus[2]: is `true`, accepted: one of UpToDate",
            ],
        ),
        (
            tdx("{measurements: {fromReferenceValues: []}}"),
            &["f.yaml:4:59: spec.anyOf[0].tdx.measurements.fromReferenceValues: is an empty list"],
        ),
        (
            tdx("{measurements: {fromReferenceValues: {}}}"),
            &[
                "f.yaml:4:59: spec.anyOf[0].tdx.measurements.fromReferenceValues: is a mapping, accepted: a text, or a list",
            ],
        ),
        (
            tdx("{measurements: {fromReferenceValue: a}}"),
            &[
                "f.yaml:4:38: spec.anyOf[0].tdx.measurements.fromReferenceValue: unknown field `fromReferenceValue` (did you mean `fromReferenceValues`?)",
            ],
        ),
        (tdx("{measurements: [a]}"), &["f.yaml:4:37: spec.anyOf[0].tdx.measurements: is a list, accepted: "]),
        (
            tdx("{}"),
            &[
                "f.yaml:4:22: spec.anyOf[0].tdx: field `measurements` is missing (Which measurements are accepted)",
            ],
        ),
        (
            resource("AttestationPolicy", "{anyOf: [{sevSNP: {}}]}"),
            &["f.yaml:4:17: spec.anyOf[0].sevSNP: unknown field `sevSNP` (did you mean `sevSnp`?)"],
        ),
        (
            resource("AttestationPolicy", "{anyOf: [{tdx: {measurements: Any}, sgx: {measurements: Any}}]}"),
            &["f.yaml:4:16: spec.anyOf[0]: holds tdx, sgx, accepted: exactly one of tdx, sgx, sevSnp"],
        ),
        (
            resource("AttestationPolicy", "{anyOf: [{}]}"),
            &["f.yaml:4:16: spec.anyOf[0]: holds nothing, accepted: exactly one of tdx, sgx, sevSnp"],
        ),
        (resource("AttestationPolicy", "{anyOf: []}"), &["f.yaml:4:15: spec.anyOf: is an empty list"]),
        (
            resource("AttestationPolicy", "{anyOf: [{tdx: {measurements: Any}}], verifiers: {quorum: 1}}"),
            &["f.yaml:4:45: spec.verifiers: unknown field `verifiers` (known: "],
        ),
        (
            resource(
                "AttestationPolicy",
                "{anyOf: [{sevSnp: {measurements: Any, minTcb: {}, vmpl: -1, platformInfo: {tsme: yes}}}]}",
            ),
            &[
                "f.yaml:4:53: spec.anyOf[0].sevSnp.minTcb: is empty (give at least one of: ",
                "f.yaml:4:63: spec.anyOf[0].sevSnp.vmpl: is -1, accepted: 0 to 3",
                "f.yaml:4:88: spec.anyOf[0].sevSnp.platformInfo.tsme: is the text `yes`, accepted: true or false (YAML 1.2 has true and false only)",
            ],
        ),
        (
            authz("{rules: [{to: [{ports: [0, 65536, '80']}]}]}"),
            &[
                "f.yaml:4:31: spec.rules[0].to[0].ports[0]: is 0, accepted: 1 to 65535",
                "f.yaml:4:34: spec.rules[0].to[0].ports[1]: is 65536, accepted: 1 to 65535",
                "f.yaml:4:41: spec.rules[0].to[0].ports[2]: is the text `80`, accepted: a whole number (leave out the quotes)",
            ],
        ),
        (
            authz("{rules: [{from: []}, {from: [{}]}]}"),
            &[
                "f.yaml:4:23: spec.rules[0].from: is an empty list (an empty list could mean everything or nothing",
                "f.yaml:4:36: spec.rules[1].from[0]: is empty (give at least one of: attestation, namespaces, notNamespaces, notPrincipals, principals, tees)",
            ],
        ),
        (
            authz("{action: DENY}"),
            &["f.yaml:4:16: spec.action: is `DENY`, accepted: Allow, Deny, Audit (did you mean `Deny`?)"],
        ),
        // --- what the schema cannot say
        (
            authz("{action: Deny}"),
            &["f.yaml:4:7: spec.rules: a Deny policy without rules matches nothing and has no effect"],
        ),
        (
            resource(
                "AttestationPolicy",
                "{anyOf: [{sevSnp: {measurements: Any, products: [Genoa, Milan]}}]}",
            ),
            &["f.yaml:4:63: spec.anyOf[0].sevSnp.products[1]: the keys of Milan chips can be extracted"],
        ),
        (
            tdx(&format!("{{measurements: Any, roots: ['{0}'], emulatedRoots: ['{0}']}}", "ab".repeat(32))),
            &[
                "f.yaml:4:135: spec.anyOf[0].tdx.emulatedRoots[0]: abababababababababababababababababababababababababababababababab stands among `roots` as well",
            ],
        ),
        (
            tdx("{measurements: Any, platformsFrom: []}"),
            &["f.yaml:4:57: spec.anyOf[0].tdx.platformsFrom: is an empty list"],
        ),
        (
            resource(
                "PlatformList",
                &format!(
                    "{{platforms: [{{tee: tdx, id: '{0}1'}}, {{tee: sevSnp, id: '{0}2'}}, {{tee: sgx, id: '{0}1'}}, \
                     {{tee: tdx, id: '{0}1'}}, {{tee: tdx, id: '{0}0'}}]}}",
                    "0".repeat(31)
                ),
            ),
            &[
                "f.yaml:4:90: spec.platforms[1].id: has 32 hex digits, the identity of a sevSnp platform has 128",
                "f.yaml:4:194: spec.platforms[3].id: is listed twice for tdx",
                "f.yaml:4:246: spec.platforms[4].id: is what a machine says that hides its identity",
            ],
        ),
        (
            resource("PlatformList", "{platforms: [{tee: tdx, id: '00'}, {tee: nitro, id: 0A}]}"),
            &[
                "f.yaml:4:35: spec.platforms[0].id: `00` has 2 hex digits, the field has 32",
                "f.yaml:4:48: spec.platforms[1].tee: is `nitro`, accepted: tdx, sgx, sevSnp",
                "f.yaml:4:59: spec.platforms[1].id: `0A` holds 'A', which is no digit 0-9 a-f, write it in lower case",
            ],
        ),
        (
            refs("{}"),
            &["f.yaml:4:7: spec: approves nothing: give entries under tdx, sgx, sevSnp or runtimeEvents"],
        ),
        (
            refs(&format!("{{sgx: [{{name: a}}, {{name: b, mrSigner: '{}'}}]}}", "00".repeat(32))),
            &[
                "f.yaml:4:14: spec.sgx[0]: names no enclave",
                "f.yaml:4:25: spec.sgx[1]: mrSigner alone approves everything that this signer ever signed",
            ],
        ),
        (
            refs("{tdx: [{name: a}]}"),
            &["f.yaml:4:14: spec.tdx[0]: field `mrTd` is missing (MRTD: the initial contents"],
        ),
        (
            resource("AttestationPolicy", "{}"),
            &["f.yaml:4:7: spec: field `anyOf` is missing: L2 needs to know what evidence"],
        ),
        (
            resource("AttestationPolicy", "{level: L4, acceptUnattested: yes}"),
            &[
                "f.yaml:4:15: spec.level: is `L4`, accepted: L0, L1, L2, L3",
                "f.yaml:4:37: spec.acceptUnattested: is the text `yes`, accepted: true or false",
            ],
        ),
        (
            resource("AttestationPolicy", "{level: L0}"),
            &["f.yaml:4:15: spec.level: L0 admits peers that prove nothing about their machine: say"],
        ),
        (
            resource(
                "AttestationPolicy",
                "{level: L0, acceptUnattested: true, acceptForms: [Ccc], anyOf: [{tdx: {measurements: Any}}], \
                 freshness: {maxEvidenceAge: 1h}, continuous: {}}",
            ),
            &[
                "f.yaml:4:145: spec.continuous: under L0 nothing is proved again: L2 and L3 do that",
                "f.yaml:4:70: spec.anyOf: has no meaning under L0, which asks for no evidence",
                "f.yaml:4:111: spec.freshness: has no meaning under L0",
                "f.yaml:4:56: spec.acceptForms: has no meaning under L0",
            ],
        ),
        (
            resource(
                "AttestationPolicy",
                "{level: L1, acceptUnattested: true, anyOf: [{tdx: {measurements: Any}}], continuous: {}}",
            ),
            &[
                "f.yaml:4:92: spec.continuous: under L1 nothing is proved again",
                "f.yaml:4:37: spec.acceptUnattested: L1 admits nobody without evidence: only L0 does",
            ],
        ),
        (
            resource(
                "AttestationPolicy",
                "{anyOf: [{tdx: {measurements: Any}}], continuous: {interval: 29s, timeout: 61s, \
                 drainGrace: 121s, onFailure: cut}}",
            ),
            // One that cannot be read hides none of the others.
            &[
                "f.yaml:4:68: spec.continuous.interval: 29s is outside 30s to 15m",
                "f.yaml:4:82: spec.continuous.timeout: 1m1s is outside 1s to 1m",
                "f.yaml:4:99: spec.continuous.drainGrace: 2m1s is outside 0s to 2m",
                "f.yaml:4:116: spec.continuous.onFailure: is `cut`, accepted: Drain, Cut (did you mean `Cut`?)",
            ],
        ),
        (
            resource(
                "AttestationPolicy",
                "{anyOf: [{tdx: {measurements: Any}}], continuous: {interval: 29s, timeout: 999ms, drainGrace: 121s}}",
            ),
            &[
                "f.yaml:4:68: spec.continuous.interval: 29s is outside 30s to 15m",
                "f.yaml:4:82: spec.continuous.timeout: 999ms is outside 1s to 1m",
                "f.yaml:4:101: spec.continuous.drainGrace: 2m1s is outside 0s to 2m",
            ],
        ),
        (
            resource(
                "AttestationPolicy",
                &format!(
                    "{{level: L3, anyOf: [{{tdx: {{measurements: Any, platforms: ['{}']}}}}, {{sgx: {{measurements: Any}}}}]}}",
                    "00".repeat(16)
                ),
            ),
            &["f.yaml:4:110: spec.anyOf[1].sgx: L3 admits listed machines only: give `platforms` or"],
        ),
        (
            resource("TrustDomain", "{svid: {lifetime: 1s}}").replace(", namespace: n", ""),
            &["f.yaml:4:25: spec.svid.lifetime: 1s is outside 10s to 24h"],
        ),
        // --- several documents
        (
            format!("{0}---\n{0}", authz("{}")),
            &["f.yaml:8:18: metadata.name: AuthorizationPolicy n/x is already defined at line 1"],
        ),
    ];
    let mut wrong = Vec::new();
    for (text, expected) in cases {
        let found = problems(&text);
        let holds =
            found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.starts_with(e));
        if !holds {
            wrong.push(format!("{text}expected {expected:#?}\nfound {found:#?}\n"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_a_policy_does_not_say_is_level_2() {
    use countersign_config::kinds::assurance::{Continuous, Level};
    let resources = parse("f.yaml", POLICY).unwrap();
    let [Resource::AttestationPolicy(_, spec)] = resources.as_slice() else { panic!() };
    assert_eq!((spec.level, spec.accept_unattested, &spec.continuous), (Level::L2, false, &None));
    assert!(!resources[0].to_json().contains("level"), "what was stored before stays as it was");
    let resources =
        parse("f.yaml", &POLICY.replace("mode:", "continuous: { interval: 1m }\n  mode:")).unwrap();
    let [Resource::AttestationPolicy(_, spec)] = resources.as_slice() else { panic!() };
    let continuous = spec.continuous.clone().unwrap();
    assert_eq!(continuous.interval.as_secs(), 60);
    assert_eq!(Continuous { interval: Continuous::default().interval, ..continuous }, Continuous::default());
}

#[test]
fn runtime_events_are_a_set_or_a_word() {
    let with = |events: &str| {
        let line = format!("runtimeEvents: {events}\n        measurements: {{ fromReferenceValues: ledger");
        POLICY.replace("measurements: { fromReferenceValues: ledger", &line)
    };
    for events in ["Any", "None", "{ fromReferenceValues: [a, b] }", "{ fromReferenceValues: a }"] {
        let resources = parse("f.yaml", &with(events)).unwrap();
        assert_eq!(parse("y", &resources[0].to_yaml()).unwrap(), resources, "{events}");
    }
    assert_eq!(
        problems(&with("Some")),
        ["f.yaml:13:24: spec.anyOf[0].tdx.runtimeEvents: is `Some`, accepted: Any, None, or a mapping with \
          fromReferenceValues"],
        "what is listed anyhow, and nothing that is far from it"
    );
    let [level] = &problems(&resource("AttestationPolicy", "{level: L4}"))[..] else { panic!() };
    assert!(level.ends_with("accepted: L0, L1, L2, L3"), "{level}");
}

#[test]
fn an_admitted_event_has_a_type_and_at_most_one_content() {
    let digest = "ab".repeat(48);
    let set =
        |entry: &str| resource("ReferenceValues", &format!("{{runtimeEvents: [{{name: n, {entry}}}]}}"));
    for entry in [
        "type: exec".to_owned(),
        "type: exec, content: /bin/a".into(),
        format!("type: e, digest: '{digest}'"),
    ] {
        assert!(parse("f.yaml", &set(&entry)).is_ok(), "{entry}");
    }
    for (entry, expected) in [
        ("type: 'a b'".to_owned(), "type of an event is 'a b', accepted: 1 to 128 visible ASCII characters"),
        (format!("type: e, content: c, digest: '{digest}'"), "gives a digest and a content"),
        (format!("type: e, content: {}", "c".repeat(1025)), "has 1025 characters, accepted: 0 to 1024"),
        ("digest: ab".to_owned(), "field `type` is missing"),
    ] {
        let problems = problems(&set(&entry));
        assert!(problems.iter().any(|p| p.contains(expected)), "{problems:?}");
    }
    let nothing = problems(&resource("ReferenceValues", "{}"));
    assert!(nothing[0].contains("tdx, sgx, sevSnp or runtimeEvents"), "{nothing:?}");
}

#[test]
fn stored_json_is_checked_like_files() {
    let json = parse("f.yaml", POLICY).unwrap()[0].to_json();
    assert!(json.starts_with("{\"apiVersion\":") && !json.contains('\n'));
    let changed = json.replace("\"mode\":\"Enforce\"", "\"mode\":\"Ignore\"");
    let problems = Resource::from_json(&changed).unwrap_err();
    assert_eq!(problems[0].to_string(), "spec.mode: is `Ignore`, accepted: Enforce, Audit");
    assert!(Resource::from_json("{").is_err());
    assert!(Resource::from_json(&"[".repeat(10_000)).is_err());
}
