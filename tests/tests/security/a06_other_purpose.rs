//! A6. The attack: evidence that was made for one purpose is shown for another: that of a
//! session in a certificate, that of a certificate in a session. The defence: a label for
//! each purpose, inside of every hash. Mutations `a06` (keys have the label of sessions,
//! which the vectors notice) and `a01-compare` (report data is not compared).

use std::borrow::Cow;
use std::sync::Arc;

use countersign_attester::{Attester, Produced};
use countersign_evidence::Reason;
use countersign_ratls::binding::{KeyContext, SessionCore};
use countersign_ratls::native::Native;
use countersign_ratls::session::WireReason;
use countersign_tests::attacker::{Answer, Offer, evidence, key};
use countersign_tests::{Pair, Platform, policy};

use crate::common::{Frozen, attempt, is_refused, packed};

#[tokio::test(flavor = "multi_thread")]
async fn evidence_of_a_session_is_none_for_a_key_nor_the_other_way_round() {
    let pair = Pair::start().await;
    let (mesh, id) = (&pair.mesh, policy::id("web"));
    let machine = Platform::default().attester(&mesh.vendor);
    let key = key();

    // A binder that some TEE quoted for a session, in a certificate for a key of the attacker.
    let spki_sha256 = mesh.forge(&id, &key, None).spki_sha256;
    let context = KeyContext { spki_sha256, challenge: Cow::Borrowed(&[]), id: None };
    let binder = SessionCore::from_bytes([7; 64]).binder(&[]);
    let cmw = packed(&context, binder.as_bytes(), &*machine);
    is_refused(&pair, &mesh.forge(&id, &key, Some(&cmw)), Reason::BindingMismatch).await;

    // The evidence of a certificate, which everybody sees, in the session that it opens.
    let cmw = evidence(&key, &*machine);
    let native = Native::decode(&cmw).unwrap();
    let shown = Produced::new(machine.evidence(&[0; 64]).unwrap().media_type, native.evidence.to_vec());
    let frozen: Arc<dyn Attester> = Arc::new(Frozen(shown));
    let answer = attempt(&pair, Offer::proving(&mesh.forge(&id, &key, Some(&cmw)), &frozen)).await;
    assert_eq!(answer, Answer::Session(true, WireReason::Binding));
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}
