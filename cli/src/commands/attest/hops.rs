//! A hop as `attest watch` shows it, whoever told of it.

use countersign_wire::proto;
use serde_json::{Value, json};

use crate::output::{BAD, GOOD, NOTE, clean, paint};

/// What is known of one hop of one proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hop {
    /// The proxy that tells.
    pub(super) proxy: String,
    /// Unique in that proxy.
    pub(super) hop: u64,
    /// `inbound`, `outbound`.
    pub(super) direction: String,
    /// The peer's SPIFFE ID.
    pub(super) peer: String,
    /// What the peer proves to the proxy, `L0` to `L3`; empty before it is agreed.
    pub(super) level: String,
    /// What the proxy proves to the peer.
    pub(super) own_level: String,
    /// The last round in which the peer proved itself.
    pub(super) round: Option<u64>,
    /// Seconds since the challenge of that round.
    pub(super) age: Option<u64>,
    /// Seconds until the next challenge.
    pub(super) next: Option<u64>,
    pub(super) tee: String,
    pub(super) emulated: bool,
    /// The platform's identity, `KIND:DIGITS`; empty when it has none.
    pub(super) platform: String,
    /// The policies that admitted the peer.
    pub(super) policies: Vec<String>,
    /// `open`, `gate`, `opening`, `draining`, `closed`.
    pub(super) state: String,
    /// Why it drains, a code; empty when it does not.
    pub(super) reason: String,
}

/// The columns of the table.
pub(super) const HEADER: [&str; 10] =
    ["PROXY", "HOP", "PEER", "LEVEL", "ROUND", "AGE", "NEXT", "TEE", "POLICY", "STATE"];

impl Hop {
    /// Each of the peers that a proxy shows at `/attestation`.
    pub(super) fn all_of(proxy: &str, attestation: &Value) -> Vec<Self> {
        let peers = attestation.get("peers").and_then(Value::as_array);
        peers.into_iter().flatten().map(|peer| Self::of(proxy, peer)).collect()
    }

    fn of(proxy: &str, peer: &Value) -> Self {
        let text = |pointer: &str| peer.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        let number = |pointer: &str| peer.pointer(pointer).and_then(Value::as_u64);
        let session = peer.get("session").is_some_and(Value::is_object);
        let tee = text("/tee");
        // Over plain h2 nothing is proved but what the certificate carries.
        let level = match (session, tee.as_str()) {
            (true, _) => text("/session/peer/level"),
            (false, "") => "L0".to_owned(),
            (false, _) => "L1".to_owned(),
        };
        let draining = peer.pointer("/session/draining").is_some_and(Value::is_object);
        let policies = |at: &str| peer.pointer(at).and_then(Value::as_array).into_iter().flatten();
        Self {
            proxy: proxy.to_owned(),
            hop: number("/hop").unwrap_or_default(),
            direction: text("/direction"),
            peer: text("/identity"),
            own_level: if session { text("/session/own/level") } else { level.clone() },
            level,
            round: number("/session/peer/round"),
            age: number("/session/peer/age"),
            next: number("/session/peer/nextChallenge"),
            tee,
            emulated: peer.get("emulated").and_then(Value::as_bool).unwrap_or(false),
            platform: text("/session/platform"),
            policies: if session {
                // Without the generation, as the control plane passes them on.
                let name = |text: &str| text.split(' ').next().unwrap_or(text).to_owned();
                policies("/session/policies").filter_map(Value::as_str).map(name).collect()
            } else {
                let enforced = |verdict: &&Value| verdict.get("mode").is_none_or(|mode| mode == "Enforce");
                policies("/verdicts").filter(enforced).filter_map(|v| policy(v.get("policy")?)).collect()
            },
            state: match (session, draining) {
                (_, true) => "draining".to_owned(),
                (true, false) => text("/session/phase"),
                (false, false) => "open".to_owned(),
            },
            reason: text("/session/draining/reason"),
        }
    }

    /// As the control plane passes it on.
    pub(super) fn told(proxy: &str, hop: &proto::HopAttestation) -> Self {
        Self {
            proxy: proxy.to_owned(),
            hop: hop.hop,
            direction: hop.direction.clone(),
            peer: hop.peer.clone(),
            level: hop.level.clone(),
            own_level: hop.own_level.clone(),
            round: hop.round,
            age: hop.age,
            next: hop.next,
            tee: hop.tee.clone(),
            emulated: hop.emulated,
            platform: hop.platform.clone(),
            policies: hop.policies.clone(),
            state: hop.state.clone(),
            reason: hop.reason.clone(),
        }
    }

    /// What somebody should look at first, first: what drains, then the oldest proof.
    pub(super) fn urgency(&self) -> (bool, std::cmp::Reverse<u64>, String, u64) {
        (self.state != "draining", std::cmp::Reverse(self.age.unwrap_or(0)), self.proxy.clone(), self.hop)
    }

    /// The row of the table. Where everybody is of one trust domain, it goes without saying.
    pub(super) fn row(&self, domain: Option<&str>) -> Vec<String> {
        let seconds = |amount: Option<u64>| amount.map_or_else(|| "-".to_owned(), |s| format!("{s} s"));
        let levels = match (self.level.as_str(), self.own_level.as_str()) {
            ("", _) => "-".to_owned(),
            (peer, own) if peer == own || own.is_empty() => peer.to_owned(),
            (peer, own) => format!("{peer} (own {own})"),
        };
        let arrow = if self.direction == "inbound" { "←" } else { "→" };
        vec![
            self.proxy.clone(),
            format!("{arrow} {}", self.hop),
            short(&self.peer, domain),
            levels,
            self.round.map_or_else(|| "-".to_owned(), |round| round.to_string()),
            seconds(self.age),
            seconds(self.next),
            if self.emulated { format!("{} EMULATED", self.tee) } else { self.tee.clone() },
            self.policies.join(", "),
            self.shown_state(),
        ]
    }

    fn shown_state(&self) -> String {
        match (self.state.as_str(), self.reason.as_str()) {
            ("open", _) => "ok".to_owned(),
            (state, "") => state.to_owned(),
            (state, reason) => format!("{state}: {reason}"),
        }
    }

    pub(super) fn document(&self) -> Value {
        let reason = (!self.reason.is_empty()).then_some(&self.reason);
        let platform = (!self.platform.is_empty()).then_some(&self.platform);
        json!({
            "proxy": self.proxy, "hop": self.hop, "direction": self.direction, "peer": self.peer,
            "level": self.level, "ownLevel": self.own_level, "round": self.round, "age": self.age,
            "next": self.next, "tee": self.tee, "emulated": self.emulated, "platform": platform,
            "policies": self.policies, "state": self.state, "reason": reason,
        })
    }
}

/// One line about all of them.
pub(super) fn summary(hops: &[Hop], total: u64) -> String {
    let draining = hops.iter().filter(|hop| hop.state == "draining").count();
    let oldest = hops.iter().filter_map(|hop| hop.age).max();
    let mut parts = vec![if total == 1 { "1 hop".to_owned() } else { format!("{total} hops") }];
    parts.push(if draining == 0 {
        paint(GOOD, "none draining")
    } else {
        paint(BAD, &format!("{draining} draining"))
    });
    if let Some(oldest) = oldest {
        parts.push(format!("oldest proof {oldest} s"));
    }
    if hops.iter().any(|hop| hop.emulated) {
        parts.push(paint(NOTE, "EMULATED platforms"));
    }
    parts.join("  ")
}

/// `namespace/name` of a policy in a verdict.
fn policy(policy: &Value) -> Option<String> {
    let text = |name: &str| policy.get(name).and_then(Value::as_str);
    Some(clean(&format!("{}/{}", text("namespace")?, text("name")?)).into_owned())
}

/// The trust domain of all peers, if there is one.
pub(super) fn domain(hops: &[Hop]) -> Option<&str> {
    let mut domains = hops.iter().map(|hop| hop.peer.strip_prefix("spiffe://")?.split('/').next());
    let first = domains.next()??;
    domains.all(|domain| domain == Some(first)).then_some(first)
}

/// A SPIFFE ID without its scheme, and without the trust domain that all have: a table is
/// narrow. `/ns/NAMESPACE/sa/NAME` is shown as the workload that it is mostly of.
fn short(id: &str, domain: Option<&str>) -> String {
    let id = id.strip_prefix("spiffe://").unwrap_or(id);
    let Some(path) = domain.and_then(|domain| id.strip_prefix(domain)).filter(|path| !path.is_empty()) else {
        return id.to_owned();
    };
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["", "ns", namespace, "sa", name] => format!("{namespace}/{name}"),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Value {
        json!({ "peers": [
            {
                "hop": 1, "direction": "inbound", "identity": "spiffe://prod.example/web", "tee": "tdx",
                "emulated": true, "session": {
                    "phase": "open",
                    "peer": { "level": "L3", "round": 4, "age": 17, "nextChallenge": 280 },
                    "own": { "level": "L2" }, "platform": "ppid:00ff",
                    "policies": ["payments/peers (generation 3)"], "draining": null,
                },
            },
            {
                "hop": 2, "direction": "outbound", "identity": "spiffe://prod.example/ledger", "tee": "sevSnp",
                "emulated": false, "session": {
                    "phase": "draining", "peer": { "level": "L2", "round": 1, "age": 400 },
                    "own": { "level": "L2" }, "draining": { "reason": "stale", "cutIn": 3 },
                },
            },
            {
                "hop": 3, "direction": "outbound", "identity": "spiffe://prod.example/old", "tee": "tdx",
                "session": null, "verdicts": [
                    { "policy": { "namespace": "payments", "name": "old" }, "mode": "Enforce" },
                    { "policy": { "namespace": "payments", "name": "stricter" }, "mode": "Audit" },
                ],
            },
            { "hop": 4, "direction": "inbound", "identity": "unknown" },
        ] })
    }

    #[test]
    fn one_hop_is_told_in_the_singular() {
        assert!(summary(&[], 1).starts_with("1 hop  "), "{}", summary(&[], 1));
        assert!(summary(&[], 0).starts_with("0 hops  "), "{}", summary(&[], 0));
        assert!(summary(&[], 2).contains("none draining"), "{}", summary(&[], 2));
    }

    #[test]
    fn each_kind_of_hop_is_shown_for_what_it_proves() {
        let hops = Hop::all_of("ledger-0", &peers());
        assert_eq!(domain(&hops), None, "one of them has no ID");
        assert_eq!(domain(&hops[..3]), Some("prod.example"));
        assert_eq!(hops[0].row(Some("prod.example"))[2], "/web");
        assert_eq!(short("spiffe://a.example/ns/payments/sa/web", Some("a.example")), "payments/web");
        assert_eq!(short("spiffe://a.example/ns/payments/sa/web", None), "a.example/ns/payments/sa/web");
        let rows: Vec<_> = hops.iter().map(|hop| hop.row(None)).collect();
        assert_eq!(
            rows[0],
            [
                "ledger-0",
                "← 1",
                "prod.example/web",
                "L3 (own L2)",
                "4",
                "17 s",
                "280 s",
                "tdx EMULATED",
                "payments/peers",
                "ok"
            ]
        );
        assert_eq!(rows[1][1..7], ["→ 2", "prod.example/ledger", "L2", "1", "400 s", "-"]);
        assert_eq!(rows[1][9], "draining: stale");
        assert_eq!(
            (rows[2][3].as_str(), rows[2][8].as_str(), rows[2][9].as_str()),
            ("L1", "payments/old", "ok")
        );
        assert_eq!((rows[3][3].as_str(), rows[3][4].as_str()), ("L0", "-"));
        let document = hops[0].document();
        assert_eq!((&document["platform"], &document["reason"]), (&"ppid:00ff".into(), &Value::Null));
        // Whoever tells of it, a document says the same.
        let told = proto::HopAttestation { policies: vec!["payments/peers".into()], ..Default::default() };
        assert_eq!(document["policies"], Hop::told("p", &told).document()["policies"]);
    }

    #[test]
    fn what_drains_comes_first_and_then_the_oldest_proof() {
        let mut hops = Hop::all_of("p", &peers());
        hops.sort_by_key(Hop::urgency);
        assert_eq!(hops.iter().map(|hop| hop.hop).collect::<Vec<_>>(), [2, 1, 3, 4]);
        let line = summary(&hops, 4);
        for part in ["4 hops", "1 draining", "oldest proof 400 s", "EMULATED"] {
            assert!(line.contains(part), "{line}");
        }
    }

    #[test]
    fn what_is_not_an_attestation_has_no_hops() {
        for value in [json!({}), json!([]), json!({ "peers": 3 }), json!({ "peers": [] })] {
            assert_eq!(Hop::all_of("p", &value), []);
        }
    }
}
