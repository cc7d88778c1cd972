//! Whom this proxy refused lately, and who refused it: the newest of each peer and
//! reason, for `/attestation` and, when it is asked, for the control plane.
//!
//! Who is refused often pushes nobody else out: each peer has so many entries, and
//! those who have not proved to have the key of the certificate that they show are
//! in a bin of their own. What their certificates say of them counts only where it
//! was signed by the authority of a trust domain; all others are one peer.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use countersign_config::View;
use countersign_evidence::{Denial, Reason};
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::Role;
use countersign_ratls::throttle::{Repeats, Say};

/// Entries of those who have proved who they are, and of one of them.
const PROVED: usize = 64;
const OF_ONE: usize = 4;
/// Entries of all others together.
const STRANGERS: usize = 16;
/// Who has no name that anybody vouches for.
const UNKNOWN: &str = "unknown";

/// How far a peer came that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its certificate was judged.
    Handshake,
    /// It was to prove itself for the connection.
    Gate,
    /// Its connection was open.
    Hop,
    /// It asked for a stream.
    Stream,
}

impl Stage {
    /// As operators read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Gate => "gate",
            Self::Hop => "hop",
            Self::Stream => "stream",
        }
    }
}

/// A peer that was refused, or that refused us, for one reason.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The side of the peer.
    pub role: Role,
    /// SPIFFE ID, or `unknown`.
    pub peer: String,
    /// Whether it had proved to have the key of its certificate.
    pub proved: bool,
    /// How far it came.
    pub stage: Stage,
    /// Whether the peer refused us.
    pub by_peer: bool,
    /// Why.
    pub denial: Denial,
    /// The generation in use when it happened last.
    pub generation: u64,
    /// When it happened first and last, seconds since the epoch.
    pub first: u64,
    /// See `first`.
    pub last: u64,
    /// How often.
    pub times: u64,
}

/// Who is refused, or refuses us, and how far he came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer<'a> {
    role: Role,
    id: Option<&'a SpiffeId>,
    stage: Stage,
    refuses: bool,
}

impl<'a> Peer<'a> {
    /// A peer in `role` that has proved to be `id`.
    pub(crate) const fn proved(role: Role, id: Option<&'a SpiffeId>, stage: Stage) -> Self {
        Self { role, id, stage, refuses: false }
    }

    /// A peer in `role` that has proved to be `id`, and refuses us.
    pub(crate) const fn refusing(role: Role, id: &'a SpiffeId, stage: Stage) -> Self {
        Self { role, id: Some(id), stage, refuses: true }
    }

    /// A peer in `role` that shows a certificate of `id`: no more is known of it.
    pub(crate) const fn claiming(role: Role, id: Option<&'a SpiffeId>) -> Self {
        Self { role, id, stage: Stage::Handshake, refuses: false }
    }
}

/// What was said last of something that fails again and again.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    last: Option<Denial>,
    repeats: Repeats,
}

impl Echo {
    /// What to write of this failure.
    pub(crate) fn say(&mut self, denial: &Denial, now: u64) -> Say {
        let same = self.last.as_ref() == Some(denial);
        self.last = Some(denial.clone());
        self.repeats.say(same, now)
    }

    /// It succeeded: the next failure is told in full.
    pub(crate) fn forget(&mut self) {
        self.last = None;
    }
}

/// The record.
#[derive(Debug)]
pub struct Refused {
    view: Arc<ArcSwap<View>>,
    bins: Mutex<Bins>,
}

#[derive(Debug)]
struct Bins {
    proved: Bin,
    strangers: Bin,
    /// Whoever did not even show a certificate, by address: only for the log.
    addresses: Bin,
}

#[derive(Debug)]
struct Bin {
    entries: Vec<Entry>,
    most: usize,
}

#[derive(Debug)]
struct Entry {
    refusal: Refusal,
    repeats: Repeats,
}

impl Refused {
    /// An empty one, of a proxy that decides by this view.
    #[must_use]
    pub fn new(view: Arc<ArcSwap<View>>) -> Self {
        let bin = |most| Bin { entries: Vec::new(), most };
        let bins = Bins { proved: bin(PROVED), strangers: bin(STRANGERS), addresses: bin(STRANGERS) };
        Self { view, bins: Mutex::new(bins) }
    }

    /// Takes down a refusal at `now` (seconds since the epoch). Answers what to
    /// write to the log of it.
    pub(crate) fn note(&self, peer: Peer<'_>, denial: &Denial, now: u64) -> Say {
        if denial.reason == Reason::Draining {
            // Who finds us on our way out is not refused.
            return Say::InFull;
        }
        let proved = peer.stage != Stage::Handshake;
        let id = peer.id.filter(|_| proved || is_certified(denial.reason));
        let refusal = Refusal {
            role: peer.role,
            peer: id.map_or(UNKNOWN, SpiffeId::as_str).to_owned(),
            proved,
            stage: peer.stage,
            // Who ends the connection without a word is not refused by us.
            by_peer: peer.refuses || matches!(denial.reason, Reason::PeerRefused | Reason::ChannelClosed),
            denial: denial.clone(),
            generation: self.view.load().generation,
            first: now,
            last: now,
            times: 1,
        };
        let mut bins = self.lock();
        let bin = if proved { &mut bins.proved } else { &mut bins.strangers };
        bin.note(refusal)
    }

    /// As [`note`](Refused::note), of a connection of which nothing is known but
    /// where it came from. It is not kept for others to read.
    pub(crate) fn stranger(&self, address: IpAddr, denial: &Denial, now: u64) -> Say {
        let refusal = Refusal {
            role: Role::Client,
            peer: address.to_string(),
            proved: false,
            stage: Stage::Handshake,
            by_peer: false,
            denial: denial.clone(),
            generation: 0,
            first: now,
            last: now,
            times: 1,
        };
        self.lock().addresses.note(refusal)
    }

    /// Everything, the newest first: of those who have proved who they are, then of others.
    #[must_use]
    pub fn all(&self) -> Vec<Refusal> {
        let bins = self.lock();
        [&bins.proved, &bins.strangers].into_iter().flat_map(Bin::newest_first).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Bins> {
        self.bins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a certificate that is refused for this is one that an authority signed.
const fn is_certified(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::SvidInvalid | Reason::SvidUntrusted | Reason::SvidExpired | Reason::CertificateRequired
    )
}

impl Refusal {
    fn is_of(&self, other: &Self) -> bool {
        (self.role, self.by_peer, self.denial.reason) == (other.role, other.by_peer, other.denial.reason)
            && self.peer == other.peer
    }

    /// Whether both say the same: policies get a new generation with every change.
    fn says_the_same(&self, other: &Self) -> bool {
        let policy = |refusal: &Self| {
            let policy = refusal.denial.policy.as_ref();
            policy.map(|policy| (policy.namespace.clone(), policy.name.clone()))
        };
        self.stage == other.stage
            && self.denial.rule == other.denial.rule
            && self.denial.findings == other.denial.findings
            && policy(self) == policy(other)
    }
}

impl Bin {
    fn note(&mut self, mut refusal: Refusal) -> Say {
        let now = refusal.last;
        if let Some(index) = self.entries.iter().position(|entry| entry.refusal.is_of(&refusal)) {
            // The newest are at the end.
            let mut entry = self.entries.remove(index);
            refusal.first = entry.refusal.first;
            refusal.times = entry.refusal.times.saturating_add(1);
            let say = entry.repeats.say(entry.refusal.says_the_same(&refusal), now);
            entry.refusal = refusal;
            self.entries.push(entry);
            return say;
        }
        let mut own = self.entries.iter().enumerate().filter(|(_, entry)| entry.refusal.peer == refusal.peer);
        let oldest = own.next().map(|(index, _)| index);
        if let Some(oldest) = oldest.filter(|_| own.count() + 1 >= OF_ONE) {
            self.entries.remove(oldest);
        } else if self.entries.len() >= self.most {
            self.entries.remove(0);
        }
        let mut repeats = Repeats::default();
        let say = repeats.say(false, now);
        self.entries.push(Entry { refusal, repeats });
        say
    }

    fn newest_first(&self) -> impl Iterator<Item = Refusal> {
        self.entries.iter().rev().map(|entry| entry.refusal.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_evidence::policy::PolicyRef;
    use countersign_evidence::{Finding, UnixTime};

    fn record() -> Refused {
        let inputs = countersign_config::Inputs {
            generation: 7,
            resources: Vec::new(),
            bundles: Vec::new(),
            collateral: Vec::new(),
        };
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1));
        Refused::new(Arc::new(ArcSwap::from_pointee(View::build(inputs, &mut Default::default(), now).view)))
    }

    fn id(name: usize) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://prod.example/{name}")).unwrap()
    }

    fn denial(reason: Reason) -> Denial {
        Finding::new(reason, "field", "expected", "presented").into()
    }

    #[test]
    fn the_same_refusal_is_one_entry_with_a_count_and_is_told_once() {
        let refused = record();
        let peer = id(1);
        let note = |generation, now| {
            let policy = PolicyRef { namespace: "n".into(), name: "p".into(), generation };
            let denial = Denial { policy: Some(policy), ..denial(Reason::EventNotAdmitted) };
            refused.note(Peer::proved(Role::Client, Some(&peer), Stage::Gate), &denial, now)
        };
        assert_eq!(note(1, 100), Say::InFull);
        assert_eq!((note(1, 101), note(2, 102)), (Say::Nothing, Say::Nothing));
        assert_eq!(note(2, 110), Say::Again { times: 3, seconds: 10 });
        let all = refused.all();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].first, all[0].last, all[0].times, all[0].generation), (100, 110, 4, 7));
        assert!(all[0].proved && !all[0].by_peer && all[0].peer.ends_with("/1"));
        // Another field is another story, and the other direction another entry.
        let other = Finding::new(Reason::EventNotAdmitted, "another", "expected", "presented").into();
        let gate = |role| Peer::proved(role, Some(&peer), Stage::Gate);
        assert_eq!(refused.note(gate(Role::Client), &other, 111), Say::InFull);
        assert_eq!(refused.note(gate(Role::Server), &other, 111), Say::InFull);
        assert_eq!(refused.all().len(), 2);
        let told = refused.note(gate(Role::Server), &denial(Reason::PeerRefused), 112);
        assert!(told == Say::InFull && refused.all()[0].by_peer);
    }

    #[test]
    fn who_is_refused_for_ever_new_reasons_pushes_nobody_else_out() {
        let refused = record();
        let (honest, noisy) = (id(1), id(2));
        let gate = |id: &SpiffeId, reason, now| {
            refused.note(Peer::proved(Role::Client, Some(id), Stage::Gate), &denial(reason), now);
        };
        gate(&honest, Reason::EventNotAdmitted, 1);
        for reason in Reason::ALL {
            gate(&noisy, *reason, 2);
        }
        let all = refused.all();
        assert_eq!(all.len(), 1 + OF_ONE);
        assert_eq!(all[OF_ONE].peer, honest.as_str());
        assert_eq!(all[0].denial.reason, *Reason::ALL.last().unwrap(), "its newest are kept");
        (10..10 + 2 * PROVED).for_each(|n| gate(&id(n), Reason::Debug, 3));
        assert_eq!(refused.all().len(), PROVED);
    }

    #[test]
    fn strangers_do_not_flush_the_record_whatever_their_certificates_say() {
        let refused = record();
        let honest = id(1);
        let event = denial(Reason::EventNotAdmitted);
        refused.note(Peer::proved(Role::Client, Some(&honest), Stage::Gate), &event, 1);
        for n in 0..1000 {
            for reason in [Reason::SvidUntrusted, Reason::MeasurementMismatch, Reason::SvidInvalid] {
                refused.note(Peer::claiming(Role::Client, Some(&id(n))), &denial(reason), 2);
            }
        }
        let all = refused.all();
        assert_eq!(all.len(), 1 + STRANGERS);
        assert_eq!((all[0].peer.as_str(), all[0].proved), (honest.as_str(), true));
        assert!(all[1..].iter().all(|refusal| !refusal.proved));
        // Whom nobody vouches for has no name, and is one peer.
        let nameless: Vec<_> = all.iter().filter(|refusal| refusal.peer == UNKNOWN).collect();
        assert_eq!(nameless.iter().map(|refusal| refusal.times).collect::<Vec<_>>(), [1000, 1000]);
    }
}
