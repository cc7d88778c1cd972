//! What is proved between two proxies when they have a connection, beyond what
//! certificates show: what is demanded, and what came of it as far as they tell.

use countersign_config::View;
use countersign_evidence::Denial;
use countersign_ratls::SpiffeId;
use countersign_wire::proto;
use countersign_wire::refusal::from_json;
use serde_json::json;

use super::step;

/// A proxy, and what it told when it was asked, if it did.
pub(super) struct Told {
    pub(super) proxy: proto::ProxyStatus,
    pub(super) attestation: Option<proto::Attestation>,
}

/// Who proves himself to whom.
pub(super) struct Side<'a> {
    pub(super) title: &'a str,
    /// Who judges.
    pub(super) guard: &'a SpiffeId,
    /// Who is judged.
    pub(super) peer: &'a SpiffeId,
    /// What the hop is for the guard's proxy, and for that of the peer.
    pub(super) directions: (&'a str, &'a str),
    /// Since when the peer has the certificate that it has.
    pub(super) since: u64,
}

/// A refusal, and the proxy that tells of it.
struct Found<'a> {
    by: &'a Told,
    refusal: &'a proto::Refusal,
    denial: Denial,
}

/// How it stands with one side of a hop; `None` where nothing is demanded that a
/// certificate could not show, and nothing is known.
pub(super) fn proof(side: &Side<'_>, view: &View, told: &[Told], now: u64) -> Option<proto::Step> {
    let demands = view.demands(side.guard, side.peer).ok()?;
    let bound = demands.level.is_session_bound();
    let demanded = match bound {
        true => format!(
            "{} before the first byte, and again every {} s{}",
            demands.level,
            demands.interval.as_secs(),
            if demands.event_log { ", with its event log" } else { "" }
        ),
        false => format!("{}: what its certificate shows is enough", demands.level),
    };
    let hop = best_hop(side, told);
    let refusal = decisive(side, told, now);
    let mut notes = remarks(side, told, now);
    let behind = || json!({ "level": demands.level.to_string(), "eventLog": demands.event_log });
    let proved = |text: String, untried, notes| {
        let step = step(side.title, true, format!("{demanded}; {text}"), &behind());
        Some(proto::Step { untried, notes, ..step })
    };
    match (hop, refusal) {
        (Some((by, hop)), refusal) => {
            let proved_at = now.saturating_sub(hop.age.unwrap_or_default());
            notes.extend(refusal.filter(|r| r.refusal.last > proved_at).map(|r| r.warning(now)));
            let round = match (hop.round, hop.age) {
                (Some(round), Some(age)) => format!("round {round} proved {age} s ago"),
                _ => "open".to_owned(),
            };
            proved(format!("hop {} at proxy {}: {round}", hop.hop, by.proxy.name), false, notes)
        }
        (None, Some(found)) if found.holds(side) => {
            notes.insert(0, format!("{demanded}; {}", found.told(now)));
            let text = found.denial.to_string();
            Some(proto::Step { notes, ..step(side.title, false, text, &found.denial) })
        }
        (None, Some(found)) => {
            notes.push(found.warning(now));
            proved("not tried since it was refused".to_owned(), true, notes)
        }
        (None, None) if bound => {
            let knows = told.iter().any(|told| told.is_of(side.guard) && told.attestation.is_some());
            let why = if knows { "not tried yet" } else { "no proxy of it tells whether it does" };
            proved(format!("{why}: what it proves then decides"), true, notes)
        }
        (None, None) => None,
    }
}

/// The open hop whose peer proved itself last.
fn best_hop<'a>(side: &Side<'_>, told: &'a [Told]) -> Option<(&'a Told, &'a proto::HopAttestation)> {
    let hops = told.iter().filter(|told| told.is_of(side.guard)).flat_map(|told| {
        let hops = told.attestation.iter().flat_map(|attestation| &attestation.hops);
        hops.map(move |hop| (told, hop))
    });
    let ours = hops.filter(|(_, hop)| {
        hop.state == "open" && hop.peer == side.peer.as_str() && hop.direction == side.directions.0
    });
    ours.min_by_key(|(_, hop)| hop.age)
}

/// What decides: the last refusal by the guard, or, when its proxy does not tell,
/// what the peer's proxy heard of it.
fn decisive<'a>(side: &Side<'_>, told: &'a [Told], now: u64) -> Option<Found<'a>> {
    let proved = |found: &Found<'_>| found.refusal.proved && found.refusal.stage != "stream";
    let by_guard = refusals(side.guard, side.peer, side.directions.0, false, told).filter(proved);
    let heard = refusals(side.peer, side.guard, side.directions.1, true, told).filter(proved);
    let newest = |found: &Found<'_>| found.refusal.last.min(now);
    by_guard.max_by_key(newest).or_else(|| heard.max_by_key(newest))
}

/// What else the proxies tell: who showed a certificate without proving to have its
/// key, and what was not looked at.
fn remarks(side: &Side<'_>, told: &[Told], now: u64) -> Vec<String> {
    let shown = refusals(side.guard, side.peer, side.directions.0, false, told)
        .filter(|found| !found.refusal.proved && found.refusal.last >= side.since)
        .max_by_key(|found| found.refusal.last);
    let shown = shown.map(|found| {
        format!("warning: whoever it was showed a certificate of it: {}: {}", found.told(now), found.denial)
    });
    let partly = told.iter().filter(|told| told.is_of(side.guard)).find_map(|told| {
        let attestation = told.attestation.as_ref()?;
        let (shown, all) = (attestation.hops.len() as u64, attestation.total);
        (shown < all)
            .then(|| format!("warning: proxy {} told of {shown} of its {all} hops only", told.proxy.name))
    });
    shown.into_iter().chain(partly).collect()
}

/// What proxies of `me` tell of refusals between them and `peer`.
fn refusals<'a>(
    me: &SpiffeId,
    peer: &SpiffeId,
    direction: &str,
    by_peer: bool,
    told: &'a [Told],
) -> impl Iterator<Item = Found<'a>> {
    let all = told.iter().filter(move |told| told.is_of(me)).flat_map(|by| {
        let refusals = by.attestation.iter().flat_map(|attestation| &attestation.refusals);
        refusals.map(move |refusal| (by, refusal))
    });
    let ours = all.filter(move |(_, refusal)| {
        refusal.peer == peer.as_str() && refusal.direction == direction && refusal.by_peer == by_peer
    });
    ours.filter_map(|(by, refusal)| {
        Some(Found { by, refusal, denial: from_json(refusal.denial.as_bytes())? })
    })
}

impl Told {
    fn is_of(&self, id: &SpiffeId) -> bool {
        self.proxy.spiffe_id == id.as_str()
    }
}

impl Found<'_> {
    /// Whether it would be refused again, as far as is known: nothing has changed
    /// since, neither what is decided by nor the peer's certificate.
    fn holds(&self, side: &Side<'_>) -> bool {
        self.refusal.generation >= self.by.proxy.generation_in_use && self.refusal.last >= side.since
    }

    fn told(&self, now: u64) -> String {
        let proto::Refusal { times, last, stage, by_peer, .. } = self.refusal;
        let often = if *times > 1 { format!(", {times} times in all") } else { String::new() };
        let ago = now.saturating_sub(*last);
        let name = &self.by.proxy.name;
        match by_peer {
            true => format!("refused {ago} s ago, as its proxy {name} was told ({stage}){often}"),
            false => format!("refused {ago} s ago by proxy {name} ({stage}){often}"),
        }
    }

    fn warning(&self, now: u64) -> String {
        format!("warning: {}, generation {}: {}", self.told(now), self.refusal.generation, self.denial)
    }
}
