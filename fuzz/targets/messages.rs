//! The stream between a proxy and its control plane, as each side hears it.
#![no_main]

use countersign_ratls::{Bundle, TrustDomain};
use countersign_wire::client::Subscription;
use countersign_wire::proto::{ControlMessage, ProxyMessage};
use countersign_wire::server::Session;
use prost::Message;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(trust_domain) = TrustDomain::parse("fuzz.example") else { return };
    let Ok(bundle) = Bundle::parse(trust_domain, b"{\"keys\":[]}") else { return };
    let (mut subscription, mut session) = (Subscription::new(bundle, None), Session::new());
    // Messages one after the other, each behind its length.
    let mut rest = data;
    while let [low, high, after @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let (message, after) = after.split_at(length);
        if let Ok(message) = ControlMessage::decode(message) {
            let _ = subscription.feed(message);
            let _ = subscription.ack(&[("resource/TrustDomain//x".to_owned(), "because".to_owned())]);
        }
        if let Ok(message) = ProxyMessage::decode(message) {
            let _ = session.feed(message);
            let _ = session.poll();
        }
        rest = after;
    }
});
