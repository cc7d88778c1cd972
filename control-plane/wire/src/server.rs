//! The control plane's side of the delta protocol, for one proxy.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::name::is_well_formed;
use crate::proto::{self, control_message, proxy_message};
use crate::snapshot::{Snapshot, Version};
use crate::{
    MAX_ENTRIES, MAX_REASON, MAX_REPORTED_DENIAL, MAX_REPORTED_HOPS, MAX_REPORTED_REFUSALS, refusal,
};

/// An update is closed when its bodies and names exceed this, bytes.
const CHUNK: usize = 256 << 10;
/// The most policies of a hop in a report, and its longest text: a SPIFFE ID.
const MAX_POLICIES: usize = 64;
const MAX_TEXT: usize = 2048;
/// The most ports that a proxy offers: all.
const MAX_PORTS: usize = 65_536;
/// The longest name of a proxy or a workload, and the longest version string.
const MAX_LABEL: usize = 512;

/// How a proxy breaks the protocol. The stream must be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A message came out of turn.
    #[error("{0}")]
    OutOfTurn(&'static str),
    /// A field is malformed or over its limit.
    #[error("{field} is malformed or too long")]
    Field {
        /// The field.
        field: &'static str,
    },
    /// A generation that was never sent to this proxy.
    #[error("generation {presented} was answered, {expected} was sent")]
    Generation {
        /// The generation that may be answered.
        expected: u64,
        /// The one that was.
        presented: u64,
    },
}

/// Who is on the other side.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// The name in `countersign status`.
    pub proxy: String,
    /// `namespace/name` of its WorkloadIdentity.
    pub workload: String,
    /// Its software version.
    pub software: String,
    /// The generation that it had when it connected.
    pub generation: u64,
    /// Whether it tells what its hops prove.
    pub reports: bool,
    /// Where its workload can be called, if it says so.
    pub offers: Option<proto::Offer>,
}

/// What a message of the proxy means.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// It introduced itself. Refuse it here if it is not who its certificate says.
    Hello(Peer),
    /// It has taken a generation; see [`Session::status`] for what it rejected.
    Acked(u64),
    /// Its data path uses a generation.
    InUse(u64),
    /// What its hops prove.
    Attested(proto::Attestation),
}

/// What is known about the proxy.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The last generation that was sent completely; 0 for none.
    pub sent: u64,
    /// The last snapshot that it answered.
    pub acked: Option<Arc<Snapshot>>,
    /// The generation that its data path uses; 0 when it did not say.
    pub in_use: u64,
    /// What it rejects of the acknowledged snapshot: name, version, reason.
    pub rejected: BTreeMap<String, (Version, String)>,
    /// Live hops.
    pub hops: u64,
    /// notAfter of its SVID, as it says; 0 when it did not say.
    pub identity_not_after: u64,
    /// It has seen a generation that we do not have, and will refuse ours: the
    /// control plane's store was restored from a backup, or this is not the one.
    pub ahead: Option<u64>,
}

/// A session with one proxy. Feed it what arrives, offer it what is current,
/// send what [`Session::poll`] gives.
#[derive(Debug, Default)]
pub struct Session {
    peer: Option<Peer>,
    /// What the proxy has.
    base: BTreeMap<Arc<str>, Version>,
    /// The snapshot on its way to the proxy.
    flight: Option<Flight>,
    /// The newest that was offered and is not on its way yet.
    offered: Option<Arc<Snapshot>>,
    /// What to ask the proxy for, and whether it was ever asked.
    watch: Option<proto::Watch>,
    watched: bool,
    /// What peers are to prove themselves.
    attest: Option<proto::Attest>,
    status: Status,
}

#[derive(Debug)]
struct Flight {
    snapshot: Arc<Snapshot>,
    upserts: VecDeque<Arc<str>>,
    removals: VecDeque<Arc<str>>,
    complete: bool,
}

impl Session {
    /// A session with somebody who has not said Hello yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Who it is, after Hello.
    #[must_use]
    pub const fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// What is known about it.
    #[must_use]
    pub const fn status(&self) -> &Status {
        &self.status
    }

    /// Whether a snapshot was sent that the proxy has not answered.
    #[must_use]
    pub const fn awaits_ack(&self) -> bool {
        matches!(&self.flight, Some(Flight { complete: true, .. }))
    }

    /// Whether nothing is left to send: the newest snapshot that was offered has
    /// been sent completely, or the proxy would refuse it.
    #[must_use]
    pub const fn is_up_to_date(&self) -> bool {
        self.offered.is_none() && matches!(&self.flight, None | Some(Flight { complete: true, .. }))
    }

    /// Takes a message of the proxy.
    ///
    /// # Errors
    /// When it breaks the protocol.
    pub fn feed(&mut self, message: proto::ProxyMessage) -> Result<Heard, ProtocolError> {
        match message.message {
            Some(proxy_message::Message::Hello(hello)) => self.hello(hello),
            _ if self.peer.is_none() => Err(ProtocolError::OutOfTurn("the first message must be Hello")),
            Some(proxy_message::Message::Ack(ack)) => self.ack(ack),
            Some(proxy_message::Message::InUse(report)) => self.in_use(&report),
            Some(proxy_message::Message::Attestation(report)) => self.attestation(report),
            None => Err(ProtocolError::OutOfTurn("an empty message")),
        }
    }

    /// Offers the current snapshot. It replaces one that was offered and not begun.
    pub fn offer(&mut self, snapshot: Arc<Snapshot>) {
        self.offered = Some(snapshot);
    }

    /// Asks the proxy to tell what its hops prove, unless its version cannot.
    pub fn watch(&mut self, watch: proto::Watch) {
        if self.peer.as_ref().is_some_and(|peer| peer.reports) {
            self.watch = Some(watch);
        }
    }

    /// Has these peers of the proxy prove themselves, unless its version cannot.
    /// Two wishes that wait become one for everybody.
    pub fn attest(&mut self, wanted: proto::Attest) {
        if !self.peer.as_ref().is_some_and(|peer| peer.reports) {
            return;
        }
        self.attest = match self.attest.take() {
            Some(waiting) if waiting != wanted => Some(proto::Attest::default()),
            _ => Some(wanted),
        };
    }

    /// The next message to send, if there is one now.
    pub fn poll(&mut self) -> Option<proto::ControlMessage> {
        self.peer.as_ref()?;
        if let Some(watch) = self.watch.take() {
            self.watched = true;
            return Some(proto::ControlMessage { message: Some(control_message::Message::Watch(watch)) });
        }
        if let Some(attest) = self.attest.take() {
            return Some(proto::ControlMessage { message: Some(control_message::Message::Attest(attest)) });
        }
        if self.flight.is_none() {
            let snapshot = self.offered.take()?;
            self.flight = self.begin(snapshot);
        }
        let flight = self.flight.as_mut()?;
        let message = flight.poll()?;
        if flight.complete {
            self.status.sent = flight.snapshot.generation();
        }
        Some(proto::ControlMessage { message: Some(message) })
    }

    /// `None` when the proxy has something newer, and would refuse this.
    fn begin(&mut self, snapshot: Arc<Snapshot>) -> Option<Flight> {
        let upserts: VecDeque<_> = snapshot
            .entries()
            .iter()
            .filter(|(name, entry)| self.base.get(*name) != Some(&entry.version()))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        let removals: VecDeque<_> =
            self.base.keys().filter(|name| !snapshot.entries().contains_key(*name)).cloned().collect();
        let seen = self.peer.as_ref().map_or(0, |peer| peer.generation);
        let differs = !upserts.is_empty() || !removals.is_empty();
        if snapshot.generation() < seen || (snapshot.generation() == seen && differs) {
            self.status.ahead = Some(seen);
            return None;
        }
        self.status.ahead = None;
        Some(Flight { snapshot, upserts, removals, complete: false })
    }

    fn hello(&mut self, hello: proto::Hello) -> Result<Heard, ProtocolError> {
        if self.peer.is_some() {
            return Err(ProtocolError::OutOfTurn("a second Hello"));
        }
        label("hello.proxy", &hello.proxy)?;
        label("hello.workload", &hello.workload)?;
        label("hello.software", &hello.software)?;
        let offers = hello.offers.as_ref().map_or(&[][..], |offers| &offers.ports);
        if offers.len() > MAX_PORTS || offers.iter().any(|port| u16::try_from(*port).is_err()) {
            return Err(ProtocolError::Field { field: "hello.offers" });
        }
        if hello.known.len() > MAX_ENTRIES {
            return Err(ProtocolError::Field { field: "hello.known" });
        }
        for known in hello.known {
            let version = Version::parse(&known.version).filter(|_| is_well_formed(&known.name));
            let version = version.ok_or(ProtocolError::Field { field: "hello.known" })?;
            self.base.insert(known.name.into(), version);
        }
        let peer = Peer {
            proxy: hello.proxy,
            workload: hello.workload,
            software: hello.software,
            generation: hello.generation,
            reports: hello.reports,
            offers: hello.offers,
        };
        self.peer = Some(peer.clone());
        Ok(Heard::Hello(peer))
    }

    fn ack(&mut self, ack: proto::Ack) -> Result<Heard, ProtocolError> {
        let Some(flight) = self.flight.take_if(|flight| flight.complete) else {
            return Err(ProtocolError::OutOfTurn("an Ack that nothing waits for"));
        };
        let snapshot = flight.snapshot;
        let (expected, presented) = (snapshot.generation(), ack.generation);
        if expected != presented {
            return Err(ProtocolError::Generation { expected, presented });
        }
        if ack.results.len() > MAX_ENTRIES {
            return Err(ProtocolError::Field { field: "ack.results" });
        }
        let mut rejected = BTreeMap::new();
        for result in ack.results {
            if result.rejected.is_empty() {
                continue;
            }
            let version = Version::parse(&result.version)
                .filter(|_| is_well_formed(&result.name) && result.rejected.len() <= MAX_REASON)
                .ok_or(ProtocolError::Field { field: "ack.results" })?;
            rejected.insert(result.name, (version, result.rejected));
        }
        self.base =
            snapshot.entries().iter().map(|(name, entry)| (Arc::clone(name), entry.version())).collect();
        self.status.rejected = rejected;
        self.status.acked = Some(snapshot);
        Ok(Heard::Acked(presented))
    }

    fn attestation(&self, report: proto::Attestation) -> Result<Heard, ProtocolError> {
        if !self.watched {
            return Err(ProtocolError::OutOfTurn("an Attestation that nobody asked for"));
        }
        if report.hops.len() > MAX_REPORTED_HOPS {
            return Err(ProtocolError::Field { field: "attestation.hops" });
        }
        report.hops.iter().try_for_each(check_hop)?;
        if report.refusals.len() > MAX_REPORTED_REFUSALS || !report.refusals.iter().all(is_readable) {
            return Err(ProtocolError::Field { field: "attestation.refusals" });
        }
        Ok(Heard::Attested(report))
    }

    fn in_use(&mut self, report: &proto::InUse) -> Result<Heard, ProtocolError> {
        let had = self.peer.as_ref().map_or(0, |peer| peer.generation);
        let expected = self.status.sent.max(had);
        if report.generation > expected {
            return Err(ProtocolError::Generation { expected, presented: report.generation });
        }
        self.status.in_use = report.generation;
        self.status.hops = report.hops;
        self.status.identity_not_after = report.identity_not_after;
        Ok(Heard::InUse(report.generation))
    }
}

/// What a proxy says of a hop is shown to people: short, and printable.
fn check_hop(hop: &proto::HopAttestation) -> Result<(), ProtocolError> {
    let texts = [
        &hop.direction,
        &hop.peer,
        &hop.level,
        &hop.own_level,
        &hop.tee,
        &hop.platform,
        &hop.state,
        &hop.reason,
    ];
    if hop.policies.len() <= MAX_POLICIES && texts.into_iter().chain(&hop.policies).all(|text| fits(text)) {
        return Ok(());
    }
    Err(ProtocolError::Field { field: "attestation.hops" })
}

/// A refusal that can be shown: short, and a denial that we understand.
fn is_readable(told: &proto::Refusal) -> bool {
    [&told.direction, &told.peer, &told.stage].into_iter().all(|text| fits(text))
        && told.denial.len() <= MAX_REPORTED_DENIAL
        && refusal::from_json(told.denial.as_bytes()).is_some()
}

fn fits(text: &str) -> bool {
    text.len() <= MAX_TEXT && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}

impl Flight {
    fn poll(&mut self) -> Option<control_message::Message> {
        if self.complete {
            return None;
        }
        let mut room = CHUNK;
        let mut update = proto::Update { generation: self.snapshot.generation(), ..Default::default() };
        while room > 0
            && let Some(name) = self.removals.pop_front()
        {
            room = room.saturating_sub(name.len());
            update.removals.push(name.as_ref().to_owned());
        }
        while room > 0
            && let Some(name) = self.upserts.pop_front()
        {
            let Some(entry) = self.snapshot.entries().get(&name) else { continue };
            room = room.saturating_sub(name.len() + entry.body().len());
            update.upserts.push(entry.write(&name));
        }
        if room < CHUNK {
            return Some(control_message::Message::Update(update));
        }
        self.complete = true;
        Some(control_message::Message::Complete(proto::SnapshotComplete {
            generation: self.snapshot.generation(),
            signature: self.snapshot.signature().clone(),
            kid: self.snapshot.kid().to_owned(),
        }))
    }
}

fn label(field: &'static str, text: &str) -> Result<(), ProtocolError> {
    let printable = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    if printable && text.len() <= MAX_LABEL && !text.is_empty() {
        Ok(())
    } else {
        Err(ProtocolError::Field { field })
    }
}
