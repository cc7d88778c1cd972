//! SEV-SNP machines: attestation reports (SEV-SNP Firmware ABI, table 23) and
//! the certificate table that the hypervisor hands out with them.

use std::sync::Arc;

use countersign_evidence::amd::{CertificateKind, REPORT_SIZE, encode_table};
use countersign_evidence::claims::{Product, TcbVersion, Tee, Window};
use countersign_evidence::evidence::{TsmReport, media_type};

use super::amd::{Authority, Endorsed, Endorsement};
use super::key::{Key, Kind};
use super::spec::SnpSpec;
use crate::{Attester, Error, Pause, Produced};

/// An emulated SEV-SNP guest.
#[derive(Debug)]
pub struct EmulatedSnp {
    spec: SnpSpec,
    key: Key,
    endorsement: Vec<u8>,
    table: Vec<u8>,
    pause: Arc<dyn Pause>,
}

impl EmulatedSnp {
    pub(super) fn new(
        authority: &Authority,
        window: Window,
        spec: SnpSpec,
        pause: Arc<dyn Pause>,
    ) -> Result<Self, Error> {
        let key = Key::generate(Kind::P384)?;
        let certificate = &spec.certificate;
        let endorsement = Endorsement {
            product: certificate.product.unwrap_or(spec.product),
            tcb: certificate.tcb.unwrap_or(spec.reported_tcb),
            subject: match &spec.csp_id {
                Some(csp) => Endorsed::Vlek(csp),
                None => Endorsed::Vcek(certificate.chip_id.as_ref().unwrap_or(&spec.chip_id)),
            },
        };
        let (kind, intermediate) = match endorsement.subject {
            Endorsed::Vcek(_) => (CertificateKind::Vcek, &authority.ask.certificate),
            Endorsed::Vlek(_) => (CertificateKind::Vlek, &authority.asvk),
        };
        let endorsement = authority.endorse(&endorsement, &key.spki()?, window)?;
        let table = encode_table(&[
            (kind, &endorsement),
            (CertificateKind::Ask, intermediate),
            (CertificateKind::Ark, &authority.ark.certificate),
        ]);
        Ok(Self { spec, key, endorsement, table, pause })
    }

    /// What it was made from.
    #[must_use]
    pub const fn spec(&self) -> &SnpSpec {
        &self.spec
    }

    /// The VCEK or VLEK certificate as DER.
    #[must_use]
    pub fn endorsement(&self) -> &[u8] {
        &self.endorsement
    }

    /// The certificate table that goes with each report: VCEK or VLEK, ASK or ASVK, ARK.
    #[must_use]
    pub fn certificate_table(&self) -> &[u8] {
        &self.table
    }

    /// A report over `report_data`, 1184 bytes, without the latency.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn report(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, Error> {
        let mut report = self.body(report_data);
        let signature = self.key.sign(&report)?;
        let (r, s) = signature.split_at_checked(48).unwrap_or_default();
        for component in [r, s] {
            // 72 bytes, little endian
            report.extend(component.iter().rev().copied().chain(std::iter::repeat(0)).take(72));
        }
        report.resize(REPORT_SIZE, 0);
        Ok(report)
    }

    /// The 0x2A0 bytes that are signed.
    fn body(&self, report_data: &[u8; 64]) -> Vec<u8> {
        let spec = &self.spec;
        let tcb = |version: Option<TcbVersion>| version.unwrap_or(spec.reported_tcb).to_bytes(spec.product);
        let signing_key = u32::from(spec.csp_id.is_some());
        let key_info = u32::from(spec.author_key_en) | u32::from(spec.mask_chip_key) << 1 | signing_key << 2;
        let chip_id = if spec.mask_chip_key { [0; 64] } else { spec.chip_id };

        let mut body = Vec::with_capacity(REPORT_SIZE);
        body.extend_from_slice(&spec.version.to_le_bytes());
        body.extend_from_slice(&spec.guest_svn.to_le_bytes());
        body.extend_from_slice(&spec.policy.to_le_bytes());
        body.extend_from_slice(&spec.family_id);
        body.extend_from_slice(&spec.image_id);
        body.extend_from_slice(&spec.vmpl.to_le_bytes());
        body.extend_from_slice(&1u32.to_le_bytes()); // ECDSA P-384 with SHA-384
        body.extend_from_slice(&tcb(spec.current_tcb));
        body.extend_from_slice(&spec.platform_info.to_le_bytes());
        body.extend_from_slice(&key_info.to_le_bytes());
        body.extend_from_slice(&[0; 4]);
        body.extend_from_slice(report_data); // 0x50
        body.extend_from_slice(&spec.measurement);
        body.extend_from_slice(&spec.host_data);
        body.extend_from_slice(&spec.id_key_digest);
        body.extend_from_slice(&spec.author_key_digest);
        body.extend_from_slice(&spec.report_id); // 0x140
        body.extend_from_slice(&[0xff; 32]); // no migration agent
        body.extend_from_slice(&tcb(None)); // 0x180
        if spec.version >= 3 {
            body.extend_from_slice(&spec.cpuid.unwrap_or_else(|| cpuid(spec.product)));
        }
        body.resize(0x1a0, 0);
        body.extend_from_slice(&chip_id);
        body.extend_from_slice(&tcb(spec.committed_tcb)); // 0x1e0
        body.extend_from_slice(&[61, 55, 1, 0]); // current firmware 1.55.61
        body.extend_from_slice(&[61, 55, 1, 0]); // committed firmware
        body.extend_from_slice(&tcb(spec.launch_tcb)); // 0x1f0
        if spec.version >= 5 {
            body.extend_from_slice(&spec.launch_mit_vector.to_le_bytes()); // 0x1f8
            body.extend_from_slice(&spec.current_mit_vector.to_le_bytes());
        }
        body.resize(0x2a0, 0);
        body
    }
}

/// Family, model and stepping of a processor of this product.
const fn cpuid(product: Product) -> [u8; 3] {
    match product {
        Product::Milan => [0x19, 0x01, 1],
        Product::Genoa => [0x19, 0x11, 1],
        Product::Turin => [0x1a, 0x02, 1],
    }
}

impl Attester for EmulatedSnp {
    fn tee(&self) -> Tee {
        Tee::SevSnp
    }

    fn driver(&self) -> &'static str {
        super::DRIVER
    }

    fn emulated(&self) -> bool {
        true
    }

    fn evidence(&self, report_data: &[u8; 64]) -> Result<Produced, Error> {
        self.pause.pause(self.spec.quoting_latency);
        let report = TsmReport {
            provider: "sev_guest".into(),
            outblob: self.report(report_data)?.into(),
            auxblob: Some(self.table.as_slice().into()),
        };
        Ok(Produced::new(media_type::TSM_SNP, report.encode()))
    }
}
