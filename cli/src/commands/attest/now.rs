//! `countersign attest now`: a round at once, and what came of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::admin;
use super::hops::{Hop, domain};
use super::plane::Plane;
use crate::context::{Client, Context, ContextArgs, TIMEOUT};
use crate::failure::{Failure, Outcome, Result};
use crate::output::{BAD, DIM, Format, GOOD, Output, paint};

/// When to ask again by way of the control plane, which does not tell who was not asked.
const AGAIN: Duration = Duration::from_secs(3);
/// Between two looks at a proxy of this host.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub(super) struct Now {
    /// The proxy whose peers prove themselves, by its name, its workload (namespace/name) or its SPIFFE ID
    #[arg(value_name = "PROXY")]
    target: Option<String>,
    /// Ask the proxy on this host whose admin port this is, not the control plane
    #[arg(long, value_name = "ADDRESS", conflicts_with = "target")]
    admin: Option<SocketAddr>,
    /// Only peers with this SPIFFE ID
    #[arg(long, value_name = "ID")]
    peer: Option<String>,
    /// The longest to wait for proofs, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=300))]
    timeout: u64,
    #[command(flatten)]
    context: ContextArgs,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// A hop by the proxy that has it and its number there.
type Name = (String, u64);

/// What became of a hop that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing yet.
    Waits,
    /// The peer proved itself in this round.
    Proved(u64),
    /// Its level asks for no proof of the connection: there is nothing to ask for.
    Exempt,
    /// It was not asked, and why.
    Held(String),
    /// It drains or is gone, and why.
    Ended(String),
}

/// The hops as they were, and what became of them.
#[derive(Debug)]
struct Rounds(BTreeMap<Name, (Hop, Fate)>);

impl Rounds {
    fn new(before: Vec<Hop>, peer: Option<&str>) -> Self {
        let wanted = before.into_iter().filter(|hop| peer.is_none_or(|peer| peer == hop.peer));
        Self(
            wanted
                .map(|hop| {
                    let fate = match (hop.level.as_str(), hop.state.as_str()) {
                        ("L2" | "L3", "open") => Fate::Waits,
                        ("L0" | "L1", _) => Fate::Exempt,
                        (_, state) => Fate::Held(format!("it is {state}")),
                    };
                    ((hop.proxy.clone(), hop.hop), (hop, fate))
                })
                .collect(),
        )
    }

    fn held(&mut self, proxy: &str, why: Vec<(u64, String)>) {
        for (hop, why) in why {
            if let Some((_, fate)) = self.0.get_mut(&(proxy.to_owned(), hop))
                && *fate != Fate::Exempt
            {
                *fate = Fate::Held(why);
            }
        }
    }

    /// What is there now.
    fn look(&mut self, now: &[Hop]) {
        for ((proxy, number), (before, fate)) in &mut self.0 {
            if *fate != Fate::Waits {
                continue;
            }
            *fate = match now.iter().find(|hop| hop.proxy == *proxy && hop.hop == *number) {
                None => Fate::Ended("the hop ended".to_owned()),
                Some(hop) if hop.round > before.round => Fate::Proved(hop.round.unwrap_or_default()),
                Some(hop) if hop.state == "draining" => Fate::Ended(format!("it drains: {}", hop.reason)),
                Some(_) => continue,
            };
        }
    }

    fn is_over(&self) -> bool {
        self.0.values().all(|(_, fate)| *fate != Fate::Waits)
    }

    /// Every peer that was asked has proved itself, and one was; or there are only hops
    /// without anything to prove.
    fn passed(&self) -> bool {
        let fates = || self.0.values().map(|(_, fate)| fate);
        let fit = |fate: &Fate| matches!(fate, Fate::Proved(_) | Fate::Held(_) | Fate::Exempt);
        self.exempt() || self.proved() && fates().all(fit)
    }

    /// Somebody has proved itself.
    fn proved(&self) -> bool {
        self.0.values().any(|(_, fate)| matches!(fate, Fate::Proved(_)))
    }

    /// There are hops, and none whose level asks for a proof.
    fn exempt(&self) -> bool {
        !self.0.is_empty() && self.0.values().all(|(_, fate)| *fate == Fate::Exempt)
    }

    /// Nobody was asked.
    fn idle(&self) -> bool {
        self.0.values().all(|(_, fate)| matches!(fate, Fate::Held(_) | Fate::Exempt))
    }

    /// What came of it, in a line.
    fn verdict(&self) -> String {
        match (self.passed(), self.idle()) {
            (true, true) => "nobody was asked: the levels of these hops ask for no proof".to_owned(),
            (true, false) => paint(GOOD, "every peer that was asked proved itself"),
            (false, true) => paint(BAD, "no peer was asked"),
            (false, false) => paint(BAD, "not every peer that was asked proved itself"),
        }
    }
}

pub(super) async fn run(now: &Now, out: &mut Output) -> Result {
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(now.timeout);
    let rounds = match now.admin {
        Some(address) => by_admin_port(address, now.peer.as_deref(), deadline).await?,
        None => by_control_plane(now, deadline).await?,
    };
    show(&rounds, begun.elapsed(), now, out);
    Ok(Outcome::pass_if(rounds.passed()))
}

/// What a peer proved.
#[derive(Debug)]
pub(crate) struct Proof {
    pub(crate) peer: String,
    pub(crate) level: String,
    pub(crate) tee: String,
    pub(crate) emulated: bool,
    pub(crate) policies: Vec<String>,
    pub(crate) round: u64,
}

impl Proof {
    fn new(hop: Hop, round: u64) -> Self {
        let Hop { peer, level, tee, emulated, policies, .. } = hop;
        Self { peer, level, tee, emulated, policies, round }
    }
}

/// What the peers of the proxy with this admin port have proved when all of its hops are open.
pub(crate) async fn proofs(address: SocketAddr, patience: Duration) -> Result<Vec<Proof>> {
    let deadline = Instant::now() + patience;
    loop {
        let hops = admin::hops(address).await?;
        if !hops.is_empty() && hops.iter().all(|hop| hop.state == "open") {
            let proved = hops.into_iter().filter_map(|hop| hop.round.map(|round| Proof::new(hop, round)));
            return Ok(proved.collect());
        }
        if Instant::now() >= deadline {
            return Err(Failure::failed(format!("proxy at {address}: no hop is open")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Has every peer of the proxy with this admin port prove itself now.
///
/// # Errors
/// When there is none, or one that was asked did not.
pub(crate) async fn again(address: SocketAddr, patience: Duration) -> Result<Vec<Proof>> {
    let rounds = by_admin_port(address, None, Instant::now() + patience).await?;
    if !rounds.passed() || !rounds.proved() {
        let what = rounds.0.values().map(|(hop, fate)| format!("{}: {}", hop.peer, told(fate)));
        let what = what.collect::<Vec<_>>().join("; ");
        return Err(Failure::failed(format!("not every peer of {address} proved itself: {what}")));
    }
    let proved = rounds.0.into_values().filter_map(|(hop, fate)| match fate {
        Fate::Proved(round) => Some(Proof::new(hop, round)),
        _ => None,
    });
    Ok(proved.collect())
}

async fn by_admin_port(address: SocketAddr, peer: Option<&str>, deadline: Instant) -> Result<Rounds> {
    let mut rounds = Rounds::new(admin::hops(address).await?, peer);
    let held = admin::ask(address, peer.unwrap_or_default()).await?;
    rounds.held(&address.to_string(), held);
    loop {
        rounds.look(&admin::hops(address).await?);
        if rounds.is_over() || Instant::now() >= deadline {
            return Ok(rounds);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn by_control_plane(now: &Now, deadline: Instant) -> Result<Rounds> {
    let Some(target) = now.target.as_deref() else {
        return Err(Failure::input(
            "whose peers? name a proxy (countersign status shows them), or give --admin ADDRESS for one on this host",
        ));
    };
    let context = Context::load(&now.context)?;
    let mut client = Client::connect(&context, TIMEOUT).await?;
    let status = client.status().await?;
    let named = |proxy: &&countersign_wire::proto::ProxyStatus| {
        proxy.connected
            && [&proxy.name, &proxy.workload, &proxy.spiffe_id].into_iter().any(|name| name == target)
    };
    let proxies: Vec<String> = status.proxies.iter().filter(named).map(|proxy| proxy.name.clone()).collect();
    if proxies.is_empty() {
        return Err(Failure::input(format!(
            "{target}: no proxy of this name, workload or SPIFFE ID is connected; see countersign status"
        )));
    }
    let mut plane = Plane::connect(&context, &proxies).await?;
    plane.everybody().await?;
    let mut rounds = Rounds::new(plane.look().hops, now.peer.as_deref());
    if rounds.is_over() {
        return Ok(rounds);
    }
    let asked = client.attest_now(&proxies, now.peer.as_deref().unwrap_or_default()).await?;
    if asked.is_empty() {
        return Err(Failure::failed(format!("{target}: its version cannot be asked, or it has just gone")));
    }
    let mut again = tokio::time::interval_at(Instant::now() + AGAIN, AGAIN);
    while !rounds.is_over() {
        tokio::select! {
            told = plane.next() => {
                told?;
                rounds.look(&plane.look().hops);
            }
            // A peer that was asked a moment ago is not asked at once.
            _ = again.tick() => {
                client.attest_now(&proxies, now.peer.as_deref().unwrap_or_default()).await?;
            }
            () = tokio::time::sleep_until(deadline) => break,
        }
    }
    Ok(rounds)
}

fn told(fate: &Fate) -> String {
    match fate {
        Fate::Proved(_) => "proved itself again".to_owned(),
        Fate::Exempt => "not asked: its level asks for no proof of the connection".to_owned(),
        Fate::Held(why) => format!("not asked: {why}"),
        Fate::Ended(why) => why.clone(),
        Fate::Waits => "no proof in time".to_owned(),
    }
}

fn show(rounds: &Rounds, took: Duration, now: &Now, out: &mut Output) {
    let round = |hop: &Hop, fate: &Fate| match fate {
        Fate::Proved(round) => Some(*round),
        _ => hop.round,
    };
    if now.output == Format::Json {
        let hops: Vec<_> = rounds
            .0
            .values()
            .map(|(hop, fate)| {
                json!({
                    "proxy": hop.proxy, "hop": hop.hop, "direction": hop.direction, "peer": hop.peer,
                    "level": hop.level, "roundBefore": hop.round, "round": round(hop, fate),
                    "proved": matches!(fate, Fate::Proved(_)), "asked": !matches!(fate, Fate::Held(_) | Fate::Exempt),
                    "tee": hop.tee, "emulated": hop.emulated, "result": told(fate),
                })
            })
            .collect();
        out.json(&json!({ "passed": rounds.passed(), "hops": hops, "seconds": took.as_secs_f64() }));
        return;
    }
    if rounds.0.is_empty() {
        out.line(paint(BAD, "no hop to ask: nobody is connected, or no peer has this SPIFFE ID"));
        return;
    }
    let hops: Vec<Hop> = rounds.0.values().map(|(hop, _)| hop.clone()).collect();
    let domain = domain(&hops);
    let rows = rounds.0.values().map(|(hop, fate)| {
        let mut row = hop.row(domain);
        row.truncate(4);
        row.push(round(hop, fate).map_or_else(|| "-".to_owned(), |round| round.to_string()));
        row.push(told(fate));
        row
    });
    out.table(&["PROXY", "HOP", "PEER", "LEVEL", "ROUND", "RESULT"], rows.collect());
    let took = paint(DIM, &format!("({:.1} s)", took.as_secs_f64()));
    out.line(format!("{} {took}", rounds.verdict()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(number: u64, level: &str, state: &str, round: Option<u64>) -> Hop {
        Hop {
            proxy: "p".into(),
            hop: number,
            peer: format!("spiffe://prod.example/{}", if number == 9 { "other" } else { "web" }),
            level: level.into(),
            state: state.into(),
            round,
            ..Hop::default()
        }
    }

    fn fates(rounds: &Rounds) -> Vec<Fate> {
        rounds.0.values().map(|(_, fate)| fate.clone()).collect()
    }

    #[test]
    fn a_round_is_over_when_everybody_who_was_asked_has_proved_itself_or_ended() {
        let before = || {
            vec![
                hop(1, "L2", "open", Some(0)),
                hop(2, "L2", "open", Some(4)),
                hop(3, "L1", "open", None),
                hop(9, "L2", "open", Some(1)),
            ]
        };
        let mut rounds = Rounds::new(before(), Some("spiffe://prod.example/web"));
        assert_eq!(rounds.0.len(), 3);
        rounds.held("p", vec![(2, "asked already".into())]);
        rounds.look(&[hop(1, "L2", "open", Some(0))]);
        assert!(!rounds.is_over() && !rounds.passed());
        rounds.look(&[hop(1, "L2", "open", Some(1))]);
        assert!(rounds.is_over() && rounds.passed());
        assert_eq!(fates(&rounds)[..2], [Fate::Proved(1), Fate::Held("asked already".into())]);

        let mut rounds = Rounds::new(before(), None);
        let mut draining = hop(2, "L2", "draining", Some(4));
        draining.reason = "evidence-stale".into();
        rounds.look(&[hop(1, "L2", "open", Some(1)), draining]);
        assert!(rounds.is_over() && !rounds.passed());
        assert_eq!(fates(&rounds)[1], Fate::Ended("it drains: evidence-stale".into()));
        assert_eq!(fates(&rounds)[3], Fate::Ended("the hop ended".into()));
    }

    #[test]
    fn nothing_asked_is_nothing_proved() {
        assert!(!Rounds::new(Vec::new(), None).passed());
        // What its level will be is not known yet, or it should have been asked.
        for level in ["", "L2"] {
            let hops = vec![hop(1, level, "opening", None), hop(2, "L1", "open", None)];
            let rounds = Rounds::new(hops, None);
            assert!(rounds.is_over() && !rounds.passed() && rounds.verdict().contains("no peer was asked"));
        }
    }

    #[test]
    fn a_hop_without_anything_to_prove_is_no_failure() {
        let mut rounds = Rounds::new(vec![hop(1, "L0", "open", None), hop(2, "L1", "open", None)], None);
        rounds.held("p", vec![(1, "no session".into())]);
        assert!(rounds.is_over() && rounds.passed() && !rounds.proved());
        assert!(rounds.verdict().contains("nobody was asked"), "{}", rounds.verdict());

        let mut rounds = Rounds::new(vec![hop(1, "L1", "open", None), hop(2, "L2", "open", Some(0))], None);
        assert!(!rounds.is_over() && !rounds.passed());
        rounds.look(&[hop(2, "L2", "open", Some(1))]);
        assert!(rounds.is_over() && rounds.passed() && rounds.proved());
        assert_eq!(fates(&rounds), [Fate::Exempt, Fate::Proved(1)]);
    }
}
