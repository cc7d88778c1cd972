use std::time::Duration;

use countersign_evidence::UnixTime;
use countersign_evidence::claims::Product;

use super::*;

#[test]
fn nothing_that_is_printed_contains_a_key() {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_790_000_000));
    let vendor = Vendor::generate(now, Duration::from_secs(60)).unwrap();
    let tdx = vendor.tdx(TdxSpec::default()).unwrap();
    let printed = format!("{vendor:?} {tdx:?} {:?}", vendor.intel);
    let secret = vendor.intel.root.key.to_pkcs8().unwrap();
    let secret: Vec<u8> = secret.iter().copied().skip(40).take(8).collect();
    assert!(!printed.contains(&hex::encode(&secret)) && !printed.contains(&format!("{secret:?}")));
    assert!(printed.contains("Key(P256)"));
}

#[test]
fn a_specification_is_read_with_defaults_and_without_unknown_fields() {
    let json = r#"{"mrTd": "REPEAT", "platform": {"pceSvn": 5}, "quotingLatency": "5ms"}"#
        .replace("REPEAT", &"ab".repeat(48));
    let spec: TdxSpec = serde_json::from_str(&json).unwrap();
    let platform = IntelPlatform { pce_svn: 5, ..IntelPlatform::default() };
    let quoting_latency = Duration::from_millis(5);
    assert_eq!(spec, TdxSpec { mr_td: [0xab; 48], platform, quoting_latency, ..TdxSpec::default() });
    let snp: SnpSpec = serde_json::from_str(
        r#"{"product": "Turin", "launchTcb": {"bootloader": 1, "tee": 0, "snp": 2, "microcode": 3}}"#,
    )
    .unwrap();
    assert_eq!(snp.product, Product::Turin);
    assert_eq!(snp.launch_tcb.unwrap().microcode, 3);
    for bad in [
        r#"{"mrTD": ""}"#,
        r#"{"mrTd": "ab"}"#,
        r#"{"quotingLatency": "5"}"#,
        r#"{"quotingLatency": "9999s"}"#,
    ] {
        assert!(serde_json::from_str::<TdxSpec>(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_specification_is_written_as_it_is_read() {
    fn round<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(spec: &T) {
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<T>(&json).unwrap(), *spec, "{json}");
    }
    round(&TdxSpec { tee_tcb_svn2: Some([3; 16]), ..TdxSpec::default() });
    round(&SgxSpec::default());
    let certificate = SnpCertificateSpec { product: Some(Product::Milan), ..SnpCertificateSpec::default() };
    round(&SnpSpec { cpuid: Some([1, 2, 3]), certificate, ..SnpSpec::default() });
}

#[cfg(feature = "schema")]
#[test]
fn the_schema_describes_what_is_read() {
    let schema = serde_json::to_string(&schemars::schema_for!(TdxSpec)).unwrap();
    assert!(schema.contains("^[0-9a-fA-F]{96}$") && schema.contains("additionalProperties"), "{schema}");
    assert!(!serde_json::to_string(&schemars::schema_for!(SnpSpec)).unwrap().is_empty());
}
