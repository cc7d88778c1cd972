//! A run in words.

use std::fmt;

use stateright::Model;

use crate::invariants::Invariant;
use crate::mesh::{Action, Mesh, State};
use crate::terms::{Cert, End, Frame, Level, Nonce, Platform, Side, Tee};
use crate::world::Party;

/// An end, by who sits there.
struct Who<'a>(&'a Mesh, &'a State, End);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(mesh, state, end) = self;
        match mesh.links(state).get(usize::from(end.link)).map(|link| link.party(end.side)) {
            Some(Party::Tee(Tee::A)) => f.write_str("A"),
            Some(Party::Tee(Tee::B)) => f.write_str("B"),
            Some(Party::Tee(Tee::G)) => f.write_str("G"),
            _ => f.write_str("E"),
        }
    }
}

impl fmt::Display for Cert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:?}", self.id, self.key)
    }
}

/// One step, in a line. `state` is the one before it.
#[must_use]
pub fn describe(mesh: &Mesh, state: &State, action: &Action) -> String {
    let who = |end: End| Who(mesh, state, end);
    match action {
        Action::Connect(index) => connect(mesh, state, *index),
        Action::Deliver(end, retry) => {
            let queue = state.connections.get(usize::from(end.link)).map(|c| &c.queues);
            let frame = queue.and_then(|q| q.get(end.side as usize)?.first());
            let text = frame.map(|frame| name(mesh, state, *end, frame)).unwrap_or_default();
            format!("{}: {} gets {text}{}", end.link + 1, who(*end), later(*retry))
        }
        Action::Say(end, frame, retry) => {
            let text = name(mesh, state, *end, frame);
            format!("{}: E tells {}: {text}{}", end.link + 1, who(*end), later(*retry))
        }
        Action::Quoted(end) => format!("{}: {}'s quote is ready", end.link + 1, who(*end)),
        Action::Challenge(end) => {
            let round = state.session(*end).map_or(0, |session| session.accepted.len());
            format!("{}: {} sends Challenge {round}", end.link + 1, who(*end))
        }
        Action::Renew(end) => {
            let serial = state.session(*end).map_or(0, |session| session.serial + 1);
            format!("{}: {} renews and sends Identity {serial}", end.link + 1, who(*end))
        }
    }
}

const fn later(retry: bool) -> &'static str {
    if retry { ", cannot appraise it now, and asks again" } else { "" }
}

fn connect(mesh: &Mesh, state: &State, index: u8) -> String {
    let Some(link) = mesh.links(state).get(usize::from(index)) else { return String::new() };
    let end = |side| Who(mesh, state, End { link: index, side });
    let shows = |side| match link.party(side) {
        Party::Attacker(cert) => format!(" with {cert}"),
        Party::Tee(_) => String::new(),
    };
    let protocol = if link.mesh { "" } else { ", over h2" };
    let open = if link.tampered { ", E writes the records" } else { "" };
    let (client, server) = (end(Side::Client), end(Side::Server));
    format!(
        "{}: {client}{} calls {}, {server}{} answers{protocol}{open}",
        index + 1,
        shows(Side::Client),
        link.wants,
        shows(Side::Server)
    )
}

/// A frame, as `end` gets it.
fn name(mesh: &Mesh, state: &State, end: End, frame: &Frame) -> String {
    let from = |maker: End| {
        let who = Who(mesh, state, maker);
        if maker.link == end.link { format!("{who}'s") } else { format!("{who}'s of {}", maker.link + 1) }
    };
    match frame {
        Frame::Hello(hello) => {
            let demands = if hello.demands == Level::L2 { "demands L2" } else { "demands no evidence" };
            let features = if hello.all_features { "" } else { ", fewer features" };
            match hello.nonce {
                Nonce::Hello(maker) => format!("Hello, {} ({demands}{features})", from(maker)),
                _ => format!("Hello, E's own ({demands}{features})"),
            }
        }
        Frame::Challenge(challenge) => match challenge.nonce {
            Nonce::Round(maker, round, _) => {
                format!("Challenge {} with the nonce of {} Challenge {round}", challenge.round, from(maker))
            }
            _ => format!("Challenge {} with E's nonce", challenge.round),
        },
        Frame::Evidence(quote) => {
            let round = quote.binder.context().challenge.round;
            let platform = if quote.platform == Platform::Foreign { ", foreign platform" } else { "" };
            match quote.maker {
                Some(maker) => format!("Evidence, {} for Challenge {round}{platform}", from(maker)),
                None => format!("Evidence, forged{platform}"),
            }
        }
        Frame::Result { round, accept } => {
            format!("Result {round}, {}", if *accept { "accept" } else { "retry" })
        }
        Frame::Open(summary) if summary.sender == end.side => "Open, its own".to_owned(),
        Frame::Open(_) => "Open".to_owned(),
        Frame::Identity(renewal) => match renewal.signature {
            None => format!("Identity {} for {}, unsigned", renewal.serial, renewal.cert),
            Some((by, statement)) if statement.ekm == end.link => {
                format!("Identity {} for {}, signed by {by:?}", renewal.serial, renewal.cert)
            }
            Some((by, statement)) => format!(
                "Identity {} for {}, signed by {by:?} for {}",
                renewal.serial,
                renewal.cert,
                statement.ekm + 1
            ),
        },
    }
}

/// What a step did that matters, as seen from outside.
fn consequences(mesh: &Mesh, before: &State, after: &State) -> String {
    let mut text = String::new();
    for (end, session) in after.sessions() {
        let who = Who(mesh, after, end);
        let old = before.session(end);
        let accepted = old.map_or(0, |old| old.accepted.len());
        if session.accepted.len() > accepted {
            text += &format!(" -> {who} accepts round {accepted}");
        }
        if old.is_some_and(|old| old.peer != session.peer || old.peer_serial != session.peer_serial) {
            text += &format!(" -> {who} takes up {}", session.peer);
        }
        if session.application && !old.is_some_and(|old| old.application) {
            text += &format!(" -> {who} lets bytes flow");
        }
    }
    let connections = after.connections.iter().zip(&before.connections).zip(mesh.links(after));
    for ((after, before), link) in connections {
        if after.started && !before.started && !link.mesh {
            text += " -> bytes flow";
        }
    }
    if after.broken.list().any(|broken| broken == Invariant::NoFalseCut) {
        text += " -> cut";
    }
    text
}

/// A run, a line for each step.
#[must_use]
pub fn lines(mesh: &Mesh, first: &State, actions: &[Action]) -> Vec<String> {
    let mut state = first.clone();
    let mut lines = Vec::new();
    for action in actions {
        let Some(next) = mesh.next_state(&state, action.clone()) else { break };
        lines.push(describe(mesh, &state, action) + &consequences(mesh, &state, &next));
        state = next;
    }
    lines
}
