//! The worlds that are searched.

use crate::terms::{Key, Level, Platform};
use crate::world::{Cast, Loot, NO_LOOT, World};

const MUTUAL: (Level, Level) = (Level::L2, Level::L2);
const CALLEE_ASKS: (Level, Level) = (Level::L1, Level::L2);
const CALLER_ASKS: (Level, Level) = (Level::L2, Level::L1);
const NOBODY_ASKS: (Level, Level) = (Level::L1, Level::L1);

const HONEST: World = World {
    name: "honest",
    about: "nobody disturbs; quotes take time, rounds are repeated, both ends renew",
    cast: Cast::Pair,
    loot: NO_LOOT,
    g: Platform::Listed,
    demands: MUTUAL,
    links: 1,
    rounds: 2,
    retries: 1,
    renewals: 1,
    slow: true,
};

const QUICK: World = World { retries: 0, renewals: 0, slow: false, ..HONEST };

const LEAKED: Loot =
    Loot { keys: &[Key::A1, Key::B1, Key::G1], attestation: Some(Platform::Foreign), ..NO_LOOT };

const NETWORK: World = World {
    name: "network",
    about: "the attacker has the network, a name of his own in the mesh, and G",
    cast: Cast::Everybody,
    links: 2,
    rounds: 0,
    ..QUICK
};

const RELAY: World = World {
    name: "leaked",
    about: "he also has the TLS keys of A, B and G, and the attestation key of a machine that is not on the list",
    loot: LEAKED,
    ..NETWORK
};

const RECORDS: World = World {
    name: "records",
    about: "he has the traffic keys of an honest connection, not its exporter secret; and TLS keys, also those to come",
    cast: Cast::Pair,
    loot: Loot { records: true, keys: &[Key::A1, Key::A2, Key::B1, Key::B2], ..NO_LOOT },
    ..QUICK
};

/// All of them.
pub const WORLDS: &[World] = &[
    HONEST,
    World { name: "honest, callee asks", about: "the same, one way", demands: CALLEE_ASKS, ..HONEST },
    World { name: "honest, caller asks", about: "the same, the other way", demands: CALLER_ASKS, ..HONEST },
    World { name: "honest, nobody asks", about: "the same, no way", demands: NOBODY_ASKS, ..HONEST },
    NETWORK,
    World { name: "network, three", about: "the same with three connections", links: 3, ..NETWORK },
    RELAY,
    World {
        name: "leaked, repeats",
        about: "one connection, with repeated rounds",
        links: 1,
        retries: 2,
        ..RELAY
    },
    World {
        name: "leaked, three",
        about: "the TLS keys of A and B, with three connections, all of them through him",
        cast: Cast::Middle,
        links: 3,
        ..RELAY
    },
    World {
        name: "issuer",
        about: "he also has the issuer's key: any name for any key he has. G's machine is not on the list",
        g: Platform::Foreign,
        loot: Loot { issuer: true, ..LEAKED },
        ..RELAY
    },
    World {
        name: "leaked, callee asks",
        about: "TLS keys leaked, one way, with renewals",
        demands: CALLEE_ASKS,
        rounds: 1,
        renewals: 1,
        ..RELAY
    },
    World {
        name: "leaked, caller asks",
        about: "the other way",
        demands: CALLER_ASKS,
        rounds: 1,
        renewals: 1,
        ..RELAY
    },
    World {
        name: "leaked, nobody asks",
        about: "no way: admission only",
        demands: NOBODY_ASKS,
        renewals: 1,
        ..RELAY
    },
    World {
        name: "replica",
        about: "A calls a replica of itself, and its own key has leaked",
        cast: Cast::Replica,
        ..RELAY
    },
    World {
        name: "replica, nobody asks",
        about: "the same at admission only, with renewals, and the issuer's key",
        cast: Cast::Replica,
        loot: Loot { issuer: true, ..LEAKED },
        demands: NOBODY_ASKS,
        renewals: 1,
        ..RELAY
    },
    RECORDS,
    World { name: "records, renewal", about: "with renewals", rounds: 1, renewals: 1, ..RECORDS },
    World {
        name: "records, callee asks",
        about: "one way, with repeated rounds",
        demands: CALLEE_ASKS,
        retries: 1,
        ..RECORDS
    },
    World {
        name: "records, two renewals",
        about: "one way, with two renewals",
        demands: CALLEE_ASKS,
        rounds: 1,
        renewals: 2,
        ..RECORDS
    },
    World {
        name: "records, nobody asks",
        about: "no way, with renewals",
        demands: NOBODY_ASKS,
        renewals: 1,
        ..RECORDS
    },
    World {
        name: "records, stranger",
        about: "no way, with renewals; no TLS keys, but he calls B by a name of his own too",
        cast: Cast::PairAndStranger,
        loot: Loot { records: true, ..NO_LOOT },
        demands: NOBODY_ASKS,
        links: 2,
        renewals: 1,
        ..RECORDS
    },
    World {
        name: "records, two connections",
        about: "one way, two connections of the same two",
        demands: CALLEE_ASKS,
        links: 2,
        rounds: 0,
        ..RECORDS
    },
];

/// Worlds in which a pair of defences is shown to be needed; weaker than one of
/// the above, so that either of the two still holds.
pub const PAIR_WORLDS: &[World] = &[
    World {
        name: "issuer only",
        about: "the attacker has the issuer's key, and no TLS key but his own",
        loot: Loot { issuer: true, ..NO_LOOT },
        ..NETWORK
    },
    World {
        name: "issuer and two keys",
        about: "he has the issuer's key, and the TLS keys of A and G",
        loot: Loot { keys: &[Key::A1, Key::G1], issuer: true, ..NO_LOOT },
        ..NETWORK
    },
];

/// Worlds that an assumption excludes.
pub const EXCLUDED: &[World] = &[World {
    name: "listed attestation key",
    about: "the attacker has the attestation key of a machine on the list",
    loot: Loot { attestation: Some(Platform::Listed), ..LEAKED },
    ..RELAY
}];

/// The world of this name.
#[must_use]
pub fn named(name: &str) -> Option<World> {
    [WORLDS, PAIR_WORLDS, EXCLUDED].into_iter().flatten().find(|world| world.name == name).copied()
}
