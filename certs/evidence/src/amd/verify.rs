//! Verification of a report: from its bytes to claims.

use std::sync::Arc;

use aws_lc_rs::signature::ParsedPublicKey;
use rustls_pki_types::UnixTime;

use crate::amd::Attestation;
use crate::amd::certs::{CertificateKind, Vek};
use crate::amd::chain::{Context, Endorsed, verify_time};
use crate::amd::report::Report;
use crate::amd::tcb::{Product, TcbVersion};
use crate::anchors::{Anchors, Fingerprint, RootKind};
use crate::cache::Cache;
use crate::claims::{Body, Claims, SnpClaims, SnpSigningKey, Tee};
use crate::collateral::Collateral;
use crate::finding::Finding;
use crate::observe::Observer;
use crate::reason::Reason;
use crate::x509::Certificate;

/// Endorsement keys of the collateral that are tried for one report.
const MAX_KEYS: usize = 8;

/// Verifies a report: chain of the endorsement key to the vendor's root, the
/// key's binding to chip, TCB and product, and the signature. `last` is what a
/// report proved before.
pub(crate) fn verify<O: Observer>(
    attestation: &Attestation<'_>,
    collateral: &Collateral,
    anchors: &Anchors,
    now: UnixTime,
    (cache, last): (Option<&Cache>, Option<&Claims>),
    observer: &mut O,
) -> Result<Claims, Finding> {
    observer.enter("SEV-SNP report");
    let report = &attestation.report;
    step(observer, "report version", verify_version(report), || report.version.to_string())?;
    let product = step(observer, "product by CPUID", product(report), || match report.cpuid {
        Some([family, model, stepping]) => {
            format!("family {family:#x}, model {model:#x}, stepping {stepping:#x}")
        }
        None => "not in this version of the report".to_owned(),
    })?;
    let signer = step(observer, "signing key", report.signing_key(), || format!("{:#x}", report.key_info))?;
    let context = Context { collateral, anchors, now: now.as_secs(), cache: cache.map(|c| &c.amd) };

    observer.enter("endorsement key");
    let search = Search { attestation, product, signer, context };
    let key = step(observer, "certificate and chain to the root", search.endorsement_key(), || {
        "from the report's certificate table or the collateral".to_owned()
    })?;
    let vek = &key.vek;
    step(observer, "kind of key", search.verify_kind(vek), || vek.certificate.common_name().to_owned())?;
    step(observer, "product", search.verify_product(vek), || vek.product_name.clone())?;
    step(observer, "TCB equals the reported TCB", search.verify_tcb(vek), || {
        hex::encode(report.reported_tcb)
    })?;
    step(observer, "hardware ID equals CHIP_ID", search.verify_chip(vek), || vek.hw_id_text())?;
    observer.leave();

    let evidence = Fingerprint::of(report.as_bytes());
    let signature = match last.is_some_and(|last| is_signed(last, evidence, vek)) {
        true => Ok(()),
        false => verify_signature(report, vek, &key.key),
    };
    step(observer, "signature of the report", signature, || "ECDSA P-384".to_owned())?;
    observer.leave();
    claims(report, evidence, (product, signer), &key, anchors)
}

/// Whether it was verified before that this key signed this report.
fn is_signed(last: &Claims, evidence: Fingerprint, vek: &Vek) -> bool {
    let Body::SevSnp(report) = &last.body else { return false };
    last.evidence == evidence && report.signed_by == vek.certificate.fingerprint()
}

/// Tells the observer of a check and hands its outcome on.
fn step<O: Observer, T>(
    observer: &mut O,
    title: &'static str,
    result: Result<T, Finding>,
    detail: impl FnOnce() -> String,
) -> Result<T, Finding> {
    let failure = result.as_ref().err();
    observer.check(title, failure.map(|f| f.reason), || failure.map_or_else(detail, ToString::to_string));
    result
}

/// Version 2 names no processor, so that nothing says which product's rules
/// hold, and its firmware does not check for aliased memory (AMD-SB-3015).
fn verify_version(report: &Report) -> Result<(), Finding> {
    if report.version >= 3 {
        return Ok(());
    }
    Err(Finding::new(
        Reason::UnsupportedVersion,
        "version",
        "a report of version 3 or later",
        format!(
            "version {}, of firmware that neither names the processor nor checks for memory aliases",
            report.version
        ),
    ))
}

fn product(report: &Report) -> Result<Product, Finding> {
    report.product()?.ok_or_else(|| {
        Finding::new(Reason::UnsupportedVersion, "cpuid", "the CPUID of the processor", "none")
    })
}

fn verify_signature(report: &Report, vek: &Vek, key: &ParsedPublicKey) -> Result<(), Finding> {
    let signature = report.signature()?;
    key.verify_sig(report.signed(), &signature).map_err(|_| {
        Finding::new(
            Reason::BadSignature,
            "report signature",
            format!("a signature by the key of {}", vek.certificate.common_name()),
            "one that does not verify",
        )
    })
}

/// The way to the endorsement key of one report.
struct Search<'a> {
    attestation: &'a Attestation<'a>,
    product: Product,
    signer: SnpSigningKey,
    context: Context<'a>,
}

impl Search<'_> {
    /// The verified key for this report. A host may hand out the certificate of
    /// an older TCB, so that one that does not fit is looked for in the
    /// collateral as well.
    fn endorsement_key(&self) -> Result<Arc<Endorsed>, Finding> {
        let mut failure = None;
        if let Some(der) = self.attestation.certificate(self.kind()) {
            match self.local_key(der) {
                Ok(key) if self.fits(&key.vek).is_ok() => return Ok(key),
                Ok(key) => failure = self.fits(&key.vek).err(),
                Err(finding) => failure = Some(finding),
            }
        }
        for certificate in self.collateral_keys() {
            let key = match self.context.known(certificate.fingerprint()) {
                Some(key) => Ok(key),
                None => self.context.verify(Vek::new(certificate)?, self.attestation),
            };
            match key {
                // Several clouds may have a VLEK of one TCB: the signature tells.
                Ok(key)
                    if self.signer == SnpSigningKey::Vcek
                        || verify_signature(&self.attestation.report, &key.vek, &key.key).is_ok() =>
                {
                    return Ok(key);
                }
                Ok(key) => {
                    failure =
                        failure.or(verify_signature(&self.attestation.report, &key.vek, &key.key).err());
                }
                Err(finding) => failure = failure.or(Some(finding)),
            }
        }
        Err(failure.unwrap_or_else(|| {
            let report = &self.attestation.report;
            Finding::new(
                Reason::CollateralMissing,
                match self.signer {
                    SnpSigningKey::Vcek => "VCEK certificate",
                    SnpSigningKey::Vlek => "VLEK certificate",
                },
                format!(
                    "the certificate of {} chip {} at TCB {}",
                    self.product,
                    hex::encode(report.chip_id),
                    TcbVersion::from_bytes(self.product, report.reported_tcb)
                ),
                "none, neither from the peer nor in the collateral",
            )
        }))
    }

    fn local_key(&self, der: &[u8]) -> Result<Arc<Endorsed>, Finding> {
        match self.context.known(Fingerprint::of(der)) {
            Some(key) => Ok(key),
            None => {
                let vek = Vek::new(Arc::new(Certificate::parse(der)?))?;
                self.context.verify(vek, self.attestation)
            }
        }
    }

    /// Certificates of the collateral that fit the report.
    fn collateral_keys(&self) -> Vec<Arc<Certificate>> {
        let chip_id = &self.attestation.report.chip_id;
        let all = self.context.collateral.certificates().iter();
        all.filter(|c| match self.signer {
            SnpSigningKey::Vcek => Vek::may_be_of_chip(c, chip_id),
            SnpSigningKey::Vlek => Vek::may_be_vlek(c),
        })
        .filter(|c| Vek::new(Arc::clone(c)).is_ok_and(|vek| self.fits(&vek).is_ok()))
        .take(MAX_KEYS)
        .cloned()
        .collect()
    }

    const fn kind(&self) -> CertificateKind {
        match self.signer {
            SnpSigningKey::Vcek => CertificateKind::Vcek,
            SnpSigningKey::Vlek => CertificateKind::Vlek,
        }
    }

    fn fits(&self, vek: &Vek) -> Result<(), Finding> {
        self.verify_kind(vek)?;
        self.verify_product(vek)?;
        self.verify_tcb(vek)?;
        self.verify_chip(vek)
    }

    fn verify_kind(&self, vek: &Vek) -> Result<(), Finding> {
        if vek.kind == self.signer {
            return Ok(());
        }
        Err(mismatch(
            "signing_key",
            format!("{:?}", self.signer),
            format!("a certificate of a {:?}", vek.kind),
        ))
    }

    fn verify_product(&self, vek: &Vek) -> Result<(), Finding> {
        if vek.product() == Some(self.product) {
            return Ok(());
        }
        Err(mismatch(
            "product",
            self.product.to_string(),
            format!("a certificate for '{}'", vek.product_name),
        ))
    }

    fn verify_tcb(&self, vek: &Vek) -> Result<(), Finding> {
        let reported = self.attestation.report.reported_tcb;
        let tcb = vek.tcb(self.product);
        if tcb == Some(reported) {
            return Ok(());
        }
        let text = |bytes| TcbVersion::from_bytes(self.product, bytes).to_string();
        Err(mismatch(
            "reportedTcb",
            format!("{} ({})", text(reported), hex::encode(reported)),
            tcb.map_or_else(
                || "a certificate of another product's form".to_owned(),
                |t| format!("a certificate for {} ({})", text(t), hex::encode(t)),
            ),
        ))
    }

    fn verify_chip(&self, vek: &Vek) -> Result<(), Finding> {
        let chip_id = &self.attestation.report.chip_id;
        if self.signer == SnpSigningKey::Vlek || vek.is_of_chip(self.product, chip_id) {
            return Ok(());
        }
        Err(mismatch("chipId", hex::encode(chip_id), format!("a certificate for {}", vek.hw_id_text())))
    }
}

fn mismatch(field: &str, expected: String, presented: String) -> Finding {
    Finding::new(Reason::CertificateMismatch, field, expected, presented)
}

fn claims(
    report: &Report,
    evidence: Fingerprint,
    (product, signing_key): (Product, SnpSigningKey),
    key: &Endorsed,
    anchors: &Anchors,
) -> Result<Claims, Finding> {
    let root = key.issuer.root;
    let Some(kind) = anchors.kind(&root) else {
        return Err(Finding::new(
            Reason::UntrustedRoot,
            "ARK certificate",
            "a trusted root",
            root.to_string(),
        ));
    };
    let tcb = |bytes| TcbVersion::from_bytes(product, bytes);
    Ok(Claims {
        tee: Tee::SevSnp,
        emulated: kind == RootKind::Emulated || key.issuer.is_emulated(),
        root,
        evidence,
        report_data: report.report_data,
        body: Body::SevSnp(Box::new(SnpClaims {
            version: report.version,
            product,
            guest_svn: report.guest_svn,
            policy: report.policy,
            family_id: report.family_id,
            image_id: report.image_id,
            vmpl: report.vmpl,
            platform_info: report.platform_info,
            signing_key,
            mask_chip_key: report.mask_chip_key(),
            author_key_en: report.author_key_en(),
            measurement: report.measurement,
            host_data: report.host_data,
            id_key_digest: report.id_key_digest,
            author_key_digest: report.author_key_digest,
            report_id: report.report_id,
            chip_id: report.chip_id,
            current_tcb: tcb(report.current_tcb),
            reported_tcb: tcb(report.reported_tcb),
            committed_tcb: tcb(report.committed_tcb),
            launch_tcb: tcb(report.launch_tcb),
            launch_mit_vector: report.launch_mit_vector,
            current_mit_vector: report.current_mit_vector,
            csp_id: key.vek.csp_id.clone(),
            crl_checked: key.issuer.crl_checked,
            signed_by: key.vek.certificate.fingerprint(),
        })),
        window: key.window,
    })
}

/// The cryptography of a report, each part by itself.
#[derive(Clone, Debug)]
pub struct Examination {
    /// By CPUID; for version 2, which has none, by the certificate.
    pub product: Product,
    /// The endorsement key signed the report.
    pub report_signature: Result<(), Finding>,
    /// A chain of signatures leads from the endorsement key to a trusted root.
    pub vek_issued_by_ask: Result<(), Finding>,
    /// That chain holds, and at the time in question.
    pub vek_in_validity: Result<(), Finding>,
    /// The key is that of the reported TCB.
    pub reported_tcb_equals_vek_tcb: Result<(), Finding>,
    /// The key is that of the chip; `None` for a VLEK, which is no chip's.
    pub chip_id_equals_vek_hwid: Option<Result<(), Finding>>,
    /// The key is of the kind that the report names, and of its product.
    pub vek_kind_and_product: Result<(), Finding>,
}

impl Examination {
    /// The first part that does not hold.
    ///
    /// # Errors
    /// That part.
    pub fn result(&self) -> Result<(), Finding> {
        self.vek_in_validity.clone()?;
        self.vek_kind_and_product.clone()?;
        self.reported_tcb_equals_vek_tcb.clone()?;
        self.chip_id_equals_vek_hwid.clone().unwrap_or(Ok(()))?;
        self.report_signature.clone()
    }
}

/// Checks signatures, chain, validity and bindings of a report of **any**
/// version, the refused version 2 included, by the certificate that came with
/// it. For tools that explain; evidence is verified by [`verify`](crate::verify).
///
/// # Errors
/// When there is no usable certificate of the endorsement key, or the product
/// is unknown.
pub fn examine(
    attestation: &Attestation<'_>,
    collateral: &Collateral,
    anchors: &Anchors,
    now: UnixTime,
) -> Result<Examination, Finding> {
    let report = &attestation.report;
    let signer = report.signing_key()?;
    let context = Context { collateral, anchors, now: now.as_secs(), cache: None };
    let kind = match signer {
        SnpSigningKey::Vcek => CertificateKind::Vcek,
        SnpSigningKey::Vlek => CertificateKind::Vlek,
    };
    let der = attestation.certificate(kind).ok_or_else(|| {
        Finding::new(
            Reason::CollateralMissing,
            "VEK certificate",
            "the certificate beside the report",
            "none",
        )
    })?;
    let vek = Vek::new(Arc::new(Certificate::parse(der)?))?;
    let product = match report.product()? {
        Some(product) => product,
        None => vek
            .product()
            .ok_or_else(|| mismatch("product", "a known product".to_owned(), vek.product_name.clone()))?,
    };
    let search = Search { attestation, product, signer, context };
    let vek_issued_by_ask = context.verify_issuance(&vek, attestation);
    Ok(Examination {
        product,
        report_signature: vek.key().and_then(|key| verify_signature(report, &vek, &key)),
        vek_in_validity: vek_issued_by_ask
            .clone()
            .and_then(|()| verify_time(&vek.certificate, now.as_secs()))
            .and_then(|()| context.verify(vek.clone(), attestation).map(|_| ())),
        vek_issued_by_ask,
        reported_tcb_equals_vek_tcb: search.verify_tcb(&vek),
        chip_id_equals_vek_hwid: (signer == SnpSigningKey::Vcek).then(|| search.verify_chip(&vek)),
        vek_kind_and_product: search.verify_kind(&vek).and_then(|()| search.verify_product(&vek)),
    })
}
