//! The quotes that ship inside the dcap-qvl package, with their collateral.
#![allow(unreachable_pub, dead_code, reason = "each test uses a part of it")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::claims::{Body, IntelPlatform};
use countersign_evidence::collateral::{Item, Marks};
use countersign_evidence::intel::Quote;
use countersign_evidence::{Anchors, Claims, Collateral, Evidence, Finding, UnixTime, verify};

pub fn ours(quote: &[u8], collateral: &Collateral, now: u64) -> Result<Arc<Claims>, Finding> {
    let quote = Quote::parse(quote)?;
    verify(&Evidence::Intel(quote), collateral, &Anchors::built_in(), at(now), None, &mut ())
}

pub fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

pub fn platform(claims: &Claims) -> &IntelPlatform {
    match &claims.body {
        Body::Tdx(c) => &c.platform,
        Body::Sgx(c) => &c.platform,
        Body::SevSnp(_) => panic!("an SEV-SNP report"),
    }
}

pub struct Sample {
    pub name: &'static str,
    pub quote: Vec<u8>,
    pub file: Vec<u8>,
    pub now: u64,
}

/// The samples with their collateral, an hour after the last piece was issued.
pub fn samples(dir: &Path) -> Vec<Sample> {
    ["sgx_quote", "tdx_quote", "tdx_quote_outdated", "tdx_quote_td15ex"]
        .into_iter()
        .map(|name| {
            let file = std::fs::read(dir.join(format!("sample/{name}_collateral.json"))).unwrap();
            let json: serde_json::Value = serde_json::from_slice(&file).unwrap();
            let issued = ["tcb_info", "qe_identity"].map(|key| {
                let body: serde_json::Value = serde_json::from_str(json[key].as_str().unwrap()).unwrap();
                let date = body["issueDate"].as_str().unwrap();
                let format = time::format_description::well_known::Rfc3339;
                time::OffsetDateTime::parse(date, &format).unwrap().unix_timestamp().unsigned_abs()
            });
            let now = issued.into_iter().max().unwrap() + 24 * 3600;
            Sample { name, quote: std::fs::read(dir.join(format!("sample/{name}"))).unwrap(), file, now }
        })
        .collect()
}

pub fn appraise(name: &str, file: &[u8], now: u64) -> Collateral {
    let items = [Item { name: name.to_owned(), bytes: file.to_vec() }];
    let appraised = Collateral::appraise(&items, &Anchors::built_in(), &mut Marks::default(), at(now));
    assert_eq!(appraised.refused, [], "{name}");
    appraised.collateral
}

/// The TDX sample, and its collateral as the files that Intel publishes.
pub fn files() -> (Sample, Vec<Item>) {
    let sample =
        samples(&crate::oracle::package("dcap-qvl")).into_iter().find(|s| s.name == "tdx_quote").unwrap();
    let json: serde_json::Value = serde_json::from_slice(&sample.file).unwrap();
    let text = |key: &str| json[key].as_str().unwrap().to_owned();
    let signed = |outer: &str, key: &str| {
        format!("{{\"{outer}\":{},\"signature\":\"{}\"}}", text(key), text(&format!("{key}_signature")))
    };
    let items = [
        ("tcbInfo", signed("tcbInfo", "tcb_info")),
        ("qeIdentity", signed("enclaveIdentity", "qe_identity")),
        ("rootCrl", text("root_ca_crl")),
        ("pckCrl", text("pck_crl")),
        ("pckChain", text("pck_crl_issuer_chain")),
        ("tcbChain", text("tcb_info_issuer_chain")),
    ];
    let items = items.map(|(name, text)| Item { name: name.to_owned(), bytes: text.into_bytes() });
    (sample, items.into())
}
