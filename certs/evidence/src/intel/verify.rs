//! From a quote to claims: Intel's rules for DCAP quotes (Intel SGX ECDSA QVL
//! reference, section 4.1.2), with the TCB rules in [`tcb`](super::tcb).

use aws_lc_rs::digest;
use rustls_pki_types::UnixTime;

use super::chain::{PckChain, pck_chain};
use super::collateral::{Endorsed, QeIdentity, SvnLevel, TcbInfo};
use super::pck::PckFacts;
use super::quote::{Quote, QuoteBody, TdReport};
use super::tcb::{Evaluation, TcbStatus, evaluate_sgx, evaluate_tdx, module_identity};
use crate::anchors::{Anchors, Fingerprint, RootKind};
use crate::cache::Cache;
use crate::claims::{Body, Claims, IntelPlatform, RuntimeEvents, SgxClaims, TdxClaims, Tee, Window};
use crate::collateral::{Collateral, Revocation};
use crate::finding::{Finding, timestamp};
use crate::observe::Observer;
use crate::reason::Reason;
use crate::x509::{Certificate, verify_p256};

/// ATTRIBUTES.DEBUG of an enclave.
const SGX_DEBUG: u8 = 2;

/// Verifies a quote. Debug and TCB statuses are facts in the claims, which the
/// appraisal judges. `last` is what a quote proved before.
pub(crate) fn verify<O: Observer>(
    quote: &Quote<'_>,
    collateral: &Collateral,
    anchors: &Anchors,
    now: UnixTime,
    (cache, last): (Option<&Cache>, Option<&Claims>),
    observer: &mut O,
) -> Result<Claims, Finding> {
    let now = now.as_secs();
    let evidence = Fingerprint::of(quote.bytes());
    let mut watch = Watch { observer };

    watch.enter("PCK certificate chain");
    let chain = pck_chain(quote, collateral, anchors, cache);
    let chain = watch.check("chain ends in a trusted root", chain, |c| format!("root {}", c.path.root))?;
    let root = chain.path.root;
    let kind = anchors.kind(&root).ok_or_else(|| {
        Finding::new(Reason::UntrustedRoot, "root certificate", "a root that is trusted", root.to_string())
    });
    let kind = watch.check("root is trusted", kind, |kind| format!("{kind:?} root {root}"))?;
    let mut window = chain.path.window;
    watch.check("certificates are valid now", certificate_time(window, now), |()| dates(window))?;
    for (certificate, issuer) in chain.path.certificates.iter().zip(chain.path.certificates.iter().skip(1)) {
        let crl = not_revoked(certificate, issuer, root, collateral, now);
        let crl = watch.check("not revoked", crl, |crl| {
            format!("{} is not on the CRL of {}", certificate.common_name(), crl.signer_name())
        })?;
        window = window.intersect(crl.window());
    }
    watch.leave();

    watch.enter("TCB info");
    let info = tcb_info(quote.tee(), &chain.facts, collateral, root);
    let info = watch.check("for this platform", info, |i| {
        format!("FMSPC {}, PCEID {}", hex::encode(i.document.fmspc), hex::encode(i.document.pce_id))
    })?;
    window = window.intersect(endorsed(info, "tcbInfo", collateral, root, now, &mut watch)?);
    watch.leave();

    watch.enter("quoting enclave");
    let identity = collateral.qe_identity(quote.tee(), root).ok_or_else(|| {
        Finding::new(
            Reason::CollateralMissing,
            "QE identity",
            format!("for {} under root {root}", quote.tee()),
            "none",
        )
    });
    let identity = watch.check("identity is at hand", identity, |i| {
        format!("evaluation data number {}", i.document.evaluation_number)
    })?;
    window = window.intersect(endorsed(identity, "enclaveIdentity", collateral, root, now, &mut watch)?);
    let signature = qe_report_signature(quote, &chain, cache);
    watch.check("report is signed by the PCK", signature, |()| "ECDSA P-256".to_owned())?;
    watch.check("report vouches for the attestation key", key_binding(quote), |()| {
        hex::encode(quote.qe_report().report_data)
    })?;
    let qe = qe_level(quote, &identity.document);
    let qe = watch
        .check("is the vendor's", qe, |l| format!("ISVSVN {}, {}", quote.qe_report().isv_svn, l.status))?;
    watch.leave();

    watch.enter("quote");
    // The key is among the bytes.
    let known = last.is_some_and(|last| last.evidence == evidence);
    let signature = (known || verify_p256(quote.attestation_key(), quote.signed(), quote.signature()))
        .then_some(())
        .ok_or_else(|| bad_signature("quote signature", "the attestation key's"));
    watch.check("is signed by the attestation key", signature, |()| "ECDSA P-256".to_owned())?;
    let evaluation = match quote.body() {
        QuoteBody::Sgx(_) => evaluate_sgx(&info.document, &chain.facts, qe.status),
        QuoteBody::Tdx(report) => {
            watch.check("TDX module is the vendor's", module_matches(report, &info.document), |()| {
                format!("MRSEAM {}", hex::encode(report.mr_seam))
            })?;
            let (svn, svn2) = (&report.tee_tcb_svn, report.tee_tcb_svn2.as_ref());
            evaluate_tdx(&info.document, &chain.facts, svn, svn2, qe.status)
        }
    };
    let evaluation = watch.check("TCB level is known", evaluation, |e| {
        format!("{}, level of {}", e.status, e.platform.date_text)
    })?;
    let body = body(quote, platform(&chain.facts, info, &evaluation, (qe, &identity.document)))?;
    watch.leave();

    Ok(Claims {
        tee: quote.tee(),
        emulated: kind == RootKind::Emulated || chain.path.is_emulated(),
        root,
        evidence,
        report_data: *quote.report_data(),
        body,
        window,
    })
}

/// Reports to an observer.
struct Watch<'o, O: Observer> {
    observer: &'o mut O,
}

impl<O: Observer> Watch<'_, O> {
    fn enter(&mut self, title: &'static str) {
        self.observer.enter(title);
    }

    fn leave(&mut self) {
        self.observer.leave();
    }

    fn check<T>(
        &mut self,
        title: &'static str,
        outcome: Result<T, Finding>,
        detail: impl FnOnce(&T) -> String,
    ) -> Result<T, Finding> {
        match &outcome {
            Ok(value) => self.observer.check(title, None, || detail(value)),
            Err(finding) => self.observer.check(title, Some(finding.reason), || finding.to_string()),
        }
        outcome
    }
}

fn certificate_time(window: Window, now: u64) -> Result<(), Finding> {
    let reason = match () {
        () if now < window.from => Reason::CertificateNotYetValid,
        () if now > window.until => Reason::CertificateExpired,
        () => return Ok(()),
    };
    Err(Finding::new(reason, "PCK certificate chain", dates(window), timestamp(now)))
}

fn collateral_time(what: &str, window: Window, now: u64) -> Result<(), Finding> {
    let reason = match () {
        () if now < window.from => Reason::CollateralNotYetValid,
        () if now > window.until => Reason::CollateralExpired,
        () => return Ok(()),
    };
    Err(Finding::new(reason, what, dates(window), timestamp(now)))
}

fn dates(window: Window) -> String {
    format!("a time from {} to {}", timestamp(window.from), timestamp(window.until))
}

/// The lists of `issuer`, when they do not name `certificate`.
fn not_revoked<'c>(
    certificate: &Certificate,
    issuer: &Certificate,
    root: Fingerprint,
    collateral: &'c Collateral,
    now: u64,
) -> Result<Revocation<'c>, Finding> {
    let crl = collateral.revocation(issuer, root, now).ok_or_else(|| {
        Finding::new(Reason::CrlMissing, "CRL", format!("the list of {}", issuer.common_name()), "none")
    })?;
    collateral_time(&format!("CRL of {}", crl.signer_name()), crl.window(), now)?;
    if crl.revokes(certificate) {
        return Err(Finding::new(
            Reason::CertificateRevoked,
            format!("certificate {}", certificate.common_name()),
            "a certificate that is not revoked",
            format!("serial {}", hex::encode(certificate.serial())),
        ));
    }
    Ok(crl)
}

fn tcb_info<'c>(
    tee: Tee,
    facts: &PckFacts,
    collateral: &'c Collateral,
    root: Fingerprint,
) -> Result<&'c Endorsed<TcbInfo>, Finding> {
    let mut others = Vec::new();
    for info in collateral.tcb_infos(tee).filter(|info| info.path.root == root) {
        let document = &info.document;
        if document.fmspc == facts.fmspc && document.pce_id == facts.pce_id {
            return Ok(info);
        }
        others.push(format!("FMSPC {} PCEID {}", hex::encode(document.fmspc), hex::encode(document.pce_id)));
    }
    let wanted = format!("{tee} FMSPC {} PCEID {}", hex::encode(facts.fmspc), hex::encode(facts.pce_id));
    let (reason, presented) = match others.as_slice() {
        [] => (Reason::CollateralMissing, "none".to_owned()),
        others => (Reason::CollateralMismatch, others.join(", ")),
    };
    Err(Finding::new(reason, "TCB info", wanted, presented))
}

/// Checks the time of a signed document and that its signer is not revoked.
/// Signature and chain were verified when the collateral was appraised.
fn endorsed<T, O: Observer>(
    document: &Endorsed<T>,
    name: &'static str,
    collateral: &Collateral,
    root: Fingerprint,
    now: u64,
    watch: &mut Watch<'_, O>,
) -> Result<Window, Finding> {
    let window = document.window;
    watch.check("is current", collateral_time(name, window, now), |()| dates(window))?;
    let issuer = document.path.issuer().ok_or_else(|| {
        Finding::new(Reason::CollateralInvalid, name, "signed under a root", "signed by a root")
    })?;
    let crl = not_revoked(&document.signer, issuer, root, collateral, now);
    let crl = watch.check("signer is not revoked", crl, |crl| {
        format!("{} is not on the CRL of {}", document.signer.common_name(), crl.signer_name())
    })?;
    Ok(window.intersect(crl.window()))
}

/// The PCK signed the report of the quoting enclave. All quotes of a platform
/// carry the same report until its quoting enclave makes a new attestation key.
fn qe_report_signature(quote: &Quote<'_>, chain: &PckChain, cache: Option<&Cache>) -> Result<(), Finding> {
    let (report, signature) = (quote.qe_report_bytes(), quote.qe_report_signature());
    let key = || {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(&chain.leaf.0);
        hash.update(report);
        hash.update(signature);
        let mut key = [0; 32];
        key.copy_from_slice(hash.finish().as_ref());
        key
    };
    let cache = cache.map(|cache| (&cache.qe_reports, key()));
    if let Some((known, key)) = &cache
        && known.get(key).is_some()
    {
        return Ok(());
    }
    chain.key.verify_sig(report, signature).map_err(|_| bad_signature("QE report signature", "the PCK's"))?;
    if let Some((known, key)) = cache {
        known.insert(key, ());
    }
    Ok(())
}

/// The report data of the quoting enclave is SHA-256(key ‖ authentication data)
/// and 32 zero bytes.
fn key_binding(quote: &Quote<'_>) -> Result<(), Finding> {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(quote.attestation_key());
    hash.update(quote.qe_auth_data());
    let mut expected = [0; 64];
    if let Some(head) = expected.first_chunk_mut::<32>() {
        head.copy_from_slice(hash.finish().as_ref());
    }
    if quote.qe_report().report_data == expected {
        return Ok(());
    }
    Err(Finding::new(
        Reason::AttestationKeyUnbound,
        "QE report data",
        hex::encode(expected),
        hex::encode(quote.qe_report().report_data),
    ))
}

/// Compares the quoting enclave with its identity and finds its level.
fn qe_level<'c>(quote: &Quote<'_>, identity: &'c QeIdentity) -> Result<&'c SvnLevel, Finding> {
    let report = quote.qe_report();
    let differs = |field: &str, expected: &dyn AsRef<[u8]>, presented: &dyn AsRef<[u8]>| {
        Err(Finding::new(Reason::QeIdentityMismatch, field, hex::encode(expected), hex::encode(presented)))
    };
    let [flags, ..] = report.attributes;
    if flags & SGX_DEBUG != 0 {
        return Err(Finding::new(
            Reason::QeIdentityMismatch,
            "QE ATTRIBUTES",
            "no DEBUG",
            hex::encode(report.attributes),
        ));
    }
    if masked(report.misc_select, identity.misc_select_mask)
        != masked(identity.misc_select, identity.misc_select_mask)
    {
        return differs("QE MISCSELECT", &identity.misc_select, &report.misc_select);
    }
    if masked(report.attributes, identity.attributes_mask)
        != masked(identity.attributes, identity.attributes_mask)
    {
        return differs("QE ATTRIBUTES", &identity.attributes, &report.attributes);
    }
    if report.mr_signer != identity.mr_signer {
        return differs("QE MRSIGNER", &identity.mr_signer, &report.mr_signer);
    }
    if report.isv_prod_id != identity.isv_prod_id {
        return differs(
            "QE ISVPRODID",
            &identity.isv_prod_id.to_be_bytes(),
            &report.isv_prod_id.to_be_bytes(),
        );
    }
    identity.levels.iter().find(|level| level.isv_svn <= report.isv_svn).ok_or_else(|| {
        Finding::new(
            Reason::TcbNotSupported,
            "QE ISVSVN",
            "a level of its identity",
            report.isv_svn.to_string(),
        )
    })
}

/// Compares the TDX module with what the TCB info says of it. Its attributes
/// must also all be zero: a debug module is never acceptable.
fn module_matches(report: &TdReport, info: &TcbInfo) -> Result<(), Finding> {
    let [_, version, ..] = report.tee_tcb_svn;
    let (mr_signer, attributes, mask) = if version > 0 {
        let identity = module_identity(info, version)?;
        (&identity.mr_signer, identity.attributes, identity.attributes_mask)
    } else {
        let module = info.module.as_ref().ok_or_else(|| {
            Finding::new(Reason::CollateralInvalid, "tcbInfo.tdxModule", "an object", "nothing")
        })?;
        (&module.mr_signer, module.attributes, module.attributes_mask)
    };
    let differs = |field: &str, expected: &[u8], presented: &[u8]| {
        Err(Finding::new(Reason::ModuleMismatch, field, hex::encode(expected), hex::encode(presented)))
    };
    if report.mr_signer_seam != *mr_signer {
        return differs("MRSIGNERSEAM", mr_signer, &report.mr_signer_seam);
    }
    let expected = masked(attributes, mask);
    if masked(report.seam_attributes, mask) != expected || report.seam_attributes != [0; 8] {
        return differs("SEAM attributes", &expected, &report.seam_attributes);
    }
    Ok(())
}

fn masked<const N: usize>(mut value: [u8; N], mask: [u8; N]) -> [u8; N] {
    for (byte, mask) in value.iter_mut().zip(mask) {
        *byte &= mask;
    }
    value
}

fn platform(
    facts: &PckFacts,
    info: &Endorsed<TcbInfo>,
    evaluation: &Evaluation<'_>,
    (qe, identity): (&SvnLevel, &QeIdentity),
) -> IntelPlatform {
    let module_date = evaluation.module.map_or(u64::MAX, |m| m.date);
    let module_advisories = evaluation.module.map_or(&[][..], |m| &m.advisories);
    let mut advisory_ids: Vec<String> = evaluation
        .platform
        .advisories
        .iter()
        .chain(&qe.advisories)
        .chain(module_advisories)
        .cloned()
        .collect();
    advisory_ids.sort_unstable();
    advisory_ids.dedup();
    IntelPlatform {
        fmspc: facts.fmspc,
        pce_id: facts.pce_id,
        ppid: facts.ppid,
        piid: facts.piid,
        tcb_status: evaluation.status,
        platform_tcb_status: evaluation.platform.status,
        tcb_date: evaluation.platform.date_text.clone(),
        tcb_date_seconds: evaluation.platform.date.min(qe.date).min(module_date),
        superseded: superseded(&info.document, evaluation, qe, identity),
        module_status: evaluation.module.map(|m: &SvnLevel| -> TcbStatus { m.status }),
        qe_tcb_status: qe.status,
        advisory_ids,
        tcb_evaluation_data_number: info.document.evaluation_number,
        tcb_info_issued: info.document.window.from,
    }
}

/// When the first of the parts that are out of date was replaced.
fn superseded(
    info: &TcbInfo,
    evaluation: &Evaluation<'_>,
    qe: &SvnLevel,
    identity: &QeIdentity,
) -> Option<u64> {
    let replaced = |status: TcbStatus, date: u64, newer: &mut dyn Iterator<Item = u64>| {
        // Without a date of the newer level it counts as long ago.
        status.out_of_date().then(|| newer.filter(|d| *d > date && *d != u64::MAX).min().unwrap_or(0))
    };
    let dates = |levels: &[SvnLevel]| levels.iter().map(|l| l.date).collect::<Vec<_>>().into_iter();
    let module = evaluation.module.and_then(|module| {
        let mut identities = info.module_identities.iter();
        let levels = identities.find(|i| i.levels.iter().any(|l| std::ptr::eq(l, module)))?;
        replaced(module.status, module.date, &mut dates(&levels.levels))
    });
    let platform = evaluation.platform;
    let platform = replaced(platform.status, platform.date, &mut info.levels.iter().map(|l| l.date));
    let qe = replaced(qe.status, qe.date, &mut dates(&identity.levels));
    [platform, module, qe].into_iter().flatten().min()
}

fn body(quote: &Quote<'_>, platform: IntelPlatform) -> Result<Body, Finding> {
    Ok(match quote.body() {
        QuoteBody::Sgx(report) => Body::Sgx(Box::new(SgxClaims {
            platform,
            quote_version: quote.version(),
            cpu_svn: report.cpu_svn,
            misc_select: report.misc_select,
            attributes: report.attributes,
            mr_enclave: report.mr_enclave,
            mr_signer: report.mr_signer,
            isv_prod_id: report.isv_prod_id,
            isv_svn: report.isv_svn,
            config_id: report.config_id,
            config_svn: report.config_svn,
        })),
        QuoteBody::Tdx(report) => Body::Tdx(Box::new(TdxClaims {
            platform,
            quote_version: quote.version(),
            tee_tcb_svn: report.tee_tcb_svn,
            mr_seam: report.mr_seam,
            mr_signer_seam: report.mr_signer_seam,
            seam_attributes: report.seam_attributes,
            td_attributes: report.td_attributes,
            xfam: report.xfam,
            mr_td: report.mr_td,
            mr_config_id: report.mr_config_id,
            mr_owner: report.mr_owner,
            mr_owner_config: report.mr_owner_config,
            rtmr: report.rtmr,
            tee_tcb_svn2: report.tee_tcb_svn2,
            mr_service_td: service_td(report)?,
            runtime_events: RuntimeEvents::NotShown,
        })),
    })
}

/// The service TDs that a policy judges: those bound now. The claims have room
/// for one hash, so a TD whose service TDs were replaced is refused.
fn service_td(report: &TdReport) -> Result<Option<[u8; 48]>, Finding> {
    match (report.mr_service_td, report.cur_service_td_hash) {
        (initial, None) => Ok(initial),
        (initial, Some(current)) if initial == Some(current) || current == [0; 48] => Ok(initial),
        (Some(initial), Some(current)) if initial == [0; 48] => Ok(Some(current)),
        (initial, Some(current)) => Err(Finding::new(
            Reason::AttributeMismatch,
            "current service TD hash",
            hex::encode(initial.unwrap_or([0; 48])),
            hex::encode(current),
        )),
    }
}

fn bad_signature(field: &str, whose: &str) -> Finding {
    Finding::new(
        Reason::BadSignature,
        field,
        format!("{whose} signature"),
        "a signature that does not verify",
    )
}
