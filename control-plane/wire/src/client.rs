//! The proxy's side of the delta protocol.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use countersign_ratls::Bundle;

use crate::proto::{self, control_message, proxy_message};
use crate::refusal::cut;
use crate::snapshot::{Entries, Entry, Snapshot, SnapshotError, Unverified, check_limits};
use crate::{MAX_ENTRIES, MAX_REASON, MAX_REPORTED_HOPS, MAX_REPORTED_REFUSALS, MAX_SNAPSHOT, MAX_WATCH};

/// What a message brought.
#[derive(Clone, Debug)]
pub enum Event {
    /// A new generation, verified. Answer with [`Subscription::ack`] once it is
    /// compiled, and with [`Subscription::in_use`] once the data path uses it.
    Snapshot(Arc<Snapshot>),
    /// The generation that we have is the current one. Answer likewise: the
    /// control plane may have forgotten what we made of it.
    Current(Arc<Snapshot>),
    /// Somebody watches what our hops prove: answer with [`Subscription::attestation`].
    Watch(Watch),
    /// Somebody wants our peers to prove themselves at once.
    Attest {
        /// SPIFFE ID; empty for all.
        peer: String,
    },
}

/// How to report what our hops prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// How often.
    pub every: Duration,
    /// For how long from now.
    pub lasting: Duration,
    /// How many hops at most.
    pub hops: usize,
    /// How many refusals at most. Above 0 the first answer is waited for.
    pub refusals: usize,
}

impl Watch {
    /// What is asked for, within the limits of both sides.
    fn bounded(asked: proto::Watch) -> Self {
        let count = |asked: u32| usize::try_from(asked).unwrap_or(usize::MAX);
        Self {
            every: Duration::from_secs(asked.every_seconds.clamp(1, MAX_WATCH).into()),
            lasting: Duration::from_secs(asked.for_seconds.min(MAX_WATCH).into()),
            hops: count(asked.hops).min(MAX_REPORTED_HOPS),
            refusals: count(asked.refusals).min(MAX_REPORTED_REFUSALS),
        }
    }
}

/// A subscription over all connections that it takes. The last verified
/// snapshot stays, whatever a control plane sends.
#[derive(Debug)]
pub struct Subscription {
    bundle: Bundle,
    current: Option<Arc<Snapshot>>,
    staged: Option<Staged>,
    /// Names that changed since the last [`Subscription::ack`].
    changed: BTreeSet<Arc<str>>,
    offers: Option<proto::Offer>,
}

#[derive(Debug)]
struct Staged {
    generation: u64,
    entries: Entries,
    changed: BTreeSet<Arc<str>>,
    bytes: usize,
}

impl Subscription {
    /// A subscription that trusts `bundle` and has `last`, if there is one.
    #[must_use]
    pub const fn new(bundle: Bundle, last: Option<Arc<Snapshot>>) -> Self {
        Self { bundle, current: last, staged: None, changed: BTreeSet::new(), offers: None }
    }

    /// The last verified snapshot.
    #[must_use]
    pub const fn current(&self) -> Option<&Arc<Snapshot>> {
        self.current.as_ref()
    }

    /// Trusts another bundle of the trust domain from now on.
    pub fn trust(&mut self, bundle: Bundle) {
        self.bundle = bundle;
    }

    /// Where our workload can be called; for whoever asks why a call fails.
    pub fn offers(&mut self, ports: &[u16]) {
        self.offers = Some(proto::Offer { ports: ports.iter().copied().map(u32::from).collect() });
    }

    /// The first message of a connection. Forgets what the last one left half done.
    pub fn hello(&mut self, proxy: &str, workload: &str, software: &str) -> proto::ProxyMessage {
        self.staged = None;
        self.changed.clear();
        let known = self.entries().map(|(name, entry)| proto::Known {
            name: name.as_ref().to_owned(),
            version: entry.version().to_string(),
        });
        wrap(proxy_message::Message::Hello(proto::Hello {
            proxy: proxy.to_owned(),
            workload: workload.to_owned(),
            software: software.to_owned(),
            generation: self.generation(),
            known: known.collect(),
            reports: true,
            offers: self.offers.clone(),
        }))
    }

    /// Takes a message of the control plane. After an error the connection must
    /// be closed; what was current before stays current.
    ///
    /// # Errors
    /// When the message breaks the protocol, a limit, or the snapshot is not to
    /// be trusted (signature, trust domain, rollback).
    pub fn feed(&mut self, message: proto::ControlMessage) -> Result<Option<Event>, SnapshotError> {
        let outcome = match message.message {
            Some(control_message::Message::Update(update)) => self.update(update).map(|()| None),
            Some(control_message::Message::Complete(complete)) => self.complete(complete).map(Some),
            Some(control_message::Message::Watch(watch)) => Ok(Some(Event::Watch(Watch::bounded(watch)))),
            Some(control_message::Message::Attest(attest)) => Ok(Some(Event::Attest { peer: attest.peer })),
            None => Err(SnapshotError::Malformed("an empty message".into())),
        };
        if outcome.is_err() {
            self.staged = None;
        }
        outcome
    }

    /// The answer to the current snapshot: `rejected` are the entries that could
    /// not be used, by name, with the reason. `None` when there is no snapshot.
    pub fn ack(&mut self, rejected: &[(String, String)]) -> Option<proto::ProxyMessage> {
        let current = self.current.as_ref()?;
        let mut results: Vec<_> = rejected
            .iter()
            .take(MAX_ENTRIES)
            .filter_map(|(name, reason)| {
                let version = current.entries().get(name.as_str())?.version().to_string();
                let reason = if reason.is_empty() { "not usable" } else { cut(reason, MAX_REASON) };
                Some(proto::EntryResult { name: name.clone(), version, rejected: reason.to_owned() })
            })
            .collect();
        for name in std::mem::take(&mut self.changed) {
            let Some(entry) = current.entries().get(&name) else { continue };
            if !rejected.iter().any(|(rejected, _)| **rejected == *name) {
                results.push(proto::EntryResult {
                    name: name.as_ref().to_owned(),
                    version: entry.version().to_string(),
                    rejected: String::new(),
                });
            }
        }
        Some(wrap(proxy_message::Message::Ack(proto::Ack { generation: current.generation(), results })))
    }

    /// The report that the data path uses `generation`.
    #[must_use]
    pub fn in_use(generation: u64, hops: u64, identity_not_after: u64) -> proto::ProxyMessage {
        wrap(proxy_message::Message::InUse(proto::InUse { generation, hops, identity_not_after }))
    }

    /// What our hops prove: `hops` of `total`, and, if they were asked for, the last
    /// refusals. No more of them travel than may.
    #[must_use]
    pub fn attestation(
        total: u64,
        mut hops: Vec<proto::HopAttestation>,
        refusals: Option<Vec<proto::Refusal>>,
    ) -> proto::ProxyMessage {
        hops.truncate(MAX_REPORTED_HOPS);
        let with_refusals = refusals.is_some();
        let mut refusals = refusals.unwrap_or_default();
        refusals.truncate(MAX_REPORTED_REFUSALS);
        wrap(proxy_message::Message::Attestation(proto::Attestation { total, hops, refusals, with_refusals }))
    }

    fn update(&mut self, update: proto::Update) -> Result<(), SnapshotError> {
        let mut staged = match self.staged.take() {
            Some(staged) => staged,
            None => Staged::begin(update.generation, self.current.as_deref()),
        };
        staged.take(update)?;
        self.staged = Some(staged);
        Ok(())
    }

    fn complete(&mut self, complete: proto::SnapshotComplete) -> Result<Event, SnapshotError> {
        let staged = match self.staged.take() {
            Some(staged) => staged,
            None => Staged::begin(complete.generation, self.current.as_deref()),
        };
        staged.belongs_to(complete.generation)?;
        let snapshot = Unverified::new(
            self.bundle.trust_domain.clone(),
            complete.generation,
            staged.entries,
            complete.signature,
            complete.kid,
        )
        .verify(&self.bundle)?;
        if let Some(current) = &self.current {
            snapshot.may_follow(current)?;
            if snapshot.generation() == current.generation() {
                return Ok(Event::Current(Arc::clone(current)));
            }
        }
        let snapshot = Arc::new(snapshot);
        self.changed.extend(staged.changed);
        self.current = Some(Arc::clone(&snapshot));
        Ok(Event::Snapshot(snapshot))
    }

    fn entries(&self) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        self.current.iter().flat_map(|snapshot| snapshot.entries())
    }

    fn generation(&self) -> u64 {
        self.current.as_ref().map_or(0, |snapshot| snapshot.generation())
    }
}

impl Staged {
    fn begin(generation: u64, base: Option<&Snapshot>) -> Self {
        let entries = base.map(|snapshot| snapshot.entries().clone()).unwrap_or_default();
        let bytes = entries.values().map(|e| e.body().len()).sum();
        Self { generation, entries, changed: BTreeSet::new(), bytes }
    }

    fn belongs_to(&self, generation: u64) -> Result<(), SnapshotError> {
        if self.generation == generation {
            return Ok(());
        }
        let half = self.generation;
        Err(SnapshotError::Malformed(format!("generation {generation} begins before {half} is complete")))
    }

    fn take(&mut self, update: proto::Update) -> Result<(), SnapshotError> {
        self.belongs_to(update.generation)?;
        for name in update.removals {
            if let Some((name, entry)) = self.entries.remove_entry(name.as_str()) {
                self.bytes = self.bytes.saturating_sub(entry.body().len());
                self.changed.insert(name);
            }
        }
        for entry in update.upserts {
            let (name, entry) = Entry::read(entry)?;
            self.bytes += entry.body().len();
            if let Some(old) = self.entries.insert(Arc::clone(&name), entry) {
                self.bytes = self.bytes.saturating_sub(old.body().len());
            }
            self.changed.insert(name);
        }
        // Before the signature is seen: memory is bounded whoever sends.
        if self.bytes > MAX_SNAPSHOT
            || self.entries.len() > MAX_ENTRIES
            || self.changed.len() > 2 * MAX_ENTRIES
        {
            check_limits(&self.entries)?;
            let presented = self.changed.len();
            return Err(SnapshotError::Oversized { what: "changes", limit: 2 * MAX_ENTRIES, presented });
        }
        Ok(())
    }
}

const fn wrap(message: proxy_message::Message) -> proto::ProxyMessage {
    proto::ProxyMessage { message: Some(message) }
}
