//! Offline appraisal: evidence, collateral, a policy, a time; and what came of it
//! as a tree of checks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_config::place::Places;
use countersign_config::{Inputs, View};
use countersign_evidence::claims::{Body, RuntimeEvents};
use countersign_evidence::collateral::Marks;
use countersign_evidence::observe::{Entry, Tree};
use countersign_evidence::policy::{Alternative, Common, Mode, PolicyRef, SgxRule, SnpRule, TdxRule};
use countersign_evidence::verdict::Outcome as VerdictOutcome;
use countersign_evidence::{
    Anchors, Claims, Collateral, Denial, Evidence, Finding, Fingerprint, Policy, Reason, References,
    RegisterState, UnixTime, Verdict, appraise, verify,
};
use countersign_ratls::peer::{Form, Presented};

use crate::failure::{Failure, Result};
use crate::input;
use crate::tree::{fail, group, pass};

/// By what to appraise.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct AppraisalArgs {
    /// Vendor collateral: a file or a directory (may be repeated)
    #[arg(long, value_name = "PATH")]
    collateral: Vec<PathBuf>,
    /// An AttestationPolicy with its ReferenceValues (may be repeated)
    #[arg(long, value_name = "FILE")]
    policy: Vec<PathBuf>,
    /// Which AttestationPolicy, NAMESPACE/NAME, when the files have several
    #[arg(long, value_name = "NAME", requires = "policy")]
    policy_name: Option<String>,
    /// Admit a root of emulated platforms, by the SHA-256 of its certificate
    /// (without --policy; a policy says it in emulatedRoots)
    #[arg(long, value_name = "HEX", value_parser = fingerprint, conflicts_with = "policy")]
    emulated_root: Vec<Fingerprint>,
}

fn fingerprint(text: &str) -> std::result::Result<Fingerprint, String> {
    Fingerprint::from_hex(text).ok_or_else(|| "a fingerprint is 64 hexadecimal digits".to_owned())
}

/// Everything by which evidence is appraised.
#[derive(Clone, Debug)]
pub(crate) struct Appraiser {
    policy: Policy,
    references: References,
    forms: Vec<Form>,
    anchors: Anchors,
    collateral: Collateral,
    /// Collateral that cannot be used, with the reason.
    refused: Vec<(String, Finding)>,
    /// No policy was given: strict rules of our own, without measurements.
    pub(crate) built_in: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Judged {
    /// The checks, in order.
    pub(crate) entries: Vec<Entry>,
    /// What can be believed.
    pub(crate) claims: Option<Arc<Claims>>,
    /// The verdict of the policy.
    pub(crate) verdicts: Vec<Verdict>,
    /// Why not.
    pub(crate) denial: Option<Denial>,
}

impl Appraiser {
    /// From a command line.
    pub(crate) fn load(args: &AppraisalArgs, now: UnixTime) -> Result<Self> {
        let mut appraiser = if args.policy.is_empty() {
            Self::strict(&args.emulated_root)
        } else {
            Self::from_policies(&args.policy, args.policy_name.as_deref(), now)?
        };
        appraiser.take_collateral(&args.collateral, now)?;
        Ok(appraiser)
    }

    /// From files that hold exactly one AttestationPolicy.
    pub(crate) fn from_files(policies: &[PathBuf], collateral: &[PathBuf], now: UnixTime) -> Result<Self> {
        let mut appraiser = Self::from_policies(policies, None, now)?;
        appraiser.take_collateral(collateral, now)?;
        Ok(appraiser)
    }

    fn take_collateral(&mut self, paths: &[PathBuf], now: UnixTime) -> Result<()> {
        let items = input::collateral(paths)?;
        let appraised = Collateral::appraise(&items, &self.anchors, &mut Marks::default(), now);
        self.collateral = appraised.collateral;
        self.refused = appraised.refused;
        Ok(())
    }

    /// Without a policy: vendor roots, up-to-date TCB, no debug, nothing about measurements.
    fn strict(emulated_roots: &[Fingerprint]) -> Self {
        let common = || Common { emulated_roots: emulated_roots.to_vec(), ..Common::default() };
        let mut anchors = Anchors::built_in();
        emulated_roots.iter().for_each(|root| anchors.admit_emulated(*root));
        let any_of = vec![
            Alternative::Tdx(TdxRule { common: common(), ..TdxRule::default() }),
            Alternative::Sgx(SgxRule { common: common(), ..SgxRule::default() }),
            Alternative::SevSnp(SnpRule { common: common(), ..SnpRule::default() }),
        ];
        let name = PolicyRef { namespace: "built-in".into(), name: "strict".into(), generation: 0 };
        Self {
            policy: Policy { name, mode: Mode::Enforce, any_of, max_evidence_age: None },
            references: References::new(),
            forms: vec![Form::Native, Form::Ccc],
            anchors,
            collateral: Collateral::default(),
            refused: Vec::new(),
            built_in: true,
        }
    }

    /// By the one AttestationPolicy of these files, or the one that is named.
    fn from_policies(paths: &[PathBuf], wanted: Option<&str>, now: UnixTime) -> Result<Self> {
        let resources = read_resources(paths)?.into_iter().map(Arc::new).collect();
        let inputs = Inputs { generation: 0, resources, bundles: Vec::new(), collateral: Vec::new() };
        let built = View::build(inputs, &mut Marks::default(), now);
        if let Some((key, why)) = built.rejected.first() {
            return Err(Failure::input(format!("{key} cannot be used: {why}")));
        }
        let named = |policy: &Policy| format!("{}/{}", policy.name.namespace, policy.name.name);
        let mut found: Vec<_> = built
            .view
            .policies()
            .filter(|(policy, _)| wanted.is_none_or(|name| name == named(policy) || name == policy.name.name))
            .collect();
        let (policy, forms) = match (found.pop(), found.is_empty()) {
            (Some((policy, forms)), true) => (policy.clone(), forms.to_vec()),
            (None, _) => return Err(Failure::input("the files of --policy hold no such AttestationPolicy")),
            (Some(_), false) => {
                let names: Vec<_> = built.view.policies().map(|(policy, _)| named(policy)).collect();
                return Err(Failure::input(format!(
                    "several AttestationPolicies: choose one with --policy-name: {}",
                    names.join(", ")
                )));
            }
        };
        Ok(Self {
            policy,
            forms,
            references: built.view.references().clone(),
            anchors: built.view.anchors().clone(),
            collateral: Collateral::default(),
            refused: Vec::new(),
            built_in: false,
        })
    }

    /// Lines about collateral that is not used, one for each reason.
    pub(crate) fn refused_notes(&self) -> Vec<String> {
        let mut by_reason: BTreeMap<Reason, Vec<&(String, Finding)>> = BTreeMap::new();
        for refused in &self.refused {
            by_reason.entry(refused.1.reason).or_default().push(refused);
        }
        let notes = by_reason.iter().filter_map(|(reason, refused)| {
            let ((name, finding), more) = (refused.first()?, refused.len() - 1);
            let others = if more == 0 { String::new() } else { format!(", and {more} more") };
            Some(format!("collateral not used ({reason}): {name}{others}; {finding}"))
        });
        notes.collect()
    }

    /// Verifies and appraises evidence of a certificate.
    pub(crate) fn judge_presented(&self, presented: &Presented, now: UnixTime) -> Judged {
        let Some(conveyed) = &presented.evidence else {
            let finding =
                Finding::new(Reason::EvidenceMissing, "certificate", "evidence in an extension", "none");
            return Judged::denied("evidence", finding);
        };
        if !self.forms.contains(&conveyed.form) {
            let finding = Finding::new(
                Reason::UnsupportedFormat,
                "evidence",
                format!("{:?}", self.forms),
                format!("{:?}", conveyed.form),
            );
            return Judged::denied("form of the evidence", finding);
        }
        match Evidence::parse(&conveyed.media_type, &conveyed.value) {
            Ok(evidence) => {
                let log = conveyed.event_log.as_ref().map(|(kind, log)| (kind.as_str(), log.as_slice()));
                self.judge(&evidence, log, now.as_secs().saturating_sub(presented.not_before), now)
            }
            Err(finding) => Judged::denied("evidence", finding),
        }
    }

    /// Verifies and appraises evidence that is `age` seconds old, with the event
    /// log (media type and bytes) that goes with it.
    pub(crate) fn judge(
        &self,
        evidence: &Evidence<'_>,
        event_log: Option<(&str, &[u8])>,
        age: u64,
        now: UnixTime,
    ) -> Judged {
        let mut tree = Tree::default();
        let verified = verify(evidence, &self.collateral, &self.anchors, now, None, &mut tree);
        let mut entries = tree.finish().entries;
        let claims = match verified {
            Ok(claims) => claims,
            Err(finding) => {
                if crate::tree::holds(&entries) {
                    entries.push(refusal("verification", &finding));
                }
                return Judged { entries, denial: Some(finding.into()), ..Judged::default() };
            }
        };
        let claims =
            match event_log.map(|(kind, log)| claims.with_event_log(kind, log, &RegisterState::default())) {
                None => claims,
                Some(Ok((claims, state))) => {
                    let events = match state.events().len() {
                        1 => "1 event".to_owned(),
                        count => format!("{count} events"),
                    };
                    let detail = format!("lands on the registers, {events} in RTMR 3");
                    entries.push(pass("event log", detail));
                    Arc::new(claims)
                }
                Some(Err(finding)) => {
                    entries.push(refusal("event log", &finding));
                    return Judged {
                        entries,
                        denial: Some(finding.into()),
                        claims: Some(claims),
                        ..Judged::default()
                    };
                }
            };
        let verdict = appraise(claims.clone(), &self.policy, &self.references, age, now);
        entries.push(self.verdict_entry(&verdict));
        Judged { entries, denial: verdict.denial(), claims: Some(claims), verdicts: vec![verdict] }
    }

    fn verdict_entry(&self, verdict: &Verdict) -> Entry {
        let title = if self.built_in {
            "appraisal by the built-in rules (no policy given)".to_owned()
        } else {
            format!("appraisal by AttestationPolicy {}/{}", verdict.policy.namespace, verdict.policy.name)
        };
        let mut entries = Vec::new();
        match &verdict.outcome {
            VerdictOutcome::Allow { rule, reference, valid_until } => {
                let detail = if self.built_in {
                    "an admitted root, TCB up to date, no debug".to_owned()
                } else {
                    format!("{rule} holds")
                };
                entries.push(pass("rules", detail));
                match reference {
                    Some(reference) => entries.push(pass("measurements", format!("those of {reference}"))),
                    None => entries.push(pass("measurements", "not compared with anything")),
                }
                entries.push(pass("holds until", input::rfc3339(*valid_until)));
            }
            VerdictOutcome::Deny { rejections } => {
                for rejection in rejections {
                    let findings: Vec<_> =
                        rejection.findings.iter().map(|finding| refusal(&finding.field, finding)).collect();
                    if rejection.rule.is_empty() || self.built_in {
                        entries.extend(findings);
                    } else {
                        entries.push(group(&rejection.rule, findings));
                    }
                }
            }
        }
        group(&title, entries)
    }
}

impl Judged {
    /// A denial before anything could be verified.
    pub(crate) fn denied(title: &str, finding: Finding) -> Self {
        Self { entries: vec![refusal(title, &finding)], denial: Some(finding.into()), ..Self::default() }
    }
}

/// A finding as a line of a tree.
pub(crate) fn refusal(title: &str, finding: &Finding) -> Entry {
    let field = if title == finding.field { String::new() } else { format!("{} is ", finding.field) };
    fail(title, format!("{field}{}, accepted: {}", finding.presented, finding.expected), finding.reason)
}

/// Events that are listed before the rest is only counted.
const MAX_EVENTS: usize = 32;

/// The facts of verified evidence that an operator looks for first.
pub(crate) fn facts(claims: &Claims) -> Vec<(&'static str, String)> {
    let mut out = vec![("TEE", claims.tee.to_string())];
    let intel = |p: &countersign_evidence::claims::IntelPlatform, out: &mut Vec<(&'static str, String)>| {
        let advisories = if p.advisory_ids.is_empty() {
            String::new()
        } else {
            format!(" ({})", p.advisory_ids.join(", "))
        };
        out.push(("TCB", format!("{:?}{advisories}, level of {}", p.tcb_status, p.tcb_date)));
        out.push(("FMSPC", hex::encode(p.fmspc)));
    };
    match &claims.body {
        Body::Tdx(c) => {
            intel(&c.platform, &mut out);
            out.push(("mrTd", hex::encode(c.mr_td)));
            for (name, register) in ["rtmr[0]", "rtmr[1]", "rtmr[2]", "rtmr[3]"].into_iter().zip(&c.rtmr) {
                out.push((name, hex::encode(register)));
            }
            if let RuntimeEvents::Replayed(events) = &c.runtime_events {
                out.extend(events.iter().take(MAX_EVENTS).map(|event| ("event", event.to_string())));
                if let Some(more) = events.len().checked_sub(MAX_EVENTS).filter(|n| *n > 0) {
                    out.push(("event", format!("and {more} more")));
                }
            }
        }
        Body::Sgx(c) => {
            intel(&c.platform, &mut out);
            out.push(("mrEnclave", hex::encode(c.mr_enclave)));
            out.push(("mrSigner", hex::encode(c.mr_signer)));
            out.push(("product", format!("{} version {}", c.isv_prod_id, c.isv_svn)));
        }
        Body::SevSnp(c) => {
            out.push(("product", format!("{:?}, signed by {:?}", c.product, c.signing_key)));
            let t = c.reported_tcb;
            out.push((
                "TCB",
                format!(
                    "bootloader {}, tee {}, snp {}, microcode {}",
                    t.bootloader, t.tee, t.snp, t.microcode
                ),
            ));
            out.push(("measurement", hex::encode(c.measurement)));
            out.push(("host data", hex::encode(c.host_data)));
        }
    }
    if let Some(platform) = claims.platform() {
        out.push(("platform", platform.to_string()));
    }
    out.push(("debug", if claims.debug() { "POSSIBLE".to_owned() } else { "no".to_owned() }));
    out.push(("root", claims.root.to_string()));
    out.push(("report data", hex::encode(claims.report_data)));
    out.push(("valid until", input::rfc3339(claims.window.until)));
    out
}

/// Reads resources of files, with every problem of all of them.
pub(crate) fn read_resources(paths: &[PathBuf]) -> Result<Vec<countersign_config::Resource>> {
    read_documents(paths).map(|documents| documents.resources)
}

/// What was read from files.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    pub(crate) resources: Vec<countersign_config::Resource>,
    /// The kinds of files that processes start from, which are no resources.
    pub(crate) bootstraps: Vec<&'static str>,
    /// Where each resource is.
    pub(crate) places: Places,
    /// Each file with its text.
    pub(crate) sources: Vec<(String, String)>,
}

/// The same, with the kinds of the bootstrap files among them.
pub(crate) fn read_documents(paths: &[PathBuf]) -> Result<Documents> {
    let mut read = Documents::default();
    let mut problems = Vec::new();
    for path in paths {
        for file in input::files(path, &["yaml", "yml"])? {
            let (name, text) = (shown(&file), input::read_text(&file)?);
            if let Some(kind) = bootstrap_kind(&text) {
                read.bootstraps.push(kind);
                problems
                    .extend(countersign_config::bootstrap::validate(&name, &text).err().unwrap_or_default());
            } else {
                match read.places.parse(&name, &text) {
                    Ok(more) => read.resources.extend(more),
                    Err(more) => problems.extend(more),
                }
            }
            read.sources.push((name, text));
        }
    }
    if problems.is_empty() { Ok(read) } else { Err(Failure::Problems(problems, read.sources)) }
}

/// The kind of a file that a process starts from, which is no resource.
fn bootstrap_kind(text: &str) -> Option<&'static str> {
    text.lines().find_map(|line| match line.trim_end() {
        "kind: ProxyBootstrap" => Some("ProxyBootstrap"),
        "kind: ControlPlaneBootstrap" => Some("ControlPlaneBootstrap"),
        _ => None,
    })
}

/// A file as messages name it.
pub(crate) fn shown(file: &Path) -> String {
    file.display().to_string()
}
