use std::sync::Mutex;

use super::*;

/// Firmware and hypervisor behind a device node.
#[derive(Debug, Default)]
struct Fake {
    /// Answers of the hypervisor before the firmware is asked, in order.
    vmm: Vec<u32>,
    /// The hypervisor has more certificates than fit.
    too_many: bool,
    table: Vec<u8>,
    status: u32,
    size: Option<u32>,
    calls: Mutex<Vec<(u32, bool)>>,
}

impl Device for Arc<Fake> {
    fn report(
        &self,
        report_data: &[u8; 64],
        vmpl: u32,
        certificates: Option<&mut [u8]>,
    ) -> Result<Box<SnpResponse>, SnpFailure> {
        let mut calls = self.calls.lock().unwrap();
        calls.push((vmpl, certificates.is_some()));
        let fail =
            |vmm| Err(SnpFailure { error: io::Error::from_raw_os_error(5), firmware: 0xffff_ffff, vmm });
        if let Some(vmm) = self.vmm.get(calls.len() - 1) {
            return fail(*vmm);
        }
        if let Some(buffer) = certificates {
            assert_eq!(buffer.len() % 4096, 0, "the kernel takes whole pages");
            if self.too_many {
                return fail(VMM_INVALID_LEN);
            }
            buffer[..self.table.len()].copy_from_slice(&self.table);
        }
        let mut response = Box::new([0; 4000]);
        response[..4].copy_from_slice(&self.status.to_le_bytes());
        response[4..8].copy_from_slice(&self.size.unwrap_or(1184).to_le_bytes());
        response[32 + 0x50..32 + 0x90].copy_from_slice(report_data);
        Ok(response)
    }
}

#[derive(Debug)]
struct NoPause;

impl Pause for NoPause {
    fn pause(&self, _: Duration) {}
}

fn driver(fake: Fake, vmpl: u32) -> (SevGuest, Arc<Fake>) {
    let fake = Arc::new(fake);
    (SevGuest { device: Box::new(Arc::clone(&fake)), vmpl, pause: Box::new(NoPause) }, fake)
}

/// One entry that points to 5 bytes behind the table.
fn table() -> Vec<u8> {
    let mut table = vec![0x11; 16];
    table.extend_from_slice(&48u32.to_le_bytes());
    table.extend_from_slice(&5u32.to_le_bytes());
    table.extend_from_slice(&[0; 24]);
    table.extend_from_slice(b"certs");
    table
}

const DATA: [u8; 64] = [0x42; 64];

fn evidence(fake: Fake) -> (Result<Produced, Error>, Vec<(u32, bool)>) {
    let (driver, fake) = driver(fake, 0);
    let produced = driver.evidence(&DATA);
    let calls = fake.calls.lock().unwrap().clone();
    (produced, calls)
}

#[test]
fn report_and_certificates_come_in_one_call_and_without_padding() {
    let (produced, calls) = evidence(Fake { table: table(), ..Fake::default() });
    let produced = produced.unwrap();
    let report = TsmReport::decode(&produced.value).unwrap();
    assert_eq!(report.outblob.len(), 1184);
    assert_eq!(report.outblob[0x50..0x90], DATA);
    assert_eq!(report.auxblob.unwrap(), table());
    assert_eq!(calls, [(0, true)]);
}

#[test]
fn a_host_without_certificates_gives_the_bare_report() {
    let produced = evidence(Fake::default()).0.unwrap();
    assert_eq!(TsmReport::decode(&produced.value).unwrap().auxblob, None);
}

#[test]
fn a_host_with_too_many_certificates_gives_the_bare_report() {
    let (produced, calls) = evidence(Fake { too_many: true, table: table(), ..Fake::default() });
    assert_eq!(TsmReport::decode(&produced.unwrap().value).unwrap().auxblob, None);
    assert_eq!(calls, [(0, true), (0, false)]);
}

#[test]
fn a_throttling_host_is_asked_again_and_given_up_in_the_end() {
    let (produced, calls) = evidence(Fake { vmm: vec![VMM_BUSY; 3], ..Fake::default() });
    produced.unwrap();
    assert_eq!(calls.len(), 4);
    let (produced, calls) = evidence(Fake { vmm: vec![VMM_BUSY; 99], ..Fake::default() });
    assert!(produced.unwrap_err().to_string().contains("hypervisor error 0x2"));
    assert_eq!(calls.len(), ATTEMPTS as usize);
}

#[test]
fn a_refusal_of_the_firmware_or_a_wrong_length_is_an_error() {
    let refused = evidence(Fake { status: 0x16, ..Fake::default() }).0.unwrap_err();
    assert!(refused.to_string().contains("status 0x16"), "{refused}");
    let short = evidence(Fake { size: Some(1183), ..Fake::default() }).0.unwrap_err();
    assert!(short.to_string().contains("1183"), "{short}");
}

#[test]
fn the_report_is_asked_for_our_own_level() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(vmpl(root.path()), 0);
    let sev = root.path().join("sys/devices/system/cpu/sev");
    std::fs::create_dir_all(&sev).unwrap();
    std::fs::write(sev.join("vmpl"), "2\n").unwrap();
    let (driver, fake) = driver(Fake::default(), vmpl(root.path()));
    driver.evidence(&DATA).unwrap();
    assert_eq!(*fake.calls.lock().unwrap(), [(2, true)]);
}

#[test]
fn a_broken_table_is_left_out() {
    assert_eq!(table_length(&table()), table().len());
    assert_eq!(table_length(&[]), 0);
    assert_eq!(table_length(&[0; 4096]), 0);
    assert_eq!(table_length(&[0x11; 48]), 0, "no end");
    let mut far = table();
    far[16..20].fill(0xff);
    assert_eq!(table_length(&far), 0, "points outside");
}
