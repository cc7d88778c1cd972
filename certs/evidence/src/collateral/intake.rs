//! What an item is, by its content.

use std::sync::Arc;

use base64::Engine as _;
use serde::Deserialize;

use super::Item;
use crate::finding::Finding;
use crate::intel::collateral::{Kind, Signed, invalid};
use crate::reason::Reason;
use crate::x509::{Certificate, Crl, is_pem, pem_blocks};

/// The largest item that is looked at, in bytes.
const MAX_ITEM: usize = 4 * 1024 * 1024;
/// The most PEM blocks in one item.
const MAX_BLOCKS: usize = 64;
/// The most certificates in a set.
const MAX_CERTIFICATES: usize = 4096;

/// A set of items, sorted but not verified.
#[derive(Default)]
pub(super) struct Intake {
    /// Each with the index of the first item that has it.
    pub(super) certificates: Vec<(usize, Arc<Certificate>)>,
    pub(super) crls: Vec<(usize, Vec<u8>)>,
    pub(super) signed: Vec<(usize, Kind, String, [u8; 64])>,
    pub(super) refused: Vec<(String, Finding)>,
}

/// The JSON collateral file of dcap-qvl.
#[derive(Deserialize)]
struct QvlCollateral {
    pck_crl_issuer_chain: String,
    root_ca_crl: String,
    pck_crl: String,
    tcb_info_issuer_chain: String,
    tcb_info: String,
    tcb_info_signature: String,
    qe_identity_issuer_chain: String,
    qe_identity: String,
    qe_identity_signature: String,
    pck_certificate_chain: Option<String>,
}

impl Intake {
    /// Sorts one item; what cannot be read is refused by its name.
    pub(super) fn sort(&mut self, index: usize, item: &Item) {
        if let Err(finding) = self.read(index, &item.bytes) {
            self.refused.push((item.name.clone(), finding));
        }
    }

    fn read(&mut self, index: usize, bytes: &[u8]) -> Result<(), Finding> {
        if bytes.len() > MAX_ITEM {
            return Err(Finding::new(
                Reason::Oversized,
                "collateral",
                format!("at most {MAX_ITEM} bytes"),
                format!("{} bytes", bytes.len()),
            ));
        }
        match bytes.trim_ascii() {
            [0x30, ..] if self.read_der(index, bytes).is_ok() => Ok(()),
            text if is_pem(text) => self.read_pem(index, text),
            [b'{', ..] => self.read_json(index, bytes),
            text => match decode_text(text) {
                Some(der) => self.read_der(index, &der),
                None => Err(invalid(
                    "collateral",
                    "a certificate, CRL, TCB info or QE identity",
                    "something else",
                )),
            },
        }
    }

    fn read_der(&mut self, index: usize, der: &[u8]) -> Result<(), Finding> {
        match Certificate::parse(der) {
            Ok(certificate) => self.add(index, certificate),
            Err(_) => {
                Crl::peek_issuer(der)?;
                self.crls.push((index, der.to_vec()));
                Ok(())
            }
        }
    }

    fn read_pem(&mut self, index: usize, text: &[u8]) -> Result<(), Finding> {
        for block in pem_blocks(text, MAX_BLOCKS)? {
            self.read_der(index, &block.der)?;
        }
        Ok(())
    }

    fn read_json(&mut self, index: usize, bytes: &[u8]) -> Result<(), Finding> {
        let text = std::str::from_utf8(bytes).map_err(|_| invalid("document", "UTF-8", "other bytes"))?;
        if let Ok(file) = serde_json::from_str::<QvlCollateral>(text) {
            return self.read_qvl(index, &file);
        }
        let signed = Signed::parse(text)?;
        self.signed.push((index, signed.kind, signed.body.to_owned(), signed.signature));
        Ok(())
    }

    fn read_qvl(&mut self, index: usize, file: &QvlCollateral) -> Result<(), Finding> {
        let chains =
            [&file.pck_crl_issuer_chain, &file.tcb_info_issuer_chain, &file.qe_identity_issuer_chain];
        for chain in chains.into_iter().chain(&file.pck_certificate_chain) {
            self.read_pem(index, chain.as_bytes())?;
        }
        for crl in [&file.root_ca_crl, &file.pck_crl] {
            let der = decode_text(crl.as_bytes())
                .ok_or_else(|| invalid("CRL", "hexadecimal or base64", "other text"))?;
            self.read_der(index, &der)?;
        }
        for (kind, body, signature) in [
            (Kind::TcbInfo, &file.tcb_info, &file.tcb_info_signature),
            (Kind::QeIdentity, &file.qe_identity, &file.qe_identity_signature),
        ] {
            let signed = Signed::from_parts(kind, body, signature)?;
            self.signed.push((index, kind, body.clone(), signed.signature));
        }
        Ok(())
    }

    fn add(&mut self, index: usize, certificate: Certificate) -> Result<(), Finding> {
        if self.certificates.iter().any(|(_, c)| c.fingerprint() == certificate.fingerprint()) {
            return Ok(());
        }
        if self.certificates.len() >= MAX_CERTIFICATES {
            return Err(Finding::new(
                Reason::Oversized,
                "collateral",
                format!("at most {MAX_CERTIFICATES} certificates"),
                "more",
            ));
        }
        self.certificates.push((index, Arc::new(certificate)));
        Ok(())
    }
}

/// DER as hexadecimal or base64 text.
fn decode_text(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.trim_ascii();
    hex::decode(text).ok().or_else(|| base64::engine::general_purpose::STANDARD.decode(text).ok())
}
