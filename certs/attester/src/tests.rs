//! Detection over fake machines.

use std::fs;

use super::*;

/// A machine with these files; a path that ends in `/` is a directory.
fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path_on_disk = root.path().join(path);
        if path.ends_with('/') {
            fs::create_dir_all(path_on_disk).unwrap();
        } else {
            fs::create_dir_all(path_on_disk.parent().unwrap()).unwrap();
            fs::write(path_on_disk, content).unwrap();
        }
    }
    root
}

const MOUNTS: &str = "sysfs /sys sysfs rw 0 0\nconfigfs /sys/kernel/config configfs rw 0 0\n";

fn missing(root: &Path, driver: &str, tee: Tee) -> String {
    let all = detect(root);
    let found = all.iter().find(|d| d.driver == driver && d.tee == tee).unwrap();
    found.missing.join("; ")
}

#[test]
fn a_machine_without_any_tee_names_every_driver_and_what_it_misses() {
    let root = machine(&[("proc/sys/kernel/osrelease", "6.12.8-amd64\n")]);
    let detections = detect(root.path());
    assert_eq!(detections.len(), DRIVERS.len());
    assert!(detections.iter().all(|d| !d.missing.is_empty()));
    let error = open(root.path()).unwrap_err().to_string();
    for driver in ["configfs-tsm", "sev-guest", "tdx-guest", "gramine"] {
        assert!(error.contains(driver), "{error}");
    }
}

#[test]
fn configfs_says_which_step_comes_next() {
    let tsm = |files: &[(&str, &str)]| missing(machine(files).path(), "configfs-tsm", Tee::Tdx);
    let new = ("proc/sys/kernel/osrelease", "6.7.0\n");
    let mounts = ("proc/self/mounts", MOUNTS);
    let unmounted = ("proc/self/mounts", "sysfs /sys sysfs rw 0 0\n");
    let config = ("sys/kernel/config/", "");
    assert!(tsm(&[("proc/sys/kernel/osrelease", "6.6.99-lts\n")]).contains("the kernel is 6.6.99-lts"));
    assert!(tsm(&[new]).contains("CONFIG_CONFIGFS_FS"));
    assert!(tsm(&[new, config, unmounted]).contains("mount -t configfs"));
    assert!(tsm(&[new, config, mounts]).contains("CONFIG_TSM_REPORTS"));
    let report = ("sys/kernel/config/tsm/report/", "");
    let left = tsm(&[new, mounts, report]);
    assert!(left.starts_with("/dev/tdx_guest") && left.contains("CONFIG_TDX_GUEST_DRIVER"), "{left}");
}

#[test]
fn a_tdx_guest_prefers_the_hosts_qgs_when_it_is_configured() {
    let files = [
        ("proc/sys/kernel/osrelease", "6.12.0\n"),
        ("proc/self/mounts", MOUNTS),
        ("sys/kernel/config/tsm/report/", ""),
        ("dev/tdx_guest", ""),
        ("dev/vsock", ""),
    ];
    let root = machine(&files);
    let first = |root: &Path| detect(root).first().cloned().unwrap();
    assert_eq!(first(root.path()).driver, "configfs-tsm");
    assert_eq!(open(root.path()).unwrap().driver(), "configfs-tsm");
    assert!(missing(root.path(), "tdx-guest", Tee::Tdx).contains("port=4050"));

    let root = machine(&[&files[..], &[("etc/tdx-attest.conf", "port=4294967000\n")]].concat());
    assert_eq!((first(root.path()).driver, first(root.path()).missing), ("tdx-guest", vec![]));
    // Nobody answers at that port: the next driver is taken.
    assert_eq!(open(root.path()).unwrap().driver(), "configfs-tsm");
}

#[test]
fn an_snp_guest_with_an_old_kernel_uses_its_device_node() {
    let root = machine(&[("proc/sys/kernel/osrelease", "6.1.0\n"), ("dev/sev-guest", "")]);
    let attester = open(root.path()).unwrap();
    assert_eq!((attester.driver(), attester.tee(), attester.emulated()), ("sev-guest", Tee::SevSnp, false));
    assert!(missing(root.path(), "configfs-tsm", Tee::SevSnp).contains("6.7 or later"));
}

#[test]
fn an_enclave_of_gramine_is_found() {
    let root = machine(&[("dev/attestation/attestation_type", "dcap")]);
    assert_eq!(open(root.path()).unwrap().tee(), Tee::Sgx);
}

#[test]
fn detection_leaves_the_machine_as_it_was() {
    let root = machine(&[
        ("proc/self/mounts", MOUNTS),
        ("sys/kernel/config/tsm/report/", ""),
        ("dev/tdx_guest", ""),
        ("dev/sev-guest", ""),
    ]);
    assert_eq!(detect(root.path()).len(), DRIVERS.len());
    assert_eq!(fs::read_dir(root.path().join("sys/kernel/config/tsm/report")).unwrap().count(), 0);
}

#[test]
fn a_lack_of_permission_is_told_from_a_lack_of_the_device() {
    let denied = machine::explain("/dev/x", "option", &std::io::ErrorKind::PermissionDenied.into());
    assert!(denied.contains("no permission") && denied.contains("run as root"), "{denied}");
    let absent = machine::explain("/dev/x", "option Y", &std::io::ErrorKind::NotFound.into());
    assert_eq!(absent, "/dev/x does not exist: option Y");
}
