use std::fs;

use super::*;

fn enclave(kind: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("dev/attestation");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("attestation_type"), kind).unwrap();
    fs::write(directory.join("user_report_data"), [0; 64]).unwrap();
    root
}

#[test]
fn an_enclave_with_dcap_is_ready_and_others_say_why_not() {
    assert!(detect(enclave("dcap").path()).missing.is_empty());
    assert!(detect(enclave("none").path()).missing.first().unwrap().contains("sgx.remote_attestation"));
    let outside = tempfile::tempdir().unwrap();
    assert!(detect(outside.path()).missing.first().unwrap().contains("not inside an SGX enclave"));
}

#[test]
fn our_data_goes_in_and_a_quote_over_it_comes_out() {
    let root = enclave("dcap");
    let directory = root.path().join("dev/attestation");
    let data = [0x42; 64];
    fs::write(directory.join("quote"), [&[3; 368][..], &data].concat()).unwrap();
    let produced = open(root.path()).evidence(&data).unwrap();
    assert_eq!(produced.media_type, media_type::SGX_QUOTE);
    assert_eq!(produced.value.len(), 432);
    assert_eq!(fs::read(directory.join("user_report_data")).unwrap(), data);
}

#[test]
fn a_quote_over_other_data_and_a_missing_quote_are_errors() {
    let root = enclave("dcap");
    let attester = open(root.path());
    assert!(matches!(attester.evidence(&[1; 64]), Err(Error::Io { .. })));
    fs::write(root.path().join("dev/attestation/quote"), [9; 432]).unwrap();
    assert!(matches!(attester.evidence(&[1; 64]), Err(Error::Protocol(..))));
}
