//! The built binary on real inputs.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on panics")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn countersign(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(arguments)
        .current_dir(dir)
        .env_remove("COUNTERSIGN_CONTEXT")
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", out(output), err(output)))
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn wrong_usage_exits_with_2_and_says_so_on_standard_error() {
    let dir = temporary();
    for arguments in [
        &["verify", "missing.bin"] as &[&str],
        &["no-such-command"],
        &["status"],
        &["get", "no-such-kind"],
        &["verify", "missing.bin", "--at", "yesterday"],
        &["inspect", "."],
        &["schema", "NoSuchKind"],
    ] {
        let output = countersign(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", err(&output));
        assert!(!err(&output).is_empty() && out(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn every_command_has_help_and_completions_name_it() {
    let dir = temporary();
    let script = out(&countersign(dir.path(), &["completions", "bash"]));
    for command in [
        "demo",
        "apply",
        "get",
        "describe",
        "delete",
        "validate",
        "status",
        "explain",
        "verify",
        "inspect",
        "connect",
        "emulate",
        "measure",
        "doctor",
        "schema",
        "completions",
        "version",
    ] {
        let output = countersign(dir.path(), &[command, "--help"]);
        assert!(output.status.success() && out(&output).contains("Usage:"), "{command}");
        assert!(script.contains(command), "{command}");
    }
}

#[test]
fn a_context_that_cannot_be_read_shows_nothing_of_its_key() {
    let dir = temporary();
    let secret = "U0VDUkVUS0VZ";
    let context = format!("server: a:1\nkye: |\n  -----BEGIN PRIVATE KEY-----\n  {secret}\n");
    for (text, place) in [(context.clone(), ":2:1:"), (context.replace("  U0", "U0"), ":4:")] {
        let file = dir.path().join("operator.yaml");
        std::fs::write(&file, text).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).expect("a mode");
        for arguments in [
            &["status", "--context", "operator.yaml"] as &[&str],
            &["doctor", "--context", "operator.yaml"],
            &["validate", "-f", "operator.yaml"],
            &["apply", "-f", "operator.yaml", "--context", "operator.yaml"],
        ] {
            let output = countersign(dir.path(), arguments);
            let told = out(&output) + &err(&output);
            assert!(!told.contains(secret) && told.contains("operator.yaml:"), "{arguments:?}: {told}");
            // The others read documents, and fail there before they need a context.
            if arguments.contains(&"status") || arguments.contains(&"doctor") {
                assert!(told.contains(place) && told.contains("chmod 600"), "{arguments:?}: {told}");
            }
        }
    }
}

#[test]
fn text_that_is_not_for_a_terminal_has_no_colour() {
    let dir = temporary();
    let output = countersign(dir.path(), &["doctor"]);
    assert!(!out(&output).contains('\u{1b}'));
}

#[test]
fn emulated_evidence_passes_only_when_its_root_is_named() {
    let dir = temporary();
    let vendor = json(&countersign(dir.path(), &["emulate", "init", "vendor", "-o", "json"]));
    for (tee, root) in [("--tdx", "intel"), ("--sgx", "intel"), ("--sev-snp", "amd")] {
        let made = countersign(dir.path(), &["emulate", "evidence", "vendor", tee, "-o", "evidence.bin"]);
        assert!(made.status.success(), "{}", err(&made));
        let verify = ["verify", "evidence.bin", "--collateral", "vendor/collateral", "-o", "json"];
        let refused = countersign(dir.path(), &verify);
        assert_eq!(refused.status.code(), Some(1), "{tee}");
        assert_eq!(json(&refused)["passed"], false);
        let root = vendor["roots"][root].as_str().expect("a root");
        let passed = countersign(dir.path(), &[&verify[..], &["--emulated-root", root]].concat());
        assert_eq!(passed.status.code(), Some(0), "{tee}: {}", out(&passed));
        let passed = json(&passed);
        assert_eq!((&passed["passed"], &passed["emulated"]), (&Value::Bool(true), &Value::Bool(true)));
    }
}

#[test]
fn an_event_log_must_land_on_its_quote_and_is_judged_by_the_policy() {
    let dir = temporary();
    let vendor = json(&countersign(dir.path(), &["emulate", "init", "vendor", "-o", "json"]));
    let root = vendor["roots"]["intel"].as_str().expect("a root").to_owned();
    for (name, content) in [("good", "/usr/bin/ledger"), ("bad", "/bin/sh")] {
        let spec = format!(r#"{{"events": [{{"type": "exec", "content": "{content}"}}]}}"#);
        std::fs::write(dir.path().join("spec.json"), spec).expect("written");
        let (quote, log) = (format!("{name}.bin"), format!("{name}.log"));
        let made = ["emulate", "evidence", "vendor", "--tdx", "--spec", "spec.json"];
        let made = countersign(dir.path(), &[&made[..], &["-o", &quote, "--event-log", &log]].concat());
        assert!(made.status.success(), "{}", err(&made));
    }
    let policy = format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: AttestationPolicy\nmetadata: {{ name: p, namespace: n }}\n\
         spec:\n  anyOf:\n  - tdx:\n      emulatedRoots: [\"{root}\"]\n      measurements: Any\n      \
         runtimeEvents: {{ fromReferenceValues: events }}\n---\napiVersion: countersign.dev/v1alpha1\n\
         kind: ReferenceValues\nmetadata: {{ name: events, namespace: n }}\n\
         spec: {{ runtimeEvents: [{{ name: ledger, type: exec, content: /usr/bin/ledger }}] }}\n"
    );
    std::fs::write(dir.path().join("policy.yaml"), policy).expect("written");
    let verify = |quote: &str, log: Option<&str>| {
        let common = ["--collateral", "vendor/collateral", "--policy", "policy.yaml", "-o", "json"];
        let log = log.map_or(vec![], |log| vec!["--event-log", log]);
        let output = countersign(dir.path(), &[&["verify", quote][..], &common, &log].concat());
        let answer = json(&output);
        (output.status.code(), answer["denial"]["reason"].as_str().unwrap_or("none").to_owned(), answer)
    };
    let (code, reason, answer) = verify("good.bin", Some("good.log"));
    assert_eq!((code, reason.as_str()), (Some(0), "none"), "{answer}");
    assert_eq!(answer["claims"]["body"]["tdx"]["runtimeEvents"][0]["type"], "exec");
    for (quote, log, expected) in [
        ("bad.bin", Some("bad.log"), "event-not-admitted"),
        ("good.bin", Some("bad.log"), "event-log-mismatch"),
        ("good.bin", None, "event-log-missing"),
        ("good.bin", Some("policy.yaml"), "truncated"),
    ] {
        let (code, reason, _) = verify(quote, log);
        assert_eq!((code, reason.as_str()), (Some(1), expected), "{quote} {log:?}");
    }
    // Nobody listens there.
    let measured = countersign(dir.path(), &["measure", "--socket", "nowhere", "exec", "/bin/a"]);
    assert_eq!(measured.status.code(), Some(1), "{}", err(&measured));
    let wrong = countersign(dir.path(), &["measure", "--socket", "nowhere", "a b"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", err(&wrong));
}

#[test]
fn verify_keeps_to_the_width_and_says_what_to_do_here() {
    let dir = temporary();
    let vendor = json(&countersign(dir.path(), &["emulate", "init", "vendor", "-o", "json"]));
    let root = vendor["roots"]["intel"].as_str().expect("a root");
    countersign(dir.path(), &["emulate", "evidence", "vendor", "--tdx", "-o", "quote.bin"]);
    let verify = ["verify", "quote.bin", "--collateral", "vendor/collateral"];
    let refused = out(&countersign(dir.path(), &verify));
    assert!(refused.contains(&format!("--emulated-root {root}")), "{refused}");
    let admitted = [&verify[..], &["--emulated-root", root]].concat();
    let short = out(&countersign(dir.path(), &admitted));
    let longest = |text: &str| text.lines().map(|line| line.chars().count()).max();
    assert!(longest(&short) <= Some(100), "{short}");
    let whole = out(&countersign(dir.path(), &[&admitted[..], &["-v"]].concat()));
    assert!(whole.contains(&"d0".repeat(48)) && !short.contains(&"d0".repeat(48)), "{whole}");
    let without = out(&countersign(dir.path(), &["verify", "quote.bin", "--emulated-root", root]));
    assert!(without.contains("--collateral") && !without.contains("control plane"), "{without}");
}

#[test]
fn a_changed_byte_a_wrong_time_and_wrong_report_data_fail() {
    let dir = temporary();
    let vendor = json(&countersign(dir.path(), &["emulate", "init", "vendor", "-o", "json"]));
    let root = vendor["roots"]["intel"].as_str().expect("a root").to_owned();
    let made = countersign(dir.path(), &["emulate", "evidence", "vendor", "--tdx", "-o", "good.bin"]);
    assert!(made.status.success(), "{}", err(&made));
    let verify = |file: &str, more: &[&str]| {
        let base =
            ["verify", file, "--collateral", "vendor/collateral", "--emulated-root", &root, "-o", "json"];
        let output = countersign(dir.path(), &[&base[..], more].concat());
        (output.status.code(), json(&output)["denial"]["reason"].clone())
    };
    assert_eq!(verify("good.bin", &["--report-data", &"00".repeat(64)]), (Some(0), Value::Null));
    let other = verify("good.bin", &["--report-data", &"01".repeat(64)]);
    assert_eq!(other, (Some(1), Value::from("binding-mismatch")));
    assert_eq!(verify("good.bin", &["--at", "2100-01-01T00:00:00Z"]).0, Some(1));

    let mut bytes = std::fs::read(dir.path().join("good.bin")).expect("evidence");
    let middle = bytes.len() / 8;
    bytes[middle] ^= 1;
    std::fs::write(dir.path().join("bad.bin"), &bytes).expect("written");
    assert_eq!(verify("bad.bin", &[]).0, Some(1));
    std::fs::write(dir.path().join("cut.bin"), &bytes[..100]).expect("written");
    assert_eq!(verify("cut.bin", &[]).0, Some(1));
    std::fs::write(dir.path().join("empty.bin"), []).expect("written");
    assert_eq!(verify("empty.bin", &[]).0, Some(1));
}

#[test]
fn a_policy_decides_about_measurements() {
    let dir = temporary();
    let vendor = json(&countersign(dir.path(), &["emulate", "init", "vendor", "-o", "json"]));
    let root = vendor["roots"]["intel"].as_str().expect("a root");
    countersign(dir.path(), &["emulate", "evidence", "vendor", "--tdx", "-o", "quote.bin"]);
    for (mr_td, expected) in [("d0", 0), ("11", 1)] {
        let text = format!(
            "apiVersion: countersign.dev/v1alpha1\nkind: AttestationPolicy\nmetadata: {{ name: p, namespace: n }}\n\
             spec:\n  anyOf:\n    - tdx:\n        emulatedRoots: [\"{root}\"]\n        \
             measurements: {{ fromReferenceValues: r }}\n---\n\
             apiVersion: countersign.dev/v1alpha1\nkind: ReferenceValues\nmetadata: {{ name: r, namespace: n }}\n\
             spec:\n  tdx:\n    - name: v1\n      mrTd: \"{}\"\n",
            mr_td.repeat(48)
        );
        std::fs::write(dir.path().join("policy.yaml"), text).expect("written");
        let arguments =
            ["verify", "quote.bin", "--collateral", "vendor/collateral", "--policy", "policy.yaml"];
        let output = countersign(dir.path(), &arguments);
        assert_eq!(output.status.code(), Some(expected), "{}{}", out(&output), err(&output));
        assert_eq!(out(&output).contains("measurement-mismatch"), expected == 1);
    }
}

#[test]
fn validate_points_at_every_problem() {
    let dir = temporary();
    let text = "apiVersion: countersign.dev/v1alpha1\nkind: AttestationPolicy\nmetadata: { name: p }\n\
                spec:\n  mod: Enforce\n  anyOf: []\n";
    std::fs::write(dir.path().join("bad.yaml"), text).expect("written");
    let output = countersign(dir.path(), &["validate", "-f", "bad.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("bad.yaml:5:3: error:"), "{}", err(&output));
    assert!(err(&output).contains("5 |   mod: Enforce"), "{}", err(&output));
    let output = countersign(dir.path(), &["validate", "-f", "bad.yaml", "-o", "json"]);
    assert!(json(&output)["problems"].as_array().is_some_and(|problems| problems.len() >= 2));
}

#[test]
fn a_bootstrap_file_is_called_by_its_kind() {
    let dir = temporary();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/control-plane.yaml");
    let example = example.to_str().expect("UTF-8");
    let told = out(&countersign(dir.path(), &["validate", "-f", example]));
    assert_eq!(told.trim(), "valid (ControlPlaneBootstrap)");
    let told = json(&countersign(dir.path(), &["validate", "-f", example, "-o", "json"]));
    assert_eq!(told["bootstraps"][0], "ControlPlaneBootstrap");
}

#[test]
fn inspect_reads_what_s_client_says_and_sends_a_quote_to_verify() {
    let dir = temporary();
    // The example of the help: a listener of the mesh answers only to its own protocol.
    let help = out(&countersign(dir.path(), &["inspect", "--help"]));
    assert!(help.contains("-alpn ratls-h2/1 -showcerts"), "{help}");
    countersign(dir.path(), &["emulate", "init", "vendor"]);
    countersign(dir.path(), &["emulate", "evidence", "vendor", "--tdx", "-o", "quote.bin"]);
    let refused = countersign(dir.path(), &["inspect", "quote.bin"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(err(&refused).contains("an Intel TDX quote: countersign verify quote.bin"), "{}", err(&refused));
    let Some(corpus) = corpus() else { return };
    let pem =
        std::fs::read_to_string(corpus.join("ra-tls/ratls-gramine-interop.pem")).expect("a certificate");
    let said = format!("CONNECTED(00000003)\n---\nCertificate chain\n 0 s:\n   i:\n{pem}---\nDONE\n");
    std::fs::write(dir.path().join("said.txt"), said).expect("written");
    assert_eq!(countersign(dir.path(), &["inspect", "said.txt"]).status.code(), Some(0));
}

#[test]
fn a_peer_that_is_not_there_is_no_denial() {
    let dir = temporary();
    // Port 1 of this host: nobody listens there.
    let output = countersign(dir.path(), &["connect", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(3), "{}", err(&output));
    assert_eq!(err(&output).matches("refused").count(), 1, "{}", err(&output));
}

#[test]
fn every_schema_is_json() {
    let dir = temporary();
    let kinds = out(&countersign(dir.path(), &["schema"]));
    assert!(kinds.lines().count() >= 7);
    for kind in kinds.lines() {
        json(&countersign(dir.path(), &["schema", kind]));
    }
}

#[test]
fn explain_answers_from_files_without_a_control_plane() {
    let dir = temporary();
    let mut text = String::new();
    for (me, peer, tee) in [("ledger", "audit", "sevSnp"), ("audit", "ledger", "tdx")] {
        text.push_str(&format!(
            "apiVersion: countersign.dev/v1alpha1\nkind: WorkloadIdentity\nmetadata: {{ name: {me}, namespace: payments }}\n\
             spec: {{ spiffeId: spiffe://prod.example/{me}, labels: {{ app: {me} }}, attestation: {{ policy: {peer} }} }}\n---\n\
             apiVersion: countersign.dev/v1alpha1\nkind: AttestationPolicy\nmetadata: {{ name: {me}, namespace: payments }}\n\
             spec: {{ selector: {{ matchLabels: {{ app: {me} }} }}, peers: [spiffe://prod.example/{peer}], \
             anyOf: [{{ {tee}: {{ measurements: {{ fromReferenceValues: all }} }} }}] }}\n---\n"
        ));
    }
    let digest = "ab".repeat(48);
    text.push_str(&format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: ReferenceValues\nmetadata: {{ name: all, namespace: payments }}\n\
         spec: {{ tdx: [{{ name: a, mrTd: {digest} }}], sevSnp: [{{ name: b, measurement: {digest} }}] }}\n---\n\
         apiVersion: countersign.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{ name: calls, namespace: payments }}\n\
         spec: {{ action: Allow, rules: [{{ to: [{{ ports: [8443] }}] }}, \
         {{ to: [{{ ports: [8080], methods: [GET], paths: ['/v1/*'] }}] }}] }}\n"
    ));
    std::fs::write(dir.path().join("payments.yaml"), text).expect("written");
    let explain = |source: &str, port: &str| {
        let arguments =
            ["explain", source, "payments/ledger", "--port", port, "-f", "payments.yaml", "-o", "json"];
        let output = countersign(dir.path(), &arguments);
        let document = json(&output);
        assert_eq!(output.status.code(), Some(i32::from(document["allowed"] != true)), "{document:#}");
        document
    };
    let allowed = explain("payments/audit", "8443");
    assert_eq!(allowed["allowed"], true, "{allowed:#}");
    assert!(allowed["steps"][0]["text"].as_str().is_some_and(|text| text.contains("sevSnp")), "{allowed:#}");
    assert_eq!(explain("payments/audit", "9901")["allowed"], false);
    let stranger = explain("spiffe://prod.example/stranger", "8443");
    assert_eq!(stranger["allowed"], false, "{stranger:#}");
    assert_eq!(stranger["steps"][0]["detail"]["reason"], "no-policy", "{stranger:#}");
    let unknown =
        countersign(dir.path(), &["explain", "payments/nobody", "payments/ledger", "-f", "payments.yaml"]);
    assert_eq!(unknown.status.code(), Some(2), "{}", err(&unknown));
    for meant in ["audit", "payments/audti"] {
        let unknown = countersign(dir.path(), &["explain", meant, "payments/ledger", "-f", "payments.yaml"]);
        assert!(err(&unknown).contains("did you mean payments/audit?"), "{}", err(&unknown));
    }
    let denied = ["explain", "payments/audit", "payments/ledger", "--port", "9", "-v", "-f", "payments.yaml"];
    let denied = out(&countersign(dir.path(), &denied));
    assert!(denied.contains("rules[0] allows ports 8443, asked: 9"), "{denied}");
    assert!(denied.contains("remedy  if the call is right, allow it by an AuthorizationPolicy"), "{denied}");
    let request = |more: &[&str]| {
        let call =
            ["explain", "payments/audit", "payments/ledger", "--port", "8080", "-v", "-f", "payments.yaml"];
        let output = countersign(dir.path(), &[&call, more].concat());
        (output.status.code(), out(&output))
    };
    assert_eq!(request(&["--path", "/v1/entries"]).0, Some(0));
    let (code, text) =
        request(&["--method", "DELETE", "--path", "/v1/%2e%2e/x", "--host", "ledger.example:8080"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("allows DELETE /x of ledger.example at port 8080"), "{text}");
    let (code, text) = request(&[]);
    assert_eq!(code, Some(1), "what is true of bytes");
    assert!(
        text.contains("where the port serves HTTP, AuthorizationPolicy payments/calls, rules[1] for some"),
        "{text}"
    );
    // Without a port in mind: which are allowed.
    let anywhere = explain("payments/audit", "0");
    let told = anywhere["steps"][2]["text"].as_str().expect("a text");
    assert!(
        told.starts_with("port 8443: AuthorizationPolicy payments/calls, rules[0]; no other port"),
        "{told}"
    );
    let nowhere = explain("spiffe://prod.example/stranger", "0");
    assert_eq!(nowhere["allowed"], false, "{nowhere:#}");
}

#[test]
fn what_files_refer_to_and_do_not_hold_is_an_error_only_on_request() {
    let dir = temporary();
    let text = "apiVersion: countersign.dev/v1alpha1\nkind: WorkloadIdentity\nmetadata: { name: web, namespace: n }\n\
                spec: { spiffeId: spiffe://prod.example/web, attestation: { policy: web } }\n";
    std::fs::write(dir.path().join("one.yaml"), text).expect("written");
    let some = countersign(dir.path(), &["validate", "-f", "one.yaml"]);
    assert_eq!(some.status.code(), Some(0), "{}", err(&some));
    assert!(
        err(&some).contains("AttestationPolicy n/web is not in these files: not checked"),
        "{}",
        err(&some)
    );
    let all = countersign(dir.path(), &["validate", "-f", "one.yaml", "--strict"]);
    assert_eq!(all.status.code(), Some(2), "{}", err(&all));
    assert!(err(&all).contains("there is no AttestationPolicy n/web"), "{}", err(&all));
}

#[test]
fn attest_says_what_it_wants_and_shows_examples() {
    let dir = temporary();
    let nobody = countersign(dir.path(), &["attest", "now"]);
    assert_eq!(nobody.status.code(), Some(2), "{}", err(&nobody));
    assert!(
        err(&nobody).contains("name a proxy") && err(&nobody).contains("--admin ADDRESS"),
        "{}",
        err(&nobody)
    );
    for verb in ["watch", "now"] {
        let help = out(&countersign(dir.path(), &["attest", verb, "--help"]));
        assert!(help.contains(&format!("Examples:\n  countersign attest {verb}")), "{help}");
    }
}

#[test]
fn apply_tells_programs_about_problems_too() {
    let dir = temporary();
    let text = "apiVersion: countersign.dev/v1alpha1\nkind: AttestationPolicy\nmetadata: { name: p }\nspec: { mod: Enforce }\n";
    std::fs::write(dir.path().join("bad.yaml"), text).expect("written");
    let output = countersign(dir.path(), &["apply", "-f", "bad.yaml", "-o", "json"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(json(&output)["problems"][0]["line"], 4, "{}", out(&output));
}

/// The evidence corpus, when there is one. In CI there must be.
fn corpus() -> Option<PathBuf> {
    let named = std::env::var_os("COUNTERSIGN_CORPUS").map(PathBuf::from);
    let near = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/evidence");
    let found = named.into_iter().chain([near]).find(|dir| dir.join("manifest.toml").is_file());
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "in CI the evidence corpus must be there");
    found
}

#[test]
fn published_interoperable_certificates_are_inspected() {
    let Some(corpus) = corpus() else {
        println!("skipped: no evidence corpus");
        return;
    };
    for name in ["ratls-gramine-interop.pem", "ratls-ratstls-interop.pem"] {
        let output = countersign(&corpus, &["inspect", &format!("ra-tls/{name}"), "-o", "json"]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}{}", out(&output), err(&output));
        let document = json(&output);
        assert_eq!(document["verified"], false);
        assert_eq!(document["evidence"]["form"], "ccc", "{name}");
        assert_eq!(document["evidence"]["claims"]["tee"], "sgx", "{name}");
    }
}

#[test]
fn no_file_of_the_corpus_makes_verify_or_inspect_panic() {
    let Some(corpus) = corpus() else {
        println!("skipped: no evidence corpus");
        return;
    };
    for folder in ["dcap/quotes", "dcap/negative", "snp/reports", "snp/negative", "ra-tls", "cmw", "tpm"] {
        let Ok(files) = std::fs::read_dir(corpus.join(folder)) else { continue };
        for file in files.filter_map(Result::ok).filter(|file| file.path().is_file()) {
            let name = file.path().display().to_string();
            for command in ["verify", "inspect"] {
                let output = countersign(&corpus, &[command, &name]);
                assert!(matches!(output.status.code(), Some(0..=2)), "{command} {name}: {}", err(&output));
                assert!(!err(&output).contains("panicked"), "{command} {name}: {}", err(&output));
            }
        }
    }
}

/// The demonstration needs the other binaries next to this one; they are there
/// when the workspace was built.
#[test]
fn the_demonstration_cuts_and_restores_a_live_hop() {
    let own = Path::new(env!("CARGO_BIN_EXE_countersign"));
    let dir = temporary();
    let siblings = ["countersign-control-plane", "countersign-proxy"];
    if siblings.iter().any(|name| !own.with_file_name(name).is_file()) {
        assert!(
            std::env::var_os("CI").is_none(),
            "in CI the control plane and the proxy must be built: {siblings:?}"
        );
        println!("skipped: the control plane or the proxy is not built");
        return;
    }
    let output = countersign(dir.path(), &["demo", "--dir", "demo", "-o", "json"]);
    assert!(output.status.success(), "{}{}", out(&output), err(&output));
    let told = out(&output);
    let events: Vec<Value> =
        told.lines().map(|line| serde_json::from_str(line).expect("an event a line")).collect();
    let find = |name: &str| events.iter().filter(|e| e["event"] == name).collect::<Vec<_>>();
    assert_eq!(find("proxy").len(), 2, "{told}");
    assert!(find("proxy").iter().all(|proxy| proxy["emulated"] == true), "{told}");
    assert!(find("cut")[0]["milliseconds"].as_f64().is_some_and(|ms| ms > 0.0), "{told}");
    let explained = find("explained");
    assert_eq!(explained[0]["explanation"]["allowed"], true, "{told}");
    assert_eq!(explained[1]["explanation"]["allowed"], false, "{told}");
    assert!(explained[1].to_string().contains("measurement-mismatch"), "{told}");
    assert!(find("restored")[0]["text"].as_str().is_some_and(|text| text.contains("ledger")), "{told}");
    assert_eq!(find("done").len(), 1, "{told}");
}

#[test]
fn a_demonstration_without_its_programs_says_which_is_missing() {
    let dir = temporary();
    let alone = dir.path().join("countersign");
    std::fs::copy(env!("CARGO_BIN_EXE_countersign"), &alone).expect("copied");
    let output = Command::new(&alone).arg("demo").stdin(Stdio::null()).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("countersign-control-plane is missing"), "{}", err(&output));
    assert!(err(&output).contains("cargo build -p countersign-control-plane"), "{}", err(&output));
}
