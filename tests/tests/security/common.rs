//! What several of the attacks have in common.

use std::path::Path;

use countersign_attester::{Attester, Error, Produced};
use countersign_evidence::Reason;
use countersign_evidence::claims::Tee;
use countersign_ratls::binding::KeyContext;
use countersign_ratls::tls::ALPN_MESH;
use countersign_ratls::{Identity, native};
use countersign_tests::attacker::{Answer, Impostor, Offer, Raw};
use countersign_tests::pair::refused;
use countersign_tests::{Pair, Proxy, eventually};

/// The key of a proxy that runs, with its certificate: what a thief has.
pub(crate) async fn stolen(proxy: &Proxy) -> Identity {
    (*proxy.credentials().await.identity).clone()
}

/// Has web call until `look` is content: what a connection came to shows on other tasks.
pub(crate) async fn calls_until(pair: &Pair, what: &str, look: impl Fn() -> bool) {
    eventually(what, async || {
        refused(&pair.web).await;
        if look() { Ok(()) } else { Err(pair.web.metrics() + &pair.ledger.metrics()) }
    })
    .await;
}

/// Evidence as a certificate carries it, over 64 bytes of the attacker's choice.
pub(crate) fn packed(context: &KeyContext<'_>, quoted: &[u8; 64], attester: &dyn Attester) -> Vec<u8> {
    let evidence = attester.evidence(quoted).unwrap();
    native::encode(&context.encode(), evidence.media_type, &evidence.value, None)
}

/// A machine from which one piece of evidence was got, for whatever it is asked.
#[derive(Debug)]
pub(crate) struct Frozen(pub(crate) Produced);

impl Attester for Frozen {
    fn tee(&self) -> Tee {
        Tee::Tdx
    }

    fn driver(&self) -> &'static str {
        "frozen"
    }

    fn evidence(&self, _: &[u8; 64]) -> Result<Produced, Error> {
        Ok(self.0.clone())
    }
}

/// One attempt on ledger's inbound listener.
pub(crate) async fn attempt(pair: &Pair, offer: Offer) -> Answer {
    Raw::new(offer, &pair.mesh.clock).connect(pair.ledger.inbound(), pair.workload.port).await.1
}

/// An attempt that must end in this alert, for this reason, and reach nobody.
pub(crate) async fn is_refused(pair: &Pair, identity: &Identity, reason: Reason) {
    let before = pair.ledger.denials(reason);
    let answer = attempt(pair, Offer::of(identity)).await;
    assert_eq!(answer, Answer::Alert(reason.tls_alert()), "{reason}");
    // It is counted when the alert is on its way.
    eventually(&format!("ledger counts {reason}"), async || match pair.ledger.denials(reason) - before {
        1.0 => Ok(()),
        _ => Err(pair.ledger.metrics()),
    })
    .await;
}

/// A web whose ledger is an impostor: the application is cut off, the impostor
/// hears nothing, and the reason is counted.
pub(crate) async fn is_not_believed(pair: &Pair, impostor: &Identity, reason: Reason) {
    let mut impostor = Impostor::start(impostor, &pair.mesh.clock, ALPN_MESH).await;
    let caller = pair.mesh.sidecar("web").beside().calling("ledger", impostor.address, pair.workload.port);
    let web = caller.ready().await;
    refused(&web).await;
    assert!(impostor.visitor().await.is_err(), "{reason}: the impostor got a connection");
    assert!(web.denials(reason) >= 1.0, "{reason}: {}", web.metrics());
    web.end().await;
}

/// The first generation after this one.
pub(crate) async fn generation_after(pair: &Pair, before: u64) -> u64 {
    eventually("another generation", async || {
        let now = pair.mesh.plane().status().await.generation;
        if now > before { Ok(now) } else { Err(now) }
    })
    .await
}

/// Copies the store as a backup would, while the control plane is away.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::copy(from.join("store.redb"), to.join("store.redb")).unwrap();
}
