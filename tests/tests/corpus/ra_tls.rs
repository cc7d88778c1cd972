//! Certificates that carry evidence.
//!
//! This release takes evidence from `id-pe-cmw` and, in the CCC form, from
//! 2.23.133.5.4.9. Other forms (Gramine's old extension, Open Enclave's, names
//! in a subjectAltName) count as no evidence: their cases are skipped, and that
//! nothing is taken from them is checked.

use countersign_evidence::Evidence;
use countersign_ratls::peer::{Form, Presented};
use toml::Value;

use crate::appraisals::{Appraisals, outcome};
use crate::manifest::{Case, Keys, Sample, rfc3339};
use crate::tally::Miss;
use crate::{der, intel, intel_fields};

/// The extensions from which evidence is taken.
const ACCEPTED: [&str; 2] = ["2.23.133.5.4.9", "1.3.6.1.5.5.7.1.35"];

/// A genuine certificate.
pub(crate) fn certificate(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    let chain = der::certificates(&sample.bytes(appraisals.corpus)?)?;
    let fields = sample.fields();
    let which = evidence_of(case.map_or("", |case| case.name()));
    let oid = fields.text(&format!("{which}_oid")).unwrap_or("another place");
    let presented = Presented::parse(&chain);
    let conveyed = presented.as_ref().ok().and_then(|p| p.evidence.as_ref());
    let evidence = conveyed.map(|c| Evidence::parse(&c.media_type, &c.value)).transpose();
    let evidence = evidence.map_err(|f| f.to_string())?;
    // The certificate may carry several, of which one is taken.
    let report_data = evidence.as_ref().map(|e| hex::encode(e.report_data()));
    let is_this = match fields.text(&format!("{which}_report_data")) {
        Some(expected) => report_data.as_deref() == Some(expected),
        None => evidence.is_some() && ACCEPTED.contains(&oid),
    };
    let (Ok(presented), Some(conveyed), Some(evidence), true) = (&presented, conveyed, &evidence, is_this)
    else {
        return match &presented {
            Err(finding) if ACCEPTED.contains(&oid) => Err(finding.to_string().into()),
            Ok(_) if ACCEPTED.contains(&oid) => Err(format!("no evidence taken from {oid}").into()),
            _ => Err(Miss::Skipped(format!("{which} is in {oid}, from which this release takes none"))),
        };
    };
    let expect = sample.expect();
    let bound = expect.flag(&format!("{which}_binding_valid"));
    if bound == Some(false) {
        return Err("evidence taken although it does not bind the key".to_owned().into());
    }
    let compared = fields.compare(|name, _| field(presented, evidence, &which, name))?;
    quote_signatures(evidence, &expect, &which)?;
    let detail = match case {
        Some(case) => intel::evaluate(appraisals, evidence, case)?,
        None => "taken and bound".to_owned(),
    };
    let form = match conveyed.form {
        Form::Native => "native",
        Form::Ccc => "CCC",
    };
    Ok(format!("{form} evidence binds the key, {detail}; {compared} fields{}", fields.not_compared()))
}

/// Cases are named after what they speak of: `evidence2-OutOfDate`.
fn evidence_of(case: &str) -> String {
    let number: String =
        case.strip_prefix("evidence").unwrap_or("1").chars().take_while(char::is_ascii_digit).collect();
    format!("evidence{}", if number.is_empty() { "1" } else { &number })
}

/// A field of the certificate, or of the evidence that was taken from it.
fn field(presented: &Presented, evidence: &Evidence<'_>, which: &str, name: &str) -> Option<Option<Value>> {
    match name {
        "certificate_spki_sha256" => return Some(Some(hex::encode(presented.spki_sha256).into())),
        "not_before" => return Some(Some(rfc3339(presented.not_before).into())),
        "not_after" => return Some(Some(rfc3339(presented.not_after).into())),
        _ => {}
    }
    let name = name.strip_prefix(which)?.strip_prefix('_')?;
    let Evidence::Intel(quote) = evidence else { return None };
    intel_fields::field(quote, name)
}

fn quote_signatures(evidence: &Evidence<'_>, expect: &Keys<'_>, which: &str) -> Result<(), String> {
    let (Some(expected), Evidence::Intel(quote)) =
        (expect.flag(&format!("{which}_quote_signatures")), evidence)
    else {
        return Ok(());
    };
    let broken = intel_fields::parts(quote, &Keys::none())?;
    if broken == expected {
        return Err(format!("{which}_quote_signatures: expected {expected}, found {}", !broken));
    }
    Ok(())
}

/// A certificate that must not be accepted with a valid binding: it is refused,
/// or nothing in it counts as evidence, or its evidence proves nothing.
pub(crate) fn negative_certificate(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    let defect = sample.expect().text("reason").map(|r| format!("; the defect: {r}")).unwrap_or_default();
    let chain = match der::certificates(&sample.bytes(appraisals.corpus)?) {
        Ok(chain) => chain,
        Err(why) => return Ok(format!("refused, {why}{defect}")),
    };
    let presented = match Presented::parse(&chain) {
        Ok(presented) => presented,
        Err(finding) => return Ok(format!("refused, {}{defect}", finding.reason)),
    };
    let Some(conveyed) = &presented.evidence else {
        return Ok(format!("no evidence in a form that is accepted{defect}"));
    };
    let evidence = Evidence::parse(&conveyed.media_type, &conveyed.value).map_err(|f| f.to_string())?;
    for now in case.map(Case::instants).transpose()?.unwrap_or_default() {
        let collateral = case.map(Case::collateral).unwrap_or_default();
        let result = appraisals.verify(&evidence, &*appraisals.of(&collateral, now)?)?;
        if result.is_ok() {
            return Err(outcome(&result).into());
        }
    }
    Ok(format!("its evidence is refused{}{defect}", intel::never_accepted(appraisals, &evidence)?))
}
