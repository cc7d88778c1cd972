//! What evidence claims, before anything of it was verified.

use countersign_evidence::Evidence;
use countersign_evidence::intel::QuoteBody;
use serde_json::{Value, json};

/// The fields that an operator looks for. Nobody has vouched for them.
pub(crate) fn of(evidence: &Evidence<'_>) -> Value {
    match evidence {
        Evidence::Intel(quote) => match quote.body() {
            QuoteBody::Tdx(report) => json!({
                "tee": "tdx",
                "mrTd": hex::encode(report.mr_td),
                "rtmr": report.rtmr.map(hex::encode),
                "debug": report.td_attributes.first().is_some_and(|tud| *tud != 0),
            }),
            QuoteBody::Sgx(report) => json!({
                "tee": "sgx",
                "mrEnclave": hex::encode(report.mr_enclave),
                "mrSigner": hex::encode(report.mr_signer),
                "isvProdId": report.isv_prod_id,
                "isvSvn": report.isv_svn,
                "debug": report.attributes.first().is_some_and(|flags| flags & 2 != 0),
            }),
        },
        Evidence::Amd(attestation) => {
            let report = attestation.report();
            json!({
                "tee": "sevSnp",
                "version": report.version,
                "measurement": hex::encode(report.measurement),
                "hostData": hex::encode(report.host_data),
                "chipId": hex::encode(report.chip_id),
                "vmpl": report.vmpl,
                "debug": report.policy >> 19 & 1 == 1,
            })
        }
    }
}
