//! Whatever arrives, the answer is a finding, never a panic.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unreachable_pub, reason = "test code")]

mod common;

use std::sync::LazyLock;

use common::{Mesh, cmw_with, sha256, tdx};
use countersign_ratls::cmw::Cmw;
use countersign_ratls::csr::{AttestedRequest, Pending};
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::native::Native;
use countersign_ratls::{Bundle, Presented, TrustDomain};
use proptest::prelude::*;

struct Genuine {
    mesh: Mesh,
    leaf: Vec<u8>,
    request: Vec<u8>,
    cmw: Vec<u8>,
}

static GENUINE: LazyLock<Genuine> = LazyLock::new(|| {
    let mesh = Mesh::new();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let cmw = cmw_with(sha256(&key.spki()), |expected| expected);
    let leaf = mesh.chain(&key, "spiffe://td/a", Some(&cmw))[0].to_vec();
    let pending = Pending::new(&key, &[5; 32]).unwrap();
    let evidence = countersign_attester::Attester::evidence(&*tdx(), &pending.report_data).unwrap();
    let request = pending.finish(&key, evidence.media_type, &evidence.value).unwrap();
    Genuine { mesh, leaf, request, cmw }
});

/// A few bytes replaced, removed or doubled, mostly near the structured start and end.
fn mutated(original: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), 0..3_u8, any::<u8>());
    prop::collection::vec(edit, 1..4).prop_map(move |edits| {
        let mut bytes = original.to_vec();
        for (index, kind, value) in edits {
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = value,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, value),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// A changed certificate is not parsed, or has another key or no path: it
    /// never passes as what it was.
    #[test]
    fn certificates(der in mutated(&GENUINE.leaf)) {
        if let Ok(presented) = Presented::parse(&[der.clone().into()])
            && GENUINE.mesh.bundle.validate(&presented, common::now()).is_ok()
        {
            prop_assert_eq!(&der, &GENUINE.leaf);
        }
    }

    #[test]
    fn requests(der in mutated(&GENUINE.request)) {
        if AttestedRequest::parse(&der).is_ok() {
            prop_assert_eq!(&der, &GENUINE.request);
        }
    }

    #[test]
    fn wrappers(bytes in mutated(&GENUINE.cmw)) {
        let _ = (Cmw::decode(&bytes), Native::decode(&bytes).map(|native| native.report_data()));
    }

    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = (Presented::parse(&[bytes.clone().into()]), AttestedRequest::parse(&bytes), Cmw::decode(&bytes));
        let _ = Bundle::parse(TrustDomain::parse("td").unwrap(), &bytes);
    }

    #[test]
    fn cbor_noise(first in prop::sample::select(vec![0x82_u8, 0x83, 0xa1, 0xa2, 0xda]), rest in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = Cmw::decode(&[&[first], rest.as_slice()].concat());
    }

    #[test]
    fn json_noise(text in "[\\[\\{][\\[\\]{}\",:a-z0-9/ ]{0,64}") {
        let _ = Cmw::decode(text.as_bytes());
        let _ = Bundle::parse(TrustDomain::parse("td").unwrap(), text.as_bytes());
    }
}
