//! A4. The attack: evidence whose report data is zero, half right, or nearly right, for a
//! verifier that compares nothing, a prefix, or one half. The defence: all 64 bytes are
//! compared with a value of the verifier's own. Mutation `a04`: only the first half is.

use std::borrow::Cow;

use countersign_evidence::Reason;
use countersign_ratls::binding::{KeyContext, key_report_data};
use countersign_tests::attacker::{Answer, Offer, key};
use countersign_tests::{Pair, Platform, policy};
use http::StatusCode;

use crate::common::{attempt, is_refused, packed};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_whole_report_data_will_do() {
    let pair = Pair::start().await;
    let (mesh, id) = (&pair.mesh, policy::id("web"));
    let machine = Platform::default().attester(&mesh.vendor);
    let key = key();
    let spki_sha256 = mesh.forge(&id, &key, None).spki_sha256;
    let context = KeyContext { spki_sha256, challenge: Cow::Borrowed(&[]), id: None };
    let right = *key_report_data(&context.encode(), &[]).as_bytes();
    let (first, second) = right.split_at(32);
    let zeros = [0; 32];
    let mut flipped = right;
    flipped[63] ^= 1;
    for wrong in [[zeros, zeros].concat(), [first, &zeros].concat(), [&zeros, second].concat()]
        .into_iter()
        .chain([[second, first].concat(), [first, first].concat(), flipped.to_vec()])
    {
        let cmw = packed(&context, &wrong.try_into().unwrap(), &*machine);
        is_refused(&pair, &mesh.forge(&id, &key, Some(&cmw)), Reason::BindingMismatch).await;
    }
    // The same by the book, so that the refusals above are about the report data.
    let good = mesh.forge(&id, &key, Some(&packed(&context, &right, &*machine)));
    let answer = attempt(&pair, Offer::proving(&good, &machine)).await;
    assert_eq!(answer, Answer::Connect(StatusCode::OK, String::new()));
    pair.end().await;
}
