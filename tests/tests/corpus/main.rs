//! Real evidence, each piece with the result that independent tools gave.
//!
//! Reads the evidence corpus (`COUNTERSIGN_CORPUS`, or `../shared/evidence`
//! beside the repository) and evaluates every case at its own verification time
//! and at both ends of the validity of its collateral. One line for each case,
//! and at the end `N passed, N failed, N skipped`. A clone without a corpus runs
//! the real samples inside the packages of the dev-dependencies instead; in CI
//! (`CI` is set) a missing corpus is a failure.
//!
//! Decisions where tools differ:
//! - `valid-if-root-trusted-by-key`: the evidence's own chain ends in an earlier
//!   certificate of the vendor's root key. Accepted when the pinned root is
//!   among the collateral, for then a path to it exists; refused without.
//! - `disputed` and `unknown` are not tested.
//! - A report of version 2 is refused as `unsupported-version`, however good its
//!   cryptography; that cryptography is compared all the same.
//! - `debug` and TCB statuses are facts in the claims, which a policy judges.
#![allow(clippy::print_stdout, reason = "the lines are the result")]

mod amd;
mod appraisals;
mod cmw;
mod der;
mod event_logs;
mod intel;
mod intel_collateral;
mod intel_fields;
mod manifest;
mod packages;
mod ra_tls;
mod spiffe;
mod tally;

use std::process::ExitCode;

use appraisals::Appraisals;
use manifest::{Case, Corpus, Sample};
use tally::{Miss, Tally};

/// Evaluates one case of a sample; `None` for a sample without cases.
type Suite = fn(&Appraisals<'_>, &Sample<'_>, Option<&Case<'_>>) -> Result<String, Miss>;

/// The suite of a kind of sample; `None` for kinds that this release does not verify.
fn suite(kind: &str) -> Option<Suite> {
    Some(match kind {
        "tdx-quote-v4" | "tdx-quote-v5" | "sgx-quote-v3" => intel::quote,
        "negative-tdx-quote" | "negative-sgx-quote" => intel::negative_quote,
        "negative-intel-tcb-info" | "negative-intel-qe-identity" => intel_collateral::document,
        "negative-intel-tcb-signing-chain" => intel_collateral::signing_chain,
        "snp-report-v2" | "snp-report-v3" | "snp-report-v5" => amd::report,
        "negative-snp-report" => amd::negative_report,
        "negative-vcek" => amd::negative_vcek,
        "ra-tls-certificate" => ra_tls::certificate,
        "negative-ra-tls-certificate" => ra_tls::negative_certificate,
        "cmw-collection" => cmw::collection,
        "negative-cmw-collection" => cmw::negative_collection,
        "cmw-x509-extension" => cmw::extension,
        "x509-svid" => spiffe::svid,
        "negative-x509-svid" => spiffe::negative_svid,
        "ccel-event-log" | "negative-ccel-event-log" => event_logs::ccel,
        "dstack-quote-report" => event_logs::dstack,
        "tcg-event-log" => event_logs::tcg_log,
        "spiffe-bundle" => spiffe::bundle,
        "negative-spiffe-bundle" => spiffe::negative_bundle,
        _ => return None,
    })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // What test runners ask of a binary without the usual harness.
    if arguments.iter().any(|a| a == "--list") {
        if !arguments.iter().any(|a| a == "--ignored") {
            println!("corpus: test");
        }
        return ExitCode::SUCCESS;
    }
    let filters: Vec<String> =
        arguments.into_iter().filter(|a| !a.starts_with('-') && a != "corpus").collect();
    let mut tally = Tally::new(filters);
    match Corpus::find() {
        Ok(Some(corpus)) => run(&corpus, &mut tally),
        Ok(None) if std::env::var_os("CI").is_some_and(|v| !v.is_empty()) => {
            tally.failed("no evidence corpus, which CI must have: set COUNTERSIGN_CORPUS to its directory");
        }
        Ok(None) => {
            println!(
                "no evidence corpus beside the repository (COUNTERSIGN_CORPUS is not set): \
                 running the samples that ship inside the packages of the dev-dependencies"
            );
            packages::run(&mut tally);
        }
        Err(why) => tally.failed(&why),
    }
    tally.finish()
}

fn run(corpus: &Corpus, tally: &mut Tally) {
    let appraisals = Appraisals::new(corpus);
    for sample in corpus.samples() {
        let cases = sample.cases();
        if sample.kind().is_empty() {
            tally.failed(&format!("{}: a sample without a kind", sample.id()));
            continue;
        }
        let Some(suite) = suite(sample.kind()) else {
            tally.later(sample.kind(), cases.len().max(1));
            continue;
        };
        if cases.is_empty() {
            tally.run(&format!("{} {}", sample.kind(), sample.id()), || suite(&appraisals, &sample, None));
        }
        for case in &cases {
            let title = format!("{} {} / {}", sample.kind(), sample.id(), case.name());
            tally.run(&title, || suite(&appraisals, &sample, Some(case)));
        }
    }
}
