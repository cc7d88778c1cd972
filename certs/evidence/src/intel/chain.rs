//! The chain of the PCK certificate, from the quote or the collateral.

use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};

use super::pck::{PckFacts, is_pck};
use super::quote::Quote;
use crate::anchors::{Anchors, Fingerprint};
use crate::cache::{Cache, Key};
use crate::collateral::Collateral;
use crate::finding::Finding;
use crate::reason::Reason;
use crate::x509::{Certificate, INTEL_ALGORITHMS, Path, find_path, pem_blocks, verify_p256};

/// A PEM chain in a quote.
const CERTIFICATION_PCK_CHAIN: u16 = 5;
/// The most certificates in a quote.
const MAX_CHAIN: usize = 8;
/// The most PCK certificates of the collateral that are tried for a quote
/// without a chain.
const MAX_CANDIDATES: usize = 64;

/// A PCK certificate whose chain was verified.
#[derive(Debug)]
pub(crate) struct PckChain {
    pub(super) leaf: Fingerprint,
    pub(super) path: Path,
    pub(super) facts: PckFacts,
    pub(super) key: ParsedPublicKey,
}

/// The verified chain of the PCK certificate that the quote names.
pub(super) fn pck_chain(
    quote: &Quote<'_>,
    collateral: &Collateral,
    anchors: &Anchors,
    cache: Option<&Cache>,
) -> Result<Arc<PckChain>, Finding> {
    let certification = quote.certification_data();
    if certification.kind != CERTIFICATION_PCK_CHAIN {
        return find_in_collateral(quote, collateral, anchors).map(Arc::new);
    }
    let Some(cache) = cache else {
        return read_chain(certification.data, collateral, anchors).map(Arc::new);
    };
    let key = cache_key(certification.data, collateral);
    if let Some(known) = cache.pck.get(&key) {
        return Ok(known);
    }
    let chain = Arc::new(read_chain(certification.data, collateral, anchors)?);
    cache.pck.insert(key, Arc::clone(&chain));
    Ok(chain)
}

fn cache_key(chain: &[u8], collateral: &Collateral) -> Key {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(collateral.paths_id());
    hash.update(chain);
    let mut key = [0; 32];
    key.copy_from_slice(hash.finish().as_ref());
    key
}

/// Reads a PEM chain in any order. What it lacks, such as the root, is taken
/// from the collateral. Every certificate in it must be good: part of the path,
/// or an earlier certificate of the root's key.
fn read_chain(pem: &[u8], collateral: &Collateral, anchors: &Anchors) -> Result<PckChain, Finding> {
    let mut leaf = None;
    let mut pool = Vec::new();
    for block in pem_blocks(pem, MAX_CHAIN)? {
        let known = collateral.certificates().iter().find(|c| *c.der() == *block.der);
        let certificate = match known {
            Some(known) => Arc::clone(known),
            None => Arc::new(Certificate::parse(&block.der)?),
        };
        if leaf.is_none() && is_pck(&certificate) {
            leaf = Some(certificate);
        } else {
            pool.push(certificate);
        }
    }
    let leaf =
        leaf.ok_or_else(|| Finding::new(Reason::BadChain, "PCK chain", "a PCK certificate", "none"))?;
    let in_quote = pool.len();
    pool.extend(collateral.authorities().cloned());
    let chain = PckChain::new(&leaf, &pool, anchors)?;
    let root = chain.path.certificates.last();
    let belongs = |c: &Arc<Certificate>| {
        chain.path.certificates.contains(c) || root.is_some_and(|root| c.is_same_root(root, INTEL_ALGORITHMS))
    };
    match pool.iter().take(in_quote).find(|c| !belongs(c)) {
        None => Ok(chain),
        Some(stray) => Err(Finding::new(
            Reason::BadChain,
            "PCK chain",
            "certificates of one chain",
            format!("{} {}, which is not part of it", stray.common_name(), stray.fingerprint()),
        )),
    }
}

/// The PCK certificate of a quote without a chain: the one in the collateral
/// whose key signed the report of the quoting enclave.
fn find_in_collateral(
    quote: &Quote<'_>,
    collateral: &Collateral,
    anchors: &Anchors,
) -> Result<PckChain, Finding> {
    let authorities: Vec<_> = collateral.authorities().cloned().collect();
    let candidates = collateral.certificates().iter().filter(|c| is_pck(c)).take(MAX_CANDIDATES);
    for candidate in candidates {
        let [4, point @ ..] = candidate.public_key() else { continue };
        let Ok(point) = point.try_into() else { continue };
        if verify_p256(point, quote.qe_report_bytes(), quote.qe_report_signature()) {
            return PckChain::new(candidate, &authorities, anchors);
        }
    }
    Err(Finding::new(
        Reason::CollateralMissing,
        "PCK certificate",
        "in the quote, or among the collateral with the key that signed it",
        format!("certification data of type {}", quote.certification_data().kind),
    ))
}

impl PckChain {
    fn new(leaf: &Arc<Certificate>, pool: &[Arc<Certificate>], anchors: &Anchors) -> Result<Self, Finding> {
        let path = find_path(leaf, pool, anchors, INTEL_ALGORITHMS)?;
        if path.certificates.len() < 2 {
            return Err(Finding::new(
                Reason::BadChain,
                "PCK chain",
                "a PCK certificate under a root",
                "a root",
            ));
        }
        let facts = PckFacts::of(leaf)?;
        let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, leaf.public_key())
            .map_err(|_| Finding::new(Reason::BadChain, "PCK certificate", "a P-256 key", "another key"))?;
        Ok(Self { leaf: leaf.fingerprint(), path, facts, key })
    }
}
