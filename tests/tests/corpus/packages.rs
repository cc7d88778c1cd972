//! The real samples inside the packages `dcap-qvl` and `sev`, which are oracles
//! of differential tests: what a clone without a corpus can run.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use countersign_evidence::amd::{Attestation, CertificateKind, Report, examine};
use countersign_evidence::collateral::{Item, Marks};
use countersign_evidence::intel::Quote;
use countersign_evidence::{Anchors, Collateral, Evidence, Reason, UnixTime, verify};
use serde_json::Value;

use crate::tally::{Miss, Tally};
use crate::{der, manifest};

/// Runs what the packages have.
pub(crate) fn run(tally: &mut Tally) {
    let packages = match metadata() {
        Ok(packages) => packages,
        Err(why) => return tally.failed(&format!("packages: cargo metadata: {why}")),
    };
    let source = |name: &str| {
        let package = packages.iter().find(|p| p.get("name").is_some_and(|n| n == name))?;
        package.get("manifest_path")?.as_str().map(Path::new)
    };
    for (package, samples) in [("dcap-qvl", intel as fn(&Path, &mut Tally)), ("sev", amd)] {
        match source(package).and_then(Path::parent) {
            Some(dir) => samples(dir, tally),
            None => tally.failed(&format!("packages: no package {package}")),
        }
    }
}

/// The packages of this workspace, for this platform: the sources of others may
/// not be at hand.
fn metadata() -> Result<Vec<Value>, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = |arguments: &[&str]| {
        let output = Command::new(&cargo).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        let output = output.map_err(|e| e.to_string())?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let version = String::from_utf8_lossy(&run(&["-vV"])?).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("no host")?;
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", host];
    let offline = [&arguments[..], &["--offline"]].concat();
    let json = run(&offline).or_else(|_| run(&arguments))?;
    let metadata: Value = serde_json::from_slice(&json).map_err(|e| e.to_string())?;
    metadata.get("packages").and_then(Value::as_array).cloned().ok_or_else(|| "no packages".to_owned())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn intel(dir: &Path, tally: &mut Tally) {
    // The platform of one has no level in the collateral that comes with it.
    for (name, expected) in [
        ("sgx_quote", None),
        ("tdx_quote", None),
        ("tdx_quote_td15ex", None),
        ("tdx_quote_outdated", Some(Reason::TcbNotSupported)),
    ] {
        tally.run(&format!("dcap-qvl {name}"), || quote(&dir.join("sample"), name, expected));
    }
    for name in ["tdx-quote.hex", "quote-from-tappd.hex"] {
        tally.run(&format!("dcap-qvl {name}"), || {
            let evidence =
                Evidence::sniff(&read(&dir.join("sample").join(name))?).map_err(|f| f.to_string())?;
            Ok(format!("a quote of {}, its form", evidence.tee()))
        });
    }
}

fn quote(dir: &Path, name: &str, expected: Option<Reason>) -> Result<String, Miss> {
    let bytes = read(&dir.join(name))?;
    let collateral = read(&dir.join(format!("{name}_collateral.json")))?;
    let now = a_day_after_issue(&collateral)?;
    let anchors = Anchors::built_in();
    let items = [Item { name: name.to_owned(), bytes: collateral }];
    let appraised = Collateral::appraise(&items, &anchors, &mut Marks::default(), now);
    if let Some((_, finding)) = appraised.refused.first() {
        return Err(finding.to_string().into());
    }
    let evidence = Evidence::sniff(&bytes).map_err(|f| f.to_string())?;
    let run = |evidence: &Evidence<'_>| verify(evidence, &appraised.collateral, &anchors, now, None, &mut ());
    let detail = match (run(&evidence), expected) {
        (Ok(claims), None) => format!("valid from {} until {}", claims.window.from, claims.window.until),
        (Err(finding), Some(reason)) if finding.reason == reason => format!("refused, {reason}"),
        (Ok(_), Some(_)) => return Err("accepted".to_owned().into()),
        (Err(finding), _) => return Err(finding.to_string().into()),
    };
    // One bit of the signed body.
    let mut changed = bytes;
    if let Some(byte) = changed.get_mut(200) {
        *byte ^= 1;
    }
    match Quote::parse(&changed).and_then(|quote| run(&Evidence::Intel(quote))) {
        Ok(_) => Err("accepted with a bit flipped".to_owned().into()),
        Err(_) => Ok(detail),
    }
}

fn a_day_after_issue(collateral: &[u8]) -> Result<UnixTime, String> {
    let json: Value = serde_json::from_slice(collateral).map_err(|e| e.to_string())?;
    let issued = |key: &str| {
        let body: Value = serde_json::from_str(json.get(key)?.as_str()?).ok()?;
        manifest::at(body.get("issueDate")?.as_str()?)
    };
    let latest = issued("tcb_info").max(issued("qe_identity")).ok_or("no issueDate")?;
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(latest.as_secs() + 24 * 3600)))
}

fn amd(dir: &Path, tally: &mut Tally) {
    let dir = dir.join("tests/certs_data");
    tally.run("sev report_milan.hex", || report(&dir));
    for product in ["milan", "turin"] {
        tally.run(&format!("sev cert_chain_{product}"), || chain(&dir, product));
    }
}

/// VCEK, ASK and ARK of a product.
fn certificates(dir: &Path, product: &str) -> Result<Vec<(CertificateKind, Vec<u8>)>, String> {
    let vcek = read(&dir.join(format!("vcek_{product}.der")))?;
    let chain = der::certificates(&read(&dir.join(format!("cert_chain_{product}")))?)?;
    let [ask, ark] = chain.as_slice() else { return Err(format!("{} certificates", chain.len())) };
    let kinds = [CertificateKind::Vcek, CertificateKind::Ask, CertificateKind::Ark];
    Ok(kinds.into_iter().zip([vcek, ask.to_vec(), ark.to_vec()]).collect())
}

fn a_day_after_vcek(certificates: &[(CertificateKind, Vec<u8>)]) -> Result<UnixTime, String> {
    let (_, vcek) = certificates.first().ok_or("no VCEK")?;
    let from = der::parse(vcek)?.validity().not_before.timestamp();
    let from = u64::try_from(from).map_err(|e| e.to_string())?;
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(from + 24 * 3600)))
}

fn report(dir: &Path) -> Result<String, Miss> {
    let evidence = Evidence::sniff(&read(&dir.join("report_milan.hex"))?).map_err(|f| f.to_string())?;
    let Evidence::Amd(attestation) = &evidence else { return Err("not a report".to_owned().into()) };
    let certificates = certificates(dir, "milan")?;
    let now = a_day_after_vcek(&certificates)?;
    let with = |report: Report| {
        let certificates = certificates.iter().map(|(kind, der)| (*kind, der.into())).collect();
        Attestation::new(report, certificates)
    };
    let (nothing, anchors) = (Collateral::default(), Anchors::built_in());
    let attestation = with(attestation.report().clone());
    let version = attestation.report().version;
    let examined = examine(&attestation, &nothing, &anchors, now).map_err(|f| f.to_string())?;
    examined.result().map_err(|f| f.to_string())?;
    match (verify(&Evidence::Amd(attestation), &nothing, &anchors, now, None, &mut ()), version) {
        (Err(finding), 0..3) if finding.reason == Reason::UnsupportedVersion => {
            Ok(format!("version {version}, genuine, and refused as {}", finding.reason))
        }
        (Ok(_), 3..) => Ok(format!("version {version}, valid")),
        (Ok(_), _) => Err("a version that must be refused is accepted".to_owned().into()),
        (Err(finding), _) => Err(finding.to_string().into()),
    }
}

fn chain(dir: &Path, product: &str) -> Result<String, Miss> {
    let certificates = certificates(dir, product)?;
    let items: Vec<_> = certificates
        .iter()
        .map(|(kind, der)| Item { name: format!("{kind:?}"), bytes: der.clone() })
        .collect();
    let now = a_day_after_vcek(&certificates)?;
    let appraised = Collateral::appraise(&items, &Anchors::built_in(), &mut Marks::default(), now);
    if let Some((name, finding)) = appraised.refused.first() {
        return Err(format!("{name}: {finding}").into());
    }
    let inventory = appraised.collateral.inventory();
    let current = inventory.iter().filter(|e| e.kind == "certificate" && e.window.contains(now.as_secs()));
    match current.count() {
        3 => Ok("VCEK, ASK and ARK are read and current".to_owned()),
        n => Err(format!("{n} of 3 certificates").into()),
    }
}
