//! What is known about each proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use countersign_evidence::Denial;
use countersign_ratls::Admission;
use countersign_wire::server::{Peer, Status};
use countersign_wire::{Version, proto};

use crate::cut::Cut;
use crate::metrics::Metrics;

/// The most proxies that are remembered, connected or not.
const MAX_PROXIES: usize = 10_000;
/// How long a proxy that is gone stays in the list, seconds.
const FORGET_AFTER: u64 = 86_400;

/// For how long after it was last seen a namesake is shown.
const NAMESAKE_FOR: Duration = Duration::from_secs(10);

/// Who a proxy is: its SPIFFE ID and its name.
pub(crate) type Name = (String, String);

/// One proxy.
#[derive(Debug)]
pub(crate) struct Record {
    /// The connection that speaks for it; an older one is ignored.
    connection: u64,
    pub(crate) connected: bool,
    pub(crate) peer: Peer,
    pub(crate) admission: Arc<Admission>,
    pub(crate) address: SocketAddr,
    pub(crate) status: Status,
    pub(crate) last_seen: u64,
    /// When another connection of this name was last seen, besides the one that counts.
    namesake: Option<Instant>,
    /// Why it is not admitted any more.
    refused: Option<String>,
    /// Whom it refused last, or who refused it.
    last_refusal: Option<proto::Refusal>,
    /// When it was first seen, by the clock of durations.
    since: Instant,
    /// The last generation that it came to use, or had when it was first seen.
    converged: u64,
}

/// All proxies.
#[derive(Debug, Default)]
pub(crate) struct Proxies(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    connections: u64,
    /// How many of the records are connected.
    connected: usize,
    records: BTreeMap<Name, Record>,
}

/// How far a proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It has the current generation and rejects nothing.
    Synced,
    /// It has not answered the current generation, or is gone.
    Stale,
    /// It rejects something of what it answered.
    Nacked,
    /// It has seen a generation that we do not have.
    Ahead,
    /// It is not admitted any more.
    Refused,
}

impl State {
    pub(crate) const ALL: [Self; 5] = [Self::Synced, Self::Stale, Self::Nacked, Self::Ahead, Self::Refused];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Stale => "stale",
            Self::Nacked => "nacked",
            Self::Ahead => "ahead",
            Self::Refused => "refused",
        }
    }
}

impl Record {
    pub(crate) fn id(&self) -> &str {
        self.admission.presented.id.as_ref().map_or("", |id| id.as_str())
    }

    pub(crate) fn state(&self, generation: u64) -> State {
        if self.refused.is_some() {
            State::Refused
        } else if self.status.ahead.is_some() {
            State::Ahead
        } else if !self.status.rejected.is_empty() {
            State::Nacked
        } else if self.connected && self.acked() == generation {
            State::Synced
        } else {
            State::Stale
        }
    }

    pub(crate) fn acked(&self) -> u64 {
        self.status.acked.as_ref().map_or(0, |snapshot| snapshot.generation())
    }

    /// Whether it applied exactly this version of an entry.
    pub(crate) fn applied(&self, name: &str, version: Version) -> bool {
        let has = self.status.acked.as_ref().and_then(|snapshot| snapshot.entries().get(name));
        has.is_some_and(|entry| entry.version() == version) && !self.status.rejected.contains_key(name)
    }

    fn svid_not_after(&self) -> u64 {
        match self.status.identity_not_after {
            0 => self.admission.presented.not_after,
            seconds => seconds,
        }
    }

    pub(crate) fn to_proto(&self, generation: u64) -> proto::ProxyStatus {
        let claims = self.admission.claims.as_ref();
        proto::ProxyStatus {
            name: self.peer.proxy.clone(),
            workload: self.peer.workload.clone(),
            spiffe_id: self.id().to_owned(),
            connected: self.connected,
            generation_sent: self.status.sent,
            generation_acked: self.acked(),
            generation_in_use: self.status.in_use,
            rejected: self
                .status
                .rejected
                .iter()
                .map(|(name, (_, reason))| proto::Rejected { name: name.clone(), reason: reason.clone() })
                .collect(),
            tee: claims.map_or("", |claims| claims.tee.name()).to_owned(),
            emulated: claims.is_some_and(|claims| claims.emulated),
            svid_not_after: self.svid_not_after(),
            last_seen: self.last_seen,
            hops: self.status.hops,
            software: self.peer.software.clone(),
            state: self.state(generation).name().to_owned(),
            address: self.address.to_string(),
            refused: self.refused.clone().unwrap_or_default(),
            generation_seen: self.status.ahead.unwrap_or_default(),
            offers: self.peer.offers.clone(),
            namesake: self.namesake.is_some_and(|seen| seen.elapsed() < NAMESAKE_FOR),
            last_refusal: self.last_refusal.clone(),
        }
    }
}

impl Proxies {
    /// A proxy connected. Returns the number of its connection; `None` when there are too many.
    pub(crate) fn connected(
        &self,
        peer: Peer,
        admission: Arc<Admission>,
        address: SocketAddr,
        now: u64,
    ) -> Option<(Name, u64)> {
        let id = admission.presented.id.as_ref()?.as_str().to_owned();
        let name = (id, peer.proxy.clone());
        let mut inner = self.lock();
        inner.forget(now);
        if inner.records.len() >= MAX_PROXIES && !inner.records.contains_key(&name) {
            return None;
        }
        inner.connections += 1;
        let connection = inner.connections;
        let known = inner.records.get(&name).map(|record| (record.since, record.converged));
        let last_refusal = inner.records.get(&name).and_then(|record| record.last_refusal.clone());
        let (since, converged) = known.unwrap_or_else(|| (Instant::now(), peer.generation));
        let status = Status::default();
        let record = Record {
            connection,
            connected: true,
            peer,
            admission,
            address,
            status,
            last_seen: now,
            namesake: None,
            refused: None,
            last_refusal,
            since,
            converged,
        };
        let before = inner.records.insert(name.clone(), record);
        inner.connected += usize::from(before.is_none_or(|record| !record.connected));
        Some((name, connection))
    }

    /// A connection has news of its proxy.
    pub(crate) fn heard(&self, name: &Name, connection: u64, status: &Status, now: u64) {
        if let Some(record) = self.lock().records.get_mut(name).filter(|r| r.connection == connection) {
            record.status.clone_from(status);
            record.last_seen = now;
        }
    }

    /// A connection tells of whom its proxy refused, the newest first.
    pub(crate) fn told(&self, name: &Name, connection: u64, refusals: &[proto::Refusal]) {
        // Nobody but who has proved who he is gets his name shown to everybody.
        let Some(last) = refusals.iter().find(|refusal| refusal.proved) else { return };
        if let Some(record) = self.lock().records.get_mut(name).filter(|r| r.connection == connection) {
            record.last_refusal = Some(last.clone());
        }
    }

    /// A proxy uses `generation`, which was published at `published`. How long that
    /// took it, in all, the first time that it says so: it repeats itself with
    /// every other news, and over another connection.
    pub(crate) fn converged(&self, name: &Name, generation: u64, published: Instant) -> Option<Duration> {
        let mut inner = self.lock();
        let record = inner.records.get_mut(name).filter(|record| record.converged < generation)?;
        record.converged = generation;
        // Nobody waited for a proxy that was not there yet.
        Some(published.max(record.since).elapsed())
    }

    /// The proxy of a connection is not admitted any more, and why, or it is again.
    pub(crate) fn judged(&self, name: &Name, connection: u64, denial: Option<&Denial>) {
        if let Some(record) = self.lock().records.get_mut(name).filter(|r| r.connection == connection) {
            record.refused = denial.map(ToString::to_string);
        }
    }

    /// Somebody with this SPIFFE ID was not admitted. Nobody has proved yet to have
    /// its key, so this counts only for those who are away, and is only shown.
    pub(crate) fn turned_away(&self, id: &str, denial: &Denial) {
        let mut inner = self.lock();
        let away = inner.records.iter_mut().filter(|((owner, _), record)| owner == id && !record.connected);
        for (_, record) in away {
            record.refused = Some(denial.to_string());
        }
    }

    /// Whether a connection that goes on does not count any more, because another one
    /// of the same name came after it.
    pub(crate) fn is_overtaken(&self, name: &Name, connection: u64) -> bool {
        self.lock().records.get(name).is_some_and(|record| record.connection != connection)
    }

    /// Two proxies have one name: the connection of the other one stays.
    pub(crate) fn namesakes(&self, name: &Name, now: Instant) {
        if let Some(record) = self.lock().records.get_mut(name) {
            record.namesake = Some(now);
        }
    }

    /// A connection ended. Whether the proxy is gone with it: it may have another one.
    pub(crate) fn gone(&self, name: &Name, connection: u64, now: u64) -> bool {
        let mut inner = self.lock();
        let Some(record) = inner.records.get_mut(name).filter(|r| r.connection == connection) else {
            return false;
        };
        record.connected = false;
        record.status.hops = 0;
        record.last_seen = now;
        inner.connected = inner.connected.saturating_sub(1);
        true
    }

    /// How many are connected.
    pub(crate) fn connected_now(&self) -> usize {
        self.lock().connected
    }

    /// Everybody who is connected, for those who watch.
    pub(crate) fn present(&self, now: u64) -> Vec<proto::ProxyAttestation> {
        let inner = self.lock();
        inner.records.values().filter(|r| r.connected).map(|r| news(&r.peer, true, None, now)).collect()
    }

    /// Looks at all records.
    pub(crate) fn each<T>(&self, look: impl FnMut(&Record) -> T) -> Vec<T> {
        self.lock().records.values().map(look).collect()
    }

    /// The proxies of this identity that are connected, the last seen first, at most `most`.
    pub(crate) fn of(&self, id: &str, generation: u64, most: usize) -> Vec<proto::ProxyStatus> {
        let inner = self.lock();
        let mut records: Vec<_> = inner.records.values().filter(|r| r.connected && r.id() == id).collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.last_seen));
        records.into_iter().take(most).map(|record| record.to_proto(generation)).collect()
    }

    /// Those who tell what their hops prove and whom they refuse, by workload and name.
    pub(crate) fn telling(&self) -> BTreeSet<(String, String)> {
        let telling = |record: &&Record| record.connected && record.peer.reports;
        let name = |record: &Record| (record.peer.workload.clone(), record.peer.proxy.clone());
        self.lock().records.values().filter(telling).map(name).collect()
    }

    /// A proxy as it is when `generation` is the newest, and its admission; by SPIFFE ID,
    /// proxy name or workload.
    pub(crate) fn find(&self, what: &str, generation: u64) -> Option<(proto::ProxyStatus, Arc<Admission>)> {
        let inner = self.lock();
        let names = |r: &&Record| r.id() == what || r.peer.proxy == what || r.peer.workload == what;
        let record = inner.records.values().filter(names).max_by_key(|r| (r.connected, r.last_seen))?;
        Some((record.to_proto(generation), Arc::clone(&record.admission)))
    }

    /// Counts by state.
    pub(crate) fn measure(&self, metrics: &Metrics, cut: &Cut) {
        let generation = cut.snapshot.generation();
        let states = self.each(|record| record.state(generation));
        for state in State::ALL {
            metrics.proxies(state.name(), states.iter().filter(|s| **s == state).count());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What those who watch are told of a proxy.
pub(crate) fn news(
    peer: &Peer,
    connected: bool,
    attestation: Option<proto::Attestation>,
    now: u64,
) -> proto::ProxyAttestation {
    proto::ProxyAttestation {
        proxy: peer.proxy.clone(),
        workload: peer.workload.clone(),
        connected,
        reports: peer.reports,
        attestation,
        now,
    }
}

impl Inner {
    fn forget(&mut self, now: u64) {
        self.records.retain(|_, r| r.connected || r.last_seen.saturating_add(FORGET_AFTER) > now);
    }
}
