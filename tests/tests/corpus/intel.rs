//! SGX and TDX quotes.

use std::collections::BTreeSet;

use countersign_evidence::claims::{Body, IntelPlatform, TcbStatus, Tee};
use countersign_evidence::intel::{Quote, QuoteBody};
use countersign_evidence::{Anchors, Claims, Evidence, Finding, Reason, verify};

use crate::appraisals::{Appraisal, Appraisals, outcome};
use crate::intel_fields::{field, parts};
use crate::manifest::{Case, Keys, Sample};
use crate::tally::Miss;

/// Kinds whose cases bring collateral for quotes.
const WITH_COLLATERAL: [&str; 2] = ["tdx-quote", "sgx-quote"];

/// A genuine quote: its form, the parts of its cryptography, and the case.
pub(crate) fn quote(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    let bytes = sample.bytes(appraisals.corpus)?;
    let evidence = Evidence::sniff(&bytes).map_err(|f| format!("not recognised: {f}"))?;
    let Evidence::Intel(quote) = &evidence else { return Err(format!("read as {}", evidence.tee()).into()) };
    let tee = if sample.kind().starts_with("tdx") { Tee::Tdx } else { Tee::Sgx };
    if quote.tee() != tee || !sample.kind().ends_with(&format!("-v{}", quote.version())) {
        return Err(format!("read as a quote of {} version {}", quote.tee(), quote.version()).into());
    }
    let fields = sample.fields();
    let compared = fields.compare(|name, _| field(quote, name))?;
    let expect = sample.expect();
    let broken = parts(quote, &expect)?;
    let mut detail = match case {
        Some(case) => evaluate(appraisals, &evidence, case)?,
        None => "its form, without collateral".to_owned(),
    };
    if broken {
        detail += &never_accepted(appraisals, &evidence)?;
    }
    // Both are what a case with the test root shows; a status stands with its case.
    for key in ["under_intel_root", "under_test_root", "tcb_status"] {
        expect.get(key);
    }
    Ok(format!("{detail}; {compared} fields{}{}", fields.not_compared(), expect.not_compared()))
}

/// Evaluates a case at all its times.
pub(crate) fn evaluate(
    appraisals: &Appraisals<'_>,
    evidence: &Evidence<'_>,
    case: &Case<'_>,
) -> Result<String, Miss> {
    let expect = case.expect();
    let crypto = expect.text("crypto").unwrap_or("unknown");
    if !["valid", "invalid", "valid-if-root-trusted-by-key"].contains(&crypto) {
        return Err(Miss::Skipped(format!("the manifest says '{crypto}'")));
    }
    let instants = case.instants()?;
    let mut detail = String::new();
    for now in &instants {
        let appraisal = appraisals.of(&case.collateral(), *now)?;
        let result = appraisals.verify(evidence, &appraisal)?;
        detail = judge(&expect, crypto, evidence, &appraisal, &result).map_err(|why| {
            format!("at {}: {why}{}", crate::manifest::rfc3339(now.as_secs()), refused_items(&appraisal))
        })?;
        if appraisal.test_root {
            let built_in = Anchors::built_in();
            if verify(evidence, &appraisal.collateral, &built_in, *now, None, &mut ()).is_ok() {
                return Err("accepted although nobody trusts the test root".to_owned().into());
            }
        }
    }
    if instants.is_empty() {
        return Err(Miss::Skipped("no verify_at".to_owned()));
    }
    Ok(format!("{detail} ({} times){}", instants.len(), expect.not_compared()))
}

fn refused_items(appraisal: &Appraisal) -> String {
    appraisal.refused.iter().map(|(name, finding)| format!("; {name} refused: {finding}")).collect()
}

/// Compares an outcome with what is expected.
fn judge(
    expect: &Keys<'_>,
    crypto: &str,
    evidence: &Evidence<'_>,
    appraisal: &Appraisal,
    result: &Result<Claims, Finding>,
) -> Result<String, String> {
    let no_level = expect.text("tcb_status") == Some("NoMatchingLevel");
    match result {
        Ok(_) if crypto == "invalid" => Err("accepted".to_owned()),
        // What the parts would be is of no consequence to a refusal.
        Err(finding) if crypto == "invalid" => {
            platform_keys(expect);
            Ok(format!("refused, {}", finding.reason))
        }
        Ok(_) if no_level => Err("accepted without a matching TCB level".to_owned()),
        Err(finding) if no_level && finding.reason == Reason::TcbNotSupported => {
            platform_keys(expect);
            Ok(format!("refused, {}", finding.reason))
        }
        Err(finding) if crypto == "valid-if-root-trusted-by-key" && !appraisal.has_intel_root => {
            match finding.reason {
                Reason::UntrustedRoot | Reason::BadChain => Ok(format!("refused, {}", finding.reason)),
                _ => Err(outcome(result)),
            }
        }
        Err(_) => Err(outcome(result)),
        Ok(claims) => {
            let platform = platform(claims).ok_or("claims of another vendor")?;
            statuses(expect, platform)?;
            advisories(expect, platform)?;
            if let Evidence::Intel(quote) = evidence {
                module(expect, quote)?;
            }
            if claims.report_data != *evidence.report_data() || claims.emulated {
                return Err("the claims are not those of this evidence".to_owned());
            }
            let now = appraisal.now.as_secs();
            if !claims.window.contains(now) {
                return Err(format!("{now} is outside the window of the claims"));
            }
            Ok(format!("valid, {}", platform.tcb_status.name()))
        }
    }
}

/// Marks the keys about a platform as known where there are no claims.
fn platform_keys(expect: &Keys<'_>) {
    for key in [
        "tcb_status",
        "platform_tcb_level",
        "platform_tcb_date",
        "qe_tcb_status",
        "tdx_module",
        "tdx_module_status",
        "advisory_ids",
    ] {
        expect.get(key);
    }
}

fn platform(claims: &Claims) -> Option<&IntelPlatform> {
    match &claims.body {
        Body::Tdx(c) => Some(&c.platform),
        Body::Sgx(c) => Some(&c.platform),
        Body::SevSnp(_) => None,
    }
}

fn statuses(expect: &Keys<'_>, p: &IntelPlatform) -> Result<(), String> {
    let is = |key: &str, presented: &str| match expect.text(key) {
        Some(expected) if expected != presented => {
            Err(format!("{key}: expected {expected}, found {presented}"))
        }
        _ => Ok(()),
    };
    is("tcb_status", p.tcb_status.name())?;
    is("platform_tcb_level", p.platform_tcb_status.name())?;
    is("platform_tcb_date", &p.tcb_date)?;
    is("qe_tcb_status", p.qe_tcb_status.name())?;
    is("tdx_module_status", p.module_status.map_or("none", TcbStatus::name))
}

/// The manifest lists the advisories of the platform's level; the claims also
/// hold those of the quoting enclave and of the TDX module.
fn advisories(expect: &Keys<'_>, p: &IntelPlatform) -> Result<(), String> {
    let Some(expected) = expect.list("advisory_ids") else { return Ok(()) };
    let expected: BTreeSet<_> = expected.into_iter().collect();
    let presented: BTreeSet<_> = p.advisory_ids.iter().map(String::as_str).collect();
    let good = |status: TcbStatus| status == TcbStatus::UpToDate;
    let alone = good(p.qe_tcb_status) && p.module_status.is_none_or(good);
    if expected == presented || !alone && expected.is_subset(&presented) {
        return Ok(());
    }
    Err(format!("advisory_ids: expected {expected:?}, found {presented:?}"))
}

/// Which description of the TCB info the TDX module is compared with.
fn module(expect: &Keys<'_>, quote: &Quote<'_>) -> Result<(), String> {
    let (Some(expected), QuoteBody::Tdx(report)) = (expect.text("tdx_module"), quote.body()) else {
        return Ok(());
    };
    let [_, version, ..] = report.tee_tcb_svn;
    let presented = if version == 0 { "tdxModule".to_owned() } else { format!("TDX_{version:02X}") };
    if expected.eq_ignore_ascii_case(&presented) {
        return Ok(());
    }
    Err(format!("tdx_module: expected {expected}, found {presented}"))
}

/// A quote that must be refused: with the collateral of its case, or where it
/// has none with all the collateral that there is.
pub(crate) fn negative_quote(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    let bytes = sample.bytes(appraisals.corpus)?;
    let expect = sample.expect();
    expect.get("crypto");
    let note = || expect.text("reason").map(|r| format!("; the defect: {r}")).unwrap_or_default();
    let recognised = Evidence::sniff(&bytes);
    // A file that is not recognised may still be handed in as a quote.
    let quote = match Quote::parse(&bytes) {
        Ok(quote) => Evidence::Intel(quote),
        Err(finding) if recognised.is_err() => return Ok(format!("refused, {}{}", finding.reason, note())),
        Err(finding) => return Err(format!("recognised, but then {finding}").into()),
    };
    let detail = match case {
        Some(case) if !case.instants()?.is_empty() => {
            if case.expect().text("crypto").is_some_and(|crypto| crypto != "invalid") {
                return Err(
                    format!("a negative sample with a case that is not invalid: {}", case.name()).into()
                );
            }
            let mut reasons = BTreeSet::new();
            for now in case.instants()? {
                let appraisal = appraisals.of(&case.collateral(), now)?;
                match appraisals.verify(&quote, &appraisal)? {
                    Ok(_) => return Err("accepted".to_owned().into()),
                    Err(finding) => reasons.insert(finding.reason.code()),
                };
            }
            format!("refused, {}", Vec::from_iter(reasons).join(", "))
        }
        _ => format!("refused{}", never_accepted(appraisals, &quote)?),
    };
    Ok(format!("{detail}{}", note()))
}

/// Evidence that no collateral of the corpus makes acceptable.
pub(crate) fn never_accepted(appraisals: &Appraisals<'_>, evidence: &Evidence<'_>) -> Result<String, String> {
    let all = appraisals.all(&WITH_COLLATERAL);
    for appraisal in &all {
        if appraisals.verify(evidence, appraisal)?.is_ok() {
            let at = crate::manifest::rfc3339(appraisal.now.as_secs());
            return Err(format!("accepted with some collateral of the corpus, at {at}"));
        }
    }
    Ok(format!(", under each of {} sets of collateral", all.len()))
}
