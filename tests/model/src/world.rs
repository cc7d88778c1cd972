//! Worlds: who is there, what the attacker has, and what is bounded how.

use crate::defences::{Defence, Defences};
use crate::session::{Rules, Seat};
use crate::terms::{Cert, End, Id, Key, Level, Platform, Side, Tee};

/// Who sits at an end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// The software in a TEE.
    Tee(Tee),
    /// The attacker, who shows this certificate and has its key.
    Attacker(Cert),
}

/// A connection that can come about: the attacker owns the network and leads
/// whoever calls to whom he likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    /// Who calls.
    pub client: Party,
    /// The SPIFFE ID that the caller wants to reach.
    pub wants: Id,
    /// Who answers.
    pub server: Party,
    /// Whether the attacker can write records of this connection although both
    /// ends are honest: he has its traffic keys, not its exporter secret.
    pub tampered: bool,
    /// Whether the ALPN is that of the session protocol, or plain `h2`.
    pub mesh: bool,
}

impl Link {
    /// Who sits there.
    #[must_use]
    pub const fn party(&self, side: Side) -> Party {
        match side {
            Side::Client => self.client,
            Side::Server => self.server,
        }
    }

    /// Whether frames go from end to end in order, and nobody else sees them.
    #[must_use]
    pub const fn sealed(&self) -> bool {
        matches!((self.client, self.server), (Party::Tee(_), Party::Tee(_))) && !self.tampered
    }

    /// Whether the attacker is an end, and so knows the exporter.
    #[must_use]
    pub const fn ends_at_attacker(&self) -> bool {
        !matches!((self.client, self.server), (Party::Tee(_), Party::Tee(_)))
    }
}

/// What the attacker has beside the network and G.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loot {
    /// Keys of leaf certificates that he has a copy of.
    pub keys: &'static [Key],
    /// The key of the issuer: certificates of any name for any key.
    pub issuer: bool,
    /// The attestation key of a machine: quotes of his own making.
    pub attestation: Option<Platform>,
    /// The traffic keys of connections between honest ends.
    pub records: bool,
}

/// Nothing.
pub const NO_LOOT: Loot = Loot { keys: &[], issuer: false, attestation: None, records: false };

/// Who may call whom in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// A calls B.
    Pair,
    /// A calls B, and so does the attacker, with a name of his own.
    PairAndStranger,
    /// A's call ends at the attacker, who calls B as `a` or as himself.
    Middle,
    /// A wants to call itself or a replica: somebody of its own name.
    Replica,
    /// Whoever can call whomever.
    Everybody,
}

/// A world.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Who calls whom.
    pub cast: Cast,
    /// What the attacker has.
    pub loot: Loot,
    /// The machine of G.
    pub g: Platform,
    /// What A demands of the peer, and B of its callers. G demands nothing.
    pub demands: (Level, Level),
    /// How many connections there can be at most, of those that the attacker sees into.
    pub links: usize,
    /// The last round.
    pub rounds: u8,
    /// Repeats of a round.
    pub retries: u8,
    /// Renewals of an identity at each end.
    pub renewals: u8,
    /// Whether quotes take time.
    pub slow: bool,
}

impl World {
    /// The rules of its ends.
    #[must_use]
    pub const fn rules(&self, on: Defences) -> Rules {
        Rules { on, rounds: self.rounds, retries: self.retries, renewals: self.renewals, slow: self.slow }
    }

    /// The private keys that the attacker has.
    pub fn private(&self) -> impl Iterator<Item = Key> + '_ {
        [Key::E1].into_iter().chain(self.loot.keys.iter().copied())
    }

    /// The certificates that exist for a key.
    pub fn certificates(&self, key: Key) -> Vec<Cert> {
        let genuine = match key {
            Key::A1 | Key::A2 | Key::A3 => Id::A,
            Key::B1 | Key::B2 | Key::B3 => Id::B,
            Key::G1 => Id::G,
            Key::E1 => Id::E,
        };
        let ids = [Id::A, Id::B, Id::G, Id::E];
        ids.into_iter().filter(|id| *id == genuine || self.loot.issuer).map(|id| Cert { id, key }).collect()
    }

    /// The honest end, if it is one.
    #[must_use]
    pub fn seat(&self, link: &Link, end: End) -> Option<Seat> {
        let Party::Tee(tee) = link.party(end.side) else { return None };
        let (platform, demands) = match tee {
            Tee::A => (Platform::Listed, self.demands.0),
            Tee::B => (Platform::Listed, self.demands.1),
            Tee::G => (self.g, Level::L1),
        };
        Some(Seat { end, tee, platform, demands })
    }

    /// The certificates that the attacker can show, where the other end looks
    /// for a name or not. Those that could not make a difference are left out.
    fn shown(&self, wanted: Option<Id>, on: Defences) -> Vec<Party> {
        self.private()
            .filter(|key| !matches!(key, Key::A2 | Key::A3 | Key::B2 | Key::B3))
            .flat_map(|key| self.certificates(key))
            .filter(|cert| wanted.is_none_or(|id| cert.id == id || !on.has(Defence::PeerName)))
            .map(Party::Attacker)
            .collect()
    }

    /// The connections that can come about.
    fn possible(&self, on: Defences) -> Vec<Link> {
        let tee = Party::Tee;
        let link = |client, wants, server| Link { client, wants, server, tampered: false, mesh: true };
        let pair = Link { tampered: self.loot.records, ..link(tee(Tee::A), Id::B, tee(Tee::B)) };
        let mut all = Vec::new();
        match self.cast {
            Cast::Pair => all.push(pair),
            Cast::PairAndStranger => {
                let stranger = Party::Attacker(Cert { id: Id::E, key: Key::E1 });
                all.extend([pair, link(stranger, Id::B, tee(Tee::B))]);
            }
            Cast::Middle => {
                let shown = |id, key| Party::Attacker(Cert { id, key });
                all.extend([
                    link(tee(Tee::A), Id::B, shown(Id::B, Key::B1)),
                    link(shown(Id::A, Key::A1), Id::B, tee(Tee::B)),
                    link(shown(Id::E, Key::E1), Id::B, tee(Tee::B)),
                ]);
            }
            Cast::Replica => {
                all.push(link(tee(Tee::A), Id::A, tee(Tee::A)));
                all.extend(self.shown(Some(Id::A), on).into_iter().map(|e| link(tee(Tee::A), Id::A, e)));
                all.extend(self.shown(None, on).into_iter().map(|e| link(e, Id::A, tee(Tee::A))));
            }
            Cast::Everybody => {
                all.push(pair);
                all.push(link(tee(Tee::A), Id::B, tee(Tee::G)));
                all.push(link(tee(Tee::A), Id::B, tee(Tee::A)));
                all.push(link(tee(Tee::G), Id::B, tee(Tee::B)));
                for server in self.shown(Some(Id::B), on) {
                    all.push(link(tee(Tee::A), Id::B, server));
                    all.push(Link { mesh: false, ..link(tee(Tee::A), Id::B, server) });
                }
                // G's owner tells it to call the attacker, by whatever name.
                all.push(link(tee(Tee::G), Id::E, Party::Attacker(Cert { id: Id::E, key: Key::E1 })));
                for client in self.shown(None, on) {
                    for server in [Tee::A, Tee::B, Tee::G] {
                        all.push(link(client, server.id(), tee(server)));
                    }
                }
            }
        }
        all
    }

    /// Every set of connections that is worth a look: one that nobody sees into
    /// stands alone, because nothing goes from it to another.
    #[must_use]
    pub fn topologies(&self, on: Defences) -> Vec<Vec<Link>> {
        let possible = self.possible(on);
        let visible: Vec<Link> = possible.iter().copied().filter(|link| !link.sealed()).collect();
        let mut all: Vec<Vec<Link>> =
            possible.iter().filter(|l| l.sealed()).map(|link| vec![*link]).collect();
        choose(&visible, self.links, &mut Vec::new(), &mut all);
        all
    }
}

/// Every choice of `more` links, the same ones again included.
fn choose(from: &[Link], more: usize, chosen: &mut Vec<Link>, all: &mut Vec<Vec<Link>>) {
    if more == 0 {
        all.push(chosen.clone());
        return;
    }
    for (i, link) in from.iter().enumerate() {
        chosen.push(*link);
        choose(from.get(i..).unwrap_or_default(), more - 1, chosen, all);
        chosen.pop();
    }
}
