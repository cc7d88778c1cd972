//! What happens when defences are taken out.

use crate::defences::Defence;
use crate::invariants::Invariant;

/// Defences, and the attack without them.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What is taken out. Of several, no part does it in this world.
    pub removed: &'static [Defence],
    /// The world in which the attack is found.
    pub world: &'static str,
    /// What it breaks.
    pub breaks: Invariant,
    /// What the attack is.
    pub attack: &'static str,
}

/// Each defence is in one of them at least.
pub const CASES: &[Case] = &[
    Case {
        removed: &[Defence::Exporter],
        world: "leaked",
        breaks: Invariant::PeerIsTee,
        attack: "Relay: who has the TLS keys ends TLS on both sides and hands genuine evidence on.",
    },
    Case {
        removed: &[Defence::Role],
        world: "network",
        breaks: Invariant::PeerIsTee,
        attack: "Reflection: one's own evidence comes back as the peer's.",
    },
    Case {
        removed: &[Defence::Keys],
        world: "records, renewal",
        breaks: Invariant::Agreement,
        attack: "An Identity frame that is held back goes unnoticed: the ends differ about the key that is in use.",
    },
    Case {
        removed: &[Defence::Keys, Defence::Exporter],
        world: "issuer only",
        breaks: Invariant::PeerIsTee,
        attack: "Relay without any leaked TLS key: without the exporter, the keys are what still tells two connections apart.",
    },
    Case {
        removed: &[Defence::Ids, Defence::Exporter],
        world: "issuer and two keys",
        breaks: Invariant::Named,
        attack: "Unknown key share: the issuer certified one key under two names, and A takes G for `b`.",
    },
    Case {
        removed: &[Defence::Hellos],
        world: "records",
        breaks: Invariant::NoDowngrade,
        attack: "Downgrade: another Hello arrives than was sent.",
    },
    Case {
        removed: &[Defence::Nonce],
        world: "records, callee asks",
        breaks: Invariant::Recency,
        attack: "Evidence that was made before the challenge passes for an answer to it.",
    },
    Case {
        removed: &[Defence::Chain],
        world: "records, callee asks",
        breaks: Invariant::Agreement,
        attack: "The ends go on from different histories: each holds another evidence for the accepted one.",
    },
    Case {
        removed: &[Defence::Round, Defence::Chain],
        world: "records",
        breaks: Invariant::NoSkip,
        attack: "A round is skipped: the prover is a round ahead of the challenger.",
    },
    Case {
        removed: &[Defence::Gate],
        world: "leaked",
        breaks: Invariant::Gate,
        attack: "Bytes for a peer that has proved nothing.",
    },
    Case {
        removed: &[Defence::OpenAwaited],
        world: "honest",
        breaks: Invariant::Gate,
        attack: "Bytes for a peer that has not accepted us yet, without any attacker.",
    },
    Case {
        removed: &[Defence::OpenCompared],
        world: "records",
        breaks: Invariant::Gate,
        attack: "Any Open will do: A opens although B never did.",
    },
    Case {
        removed: &[Defence::OpenKeyed],
        world: "records",
        breaks: Invariant::Gate,
        attack: "Whoever sees the frames can make an Open: A opens although B never did.",
    },
    Case {
        removed: &[Defence::OpenRole],
        world: "records",
        breaks: Invariant::Gate,
        attack: "One's own Open comes back as the peer's.",
    },
    Case {
        removed: &[Defence::Demand],
        world: "honest, callee asks",
        breaks: Invariant::NoFalseCut,
        attack: "None, but no hop either: an end that nobody told of the challenge to come opens too early and is cut.",
    },
    Case {
        removed: &[Defence::Protocol],
        world: "leaked",
        breaks: Invariant::NoDowngrade,
        attack: "Downgrade to a protocol without rounds.",
    },
    Case {
        removed: &[Defence::PeerName],
        world: "network",
        breaks: Invariant::Named,
        attack: "Diversion: A's call is led to G, which is genuine, and not the one that A wants.",
    },
    Case {
        removed: &[Defence::NotMyself],
        world: "replica",
        breaks: Invariant::NotMyself,
        attack: "A's call to a replica is led back to A.",
    },
    Case {
        removed: &[Defence::Platforms],
        world: "leaked",
        breaks: Invariant::Listed,
        attack: "One broken machine anywhere speaks for all.",
    },
    Case {
        removed: &[Defence::IdentitySigned],
        world: "leaked, nobody asks",
        breaks: Invariant::Renewal,
        attack: "Whoever has an old key takes up a newer certificate whose key he does not have, and so outlives the old one.",
    },
    Case {
        removed: &[Defence::IdentityExporter],
        world: "leaked, nobody asks",
        breaks: Invariant::Renewal,
        attack: "The same, with a signature that B made for another connection.",
    },
    Case {
        removed: &[Defence::IdentityName],
        world: "leaked, nobody asks",
        breaks: Invariant::Renewal,
        attack: "A peer becomes somebody else on an open connection.",
    },
    Case {
        removed: &[Defence::IdentityHellos, Defence::IdentityExporter],
        world: "records, stranger",
        breaks: Invariant::Renewal,
        attack: "B's renewal on the attacker's own connection is played into another.",
    },
    Case {
        removed: &[Defence::IdentitySerial, Defence::IdentityOldKey],
        world: "records, two renewals",
        breaks: Invariant::Renewal,
        attack: "An old renewal is played again: the peer's key goes back.",
    },
    Case {
        removed: &[Defence::IdentityRole, Defence::IdentityOldKey, Defence::IdentityNotMine],
        world: "replica, nobody asks",
        breaks: Invariant::Renewal,
        attack: "Reflection: one's own renewal comes back as the peer's.",
    },
    Case {
        removed: &[Defence::KeyPoints],
        world: "honest",
        breaks: Invariant::NoFalseCut,
        attack: "None, but honest hops are cut: a renewal crosses a round, and the ends compute different binders. (Without it, the rule is: our key now; the peer's key now, or that before the renewal if the round was open then.)",
    },
];

impl Case {
    /// Every proper part of what is taken out, but nothing.
    #[must_use]
    pub fn parts(&self) -> Vec<Vec<Defence>> {
        let all = (1u32 << self.removed.len()) - 1;
        let part = |bits: u32| {
            let chosen = self.removed.iter().enumerate().filter(move |(i, _)| bits & (1 << i) != 0);
            chosen.map(|(_, defence)| *defence).collect()
        };
        (1..all).map(part).collect()
    }
}

/// Defences that no attack needs removed alone: another one, or two, stand behind each.
pub fn covered() -> impl Iterator<Item = Defence> {
    let alone = |defence: &Defence| CASES.iter().any(|case| case.removed == [*defence]);
    Defence::ALL.iter().copied().filter(move |defence| !alone(defence))
}
