//! SEV-SNP reports.

use std::borrow::Cow;
use std::collections::BTreeSet;

use countersign_evidence::amd::tcb::{Product, TcbVersion};
use countersign_evidence::amd::{Attestation, CertificateKind, Examination, Report, encode_table, examine};
use countersign_evidence::claims::Tee;
use countersign_evidence::{Collateral, Evidence, Finding, Reason, UnixTime, verify};
use toml::{Table, Value};

use crate::appraisals::{Appraisal, Appraisals, outcome};
use crate::der;
use crate::manifest::{Case, Keys, Sample};
use crate::tally::Miss;

type Certificates = Vec<(CertificateKind, Vec<u8>)>;

/// A genuine report: its form, and the case.
pub(crate) fn report(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    let bytes = sample.bytes(appraisals.corpus)?;
    let evidence = Evidence::sniff(&bytes).map_err(|f| format!("not recognised: {f}"))?;
    let Evidence::Amd(attestation) = &evidence else {
        return Err(format!("read as {}", evidence.tee()).into());
    };
    let report = attestation.report();
    if evidence.tee() != Tee::SevSnp || !sample.kind().ends_with(&format!("-v{}", report.version)) {
        return Err(format!("read as a report of version {}", report.version).into());
    }
    let fields = sample.fields();
    let compared = fields.compare(|name, expected| field(report, name, expected))?;
    let expect = sample.expect();
    expect.is("debug", report.policy >> 19 & 1 == 1)?;
    expect.compare(|name, v| (name == "signing_key").then(|| field(report, name, v)).flatten())?;
    expect.get("crypto");
    let detail = match case {
        Some(case) => evaluate(appraisals, report, case)?,
        None => "its form, without certificates".to_owned(),
    };
    Ok(format!("{detail}; {compared} fields{}{}", fields.not_compared(), expect.not_compared()))
}

fn evaluate(appraisals: &Appraisals<'_>, report: &Report, case: &Case<'_>) -> Result<String, Miss> {
    let expect = case.expect();
    let crypto = expect.text("crypto").unwrap_or("unknown");
    if !["valid", "invalid"].contains(&crypto) {
        return Err(Miss::Skipped(format!("the manifest says '{crypto}'")));
    }
    let instants = case.instants()?;
    let mut detail = String::new();
    for now in &instants {
        let at = |why: String| format!("at {}: {why}", crate::manifest::rfc3339(now.as_secs()));
        let appraisal = appraisals.of(&case.collateral(), *now)?;
        let certificates = certificates(appraisals, case)?;
        compare_parts(report, &certificates, &appraisal, &expect, crypto).map_err(at)?;
        detail = compare_verdict(appraisals, report, &certificates, &appraisal, crypto).map_err(at)?;
    }
    if instants.is_empty() {
        return Err(Miss::Skipped("no verify_at".to_owned()));
    }
    Ok(format!("{detail} ({} times){}", instants.len(), expect.not_compared()))
}

/// The certificates of a case, each with what it is.
fn certificates(appraisals: &Appraisals<'_>, case: &Case<'_>) -> Result<Certificates, String> {
    let mut all = Vec::new();
    for path in case.collateral() {
        // Other collateral, such as CRLs, is the appraisal's.
        for der in der::certificates(&appraisals.corpus.read(path)?).unwrap_or_default() {
            if let Ok(kind) = kind(&der) {
                all.push((kind, der.to_vec()));
            }
        }
    }
    Ok(all)
}

fn kind(der: &[u8]) -> Result<CertificateKind, String> {
    let certificate = der::parse(der)?;
    let subject = certificate.subject().iter_common_name().find_map(|name| name.as_str().ok());
    Ok(match subject.unwrap_or_default() {
        "SEV-VCEK" => CertificateKind::Vcek,
        "SEV-VLEK" => CertificateKind::Vlek,
        _ if certificate.subject() == certificate.issuer() => CertificateKind::Ark,
        _ => CertificateKind::Ask,
    })
}

fn attestation<'a>(report: &Report, certificates: &'a Certificates) -> Attestation<'a> {
    let certificates = certificates.iter().map(|(kind, der)| (*kind, Cow::from(der))).collect();
    Attestation::new(report.clone(), certificates)
}

/// The parts of the cryptography, for reports of every version.
fn compare_parts(
    report: &Report,
    certificates: &Certificates,
    appraisal: &Appraisal,
    expect: &Keys<'_>,
    crypto: &str,
) -> Result<(), String> {
    let attestation = attestation(report, certificates);
    let examination = examine(&attestation, &Collateral::default(), &appraisal.anchors, appraisal.now);
    let result = examination.as_ref().map_err(Clone::clone).and_then(Examination::result);
    match (crypto, result) {
        ("valid", Err(finding)) => return Err(format!("examined: {finding}")),
        ("invalid", Ok(())) => return Err("examined: all parts hold".to_owned()),
        _ => {}
    }
    let Ok(e) = examination else { return Ok(()) };
    expect.is("report_signature", e.report_signature.is_ok())?;
    expect.is("vek_issued_by_ask", e.vek_issued_by_ask.is_ok())?;
    expect.is("vek_in_validity", e.vek_in_validity.is_ok())?;
    expect.is("reported_tcb_equals_vek_tcb", e.reported_tcb_equals_vek_tcb.is_ok())?;
    if let Some(equal) = e.chip_id_equals_vek_hwid {
        expect.is("chip_id_equals_vek_hwid", equal.is_ok())?;
    }
    expect.is("product_line", e.product.name())
}

/// Full verification, with the certificates from the host's table and from the
/// collateral.
fn compare_verdict(
    appraisals: &Appraisals<'_>,
    report: &Report,
    certificates: &Certificates,
    appraisal: &Appraisal,
    crypto: &str,
) -> Result<String, String> {
    let table: Vec<_> = certificates.iter().map(|(kind, der)| (*kind, &**der)).collect();
    let with_table = [report.as_bytes().as_slice(), &encode_table(&table)].concat();
    let with_table = Evidence::sniff(&with_table).map_err(|f| format!("with its certificates: {f}"))?;
    let bare = Evidence::Amd(Attestation::new(report.clone(), Vec::new()));
    let nothing = Appraisal {
        collateral: Collateral::default(),
        anchors: appraisal.anchors.clone(),
        test_root: false,
        has_intel_root: false,
        refused: Vec::new(),
        now: appraisal.now,
    };
    let mut reasons = BTreeSet::new();
    for (way, evidence, appraisal) in
        [("host's table", &with_table, &nothing), ("collateral", &bare, appraisal)]
    {
        let result = appraisals.verify(evidence, appraisal)?;
        match &result {
            Err(finding) if report.version < 3 && finding.reason == Reason::UnsupportedVersion => {
                reasons.insert(finding.reason.code());
            }
            _ if report.version < 3 => return Err(format!("a refused version, but {}", outcome(&result))),
            Ok(_) if crypto == "invalid" => return Err(format!("accepted by the {way}")),
            Err(finding) if crypto == "invalid" => {
                reasons.insert(finding.reason.code());
            }
            Err(finding) => return Err(format!("by the {way}: {finding}")),
            Ok(claims) if claims.emulated || claims.report_data != report.report_data => {
                return Err("the claims are not those of this report".to_owned());
            }
            Ok(claims) if !claims.window.contains(appraisal.now.as_secs()) => {
                return Err("outside the window of the claims".to_owned());
            }
            Ok(_) => {}
        }
    }
    let reasons = Vec::from_iter(reasons).join(", ");
    Ok(match (crypto, report.version) {
        ("valid", 0..3) => format!("genuine, and refused as {reasons}"),
        ("valid", _) => "valid".to_owned(),
        _ => format!("refused, {reasons}"),
    })
}

/// A report that must be refused.
pub(crate) fn negative_report(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    let bytes = sample.bytes(appraisals.corpus)?;
    let defect = sample.expect().text("reason").map(|r| format!("; the defect: {r}")).unwrap_or_default();
    let report = match (Evidence::sniff(&bytes), Report::parse(&bytes)) {
        (Ok(Evidence::Amd(attestation)), _) => attestation.report().clone(),
        (_, Ok(report)) => report,
        (Ok(Evidence::Intel(_)), _) => return Err("read as a quote".to_owned().into()),
        (Err(finding), Err(_)) => return Ok(format!("refused, {}{defect}", finding.reason)),
    };
    // Without a case of its own it is tried with the certificates of every other.
    let instants = case.map(Case::instants).transpose()?.unwrap_or_default();
    if let Some(case) = case.filter(|_| !instants.is_empty()) {
        if case.expect().text("crypto").is_some_and(|crypto| crypto != "invalid") {
            return Err(format!("a negative sample with a case that is not invalid: {}", case.name()).into());
        }
        return Ok(evaluate(appraisals, &report, case)? + &defect);
    }
    let donors = donors(appraisals)?;
    for (certificates, appraisal) in &donors {
        compare_verdict(appraisals, &report, certificates, appraisal, "invalid")?;
    }
    Ok(format!("refused with the certificates of {} cases{defect}", donors.len()))
}

/// The certificates of all cases, at the time of each.
fn donors(appraisals: &Appraisals<'_>) -> Result<Vec<(Certificates, std::rc::Rc<Appraisal>)>, String> {
    let mut donors = Vec::new();
    for sample in appraisals.corpus.samples().iter().filter(|s| s.kind().starts_with("snp-report")) {
        for case in sample.cases() {
            if let Some(now) = case.instants()?.first() {
                donors.push((certificates(appraisals, &case)?, appraisals.of(&case.collateral(), *now)?));
            }
        }
    }
    Ok(donors)
}

/// An endorsement key's certificate that must not be believed: tried with every
/// report, in the place of the true one.
pub(crate) fn negative_vcek(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    let forged = der::certificates(&sample.bytes(appraisals.corpus)?)?;
    let mut own = sample.collateral();
    own.extend(case.map(Case::collateral).unwrap_or_default());
    let mut tried = 0;
    for donor in appraisals.corpus.samples().iter().filter(|s| s.kind().starts_with("snp-report")) {
        let Ok(report) = Report::parse(&donor.bytes(appraisals.corpus)?) else { continue };
        for donor_case in donor.cases() {
            for now in donor_case.instants()? {
                tried += 1;
                let true_ones = certificates(appraisals, &donor_case)?;
                try_forged(appraisals, &report, &true_ones, &forged, (&own, now))
                    .map_err(|why| format!("with {} / {}: {why}", donor.id(), donor_case.name()))?;
            }
        }
    }
    if tried == 0 {
        return Err(Miss::Skipped("no report to try it with".to_owned()));
    }
    let defect = sample.expect().text("reason").map(|r| format!("; the defect: {r}")).unwrap_or_default();
    Ok(format!("refused in the place of the key of {tried} reports{defect}"))
}

fn try_forged(
    appraisals: &Appraisals<'_>,
    report: &Report,
    true_ones: &Certificates,
    forged: &[rustls_pki_types::CertificateDer<'_>],
    (own, now): (&[&str], UnixTime),
) -> Result<(), String> {
    let appraisal = appraisals.of(own, now)?;
    for (place, der) in [CertificateKind::Vcek, CertificateKind::Vlek]
        .into_iter()
        .flat_map(|place| forged.iter().map(move |der| (place, der)))
    {
        let mut certificates: Certificates = true_ones
            .iter()
            .filter(|(kind, _)| !matches!(kind, CertificateKind::Vcek | CertificateKind::Vlek))
            .cloned()
            .collect();
        certificates.push((place, der.to_vec()));
        let attestation = attestation(report, &certificates);
        let examined = examine(&attestation, &appraisal.collateral, &appraisal.anchors, now);
        if examined.is_ok_and(|e| e.vek_issued_by_ask.is_ok() || e.result().is_ok()) {
            return Err("it counts as issued by the ASK".to_owned());
        }
        let verdict: Result<_, Finding> = verify(
            &Evidence::Amd(attestation),
            &appraisal.collateral,
            &appraisal.anchors,
            now,
            None,
            &mut (),
        );
        if verdict.is_ok() {
            return Err("a report is accepted with it".to_owned());
        }
    }
    Ok(())
}

/// The value of a field: `None` when no report has such a field, `Some(None)`
/// when this one lacks it.
fn field(report: &Report, name: &str, expected: &Value) -> Option<Option<Value>> {
    let hex = |bytes: &[u8]| Some(Value::from(hex::encode(bytes)));
    let bit = |n: u32| Some(Value::from(report.policy >> n & 1 == 1));
    let number = |n: u64| i64::try_from(n).ok().map(Value::from);
    let cpuid = |i: usize| report.cpuid.and_then(|id| id.get(i).copied()).and_then(|n| number(n.into()));
    Some(match name {
        "version" => number(report.version.into()),
        "guest_svn" => number(report.guest_svn.into()),
        "family_id" => hex(&report.family_id),
        "image_id" => hex(&report.image_id),
        "vmpl" => number(report.vmpl.into()),
        "sig_algo" => number(report.signature_algo.into()),
        "current_tcb" => hex(&report.current_tcb),
        "platform_info" => number(report.platform_info),
        "signer_info" => number(report.key_info.into()),
        "author_key_en" => Some(report.author_key_en().into()),
        "mask_chip_key" => Some(report.mask_chip_key().into()),
        "signing_key" => report.signing_key().ok().map(|k| format!("{k:?}").to_uppercase().into()),
        "report_data" => hex(&report.report_data),
        "measurement" => hex(&report.measurement),
        "host_data" => hex(&report.host_data),
        "id_key_digest" => hex(&report.id_key_digest),
        "author_key_digest" => hex(&report.author_key_digest),
        "report_id" => hex(&report.report_id),
        "report_id_ma" => hex(&report.report_id_ma),
        "reported_tcb" => hex(&report.reported_tcb),
        "cpuid_fam" => cpuid(0),
        "cpuid_mod" => cpuid(1),
        "cpuid_step" => cpuid(2),
        "chip_id" => hex(&report.chip_id),
        "committed_tcb" => hex(&report.committed_tcb),
        "current_version" => Some(report.current_version.to_string().into()),
        "committed_version" => Some(report.committed_version.to_string().into()),
        "launch_tcb" => hex(&report.launch_tcb),
        "launch_mit_vector" => report.launch_mit_vector.and_then(number),
        "current_mit_vector" => report.current_mit_vector.and_then(number),
        "debug" => bit(19),
        "smt" => bit(16),
        "migrate_ma" => bit(18),
        "single_socket" => bit(20),
        "abi_major" => number(report.policy >> 8 & 0xff),
        "abi_minor" => number(report.policy & 0xff),
        "policy_hex" => Some(format!("{:#x}", report.policy).into()),
        "reported_tcb_parts" => Some(tcb_parts(report, expected)),
        _ => return None,
    })
}

fn tcb_parts(report: &Report, expected: &Value) -> Value {
    // The parts name the layout: only Turin's has an FMC.
    let turin = expected.get("fmc").is_some();
    let assumed = if turin { Product::Turin } else { Product::Milan };
    let product = report.product().ok().flatten().unwrap_or(assumed);
    let tcb = TcbVersion::from_bytes(product, report.reported_tcb);
    let parts = [
        ("fmc", tcb.fmc),
        ("bl", tcb.bootloader),
        ("tee", tcb.tee),
        ("snp", tcb.snp),
        ("ucode", tcb.microcode),
    ];
    let parts = parts.into_iter().filter(|(name, _)| turin || *name != "fmc");
    Value::Table(parts.map(|(name, value)| (name.to_owned(), i64::from(value).into())).collect::<Table>())
}
