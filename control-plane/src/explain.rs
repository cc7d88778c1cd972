//! What there is to say of a hop besides what the view says: who is there, whether
//! it uses what we explain by, and whether it offers the port.

use std::sync::Arc;

use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::{Admission, SpiffeId};
use countersign_wire::proto;

/// A proxy and its admission.
pub(crate) type Found = (proto::ProxyStatus, Arc<Admission>);

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
    proto::Step { title: title.to_owned(), ok, text, json: String::new() }
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
    proto::Step { title: title.to_owned(), ok, text, json }
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
