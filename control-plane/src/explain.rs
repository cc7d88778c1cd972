//! What there is to say of a hop besides what the view says: who is there, whether
//! it uses what we explain by, what its proxies tell of it, and whether it offers the port.

mod session;

use std::sync::Arc;

use countersign_config::RequestFacts;
use countersign_config::view::explain::Known;
use countersign_evidence::policy::Mode;
use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::{Admission, SpiffeId};
use countersign_wire::{MAX_REPORTED_HOPS, MAX_REPORTED_REFUSALS, proto, refusal};
use tonic::Status;

use self::session::{Side, Told};
use crate::operator::{Shared, TELL_WITHIN};

/// Proxies of one identity that are asked what they know of a hop.
const MAX_REPLICAS: usize = 16;

/// A proxy and its admission.
pub(crate) type Found = (proto::ProxyStatus, Arc<Admission>);

impl Shared {
    /// Says of a call what is known: who is there, what each side shows and proved, what decides.
    pub(crate) async fn explain(
        &self,
        wanted: &proto::ExplainRequest,
    ) -> Result<proto::ExplainResponse, Status> {
        let cut = Arc::clone(&self.cuts.borrow());
        let view = Arc::clone(&cut.view);
        let port = u16::try_from(wanted.port)
            .map_err(|_| refusal::with_reason(Reason::BadRequest, format!("{} is no port", wanted.port)))?;
        let now = self.clock.now();
        let resolve = |what: &str| {
            let found = self.proxies.find(what, cut.snapshot.generation());
            let of_proxy = found.as_ref().and_then(|(_, admission)| admission.presented.id.clone());
            let id = of_proxy.or_else(|| view.workload(what).cloned()).or_else(|| SpiffeId::parse(what).ok());
            let missing = || {
                let hint = view.workload_like(what).map(|like| format!("; did you mean {like}?"));
                let text = format!(
                    "{what:?} is no SPIFFE ID, no proxy and no WorkloadIdentity namespace/name{}",
                    hint.unwrap_or_default()
                );
                refusal::with_reason(Reason::BadRequest, text)
            };
            Ok::<_, Status>((id.ok_or_else(missing)?, found))
        };
        let (source, source_proxy) = resolve(&wanted.source)?;
        let (destination, destination_proxy) = resolve(&wanted.destination)?;
        let mut steps = vec![
            presence("source", &source, &source_proxy),
            presence("destination", &destination, &destination_proxy),
        ];
        let mut judge = |title: &str, me: &SpiffeId, peer: &Option<Found>| {
            let Some((_, admission)) = peer else { return };
            let step = match view.judge_hop(me, admission.presented.clone(), now) {
                Ok(admission) => step(title, true, admitted(me, &admission), &admission.verdicts),
                Err(denial) => step(title, false, denial.to_string(), &denial),
            };
            steps.push(step);
        };
        judge("source proves itself to destination", &destination, &source_proxy);
        judge("destination proves itself to source", &source, &destination_proxy);
        let told = self.told_by(&source, &destination, cut.snapshot.generation()).await?;
        let since = |found: &Option<Found>| found.as_ref().map_or(0, |(_, a)| a.presented.not_before);
        let sides = [
            Side {
                title: "source proves itself in the session",
                guard: &destination,
                peer: &source,
                directions: ("inbound", "outbound"),
                since: since(&source_proxy),
            },
            Side {
                title: "destination proves itself in the session",
                guard: &source,
                peer: &destination,
                directions: ("outbound", "inbound"),
                since: since(&destination_proxy),
            },
        ];
        // What the certificate shows already need not be said twice.
        let refused: Vec<String> = steps.iter().filter(|step| !step.ok).map(|s| s.json.clone()).collect();
        let proofs = sides.iter().filter_map(|side| session::proof(side, &view, &told, now.as_secs()));
        steps.extend(proofs.filter(|step| step.ok || !refused.contains(&step.json)));
        steps.extend(destination_proxy.as_ref().and_then(|(proxy, _)| offered(proxy, port)));
        let claims =
            |found: &Option<Found>| found.as_ref().and_then(|(_, admission)| admission.claims.clone());
        let known = Known { source: claims(&source_proxy), destination: claims(&destination_proxy) };
        let request = wanted.request.as_ref();
        let request = request.map(|asked| RequestFacts::new(&asked.method, &asked.host, &asked.path));
        let explanation = view.explain_request(&source, &destination, port, request.as_ref(), &known, now);
        let decision = &explanation.authorization;
        let (ok, text) = (decision.allowed, decision.rule.clone());
        // What would have to be otherwise is of interest where the answer is no.
        let notes = if ok { Vec::new() } else { explanation.assumptions.clone() };
        steps.push(proto::Step { notes, ..step("authorization", ok, text, &explanation) });
        let allowed = steps.iter().all(|step| step.ok);
        Ok(proto::ExplainResponse { allowed, steps, generation: view.generation })
    }

    /// What the proxies of both sides tell when they are asked.
    async fn told_by(&self, a: &SpiffeId, b: &SpiffeId, generation: u64) -> Result<Vec<Told>, Status> {
        let of = |id: &SpiffeId| self.proxies.of(id.as_str(), generation, MAX_REPLICAS);
        let mut proxies = of(a);
        if a != b {
            proxies.extend(of(b));
        }
        let name = |proxy: &proto::ProxyStatus| (proxy.workload.clone(), proxy.name.clone());
        let telling = self.proxies.telling();
        let names = proxies.iter().map(name).filter(|name| telling.contains(name)).collect();
        let limits = (MAX_REPORTED_HOPS, MAX_REPORTED_REFUSALS);
        let limits = (limits.0.try_into().unwrap_or(u32::MAX), limits.1.try_into().unwrap_or(u32::MAX));
        let news = self.watchers.ask(names, limits, TELL_WITHIN).await?;
        let told = |proxy: proto::ProxyStatus| {
            let of_it = news.iter().find(|n| n.proxy == proxy.name && n.workload == proxy.workload);
            let attestation = of_it.and_then(|news| news.attestation.clone());
            Told { proxy, attestation }
        };
        Ok(proxies.into_iter().map(told).collect())
    }
}

/// Who admits, and who only takes down that it would not have.
fn admitted(me: &SpiffeId, admission: &countersign_ratls::Admission) -> String {
    let enforced = admission.verdicts.iter().filter(|verdict| verdict.mode == Mode::Enforce);
    let policies: Vec<String> = enforced.map(|verdict| verdict.policy.to_string()).collect();
    let by = if policies.is_empty() { "its SPIFFE ID alone".to_owned() } else { policies.join(", ") };
    let audited = admission.audited.iter().map(|denial| {
        let policy = denial.policy.as_ref().map_or_else(|| "a policy".to_owned(), ToString::to_string);
        format!("\nmode Audit: {policy} would refuse it: {}", denial.reason)
    });
    format!("admitted by {me}: {by}{}", audited.collect::<String>())
}

/// Whether a proxy of this identity is connected.
pub(crate) fn presence(title: &str, id: &SpiffeId, found: &Option<Found>) -> proto::Step {
    let (ok, text) = match found {
        Some((proxy, _)) if proxy.connected => {
            let doubt = unsynced(proxy).map(|why| format!("\nwarning: {why}")).unwrap_or_default();
            (true, format!("{id}: proxy {} is connected, {}{doubt}", proxy.name, proxy.tee))
        }
        Some((proxy, _)) => (false, format!("{id}: proxy {} is not connected", proxy.name)),
        None => (false, format!("{id}: no proxy of it was ever seen by this control plane")),
    };
    proto::Step { title: title.to_owned(), ok, text, ..Default::default() }
}

/// Whether the destination's proxy leads to the port, if it says where it leads. Port 0
/// is none: nobody asked for one, and it is said which there are.
pub(crate) fn offered(proxy: &proto::ProxyStatus, port: u16) -> Option<proto::Step> {
    let ports = &proxy.offers.as_ref().filter(|_| proxy.connected)?.ports;
    let shown = || ports.iter().map(u32::to_string).collect::<Vec<_>>().join(" or ");
    if port == 0 && !ports.is_empty() {
        let text = format!("{}; no --port given, so that none of them was checked", shown());
        return Some(step("destination offers a port", true, text, &()));
    }
    let title = "destination offers the port";
    if ports.contains(&port.into()) {
        return Some(step(title, true, format!("proxy {}, inbound.ports", proxy.name), &()));
    }
    let expected = if ports.is_empty() { "none: its proxy has no inbound".to_owned() } else { shown() };
    let denial: Denial = Finding::new(Reason::PortNotOffered, "port", expected, port.to_string()).into();
    Some(step(title, false, denial.to_string(), &denial))
}

/// Why a proxy may decide otherwise than we explain: what it uses is not what we have.
fn unsynced(proxy: &proto::ProxyStatus) -> Option<String> {
    let (name, used) = (&proxy.name, proxy.generation_in_use);
    let why = match proxy.state.as_str() {
        "synced" => return None,
        "ahead" => {
            "it has seen a newer generation, or another of the same number, than this control plane has"
        }
        "refused" => "it is not admitted any more: countersign status",
        "nacked" => "it rejects something of what it was sent: countersign status",
        _ => "the newest configuration is on its way to it",
    };
    Some(format!(
        "proxy {name} is {}, generation {used} in use, and may decide otherwise: {why}",
        proxy.state
    ))
}

/// A step of an explanation, with what is behind it.
pub(crate) fn step(title: &str, ok: bool, text: String, behind: &impl serde::Serialize) -> proto::Step {
    let json = serde_json::to_string(behind).unwrap_or_default();
    proto::Step { title: title.to_owned(), ok, text, json, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_the_destination_does_not_offer_is_no_secret_to_operators() {
        let asked = |offers: Option<Vec<u32>>, port| {
            let offers = offers.map(|ports| proto::Offer { ports });
            offered(&proto::ProxyStatus { connected: true, offers, ..Default::default() }, port)
        };
        assert_eq!(asked(None, 9), None, "an older version");
        assert!(asked(Some(vec![8080, 8443]), 8443).unwrap().ok);
        let step = asked(Some(vec![8080, 8443]), 9).unwrap();
        assert!(!step.ok && step.json.contains("port-not-offered") && step.text.contains("8080 or 8443"));
        assert!(!asked(Some(Vec::new()), 9).unwrap().ok);
        let step = asked(Some(vec![8080]), 0).unwrap();
        assert!(
            step.ok && step.title.ends_with("offers a port") && step.text.contains("8080; no --port given")
        );
        assert!(!asked(Some(Vec::new()), 0).unwrap().ok, "none that could be asked for");
    }

    #[test]
    fn an_explanation_warns_of_a_proxy_that_uses_something_else() {
        let doubt = |state: &str| {
            let proxy = proto::ProxyStatus {
                name: "ledger-0".to_owned(),
                state: state.to_owned(),
                connected: true,
                generation_in_use: 17,
                ..Default::default()
            };
            unsynced(&proxy)
        };
        assert_eq!(doubt("synced"), None);
        for state in ["stale", "nacked", "ahead"] {
            let told = doubt(state).unwrap();
            assert!(told.starts_with(&format!("proxy ledger-0 is {state}, generation 17 in use")), "{told}");
        }
    }
}
