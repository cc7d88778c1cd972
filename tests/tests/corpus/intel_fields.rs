//! What a parser must find in a quote, by the manifest's names.

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use countersign_evidence::Fingerprint;
use countersign_evidence::anchors::INTEL_SGX_ROOT;
use countersign_evidence::intel::{Quote, QuoteBody};
use toml::Value;
use x509_parser::certificate::X509Certificate;

use crate::der;
use crate::manifest::Keys;

fn hex(bytes: &[u8]) -> Option<Value> {
    Some(Value::String(hex::encode(bytes)))
}

fn number(n: impl TryInto<i64>) -> Option<Value> {
    n.try_into().ok().map(Value::Integer)
}

/// The value of a field: `None` when no quote has such a field, `Some(None)`
/// when this one lacks it.
pub(crate) fn field(quote: &Quote<'_>, name: &str) -> Option<Option<Value>> {
    envelope(quote, name).or_else(|| pck(quote, name)).or_else(|| body(quote, name))
}

fn envelope(quote: &Quote<'_>, name: &str) -> Option<Option<Value>> {
    let qe = quote.qe_report();
    Some(match name {
        "quote_version" => number(quote.version()),
        "body_type" => number(quote.body_type()),
        "cert_type" => number(quote.certification_data().kind),
        "attestation_key_type" => number(quote.attestation_key_type()),
        "trailing_bytes" => number(quote.trailing_bytes()),
        "signature_data_len" => number(quote.signature_data_len()),
        "qe_mr_signer" => hex(&qe.mr_signer),
        "qe_mr_enclave" => hex(&qe.mr_enclave),
        "qe_isv_svn" => number(qe.isv_svn),
        "qe_isv_prod_id" => number(qe.isv_prod_id),
        "report_data" => hex(quote.report_data()),
        _ => return None,
    })
}

fn pck(quote: &Quote<'_>, name: &str) -> Option<Option<Value>> {
    const NAMES: [&str; 7] =
        ["fmspc", "pce_id", "pce_svn", "cpu_svn_pck", "sgx_type", "ppid", "platform_instance_id"];
    if !NAMES.contains(&name) {
        return None;
    }
    let Some(pck) = quote.unverified_pck() else { return Some(None) };
    Some(match name {
        "fmspc" => hex(&pck.fmspc),
        "pce_id" => hex(&pck.pce_id),
        "pce_svn" => number(pck.pce_svn),
        "cpu_svn_pck" => hex(&pck.cpu_svn),
        "sgx_type" => number(pck.sgx_type),
        "ppid" => hex(&pck.ppid),
        _ => pck.piid.and_then(|piid| hex(&piid)),
    })
}

fn body(quote: &Quote<'_>, name: &str) -> Option<Option<Value>> {
    Some(match quote.body() {
        QuoteBody::Sgx(r) => match name {
            "debug" => Some(Value::Boolean(r.attributes.first().is_some_and(|a| a & 2 != 0))),
            "cpu_svn" => hex(&r.cpu_svn),
            "misc_select" => hex(&r.misc_select),
            "attributes" => hex(&r.attributes),
            "mr_enclave" => hex(&r.mr_enclave),
            "mr_signer" => hex(&r.mr_signer),
            "isv_prod_id" => number(r.isv_prod_id),
            "isv_svn" => number(r.isv_svn),
            "config_id" => hex(&r.config_id),
            "config_svn" => number(r.config_svn),
            _ => return None,
        },
        QuoteBody::Tdx(r) => match name {
            "debug" => Some(Value::Boolean(r.td_attributes.first().is_some_and(|tud| *tud != 0))),
            "tee_tcb_svn" => hex(&r.tee_tcb_svn),
            "tee_tcb_svn2" => r.tee_tcb_svn2.and_then(|svn| hex(&svn)),
            "mr_seam" => hex(&r.mr_seam),
            "mr_signer_seam" => hex(&r.mr_signer_seam),
            "seam_attributes" => hex(&r.seam_attributes),
            "td_attributes" => hex(&r.td_attributes),
            "xfam" => hex(&r.xfam),
            "mr_td" => hex(&r.mr_td),
            "mr_config_id" => hex(&r.mr_config_id),
            "mr_owner" => hex(&r.mr_owner),
            "mr_owner_config" => hex(&r.mr_owner_config),
            "mr_service_td" => r.mr_service_td.and_then(|mr| hex(&mr)),
            "rtmr0" | "rtmr1" | "rtmr2" | "rtmr3" => {
                let n = name.trim_start_matches("rtmr").parse::<usize>().ok()?;
                r.rtmr.get(n).and_then(|rtmr| hex(rtmr))
            }
            _ => return None,
        },
    })
}

/// Compares the parts of a quote's cryptography, computed here from what the
/// parser gives. Returns whether a part does not hold, so that no collateral
/// whatever can make the quote acceptable.
pub(crate) fn parts(quote: &Quote<'_>, expect: &Keys<'_>) -> Result<bool, String> {
    let fixed = |key: &[u8], message: &[u8], signature: &[u8]| {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(message, signature).is_ok()
    };
    let attestation_key = [&[4][..], quote.attestation_key()].concat();
    let quote_signature = fixed(&attestation_key, quote.signed(), quote.signature());
    expect.is("quote_signature", quote_signature)?;

    let mut hash = Context::new(&SHA256);
    hash.update(quote.attestation_key());
    hash.update(quote.qe_auth_data());
    let bound = [hash.finish().as_ref(), &[0; 32]].concat();
    let binds = quote.qe_report().report_data.as_slice() == bound;
    expect.is("qe_report_data_binds_key", binds)?;

    expect.is("debug", field(quote, "debug").flatten().unwrap_or(Value::Boolean(false)))?;

    let pem = der::certificates(quote.certification_data().data).unwrap_or_default();
    let chain: Vec<_> = pem.iter().filter_map(|c| der::parse(c).ok()).collect();
    let Some(leaf) = chain.first() else { return Ok(!(quote_signature && binds)) };
    let qe_signature = fixed(point(leaf), quote.qe_report_bytes(), quote.qe_report_signature());
    expect.is("qe_report_signature", qe_signature)?;
    let in_order = chain.iter().zip(chain.iter().skip(1)).all(|(c, issuer)| is_signed_by(c, issuer))
        && chain.last().is_some_and(|root| is_signed_by(root, root));
    expect.is("pck_chain_in_quote_order_valid", in_order)?;
    let roots: Vec<_> = pem.iter().filter(|c| der::parse(c).is_ok_and(|c| is_signed_by(&c, &c))).collect();
    let current = roots.iter().any(|root| Fingerprint::of(root) == INTEL_SGX_ROOT);
    expect.is("chain_root_is_current_intel_root_certificate", current)?;
    Ok(!(quote_signature && binds && qe_signature))
}

fn point<'c>(certificate: &'c X509Certificate<'_>) -> &'c [u8] {
    &certificate.tbs_certificate.subject_pki.subject_public_key.data
}

fn is_signed_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point(issuer))
        .verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
        .is_ok()
}
