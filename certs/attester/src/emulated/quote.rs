//! TDX and SGX machines: DCAP quotes (versions 3, 4 and 5).

use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io};

use aws_lc_rs::digest;
use countersign_evidence::claims::{Tee, Window};
use countersign_evidence::event_log::native::Record;
use countersign_evidence::evidence::{TsmReport, media_type};
use countersign_evidence::{Finding, event_log};

use super::intel::{Authority, pck_serial};
use super::key::{Key, Kind};
use super::spec::{IntelPlatform, SgxSpec, TdxSpec};
use super::x509::{Serial, pem};
use crate::runtime_log::{Register, RuntimeLog};
use crate::{Attester, Error, Listener, Pause, Produced};

/// The vendor ID of Intel's quoting enclave.
const QE_VENDOR_ID: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];
/// What the quoting enclave adds to the hash over its key.
const QE_AUTH_DATA: [u8; 32] = {
    let mut data = [0; 32];
    let mut rest: &mut [u8] = &mut data;
    let mut value = 0;
    while let [first, tail @ ..] = rest {
        *first = value;
        value += 1;
        rest = tail;
    }
    data
};
const CERT_DATA_PCK_CHAIN: u16 = 5;
const CERT_DATA_QE_REPORT: u16 = 6;

/// A quoting enclave: an attestation key, and the PCK's word for it.
struct QuotingEnclave {
    key: Key,
    /// QE report ‖ signature ‖ authentication data ‖ PCK chain, the same in every quote.
    certification: Vec<u8>,
    isv_svn: u16,
    pce_svn: u16,
    serial: Serial,
    pck: Vec<u8>,
}

impl fmt::Debug for QuotingEnclave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuotingEnclave").field("pck", &self.serial.to_string()).finish_non_exhaustive()
    }
}

impl QuotingEnclave {
    fn new(
        authority: &Authority,
        window: Window,
        platform: &IntelPlatform,
        isv_prod_id: u16,
    ) -> Result<Self, Error> {
        let key = Key::generate(Kind::P256)?;
        let pck_key = Key::generate(Kind::P256)?;
        let pck = authority.pck(platform, &pck_key.spki()?, window)?;

        let mut context = digest::Context::new(&digest::SHA256);
        context.update(key.point());
        context.update(&QE_AUTH_DATA);
        let mut report_data = [0; 64];
        report_data.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        let report = ReportBody {
            cpu_svn: platform.cpu_svn,
            attributes: platform.qe_attributes,
            mr_enclave: [0xe5; 32],
            mr_signer: platform.qe_mr_signer,
            isv_prod_id,
            isv_svn: platform.qe_isv_svn,
            ..ReportBody::default()
        }
        .write(&report_data);

        let mut chain = String::new();
        for certificate in [&pck, &authority.platform_ca.certificate, &authority.root.certificate] {
            chain.push_str(&pem("CERTIFICATE", certificate));
        }
        let mut certification = Vec::with_capacity(report.len() + chain.len() + 128);
        certification.extend_from_slice(&report);
        certification.extend_from_slice(&pck_key.sign(&report)?);
        certification.extend_from_slice(&(QE_AUTH_DATA.len() as u16).to_le_bytes());
        certification.extend_from_slice(&QE_AUTH_DATA);
        certification.extend_from_slice(&CERT_DATA_PCK_CHAIN.to_le_bytes());
        certification.extend_from_slice(&length(chain.len()));
        certification.extend_from_slice(chain.as_bytes());
        Ok(Self {
            key,
            certification,
            isv_svn: platform.qe_isv_svn,
            pce_svn: platform.pce_svn,
            serial: pck_serial(platform),
            pck,
        })
    }

    /// Header, body, and the authentication data that belongs to the version.
    fn quote(&self, version: u16, tee: u32, body: &[u8]) -> Result<Vec<u8>, Error> {
        let mut quote = Vec::with_capacity(body.len() + self.certification.len() + 256);
        quote.extend_from_slice(&version.to_le_bytes());
        quote.extend_from_slice(&2u16.to_le_bytes()); // ECDSA with P-256
        quote.extend_from_slice(&tee.to_le_bytes());
        if version == 3 {
            quote.extend_from_slice(&self.isv_svn.to_le_bytes());
            quote.extend_from_slice(&self.pce_svn.to_le_bytes());
        } else {
            quote.extend_from_slice(&[0; 4]);
        }
        quote.extend_from_slice(&QE_VENDOR_ID);
        quote.extend_from_slice(&[0; 20]); // user data
        quote.extend_from_slice(body);

        let mut authentication = self.key.sign(&quote)?;
        authentication.extend_from_slice(self.key.point());
        if version > 3 {
            authentication.extend_from_slice(&CERT_DATA_QE_REPORT.to_le_bytes());
            authentication.extend_from_slice(&length(self.certification.len()));
        }
        authentication.extend_from_slice(&self.certification);
        quote.extend_from_slice(&length(authentication.len()));
        quote.extend_from_slice(&authentication);
        Ok(quote)
    }
}

fn length(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes()
}

/// REPORTBODY of SGX, 384 bytes (Intel SDM volume 3D, section 37.15).
#[derive(Default)]
struct ReportBody {
    cpu_svn: [u8; 16],
    misc_select: [u8; 4],
    attributes: [u8; 16],
    mr_enclave: [u8; 32],
    mr_signer: [u8; 32],
    config_id: ConfigId,
    isv_prod_id: u16,
    isv_svn: u16,
    config_svn: u16,
}

/// 64 bytes, with a default.
struct ConfigId([u8; 64]);

impl Default for ConfigId {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl ReportBody {
    fn write(&self, report_data: &[u8; 64]) -> Vec<u8> {
        let mut out = Vec::with_capacity(384);
        out.extend_from_slice(&self.cpu_svn);
        out.extend_from_slice(&self.misc_select);
        out.extend_from_slice(&[0; 12 + 16]); // reserved, ISVEXTPRODID
        out.extend_from_slice(&self.attributes);
        out.extend_from_slice(&self.mr_enclave);
        out.extend_from_slice(&[0; 32]);
        out.extend_from_slice(&self.mr_signer);
        out.extend_from_slice(&[0; 32]);
        out.extend_from_slice(&self.config_id.0);
        out.extend_from_slice(&self.isv_prod_id.to_le_bytes());
        out.extend_from_slice(&self.isv_svn.to_le_bytes());
        out.extend_from_slice(&self.config_svn.to_le_bytes());
        out.extend_from_slice(&[0; 42 + 16]); // reserved, ISVFAMILYID
        out.extend_from_slice(report_data);
        out
    }
}

/// An emulated TDX guest.
#[derive(Debug)]
pub struct EmulatedTdx {
    spec: TdxSpec,
    log: RuntimeLog,
    enclave: QuotingEnclave,
    pause: Arc<dyn Pause>,
}

impl EmulatedTdx {
    pub(super) fn new(
        authority: &Authority,
        window: Window,
        spec: TdxSpec,
        pause: Arc<dyn Pause>,
    ) -> Result<Self, Error> {
        let enclave = QuotingEnclave::new(authority, window, &spec.platform, 2)?;
        let [.., runtime] = spec.rtmr;
        let log = RuntimeLog::new(Box::new(Memory(Mutex::new(runtime))));
        for event in &spec.events {
            let invalid = |finding: Finding| Error::Protocol(finding.to_string(), super::DRIVER);
            log.extend(&Record::new(&event.kind, event.content.as_bytes()).map_err(invalid)?)?;
        }
        Ok(Self { spec, log, enclave, pause })
    }

    /// What it was made from.
    #[must_use]
    pub const fn spec(&self) -> &TdxSpec {
        &self.spec
    }

    /// The serial number of the PCK certificate, for a revocation list.
    #[must_use]
    pub const fn pck_serial(&self) -> &Serial {
        &self.enclave.serial
    }

    /// The PCK certificate as DER.
    #[must_use]
    pub fn pck_certificate(&self) -> &[u8] {
        &self.enclave.pck
    }

    /// A quote over `report_data`, without the latency.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, Error> {
        self.enclave.quote(self.spec.quote_version, 0x81, &self.body(report_data)?)
    }

    /// TDREPORT fields in the order of sgx_report2_body_t; version 5 puts their
    /// kind and size in front.
    fn body(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, Error> {
        let spec = &self.spec;
        let mut body = Vec::with_capacity(700);
        if spec.quote_version >= 5 {
            body.extend_from_slice(&3u16.to_le_bytes()); // TDX 1.5
            body.extend_from_slice(&648u32.to_le_bytes());
        }
        body.extend_from_slice(&spec.tee_tcb_svn);
        body.extend_from_slice(&spec.mr_seam);
        body.extend_from_slice(&spec.mr_signer_seam);
        body.extend_from_slice(&spec.seam_attributes);
        body.extend_from_slice(&spec.td_attributes);
        body.extend_from_slice(&spec.xfam);
        body.extend_from_slice(&spec.mr_td);
        body.extend_from_slice(&spec.mr_config_id);
        body.extend_from_slice(&spec.mr_owner);
        body.extend_from_slice(&spec.mr_owner_config);
        let [rtmr0, rtmr1, rtmr2, _] = &spec.rtmr;
        for register in [rtmr0, rtmr1, rtmr2, &self.log.register()?] {
            body.extend_from_slice(register);
        }
        body.extend_from_slice(report_data);
        if spec.quote_version >= 5 {
            body.extend_from_slice(&spec.tee_tcb_svn2.unwrap_or(spec.tee_tcb_svn));
            body.extend_from_slice(&spec.mr_service_td);
        }
        Ok(body)
    }
}

/// A register that is gone with the process, as a real one is with its guest.
#[derive(Debug)]
struct Memory(Mutex<event_log::Register>);

impl Register for Memory {
    fn read(&self) -> io::Result<event_log::Register> {
        Ok(*self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn extend(&self, digest: &event_log::Register) -> io::Result<()> {
        event_log::extend(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), digest);
        Ok(())
    }
}

impl Attester for EmulatedTdx {
    fn tee(&self) -> Tee {
        Tee::Tdx
    }

    fn driver(&self) -> &'static str {
        super::DRIVER
    }

    fn emulated(&self) -> bool {
        true
    }

    fn evidence(&self, report_data: &[u8; 64]) -> Result<Produced, Error> {
        self.pause.pause(self.spec.quoting_latency);
        let quote = self.quote(report_data)?;
        let report = TsmReport { provider: "tdx_guest".into(), outblob: quote.into(), auxblob: None };
        let produced = Produced::new(media_type::TSM_TDX, report.encode());
        Ok(Produced { event_log: self.log.taken(), ..produced })
    }

    fn keeps_event_log(&self) -> bool {
        self.log.taken().is_some()
    }

    fn extend(&self, event: &Record<'_>) -> Result<u64, Error> {
        self.log.extend(event)
    }

    fn on_extended(&self, listener: Listener) {
        self.log.on_extended(listener);
    }
}

/// An emulated SGX enclave.
#[derive(Debug)]
pub struct EmulatedSgx {
    spec: SgxSpec,
    enclave: QuotingEnclave,
    pause: Arc<dyn Pause>,
}

impl EmulatedSgx {
    pub(super) fn new(
        authority: &Authority,
        window: Window,
        spec: SgxSpec,
        pause: Arc<dyn Pause>,
    ) -> Result<Self, Error> {
        let enclave = QuotingEnclave::new(authority, window, &spec.platform, 1)?;
        Ok(Self { spec, enclave, pause })
    }

    /// What it was made from.
    #[must_use]
    pub const fn spec(&self) -> &SgxSpec {
        &self.spec
    }

    /// The serial number of the PCK certificate, for a revocation list.
    #[must_use]
    pub const fn pck_serial(&self) -> &Serial {
        &self.enclave.serial
    }

    /// A quote over `report_data`, without the latency.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, Error> {
        let spec = &self.spec;
        let body = ReportBody {
            cpu_svn: spec.platform.cpu_svn,
            misc_select: spec.misc_select,
            attributes: spec.attributes,
            mr_enclave: spec.mr_enclave,
            mr_signer: spec.mr_signer,
            config_id: ConfigId(spec.config_id),
            isv_prod_id: spec.isv_prod_id,
            isv_svn: spec.isv_svn,
            config_svn: spec.config_svn,
        }
        .write(report_data);
        self.enclave.quote(3, 0, &body)
    }
}

impl Attester for EmulatedSgx {
    fn tee(&self) -> Tee {
        Tee::Sgx
    }

    fn driver(&self) -> &'static str {
        super::DRIVER
    }

    fn emulated(&self) -> bool {
        true
    }

    fn evidence(&self, report_data: &[u8; 64]) -> Result<Produced, Error> {
        self.pause.pause(self.spec.quoting_latency);
        Ok(Produced::new(media_type::SGX_QUOTE, self.quote(report_data)?))
    }
}
