//! A5. The attack: evidence over a hash of the right key in another encoding, for verifiers
//! that do not agree on what is hashed, and so on nothing. The defence: the hash is over
//! the whole DER SubjectPublicKeyInfo, and nothing else is looked for. Mutation `a05`: the
//! key in the context is not compared with the certificate's.

use std::borrow::Cow;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use countersign_evidence::Reason;
use countersign_ratls::binding::{KeyContext, key_report_data};
use countersign_tests::attacker::key;
use countersign_tests::{Pair, Platform, policy};

use crate::common::{is_refused, packed};

#[tokio::test(flavor = "multi_thread")]
async fn the_hash_of_the_key_in_another_encoding_is_no_binding() {
    let pair = Pair::start().await;
    let machine = Platform::default().attester(&pair.mesh.vendor);
    let key = key();
    let spki = key.spki();
    let point = &spki[spki.len() - 65..];
    assert_eq!(point[0], 4, "an uncompressed point of P-256");
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        base64::engine::general_purpose::STANDARD.encode(&spki)
    );
    for encoding in [point, &point[1..], &point[1..33], pem.as_bytes(), hex::encode(&spki).as_bytes(), b""] {
        let spki_sha256 = digest(&SHA256, encoding).as_ref().try_into().unwrap();
        let context = KeyContext { spki_sha256, challenge: Cow::Borrowed(&[]), id: None };
        // In itself it is right: the quote is over what the context says.
        let quoted = *key_report_data(&context.encode(), &[]).as_bytes();
        let cmw = packed(&context, &quoted, &*machine);
        let forged = pair.mesh.forge(&policy::id("web"), &key, Some(&cmw));
        is_refused(&pair, &forged, Reason::BindingMismatch).await;
    }
    pair.end().await;
}
