//! The ioctls of the TEE devices: the only unsafe code of this crate.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// `struct tdx_report_req` (Linux, include/uapi/linux/tdx-guest.h).
#[repr(C)]
struct TdxReportRequest {
    report_data: [u8; 64],
    tdreport: [u8; 1024],
}

/// `struct snp_report_req` (Linux, include/uapi/linux/sev-guest.h).
#[repr(C)]
struct SnpReportRequest {
    user_data: [u8; 64],
    vmpl: u32,
    reserved: [u8; 28],
}

/// `struct snp_ext_report_req`.
#[repr(C)]
struct SnpExtendedRequest {
    data: SnpReportRequest,
    certs_address: u64,
    certs_len: u32,
}

/// `struct snp_guest_request_ioctl`; the two errors are the halves of `exitinfo2`.
#[repr(C)]
struct SnpGuestRequest {
    message_version: u8,
    request: u64,
    response: u64,
    firmware_error: u32,
    vmm_error: u32,
}

const TDX_CMD_GET_REPORT0: Opcode = opcode::read_write::<TdxReportRequest>(b'T', 1);
const SNP_GET_REPORT: Opcode = opcode::read_write::<SnpGuestRequest>(b'S', 0);
const SNP_GET_EXT_REPORT: Opcode = opcode::read_write::<SnpGuestRequest>(b'S', 2);

/// `struct snp_report_resp`: a message header and the report.
pub(crate) type SnpResponse = [u8; 4000];

/// Why there is no report.
#[derive(Debug)]
pub(crate) struct SnpFailure {
    pub(crate) error: io::Error,
    /// What the firmware said (SEV-SNP Firmware ABI, table of status codes).
    pub(crate) firmware: u32,
    /// What the hypervisor said (GHCB: 1 buffer too small, 2 busy).
    pub(crate) vmm: u32,
}

/// Opens a device node for reading and writing.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// TDREPORT over `report_data` from `/dev/tdx_guest`.
#[allow(unsafe_code, reason = "an ioctl")]
pub(crate) fn tdx_report(device: &File, report_data: &[u8; 64]) -> io::Result<[u8; 1024]> {
    let mut request = TdxReportRequest { report_data: *report_data, tdreport: [0; 1024] };
    // SAFETY: TDX_CMD_GET_REPORT0 reads and writes exactly one struct tdx_report_req,
    // which holds no pointers; the opcode is made from the size of our struct, so a
    // kernel that disagrees about it answers ENOTTY.
    unsafe {
        ioctl(device, Updater::<TDX_CMD_GET_REPORT0, _>::new(&mut request))?;
    }
    Ok(request.tdreport)
}

/// An attestation report over `report_data` from `/dev/sev-guest`, and the
/// certificate table if there is a buffer for it.
#[allow(unsafe_code, reason = "an ioctl")]
pub(crate) fn snp_report(
    device: &File,
    report_data: &[u8; 64],
    vmpl: u32,
    certificates: Option<&mut [u8]>,
) -> Result<Box<SnpResponse>, SnpFailure> {
    let mut response: Box<SnpResponse> = Box::new([0; 4000]);
    let plain = SnpReportRequest { user_data: *report_data, vmpl, reserved: [0; 28] };
    let mut call = SnpGuestRequest {
        message_version: 1,
        request: 0,
        response: std::ptr::from_mut(&mut *response) as u64,
        firmware_error: 0,
        vmm_error: 0,
    };
    let outcome = match certificates {
        None => {
            let mut request = plain;
            call.request = std::ptr::from_mut(&mut request) as u64;
            // SAFETY: the call holds the addresses of a struct snp_report_req and of a
            // struct snp_report_resp (4000 bytes), which both outlive it and which nobody
            // else refers to while the kernel reads and writes them.
            unsafe { ioctl(device, Updater::<SNP_GET_REPORT, _>::new(&mut call)) }
        }
        Some(buffer) => {
            let mut request = SnpExtendedRequest {
                data: plain,
                certs_address: buffer.as_mut_ptr() as u64,
                certs_len: u32::try_from(buffer.len()).unwrap_or(0),
            };
            call.request = std::ptr::from_mut(&mut request) as u64;
            // SAFETY: as above, with a struct snp_ext_report_req, which in turn holds the
            // address and the length of `buffer`: exclusively ours for the whole call.
            unsafe { ioctl(device, Updater::<SNP_GET_EXT_REPORT, _>::new(&mut call)) }
        }
    };
    match outcome {
        Ok(()) => Ok(response),
        Err(error) => {
            Err(SnpFailure { error: error.into(), firmware: call.firmware_error, vmm: call.vmm_error })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_and_layouts_are_those_of_the_kernel_headers() {
        assert_eq!(TDX_CMD_GET_REPORT0, 0xc440_5401);
        assert_eq!(SNP_GET_REPORT, 0xc020_5300);
        assert_eq!(SNP_GET_EXT_REPORT, 0xc020_5302);
        assert_eq!(size_of::<SnpReportRequest>(), 96);
        assert_eq!(size_of::<SnpExtendedRequest>(), 112);
        assert_eq!(std::mem::offset_of!(SnpExtendedRequest, certs_len), 104);
        assert_eq!(std::mem::offset_of!(SnpGuestRequest, firmware_error), 24);
    }

    #[test]
    fn a_file_that_is_no_device_is_refused_by_the_kernel() {
        let file = tempfile::tempfile().unwrap();
        assert!(tdx_report(&file, &[0; 64]).is_err());
        let failure = snp_report(&file, &[0; 64], 0, Some(&mut [0; 4096])).unwrap_err();
        assert_eq!((failure.firmware, failure.vmm), (0, 0));
    }
}
