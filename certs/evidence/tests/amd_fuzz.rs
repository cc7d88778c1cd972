//! Whatever the bytes are: a finding or claims, never a panic, never a pass.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use countersign_evidence::amd::{CertificateKind, encode_table};
use countersign_evidence::evidence::{TsmReport, media_type};
use countersign_evidence::{Anchors, Collateral, Evidence, UnixTime, verify};
use proptest::prelude::*;

/// A report of version 3 with everything that parsing asks for.
fn report() -> Vec<u8> {
    let mut report = vec![0; 1184];
    report[0] = 3;
    report[0x34] = 1;
    report[0x188] = 0x19;
    report[0x189] = 0x11;
    report
}

/// Well-formed evidence of each shape.
fn shapes() -> Vec<Vec<u8>> {
    let vcek = sev::certs::snp::builtin::genoa::ask().unwrap().to_der().unwrap();
    let ark = sev::certs::snp::builtin::genoa::ark().unwrap().to_der().unwrap();
    let table = encode_table(&[(CertificateKind::Vcek, &vcek), (CertificateKind::Ark, &ark)]);
    let tsm =
        TsmReport { provider: "sev_guest".into(), outblob: report().into(), auxblob: Some((&table).into()) };
    let mut quote = vec![0; 5000];
    quote[..2].copy_from_slice(&[4, 0]);
    quote[2] = 2;
    quote[4] = 0x81;
    quote[12..28].copy_from_slice(&hex::decode("939a7233f79c4ca9940a0db3957f0607").unwrap());
    let with_table = [report(), table.clone()].concat();
    let text = hex::encode(&with_table).into_bytes();
    vec![report(), with_table, tsm.encode(), quote, text]
}

fn check(bytes: &[u8]) {
    let all = [media_type::TSM_SNP, media_type::TSM_TDX, media_type::SGX_QUOTE];
    let parsed = all.into_iter().map(|media_type| Evidence::parse(media_type, bytes).ok());
    for evidence in parsed.chain([Evidence::sniff(bytes).ok()]).flatten() {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_790_000_000));
        let outcome = verify(&evidence, &Collateral::default(), &Anchors::built_in(), now, None, &mut ());
        assert!(outcome.is_err(), "nothing here is signed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_are_refused(
        shape in 0..5_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let mut bytes = shapes().swap_remove(shape);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        check(&bytes);
    }

    #[test]
    fn cut_or_padded_bytes_are_refused(shape in 0..5_usize, cut: prop::sample::Index, padding in 0..64_usize) {
        let mut bytes = shapes().swap_remove(shape);
        bytes.truncate(cut.index(bytes.len()));
        bytes.resize(bytes.len() + padding, 0xa5);
        check(&bytes);
    }

    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        check(&bytes);
    }
}
