//! Intel quotes and collateral of the evidence corpus: every case at its own
//! time. Without a corpus this says so and passes.
//!
//! Decisions where tools differ:
//! - `valid-if-root-trusted-by-key`: the quote's own chain ends in an earlier
//!   certificate of Intel's root key. A path is looked for to the pinned root,
//!   which the collateral holds and whose key signed the same PCK CA, so these
//!   quotes are accepted; without the pinned root at hand they are refused.
//! - `disputed`: any answer passes; none exists among these kinds today.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use countersign_evidence::anchors::Anchors;
use countersign_evidence::cache::Cache;
use countersign_evidence::claims::{Body, IntelPlatform, TcbStatus};
use countersign_evidence::collateral::{Appraised, Item, Marks};
use countersign_evidence::intel::{Quote, QuoteBody};
use countersign_evidence::observe::Tree;
use countersign_evidence::{Claims, Collateral, Evidence, Finding, Fingerprint, Reason, UnixTime, verify};
use std::time::Duration;
use toml::Value;

const QUOTES: [&str; 5] =
    ["tdx-quote-v4", "tdx-quote-v5", "sgx-quote-v3", "negative-tdx-quote", "negative-sgx-quote"];

/// The directory of the corpus, if there is one.
fn corpus() -> Option<PathBuf> {
    let named = std::env::var_os("COUNTERSIGN_CORPUS").map(PathBuf::from);
    let beside = || {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .map(|dir| dir.join("../shared/evidence"))
            .find(|dir| dir.is_dir())
    };
    let found = named.or_else(beside).filter(|dir| dir.join("manifest.toml").is_file());
    if found.is_none() {
        println!("skipped: no evidence corpus (COUNTERSIGN_CORPUS)");
    }
    found
}

fn manifest(dir: &Path) -> Value {
    let text = std::fs::read_to_string(dir.join("manifest.toml")).unwrap();
    Value::Table(toml::from_str(&text).unwrap())
}

fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key).and_then(Value::as_str)
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn time(rfc3339: &str) -> UnixTime {
    let parsed =
        time::OffsetDateTime::parse(rfc3339, &time::format_description::well_known::Rfc3339).unwrap();
    UnixTime::since_unix_epoch(Duration::from_secs(parsed.unix_timestamp().unsigned_abs()))
}

fn item(dir: &Path, path: &str) -> Item {
    Item { name: path.to_owned(), bytes: std::fs::read(dir.join(path)).unwrap() }
}

/// The items of a case, and the anchors: a test root in the collateral counts
/// as the vendor's.
fn collateral(dir: &Path, manifest: &Value, case: &Value, now: UnixTime) -> (Appraised, Anchors) {
    let mut anchors = Anchors::built_in();
    let paths: Vec<_> = list(case, "collateral").iter().filter_map(Value::as_str).collect();
    for entry in list(manifest, "collateral") {
        let path = text(entry, "path").unwrap();
        if text(entry, "kind") == Some("test-trust-anchor") && paths.contains(&path) {
            let bytes = std::fs::read_to_string(dir.join(path)).unwrap();
            let body: String = bytes.lines().filter(|l| !l.starts_with('-')).collect();
            use base64::Engine as _;
            let der = base64::engine::general_purpose::STANDARD.decode(body).unwrap();
            anchors.admit_vendor(Fingerprint::of(&der));
        }
    }
    let items: Vec<_> = paths.iter().map(|path| item(dir, path)).collect();
    (Collateral::appraise(&items, &anchors, &mut Marks::default(), now), anchors)
}

fn platform(claims: &Claims) -> &IntelPlatform {
    match &claims.body {
        Body::Tdx(c) => &c.platform,
        Body::Sgx(c) => &c.platform,
        Body::SevSnp(_) => panic!("an SEV-SNP report"),
    }
}

/// Compares what is expected of a case with an outcome; the first difference.
fn judge(expect: &Value, outcome: &Result<std::sync::Arc<Claims>, Finding>) -> Result<(), String> {
    let crypto = text(expect, "crypto").unwrap_or("unknown");
    let status = text(expect, "tcb_status");
    match (crypto, outcome) {
        ("unknown" | "disputed", _) | ("invalid", Err(_)) => Ok(()),
        ("invalid", Ok(_)) => Err("accepted".to_owned()),
        (_, Err(finding)) if status == Some("NoMatchingLevel") => {
            same("reason", &Reason::TcbNotSupported, &finding.reason)
        }
        (_, Err(finding)) => Err(finding.to_string()),
        (_, Ok(claims)) => {
            let p = platform(claims);
            let is =
                |key: &str, presented: &str| text(expect, key).map_or(Ok(()), |e| same(key, &e, &presented));
            is("tcb_status", p.tcb_status.name())?;
            is("platform_tcb_level", p.platform_tcb_status.name())?;
            is("platform_tcb_date", &p.tcb_date)?;
            is("qe_tcb_status", p.qe_tcb_status.name())?;
            if expect.get("tdx_module_status").is_some() {
                is("tdx_module_status", p.module_status.map_or("none", |s| s.name()))?;
            }
            if expect.get("advisory_ids").is_some() {
                let wanted: BTreeSet<_> =
                    list(expect, "advisory_ids").iter().filter_map(Value::as_str).collect();
                let presented: BTreeSet<_> = p.advisory_ids.iter().map(String::as_str).collect();
                // The manifest lists those of the platform's level; the claims
                // also hold those of the quoting enclave and the TDX module.
                let part = |status: TcbStatus| status == TcbStatus::UpToDate;
                if part(p.qe_tcb_status) && p.module_status.is_none_or(part) {
                    same("advisory_ids", &wanted, &presented)?;
                } else if !wanted.is_subset(&presented) {
                    return Err(format!("advisory_ids: expected at least {wanted:?}, got {presented:?}"));
                }
            }
            Ok(())
        }
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, expected: &T, presented: &T) -> Result<(), String> {
    if expected == presented {
        Ok(())
    } else {
        Err(format!("{what}: expected {expected:?}, got {presented:?}"))
    }
}

/// The value of a field of the manifest, as the manifest writes it.
fn field(quote: &Quote<'_>, name: &str) -> Option<Value> {
    let hex = |bytes: &[u8]| Some(Value::String(hex::encode(bytes)));
    let number = |n: usize| Some(Value::Integer(i64::try_from(n).unwrap()));
    let pck = quote.unverified_pck();
    let qe = quote.qe_report();
    match (name, quote.body()) {
        ("quote_version", _) => return number(quote.version().into()),
        ("body_type", _) => return number(quote.body_type().into()),
        ("cert_type", _) => return number(quote.certification_data().kind.into()),
        ("attestation_key_type", _) => return number(quote.attestation_key_type().into()),
        ("trailing_bytes", _) => return number(quote.trailing_bytes()),
        ("signature_data_len", _) => return number(quote.signature_data_len() as usize),
        ("qe_mr_signer", _) => return hex(&qe.mr_signer),
        ("qe_mr_enclave", _) => return hex(&qe.mr_enclave),
        ("qe_isv_svn", _) => return number(qe.isv_svn.into()),
        ("qe_isv_prod_id", _) => return number(qe.isv_prod_id.into()),
        ("report_data", _) => return hex(quote.report_data()),
        ("fmspc", _) => return hex(&pck?.fmspc),
        ("pce_id", _) => return hex(&pck?.pce_id),
        ("pce_svn", _) => return number(pck?.pce_svn.into()),
        ("cpu_svn_pck", _) => return hex(&pck?.cpu_svn),
        ("sgx_type", _) => return number(pck?.sgx_type.into()),
        ("ppid", _) => return hex(&pck?.ppid),
        ("platform_instance_id", _) => return hex(&pck?.piid?),
        ("debug", QuoteBody::Sgx(r)) => return Some(Value::Boolean(r.attributes[0] & 2 != 0)),
        ("debug", QuoteBody::Tdx(r)) => return Some(Value::Boolean(r.td_attributes[0] != 0)),
        _ => {}
    }
    match quote.body() {
        QuoteBody::Sgx(r) => match name {
            "cpu_svn" => hex(&r.cpu_svn),
            "misc_select" => hex(&r.misc_select),
            "attributes" => hex(&r.attributes),
            "mr_enclave" => hex(&r.mr_enclave),
            "mr_signer" => hex(&r.mr_signer),
            "isv_prod_id" => number(r.isv_prod_id.into()),
            "isv_svn" => number(r.isv_svn.into()),
            "config_id" => hex(&r.config_id),
            "config_svn" => number(r.config_svn.into()),
            _ => None,
        },
        QuoteBody::Tdx(r) => match name {
            "tee_tcb_svn" => hex(&r.tee_tcb_svn),
            "tee_tcb_svn2" => hex(&r.tee_tcb_svn2?),
            "mr_seam" => hex(&r.mr_seam),
            "mr_signer_seam" => hex(&r.mr_signer_seam),
            "seam_attributes" => hex(&r.seam_attributes),
            "td_attributes" => hex(&r.td_attributes),
            "xfam" => hex(&r.xfam),
            "mr_td" => hex(&r.mr_td),
            "mr_config_id" => hex(&r.mr_config_id),
            "mr_owner" => hex(&r.mr_owner),
            "mr_owner_config" => hex(&r.mr_owner_config),
            "mr_service_td" => hex(&r.mr_service_td?),
            _ => hex(r.rtmr.get(name.strip_prefix("rtmr")?.parse::<usize>().ok()?)?),
        },
    }
}

/// One line for each failure; counts of what was run.
#[derive(Default)]
struct Outcome {
    passed: usize,
    failures: Vec<String>,
}

impl Outcome {
    fn note(&mut self, what: &str, result: Result<(), String>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(why) => self.failures.push(format!("{what}: {why}")),
        }
    }

    fn finish(self) {
        println!("{} passed, {} failed", self.passed, self.failures.len());
        assert!(self.failures.is_empty(), "\n{}", self.failures.join("\n"));
        assert!(self.passed > 0);
    }
}

#[test]
fn every_quote_of_the_corpus_gives_the_result_that_its_manifest_states() {
    let Some(dir) = corpus() else { return };
    let manifest = manifest(&dir);
    let cache = Cache::default();
    let mut outcome = Outcome::default();
    for sample in list(&manifest, "sample").iter().filter(|s| QUOTES.contains(&text(s, "kind").unwrap())) {
        let id = text(sample, "id").unwrap();
        let bytes = std::fs::read(dir.join(text(sample, "path").unwrap())).unwrap();
        let quote = Quote::parse(&bytes);
        if let (Some(fields), Ok(quote)) = (sample.get("fields").and_then(Value::as_table), &quote) {
            for (name, expected) in fields {
                let found = field(quote, name);
                outcome.note(&format!("{id} {name}"), same(name, &Some(expected), &found.as_ref()));
            }
        } else if !text(sample, "kind").unwrap().starts_with("negative-") {
            outcome.note(id, quote.as_ref().map(|_| ()).map_err(ToString::to_string));
        }
        for case in list(sample, "case") {
            let name = format!("{id} {}", text(case, "name").unwrap());
            let mut instants = vec![text(case, "verify_at").unwrap()];
            if text(&case["expect"], "crypto") != Some("invalid") {
                instants.extend(text(case, "valid_from"));
                instants.extend(text(case, "valid_to"));
            }
            for at in instants {
                let now = time(at);
                let (appraised, anchors) = collateral(&dir, &manifest, case, now);
                for cache in [None, Some(&cache), Some(&cache)] {
                    let mut tree = Tree::default();
                    let result = Quote::parse(&bytes).map(Evidence::Intel).and_then(|evidence| {
                        verify(&evidence, &appraised.collateral, &anchors, now, cache, &mut tree)
                    });
                    let refused = || format!(" (collateral refused: {:?})", appraised.refused);
                    let judged = judge(&case["expect"], &result).map_err(|why| why + &refused());
                    outcome.note(&format!("{name} at {at}"), judged);
                }
            }
        }
    }
    outcome.finish();
}

#[test]
fn no_negative_collateral_of_the_corpus_is_admitted() {
    let Some(dir) = corpus() else { return };
    let manifest = manifest(&dir);
    let all: Vec<_> = list(&manifest, "collateral")
        .iter()
        .filter(|c| matches!(text(c, "kind"), Some("x509-cert" | "trust-anchor")))
        .map(|c| item(&dir, text(c, "path").unwrap()))
        .collect();
    let now = time("2022-05-11T23:03:47Z");
    let mut outcome = Outcome::default();
    for sample in list(&manifest, "sample") {
        let (id, path) = (text(sample, "id").unwrap(), text(sample, "path").unwrap());
        match text(sample, "kind").unwrap() {
            "negative-intel-tcb-info" | "negative-intel-qe-identity" => {
                let mut items = all.clone();
                items.push(item(&dir, path));
                let mut marks = Marks::default();
                let refused = Collateral::appraise(&items, &Anchors::built_in(), &mut marks, now).refused;
                let refused: Vec<_> = refused.iter().filter(|(name, _)| name == path).collect();
                let formal = matches!(refused.as_slice(), [(_, f)] if f.reason == Reason::CollateralInvalid);
                outcome.note(id, formal.then_some(()).ok_or(format!("{refused:?}")));
            }
            // Without the true signing certificate nothing that it signed is admitted.
            "negative-intel-tcb-signing-chain" => {
                for document in
                    list(&manifest, "collateral").iter().filter(|c| text(c, "kind") == Some("intel-tcb-info"))
                {
                    let items = [item(&dir, path), item(&dir, text(document, "path").unwrap())];
                    let mut marks = Marks::default();
                    let refused = Collateral::appraise(&items, &Anchors::built_in(), &mut marks, now).refused;
                    outcome.note(id, same("refused items", &1, &refused.len()));
                }
            }
            _ => {}
        }
    }
    outcome.finish();
}
