//! What must hold whenever an honest end accepts evidence, takes up a new
//! identity, or lets application bytes flow (3-attestation, section 4.6).

use std::fmt;

use crate::mesh::State;
use crate::session::{Event, Seat};
use crate::terms::{Binder, Id, Key, Level, Platform, Quote, Renewal, Side, Tee};
use crate::world::{Link, Party, World};

macro_rules! invariants {
    ($($name:ident => $code:literal, $text:literal;)*) => {
        /// An invariant.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Invariant {
            $(#[doc = $text] $name,)*
        }

        impl Invariant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// What it is called in docs/security-argument.md.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// What it says.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

invariants! {
    PeerIsTee => "peer-is-tee",
        "Whoever accepts a round: the other end of its own TLS connection is in a genuine TEE.";
    Agreement => "agreement",
        "Whoever accepts a round: the other end made that quote, for this connection, role, round, challenge and history, and with the same idea of both keys, both names and both Hellos. No quote is accepted twice.";
    Recency => "recency",
        "Whoever accepts a round: the quote was made after the challenge of that round.";
    Listed => "listed",
        "Whoever accepts a round: the quote is of a platform on the list.";
    Named => "named",
        "Whoever accepts a round: the TEE at the other end is the owner of the name in its certificate, and for a caller this is the name it wanted to reach.";
    NoSkip => "no-skip",
        "Whoever accepts a round: both ends count the same rounds as accepted before it, beginning with 0, none left out.";
    NotMyself => "not-myself",
        "Whoever accepts a round: the other end is not in its own TEE.";
    Gate => "gate",
        "Application bytes flow at an end only after it has what its policy demands, and after both ends sent Open.";
    NoDowngrade => "no-downgrade",
        "Application bytes flow at an end only under a protocol that can give what its policy demands; and with evidence accepted, both Hellos arrived as they were sent.";
    Renewal => "renewal",
        "Whoever takes up a renewed identity: it is of the same name, its key is held by the other end of this connection, and it is not an older one than before.";
    NoFalseCut => "no-false-cut",
        "Two honest ends that nobody disturbs never cut.";
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Those that are broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Broken(u16);

impl Broken {
    /// Remembers one.
    pub fn add(&mut self, invariant: Invariant) {
        self.0 |= 1 << invariant as u16;
    }

    /// Remembers one that does not hold.
    fn unless(&mut self, holds: bool, invariant: Invariant) {
        if !holds {
            self.add(invariant);
        }
    }

    /// Which ones.
    pub fn list(self) -> impl Iterator<Item = Invariant> {
        Invariant::ALL.iter().copied().filter(move |invariant| self.0 & (1 << *invariant as u16) != 0)
    }

    /// Whether one of these is among them.
    #[must_use]
    pub fn any(self, of: &[Invariant]) -> bool {
        self.list().any(|invariant| of.contains(&invariant))
    }
}

/// Judges what happened at an end. The state is the one after it.
pub(crate) fn judge(
    world: &World,
    links: &[Link],
    state: &State,
    seat: Seat,
    event: &Event,
    broken: &mut Broken,
) {
    let Some(link) = links.get(usize::from(seat.end.link)) else { return };
    // What G's owner makes G believe is his affair.
    if seat.tee == Tee::G {
        return;
    }
    match event {
        Event::Accepted(expected, quote) => {
            let maker =
                quote.maker.and_then(|end| Some(world.seat(links.get(usize::from(end.link))?, end)?.tee));
            accepted(world, link, state, seat, (expected, quote, maker), broken);
        }
        Event::Adopted(renewal, old) => adopted(world, link, state, seat, (renewal, *old), broken),
        Event::Application => application(world, link, state, seat, broken),
    }
}

fn accepted(
    world: &World,
    link: &Link,
    state: &State,
    seat: Seat,
    (expected, quote, maker): (&Binder, &Quote, Option<Tee>),
    broken: &mut Broken,
) {
    let other = seat.end.other();
    let peer = world.seat(link, other);
    broken.unless(peer.is_some(), Invariant::PeerIsTee);
    broken.unless(quote.binder == *expected && quote.maker == Some(other), Invariant::Agreement);
    let uses = state.sessions().flat_map(|(end, session)| session.accepted.iter().map(move |b| (end, b)));
    let twice = uses.filter(|(end, b)| **b == quote.binder && *end != seat.end).count();
    let here =
        state.session(seat.end).map_or(0, |s| s.accepted.iter().filter(|b| **b == quote.binder).count());
    broken.unless(twice == 0 && here <= 1, Invariant::Agreement);
    broken.unless(quote.stale & seat.end.bit() == 0, Invariant::Recency);
    broken.unless(quote.platform == Platform::Listed, Invariant::Listed);

    let recorded = state.session(seat.end).map(|session| session.peer.id);
    let wanted = (seat.end.side == Side::Client).then_some(link.wants);
    let name: Option<Id> = maker.map(Tee::id);
    broken.unless(
        name.is_some() && name == recorded && wanted.is_none_or(|wanted| Some(wanted) == name),
        Invariant::Named,
    );
    broken.unless(maker != Some(seat.tee), Invariant::NotMyself);

    let context = quote.binder.context();
    broken.unless(context.round == expected.context().round, Invariant::NoSkip);
    broken.unless(depth(Some(&quote.binder)) == usize::from(context.round) + 1, Invariant::NoSkip);
    if let (Some(peer), Some(own)) = (state.session(other), state.session(seat.end)) {
        // Both Hellos, as each end has them.
        let ours = own.hellos(seat);
        let theirs = world.seat(link, other).and_then(|seat| peer.hellos(seat));
        broken.unless(ours == theirs, Invariant::NoDowngrade);
    }
}

/// How many binders a chain has.
fn depth(binder: Option<&Binder>) -> usize {
    binder.map_or(0, |binder| 1 + depth(binder.context().before.as_ref()))
}

fn adopted(
    world: &World,
    link: &Link,
    state: &State,
    seat: Seat,
    (renewal, old): (&Renewal, Key),
    broken: &mut Broken,
) {
    let (named, held) = match link.party(seat.end.side.other()) {
        Party::Tee(tee) => {
            let serials = state.session(seat.end.other()).map_or(0, |peer| peer.serial);
            let place = |key| (0..=serials).find(|serial| tee.key(*serial) == Some(key));
            (tee.id() == renewal.cert.id, place(renewal.cert.key) > place(old))
        }
        // What it showed in the handshake, and what it can sign with.
        Party::Attacker(cert) => {
            (cert.id == renewal.cert.id, world.private().any(|key| key == renewal.cert.key))
        }
    };
    broken.unless(named && held, Invariant::Renewal);
}

fn application(world: &World, link: &Link, state: &State, seat: Seat, broken: &mut Broken) {
    let demanded = seat.demands == Level::L2;
    broken.unless(!demanded || link.mesh, Invariant::NoDowngrade);
    let Some(own) = state.session(seat.end) else { return };
    broken.unless(!demanded || !own.accepted.is_empty(), Invariant::Gate);
    if link.mesh {
        broken.unless(own.open(), Invariant::Gate);
        if let (Some(peer), Some(other)) =
            (state.session(seat.end.other()), world.seat(link, seat.end.other()))
        {
            let heard = other.demands == Level::L1 || !peer.accepted.is_empty();
            broken.unless(peer.open_sent && heard, Invariant::Gate);
            broken.unless(peer.hellos(other) == own.hellos(seat), Invariant::NoDowngrade);
        } else if link.party(seat.end.side.other()) == Party::Tee(seat.tee) {
            broken.add(Invariant::Gate);
        }
    }
}
