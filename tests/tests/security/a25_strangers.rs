//! A25. The attack: somebody answers where a server should be, to collect what clients show
//! of their machines. The defence: a client shows its certificate to a server that it has
//! judged. Mutation `a02`: a server is not judged by its name.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use countersign_evidence::{Denial, Reason, UnixTime};
use countersign_ratls::peer::{Admission, Judge, Role};
use countersign_ratls::tls::{ALPN_MESH, Acceptor, Profile};
use countersign_tests::attacker::Anybody;
use countersign_tests::pair::refused;
use countersign_tests::{Pair, Platform, within};
use rustls_pki_types::CertificateDer;
use tokio::net::TcpListener;

/// Counts the certificates that it gets to see.
#[derive(Debug, Default)]
struct Collector(AtomicUsize);

impl Judge for Collector {
    fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<Arc<Admission>, Denial> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Anybody.judge(chain, role, now)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_the_one_asked_for_sees_no_certificate_of_a_client() {
    let pair = Pair::start().await;
    let machine = Platform::default().attester(&pair.mesh.vendor);
    let audit = pair.mesh.plane().enrol(&*machine, "audit").await.unwrap();
    let seen = Arc::new(Collector::default());
    let profile =
        Profile { alpn: vec![ALPN_MESH.to_vec()], require_pq: false, clock: pair.mesh.clock.provider() };
    let acceptor = Acceptor::new(&audit, Arc::clone(&seen) as Arc<dyn Judge>, &profile).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let visit = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        acceptor.accept(socket).await.is_err()
    });
    let web = pair.mesh.sidecar("web").beside().calling("ledger", address, pair.workload.port).ready().await;
    refused(&web).await;
    assert!(within("the end of a visit", visit).await.unwrap(), "a handshake");
    assert_eq!(seen.0.load(Ordering::SeqCst), 0);
    assert_eq!(web.denials(Reason::IdentityMismatch), 1.0);
    web.end().await;
    pair.end().await;
}
