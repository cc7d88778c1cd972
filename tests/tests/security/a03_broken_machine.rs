//! A3. The attack: the attestation key of one machine is taken out, wherever it stands,
//! and signs whatever evidence its new owner likes. The defence: machines are listed.
//! Mutation `a03`: the list is not looked at.

use countersign_attester::emulated::{IntelPlatform, TdxSpec};
use countersign_evidence::Reason;
use countersign_tests::attacker::{Answer, Offer};
use countersign_tests::{Pair, Platform, policy};
use http::StatusCode;

use crate::common::{attempt, is_refused};

/// The machine that has this byte again and again as its PPID.
fn machine(byte: u8) -> Platform {
    let platform = IntelPlatform { ppid: [byte; 16], piid: None, ..IntelPlatform::default() };
    Platform::Tdx(TdxSpec { platform, ..TdxSpec::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn perfect_evidence_by_the_key_of_an_unlisted_machine_is_refused() {
    let pair = Pair::start().await;
    let (mesh, listed) = (&pair.mesh, "a1".repeat(16));
    let policy = format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: AttestationPolicy\n\
         metadata: {{ name: listed, namespace: demo }}\nspec:\n  level: L3\n  \
         selector: {{ matchLabels: {{ app: ledger }} }}\n  peers: [\"{}\"]\n  anyOf:\n    \
         - tdx: {{ emulatedRoots: [\"{}\"], platformsFrom: [machines], \
         measurements: {{ fromReferenceValues: images }} }}\n---\n\
         apiVersion: countersign.dev/v1alpha1\nkind: PlatformList\n\
         metadata: {{ name: machines, namespace: demo }}\n\
         spec: {{ platforms: [{{ tee: tdx, id: \"{listed}\" }}] }}\n",
        policy::id("web"),
        mesh.vendor.intel_root(),
    );
    let generation = mesh.plane().apply(&policy).await;
    pair.ledger.uses(generation).await;

    // The very same evidence, but for the machine that signed it.
    let broken = machine(0xbb).attester(&mesh.vendor);
    is_refused(&pair, &mesh.forge_on("web", &*broken), Reason::PlatformNotAllowed).await;
    let ours = machine(0xa1).attester(&mesh.vendor);
    let answer = attempt(&pair, Offer::proving(&mesh.forge_on("web", &*ours), &ours)).await;
    assert_eq!(answer, Answer::Connect(StatusCode::OK, String::new()));
    pair.end().await;
}
