//! `countersign verify`: any evidence or certificate, offline.

use std::path::PathBuf;

use countersign_evidence::event_log;
use countersign_evidence::observe::Entry;
use countersign_evidence::{Denial, Evidence, Finding, Fingerprint, Reason, UnixTime};
use countersign_ratls::peer::Presented;
use countersign_ratls::{Bundle, SpiffeId};
use rustls_pki_types::CertificateDer;
use serde_json::json;

use crate::appraisal::{AppraisalArgs, Appraiser, Judged, facts, refusal};
use crate::failure::{Failure, Outcome, Result};
use crate::input;
use crate::output::{BAD, DIM, Format, GOOD, HEADING, NOTE, Output, clean, paint};
use crate::tree::{group, holds, lines, pass};

/// Verify evidence or a certificate offline: a tree of checks
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign verify quote.bin --collateral ./collateral --at 2026-11-21T08:00:00Z
  countersign verify report.bin --collateral ./collateral --policy policy.yaml -o json
  countersign verify peer.pem --bundle bundle.json --policy policy.yaml --collateral ./collateral
  countersign verify quote.bin --event-log /sys/firmware/acpi/tables/data/CCEL
  countersign emulate evidence ./vendor --tdx -o - | countersign verify - --collateral ./vendor/collateral

FILE is a TDX or SGX quote, an SEV-SNP report, a tsm-report, a CMW, or an X.509
certificate with evidence; as bytes, hexadecimal, base64 or PEM. Without --policy
the rules are: a vendor's root, TCB up to date, no debug; measurements are then not
compared with anything. Exit code 0 only when every check holds.")]
pub(crate) struct Args {
    /// The evidence or certificate; `-` for standard input
    file: PathBuf,
    #[command(flatten)]
    appraisal: AppraisalArgs,
    /// Verify as of this time, RFC 3339 or Unix seconds; now when not given
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    at: Option<UnixTime>,
    /// The event log that goes with evidence in a file: ours (CBOR), that of the
    /// firmware (CCEL), or that of dstack (JSON); it must land on the registers
    #[arg(long, value_name = "FILE")]
    event_log: Option<PathBuf>,
    /// The 64 bytes that the evidence must carry
    #[arg(long, value_name = "HEX", value_parser = input::report_data)]
    report_data: Option<[u8; 64]>,
    /// The trust bundle (JWK Set or PEM) that a certificate's path must end in
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Digests and lines at their whole length, as JSON has them always
    #[arg(short, long)]
    verbose: bool,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What was verified, and what came of it.
struct Report {
    what: String,
    judged: Judged,
    notes: Vec<String>,
    /// No policy was given.
    built_in: bool,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    let now = args.at.unwrap_or_else(input::now);
    let bytes = input::read(&args.file)?;
    let appraiser = Appraiser::load(&args.appraisal, now)?;
    let mut report = if input::looks_like_certificate(&bytes) {
        if args.event_log.is_some() {
            return Err(Failure::input("a certificate carries its own event log: leave out --event-log"));
        }
        let chain = input::certificates(&bytes).map_err(Failure::input)?;
        let bundle = args.bundle.as_ref().map(|path| input::read(path)).transpose()?;
        certificate(&chain, bundle.as_deref(), &appraiser, now)
    } else {
        let log = args.event_log.as_ref().map(|path| input::read(path)).transpose()?;
        bare(&bytes, log.as_deref(), &appraiser, now)
    };
    if let Some(expected) = &args.report_data {
        check_report_data(&mut report, expected, &bytes);
    }
    notes(&mut report, &appraiser);
    let passed = report.judged.denial.is_none() && holds(&report.judged.entries);
    match args.output {
        Format::Json => out.json(&json!({
            "passed": passed,
            "file": args.file,
            "what": report.what,
            "at": input::rfc3339(now.as_secs()),
            "emulated": report.judged.claims.as_ref().map(|c| c.emulated),
            "checks": report.judged.entries,
            "denial": report.judged.denial,
            "claims": report.judged.claims,
            "verdicts": report.judged.verdicts,
            "notes": report.notes,
        })),
        Format::Text => text(&report, passed, now, args.verbose, out),
    }
    Ok(Outcome::pass_if(passed))
}

/// Evidence without a certificate.
fn bare(bytes: &[u8], event_log: Option<&[u8]>, appraiser: &Appraiser, now: UnixTime) -> Report {
    match parse(bytes) {
        Ok((evidence, form)) => {
            let log = event_log.map(|log| (event_log::sniff(log), log));
            let what = format!("{}{form}", kind(&evidence));
            let mut notes = vec!["the age of the evidence is not known: taken as fresh".to_owned()];
            notes.push("its report data binds no certificate: compare it with --report-data".to_owned());
            let judged = appraiser.judge(&evidence, log, 0, now);
            Report { what, judged, notes, built_in: appraiser.built_in }
        }
        Err(finding) => Report {
            what: "not evidence that is understood".to_owned(),
            judged: Judged::denied("form", finding),
            notes: Vec::new(),
            built_in: appraiser.built_in,
        },
    }
}

/// Evidence by its content: as it is, or as the CPU entry of a CMW.
fn parse(bytes: &[u8]) -> std::result::Result<(Evidence<'static>, &'static str), Finding> {
    let finding = match Evidence::sniff(bytes) {
        Ok(evidence) => return Ok((evidence, "")),
        Err(finding) => finding,
    };
    let Ok(conveyed) = crate::cmw::evidence_of(bytes) else { return Err(finding) };
    let owned: &[u8] = &conveyed.1;
    Evidence::parse(&conveyed.0, owned)
        .and_then(|_| Evidence::sniff(owned))
        .map(|evidence| (evidence, " in a CMW"))
}

/// A certificate: its profile, its path, its evidence.
fn certificate(
    chain: &[CertificateDer<'static>],
    bundle: Option<&[u8]>,
    appraiser: &Appraiser,
    now: UnixTime,
) -> Report {
    let what = format!("X.509 certificate{}", if chain.len() > 1 { " chain" } else { "" });
    let presented = match Presented::parse(chain) {
        Ok(presented) => presented,
        Err(finding) => {
            let judged = Judged::denied("certificate", finding);
            return Report { what, judged, notes: Vec::new(), built_in: appraiser.built_in };
        }
    };
    let mut notes = Vec::new();
    let mut identity = vec![match &presented.id {
        Some(id) => pass("X.509-SVID profile", format!("{id}")),
        None => pass("certificate", "without a SPIFFE ID (bootstrap or foreign)"),
    }];
    if presented.evidence.is_some() {
        identity
            .push(pass("key binding", "the report data binds the certificate's key, all 64 bytes compared"));
    }
    let (from, until) = (presented.not_before, presented.not_after);
    let window = format!("{} to {}", input::rfc3339(from), input::rfc3339(until));
    let mut denial: Option<Denial> = None;
    if (from..=until).contains(&now.as_secs()) {
        identity.push(pass("validity", window));
    } else {
        let finding = Finding::new(Reason::SvidExpired, "validity", window, input::rfc3339(now.as_secs()));
        identity.push(refusal("validity", &finding));
        denial = Some(finding.into());
    }
    match (bundle, &presented.id) {
        (None, _) => notes.push("the path to a trust domain was not checked: no --bundle".to_owned()),
        (Some(_), None) => notes.push("a certificate without a SPIFFE ID has no path to a bundle".to_owned()),
        (Some(bundle), Some(id)) => match path(&presented, id, bundle, now) {
            Ok(entry) => identity.push(entry),
            Err(finding) => {
                identity.push(refusal("path", &finding));
                denial = denial.or(Some(finding.into()));
            }
        },
    }
    let mut judged = appraiser.judge_presented(&presented, now);
    let what = match &presented.evidence {
        Some(conveyed) => format!("{what} with {:?} evidence", conveyed.form),
        None => what,
    };
    judged.entries.insert(0, group("identity", identity));
    judged.denial = denial.or(judged.denial);
    Report { what, judged, notes, built_in: appraiser.built_in }
}

/// The path of an SVID to the bundle of its trust domain.
pub(crate) fn path(
    presented: &Presented,
    id: &SpiffeId,
    bundle: &[u8],
    now: UnixTime,
) -> std::result::Result<Entry, Finding> {
    let bundle = Bundle::parse(id.trust_domain(), bundle)?;
    let until = bundle.validate(presented, now)?;
    Ok(pass("path", format!("to the bundle of {}, until {}", bundle.trust_domain, input::rfc3339(until))))
}

/// What evidence is, for people.
pub(super) fn kind(evidence: &Evidence<'_>) -> String {
    match evidence {
        Evidence::Intel(quote) => format!("Intel {} quote", quote.tee().name().to_uppercase()),
        Evidence::Amd(_) => "AMD SEV-SNP report".to_owned(),
    }
}

fn check_report_data(report: &mut Report, expected: &[u8; 64], bytes: &[u8]) {
    let presented = match (&report.judged.claims, parse(bytes)) {
        (Some(claims), _) => claims.report_data,
        (None, Ok((evidence, _))) => *evidence.report_data(),
        (None, Err(_)) => return,
    };
    if presented == *expected {
        report.judged.entries.push(pass("report data", "all 64 bytes as expected"));
        return;
    }
    let finding =
        Finding::new(Reason::BindingMismatch, "report data", hex::encode(expected), hex::encode(presented));
    report.judged.entries.push(refusal("report data", &finding));
    if report.judged.denial.is_none() {
        report.judged.denial = Some(finding.into());
    }
}

fn notes(report: &mut Report, appraiser: &Appraiser) {
    if appraiser.built_in {
        report.notes.push(
            "no policy: signatures, chain, TCB and debug by strict rules; measurements are not compared"
                .to_owned(),
        );
    }
    report.notes.extend(appraiser.refused_notes());
}

/// What to do, here where no control plane and perhaps no policy is.
fn remedy(denial: &Denial, built_in: bool) -> String {
    let collateral = "name the vendor's collateral for this platform with --collateral PATH".to_owned();
    match denial.reason {
        Reason::CollateralMissing | Reason::CollateralMismatch | Reason::CrlMissing => collateral,
        Reason::UntrustedRoot => {
            let root = denial.findings.first().and_then(|f| f.presented.split_whitespace().next_back());
            match root.filter(|root| Fingerprint::from_hex(root).is_some()) {
                Some(root) if built_in => {
                    format!("if this is your vendor of emulated platforms: --emulated-root {root}")
                }
                Some(root) => format!("if the policy should admit it: emulatedRoots: [\"{root}\"]"),
                None => denial.reason.remedy().to_owned(),
            }
        }
        reason => reason.remedy().to_owned(),
    }
}

fn text(report: &Report, passed: bool, now: UnixTime, whole: bool, out: &mut Output) {
    let claims = report.judged.claims.as_deref();
    let emulated = match claims {
        Some(claims) if claims.emulated => format!("  {}", paint(NOTE, "EMULATED")),
        _ => String::new(),
    };
    let when = paint(DIM, &format!("as of {}", input::rfc3339(now.as_secs())));
    out.line(format!("{}{emulated}  {when}", paint(HEADING, &report.what)));
    for line in lines(&report.judged.entries) {
        out.fitted(line, whole);
    }
    if let Some(claims) = claims {
        out.line("");
        for (name, value) in facts(claims) {
            out.fitted(format!("  {:<12} {}", name, clean(&value)), whole);
        }
    }
    out.line("");
    for note in &report.notes {
        out.fitted(format!("{} {}", paint(NOTE, "note:"), clean(note)), whole);
    }
    match &report.judged.denial {
        None if passed => out.line(paint(GOOD, "PASS")),
        None => out.line(paint(BAD, "FAIL")),
        Some(denial) => {
            let text = denial.to_string();
            let what = text.strip_suffix(&format!(" ({})", denial.reason.remedy())).unwrap_or(&text);
            out.fitted(format!("{}  {}", paint(BAD, "FAIL"), clean(what)), whole);
            // Whole, so that it can be copied.
            out.line(format!("remedy  {}", clean(&remedy(denial, report.built_in))));
        }
    }
}
