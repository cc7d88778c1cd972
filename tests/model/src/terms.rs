//! The terms of symbolic cryptography: what is a bit string in the protocol is
//! a value here, and two values are the same only if they were made alike.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::defences::{Defence, Defences};

/// The end of a connection (`session::Side` of countersign-ratls).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Who opened it.
    Client,
    /// Who accepted it.
    Server,
}

impl Side {
    /// The other end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// One end of one of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct End {
    /// Which connection.
    pub link: u8,
    /// Which end of it.
    pub side: Side,
}

impl End {
    /// The other end of the same connection.
    #[must_use]
    pub const fn other(self) -> Self {
        Self { link: self.link, side: self.side.other() }
    }

    /// A bit of its own.
    #[must_use]
    pub const fn bit(self) -> u8 {
        1 << (2 * self.link + self.side as u8)
    }
}

/// A TEE. Each runs the same software, and is genuine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tee {
    /// The honest caller, named `a`.
    A,
    /// The honest callee, named `b`.
    B,
    /// A third one, `g`: of another owner, who tells it whom to call.
    G,
}

impl Tee {
    /// Its name.
    #[must_use]
    pub const fn id(self) -> Id {
        match self {
            Self::A => Id::A,
            Self::B => Id::B,
            Self::G => Id::G,
        }
    }

    /// Its key on a connection after so many renewals, if it gets that far.
    #[must_use]
    pub const fn key(self, serial: u8) -> Option<Key> {
        match (self, serial) {
            (Self::A, 0) => Some(Key::A1),
            (Self::A, 1) => Some(Key::A2),
            (Self::A, 2) => Some(Key::A3),
            (Self::B, 0) => Some(Key::B1),
            (Self::B, 1) => Some(Key::B2),
            (Self::B, 2) => Some(Key::B3),
            (Self::G, 0) => Some(Key::G1),
            _ => None,
        }
    }
}

/// A SPIFFE ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Id {
    /// That of A.
    A,
    /// That of B.
    B,
    /// That of G.
    G,
    /// The attacker's own, which the mesh gave it.
    E,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "`a`",
            Self::B => "`b`",
            Self::G => "`g`",
            Self::E => "`e`",
        })
    }
}

/// A key pair of a leaf certificate, and its SPKI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A's first.
    A1,
    /// A's second.
    A2,
    /// A's third.
    A3,
    /// B's first.
    B1,
    /// B's second.
    B2,
    /// B's third.
    B3,
    /// G's.
    G1,
    /// The attacker's, made outside of any TEE.
    E1,
}

/// A leaf certificate: the issuer says that the key is of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cert {
    /// The name.
    pub id: Id,
    /// The key.
    pub key: Key,
}

/// What the relying party demands (`session::Level`); L0 is as L1 here, L3 as
/// L2, because the list of platforms is a defence of its own in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// No evidence of the session.
    L1,
    /// Evidence that is bound to the session.
    L2,
}

/// A value that nobody can guess, named by who drew it for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Nonce {
    /// One of the attacker's.
    Attacker,
    /// That of a Hello.
    Hello(End),
    /// That of a Challenge: round, attempt.
    Round(End, u8, u8),
}

/// Hello(1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hello {
    /// Key 2.
    pub side: Side,
    /// Keys 3 to 5: whether all types and features are there that the sender can.
    pub all_features: bool,
    /// Key 6.
    pub nonce: Nonce,
    /// Key 9: what the sender demands of the receiver.
    pub demands: Level,
}

/// The Hellos of a connection, client's first.
pub type Hellos = (Hello, Hello);

/// Challenge(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Challenge {
    /// Key 1.
    pub round: u8,
    /// Key 2.
    pub nonce: Nonce,
}

/// The context of a binder (3-attestation, section 4.2). Transport, ALPN and
/// attester nonce are left out: nothing in the model depends on them.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Context {
    /// Key 2: who is attested.
    pub attester: Side,
    /// Key 5: the exporter of this connection.
    pub ekm: u8,
    /// Keys 6 and 7.
    pub keys: (Key, Key),
    /// Key 8.
    pub hellos: Hellos,
    /// Key 9.
    pub challenge: Challenge,
    /// Key 11.
    pub round: u8,
    /// Key 12.
    pub before: Option<Binder>,
    /// Keys 13 and 14.
    pub ids: (Id, Id),
}

/// B: a hash, that is, a constructor over its context.
#[derive(Clone, Debug)]
pub struct Binder {
    context: Arc<Context>,
    /// So that a state is hashed in no time.
    digest: u64,
}

impl Binder {
    /// The binder of a context.
    #[must_use]
    pub fn new(context: Context) -> Self {
        let mut hasher = DefaultHasher::new();
        context.hash(&mut hasher);
        Self { context: Arc::new(context), digest: hasher.finish() }
    }

    /// What it was made of. Only whoever checks the model looks into a hash.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Whether both are the same bits, when only what `on` has goes into them.
    #[must_use]
    pub fn matches(&self, other: &Self, on: Defences) -> bool {
        let (a, b) = (self.context(), other.context());
        let same = |defence: Defence, equal: bool| equal || !on.has(defence);
        let before = match (&a.before, &b.before) {
            (Some(a), Some(b)) => a.matches(b, on),
            (a, b) => a.is_none() && b.is_none(),
        };
        same(Defence::Exporter, a.ekm == b.ekm)
            && same(Defence::Role, a.attester == b.attester)
            && same(Defence::Keys, a.keys == b.keys)
            && same(Defence::Ids, a.ids == b.ids)
            && same(Defence::Hellos, a.hellos == b.hellos)
            && same(Defence::Nonce, a.challenge.nonce == b.challenge.nonce)
            && same(Defence::Round, a.round == b.round && a.challenge.round == b.challenge.round)
            && same(Defence::Chain, before)
    }
}

impl PartialEq for Binder {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.context == other.context
    }
}

impl Eq for Binder {}

impl Hash for Binder {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest);
    }
}

/// The machine that a quote comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    /// On the list of the mesh's platforms.
    Listed,
    /// Not on it.
    Foreign,
}

/// A quote of a genuine attestation key over a binder, alone or as a leaf of a
/// Merkle tree. The measurement is that of the approved software, always.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Quote {
    /// What is signed.
    pub binder: Binder,
    /// What the signing key says of the machine.
    pub platform: Platform,
    /// For invariants only: whose session it was made for; nobody's if it is forged.
    pub maker: Option<End>,
    /// For invariants only: the ends ([`End::bit`]) whose open challenge is younger.
    pub stale: u8,
}

/// What the new key signs in an Identity frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Statement {
    /// Who renews.
    pub side: Side,
    /// The exporter of this connection.
    pub ekm: u8,
    /// As in the binder.
    pub hellos: Hellos,
    /// Growing from 1.
    pub serial: u8,
    /// The SPKI so far.
    pub old: Key,
    /// The new SPKI.
    pub new: Key,
}

impl Statement {
    /// Whether both are the same bits, when only what `on` has goes into them.
    #[must_use]
    pub fn matches(&self, other: &Self, on: Defences) -> bool {
        let same = |defence: Defence, equal: bool| equal || !on.has(defence);
        same(Defence::IdentityExporter, self.ekm == other.ekm)
            && same(Defence::IdentityRole, self.side == other.side)
            && same(Defence::IdentityHellos, self.hellos == other.hellos)
            && same(Defence::IdentitySerial, self.serial == other.serial)
            && same(Defence::IdentityOldKey, self.old == other.old)
            && self.new == other.new
    }
}

/// Identity(8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Renewal {
    /// Key 1.
    pub cert: Cert,
    /// Key 3.
    pub serial: u8,
    /// Key 2: by this key over this; none of it if the defence is off.
    pub signature: Option<(Key, Statement)>,
}

/// What the value in Open(7) is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Summary {
    /// Who sends it: see [`Defence::OpenRole`].
    pub sender: Side,
    /// The exporter: see [`Defence::OpenKeyed`].
    pub ekm: u8,
    /// The Hellos.
    pub hellos: Hellos,
    /// What the client proved.
    pub client: Option<Binder>,
    /// What the server proved.
    pub server: Option<Binder>,
}

impl Summary {
    /// Whether both are the same bits, when only what `on` has goes into them.
    #[must_use]
    pub fn matches(&self, other: &Self, on: Defences) -> bool {
        let same = |a: &Option<Binder>, b: &Option<Binder>| match (a, b) {
            (Some(a), Some(b)) => a.matches(b, on),
            (a, b) => a.is_none() && b.is_none(),
        };
        (self.ekm == other.ekm || !on.has(Defence::OpenKeyed))
            && (self.sender == other.sender || !on.has(Defence::OpenRole))
            && self.hellos == other.hellos
            && same(&self.client, &other.client)
            && same(&self.server, &other.server)
    }
}

/// What goes over a connection. Drain and Changed end or hasten what is modelled
/// as happening at any time anyway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Frame {
    /// Type 1.
    Hello(Hello),
    /// Type 2.
    Challenge(Challenge),
    /// Type 3.
    Evidence(Quote),
    /// Type 4: accept, or retry. A reject is a cut.
    Result {
        /// Key 1.
        round: u8,
        /// Key 2.
        accept: bool,
    },
    /// Type 7.
    Open(Summary),
    /// Type 8.
    Identity(Renewal),
}
