//! `/dev/sev-guest`: reports by ioctl (Linux, Documentation/virt/coco/sev-guest.rst).

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::amd::REPORT_SIZE;
use countersign_evidence::claims::Tee;
use countersign_evidence::evidence::{TsmReport, media_type};

use crate::ioctl::{self, SnpFailure, SnpResponse};
use crate::machine::{is_over, obstacle, text, under};
use crate::{Attester, Detection, Error, Pause, Produced, Sleep};

const DRIVER: &str = "sev-guest";
const NODE: &str = "/dev/sev-guest";
/// SEV_FW_BLOB_MAX_SIZE: what the kernel accepts at most, in whole pages.
const CERTIFICATES: usize = 0x4000;
/// Where the report starts in the response (SEV-SNP Firmware ABI, MSG_REPORT_RSP).
const REPORT_OFFSET: usize = 32;
const VMM_INVALID_LEN: u32 = 1;
const VMM_BUSY: u32 = 2;
const ATTEMPTS: u32 = 5;

/// What the driver needs of the device.
trait Device: Send + Sync + fmt::Debug {
    fn report(
        &self,
        report_data: &[u8; 64],
        vmpl: u32,
        certificates: Option<&mut [u8]>,
    ) -> Result<Box<SnpResponse>, SnpFailure>;
}

impl Device for File {
    fn report(
        &self,
        report_data: &[u8; 64],
        vmpl: u32,
        certificates: Option<&mut [u8]>,
    ) -> Result<Box<SnpResponse>, SnpFailure> {
        ioctl::snp_report(self, report_data, vmpl, certificates)
    }
}

pub(crate) fn detect(root: &Path) -> Detection {
    let option = "no SEV-SNP guest, or kernel option CONFIG_SEV_GUEST is off (Linux 5.19 or later)";
    Detection {
        driver: DRIVER,
        tee: Tee::SevSnp,
        missing: obstacle(root, NODE, option).into_iter().collect(),
    }
}

pub(crate) fn open(root: &Path) -> Result<Arc<dyn Attester>, Error> {
    let device = ioctl::open(&under(root, NODE)).map_err(|e| io_error(format!("open {NODE}"), e))?;
    Ok(Arc::new(SevGuest { device: Box::new(device), vmpl: vmpl(root), pause: Box::new(Sleep) }))
}

/// The level that we run at: a report for a more privileged one is not ours to
/// ask for. Kernels before 6.13 do not say, and know no other level than 0.
fn vmpl(root: &Path) -> u32 {
    text(root, "/sys/devices/system/cpu/sev/vmpl").ok().and_then(|t| t.parse().ok()).unwrap_or(0)
}

#[derive(Debug)]
struct SevGuest {
    device: Box<dyn Device>,
    vmpl: u32,
    pause: Box<dyn Pause>,
}

impl Attester for SevGuest {
    fn tee(&self) -> Tee {
        Tee::SevSnp
    }

    fn driver(&self) -> &'static str {
        DRIVER
    }

    fn evidence(&self, report_data: &[u8; 64]) -> Result<Produced, Error> {
        let mut certificates = vec![0; CERTIFICATES];
        let response = match self.request(report_data, Some(&mut certificates)) {
            // The host has more certificates than the kernel can take: the verifier
            // finds them in its collateral.
            Err(SnpFailure { vmm: VMM_INVALID_LEN, .. }) => {
                certificates.clear();
                self.request(report_data, None)
            }
            outcome => outcome,
        }
        .map_err(|f| {
            io_error(
                format!("report (firmware error {:#x}, hypervisor error {:#x})", f.firmware, f.vmm),
                f.error,
            )
        })?;
        let report = report_of(&response)?;
        is_over(report, report_data, DRIVER)?;
        let table = certificates.get(..table_length(&certificates)).unwrap_or_default();
        let report = TsmReport {
            provider: "sev_guest".into(),
            outblob: report.into(),
            auxblob: (!table.is_empty()).then(|| table.into()),
        };
        Ok(Produced::new(media_type::TSM_SNP, report.encode()))
    }
}

impl SevGuest {
    /// One request, again while the host throttles us.
    fn request(
        &self,
        report_data: &[u8; 64],
        mut certificates: Option<&mut [u8]>,
    ) -> Result<Box<SnpResponse>, SnpFailure> {
        let mut wait = Duration::from_millis(20);
        let mut attempt = 1;
        loop {
            match self.device.report(report_data, self.vmpl, certificates.as_deref_mut()) {
                Err(failure) if failure.vmm == VMM_BUSY && attempt < ATTEMPTS => {
                    self.pause.pause(wait);
                    wait *= 2;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }
}

/// Status, length, and then the report.
fn report_of(response: &SnpResponse) -> Result<&[u8], Error> {
    let number = |at: usize| {
        response.get(at..).and_then(|rest| rest.first_chunk()).map_or(u32::MAX, |b| u32::from_le_bytes(*b))
    };
    let (status, size) = (number(0), number(4));
    if status != 0 {
        return Err(Error::Protocol(
            format!("the firmware refused the report with status {status:#x}"),
            DRIVER,
        ));
    }
    match response.get(REPORT_OFFSET..REPORT_OFFSET + REPORT_SIZE) {
        Some(report) if size as usize == REPORT_SIZE => Ok(report),
        _ => Err(Error::Protocol(format!("the report has {size} bytes and not {REPORT_SIZE}"), DRIVER)),
    }
}

/// How far the certificate table reaches: entries of GUID, offset and length up
/// to one of zeros, and the certificates that they point to. 0 for no or a
/// broken table.
fn table_length(buffer: &[u8]) -> usize {
    let mut end = 0;
    for entry in buffer.chunks_exact(24) {
        let Some((guid, [o0, o1, o2, o3, l0, l1, l2, l3])) = entry.split_first_chunk::<16>() else { break };
        if *guid == [0; 16] {
            return end;
        }
        let offset = u32::from_le_bytes([*o0, *o1, *o2, *o3]) as usize;
        let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
        match offset.checked_add(length) {
            Some(last) if last <= buffer.len() => end = end.max(last),
            _ => return 0,
        }
    }
    0
}

fn io_error(what: String, source: io::Error) -> Error {
    Error::Io { driver: DRIVER, what, source }
}

#[cfg(test)]
mod tests;
