//! The attacker on the connections that he sees into: what he can say next.
//!
//! He can say everything that follows from what he heard and has. What every
//! honest end would refuse at once is not said: an end that gave up plays no
//! further part.

use crate::defences::{Defence, Defences};
use crate::mesh::State;
use crate::session::{Seat, Session};
use crate::terms::{Frame, Hello, Key, Level, Nonce, Quote, Renewal, Statement};
use crate::world::{Link, World};

/// What he hears: the honest ends of connections that are not sealed.
fn heard<'a>(
    world: &'a World,
    links: &'a [Link],
    state: &'a State,
) -> impl Iterator<Item = (Seat, &'a Session)> + 'a {
    state.sessions().filter_map(move |(end, session)| {
        let link = links.get(usize::from(end.link)).filter(|link| !link.sealed())?;
        Some((world.seat(link, end)?, session))
    })
}

/// Frames that he can send to this end now.
pub(crate) fn frames(
    world: &World,
    links: &[Link],
    on: Defences,
    state: &State,
    seat: Seat,
    session: &Session,
) -> Vec<Frame> {
    let mut frames = Vec::new();
    let heard = || heard(world, links, state);
    let knows_exporter = links.get(usize::from(seat.end.link)).is_some_and(|link| link.ends_at_attacker());

    if session.peer_hello.is_none() {
        let side = seat.end.side.other();
        frames.extend(
            heard()
                .map(|(seat, _)| Session::hello(seat))
                .filter(|hello| hello.side == side)
                .map(Frame::Hello),
        );
        for demands in [Level::L2, Level::L1] {
            frames.push(Frame::Hello(Hello { side, all_features: false, nonce: Nonce::Attacker, demands }));
        }
        return frames;
    }

    let round = session.confirmed.len() as u8;
    if session.answering.is_none() && session.unconfirmed.is_none() && round <= world.rounds {
        let nonces = heard().flat_map(|(_, session)| session.challenges.iter().map(|c| c.nonce));
        let mut all: Vec<Nonce> = vec![Nonce::Attacker];
        all.extend(nonces);
        all.dedup();
        frames
            .extend(all.into_iter().map(|nonce| Frame::Challenge(crate::terms::Challenge { round, nonce })));
    }

    if let Some(expected) = session.expected(seat) {
        let mut quotes: Vec<Quote> = Vec::new();
        for quote in heard().flat_map(|(_, session)| session.made.iter()) {
            if quote.binder.matches(&expected, on) && !quotes.contains(quote) {
                quotes.push(quote.clone());
            }
        }
        if let Some(platform) = world.loot.attestation
            && knows_exporter
        {
            quotes.push(Quote { binder: expected, platform, maker: None, stale: 0 });
        }
        frames.extend(quotes.into_iter().map(Frame::Evidence));
    }

    if session.unconfirmed.is_some() {
        frames.push(Frame::Result { round, accept: true });
        let asked = session.made.iter().filter(|quote| quote.binder.context().round == round).count();
        if asked <= usize::from(world.retries) {
            frames.push(Frame::Result { round, accept: false });
        }
    }

    if session.open_sent && !session.open_received {
        // He knows all that goes into an Open, but for the exporter.
        let can = knows_exporter || !on.has(Defence::OpenKeyed);
        let own = session.summary(seat, seat.end.side.other()).filter(|_| can);
        let sent = heard().filter(|(_, session)| session.open_sent);
        let sent = sent.filter_map(|(seat, session)| session.summary(seat, seat.end.side));
        let all = own.into_iter().chain(sent);
        let mut summaries = Vec::new();
        for summary in all {
            if !summaries.contains(&summary) {
                summaries.push(summary);
            }
        }
        frames.extend(summaries.into_iter().map(Frame::Open));
    }

    if session.open() {
        if session.peer_serial < world.renewals {
            let own = renewals(world, on, seat, session, knows_exporter);
            frames.extend(own.into_iter().map(Frame::Identity));
        }
        for renewal in heard().flat_map(|(seat, session)| session.renewals(seat).collect::<Vec<_>>()) {
            let frame = Frame::Identity(renewal);
            if !frames.contains(&frame) {
                frames.push(frame);
            }
        }
    }
    frames
}

/// Identity frames of his own making.
fn renewals(
    world: &World,
    on: Defences,
    seat: Seat,
    session: &Session,
    knows_exporter: bool,
) -> Vec<Renewal> {
    let Some(hellos) = session.hellos(seat) else { return Vec::new() };
    let serial = session.peer_serial + 1;
    let mut all = Vec::new();
    for key in [Key::A1, Key::A2, Key::B1, Key::B2, Key::G1, Key::E1] {
        let signs = world.private().any(|private| private == key)
            && (knows_exporter || !on.has(Defence::IdentityExporter));
        if key == session.peer.key || (!signs && on.has(Defence::IdentitySigned)) {
            continue;
        }
        let statement = Statement {
            side: seat.end.side.other(),
            ekm: seat.end.link,
            hellos,
            serial,
            old: session.peer.key,
            new: key,
        };
        let signature = signs.then_some((key, statement));
        all.extend(world.certificates(key).into_iter().map(|cert| Renewal { cert, serial, signature }));
    }
    all
}
