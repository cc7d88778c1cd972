//! What the device does next: a scheduler without a clock and without I/O.
//!
//! A quote takes 40 ms to 1 s and speaks of up to 1024 sessions, so the art is
//! to wait for company where nobody waits for us. A new hop never waits for
//! company: it starts a quote as soon as the device is free, and whoever waits
//! joins. Rounds of live hops are collected: their quotes start at least 550 ms
//! and four quoting times apart, so that at least three quarters of the time a
//! new hop finds the device free, but early enough for the first deadline.

mod ring;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use self::ring::Ring;
use crate::subject::MAX_LEAVES;

/// Bounds and paces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Sessions that may wait. New hops are refused when three quarters of it
    /// are taken: the rounds of live hops come first.
    pub sessions: usize,
    /// Of these, for one peer.
    pub sessions_per_peer: usize,
    /// Requests for quotes of their own that may wait: those for keys. As many
    /// may wait for sessions that want no batch, apart from them.
    pub solos: usize,
    /// Of these, for one asker or peer.
    pub solos_per_peer: usize,
    /// The most sessions in one quote.
    pub leaves: usize,
    /// The least time between the starts of two quotes that are for rounds alone:
    /// a little more than half a second, so that the device sees no more than
    /// two in any second however late its thread starts.
    pub pause: Duration,
    /// The same in quoting times.
    pub pause_quotes: u32,
    /// After this time without an answer the device counts as hung.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sessions: 4096,
            sessions_per_peer: 1024,
            solos: 64,
            solos_per_peer: 8,
            leaves: MAX_LEAVES,
            pause: Duration::from_millis(550),
            pause_quotes: 4,
            patience: Duration::from_secs(30),
        }
    }
}

/// How urgent a session's quote is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Nothing can flow before it.
    NewHop,
    /// A round on a live hop.
    Round {
        /// When the evidence must be there; later it is of no use.
        by: Instant,
    },
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A quote of its own.
    Solo,
    /// A leaf of a quote.
    Session(Urgency),
    /// A quote of its own for a session whose peer verifies no batches. They start
    /// at least some quoting times apart: such peers do not get the device of others.
    Alone(Urgency),
}

/// Where a request waits.
#[derive(Clone, Copy, Debug)]
enum Line {
    Solos,
    NewHops,
    Rounds,
    Loners,
}

/// What the device was used for last: who waits for something else comes next.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Solo,
    Loner,
    Batch,
}

impl Class {
    const fn line(self) -> Line {
        match self {
            Self::Solo => Line::Solos,
            Self::Alone(_) => Line::Loners,
            Self::Session(Urgency::NewHop) => Line::NewHops,
            Self::Session(Urgency::Round { .. }) => Line::Rounds,
        }
    }

    const fn deadline(self) -> Option<Instant> {
        match self {
            Self::Session(Urgency::Round { by }) | Self::Alone(Urgency::Round { by }) => Some(by),
            _ => None,
        }
    }
}

/// One request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Why a request may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The queue is full.
    #[error("the queue of the quoting device is full")]
    Full,
    /// One peer has too much in it.
    #[error("too many requests of one peer wait for the quoting device")]
    FullForPeer,
    /// The device hangs.
    #[error("the quoting device does not answer")]
    Hung,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// Make a quote for this alone, then call [`Schedule::finished`].
    Solo(T),
    /// Make one quote for these, then call [`Schedule::finished`].
    Batch(Vec<T>),
    /// The deadlines of these have passed; ask again.
    Late(Vec<T>),
    /// The device did not answer: these and those of the quote in the making
    /// fail. Ask again.
    Hung(Vec<T>),
    /// Nothing before this time.
    WaitUntil(Instant),
    /// Nothing before the next event.
    Wait,
}

#[derive(Debug)]
struct Waiting<T> {
    peer: u64,
    class: Class,
    since: Instant,
    job: T,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    Free,
    Busy { since: Instant },
    Hung,
}

/// Decides. Each event is a call, with the time at which it happened.
#[derive(Debug)]
pub struct Schedule<T> {
    options: Options,
    waiting: BTreeMap<Ticket, Waiting<T>>,
    deadlines: BTreeSet<(Instant, Ticket)>,
    solos: Ring,
    new_hops: Ring,
    rounds: Ring,
    loners: Ring,
    device: Device,
    last: Turn,
    batch_started: Option<Instant>,
    loner_started: Option<Instant>,
    quoting_time: Option<Duration>,
    next: u64,
}

impl<T> Schedule<T> {
    /// Nothing waits, the device is free.
    #[must_use]
    pub fn new(mut options: Options) -> Self {
        // A batch of none would be made for ever, one of more than a tree holds never.
        options.leaves = options.leaves.clamp(1, MAX_LEAVES);
        Self {
            options,
            waiting: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            solos: Ring::default(),
            new_hops: Ring::default(),
            rounds: Ring::default(),
            loners: Ring::default(),
            device: Device::Free,
            last: Turn::Batch,
            batch_started: None,
            loner_started: None,
            quoting_time: None,
            next: 0,
        }
    }

    /// Queues a request of `peer`.
    ///
    /// # Errors
    /// When there is no room, or the device hangs; `job` is dropped.
    pub fn push(&mut self, now: Instant, peer: u64, class: Class, job: T) -> Result<Ticket, Refused> {
        if self.device == Device::Hung {
            return Err(Refused::Hung);
        }
        let (waiting, of_peer, room, room_of_peer) = match class {
            Class::Solo => {
                (self.solos.len(), self.solos.of(peer), self.options.solos, self.options.solos_per_peer)
            }
            Class::Alone(_) => {
                (self.loners.len(), self.loners.of(peer), self.options.solos, self.options.solos_per_peer)
            }
            Class::Session(urgency) => {
                let room = match urgency {
                    Urgency::NewHop => self.options.sessions - self.options.sessions / 4,
                    Urgency::Round { .. } => self.options.sessions,
                };
                let of_peer = self.new_hops.of(peer) + self.rounds.of(peer);
                (self.sessions(), of_peer, room, self.options.sessions_per_peer)
            }
        };
        if waiting >= room {
            return Err(Refused::Full);
        }
        if of_peer >= room_of_peer {
            return Err(Refused::FullForPeer);
        }
        let ticket = Ticket(self.next);
        self.next = self.next.wrapping_add(1);
        if let Some(by) = class.deadline() {
            self.deadlines.insert((by, ticket));
        }
        self.line(class.line()).push(peer, ticket);
        self.waiting.insert(ticket, Waiting { peer, class, since: now, job });
        Ok(ticket)
    }

    /// Takes a request back; `None` when it does not wait any more.
    pub fn withdraw(&mut self, ticket: Ticket) -> Option<T> {
        let waiting = self.forget(ticket)?;
        self.line(waiting.class.line()).remove(waiting.peer, ticket);
        Some(waiting.job)
    }

    /// The quote in the making came to its end, for better or worse.
    pub fn finished(&mut self, now: Instant, success: bool) {
        if let Device::Busy { since } = self.device
            && success
        {
            self.quoting_time = Some(now.saturating_duration_since(since));
        }
        self.device = Device::Free;
    }

    /// What to do at `now`.
    #[must_use]
    pub fn poll(&mut self, now: Instant) -> Step<T> {
        if let Device::Busy { since } = self.device
            && now.saturating_duration_since(since) >= self.options.patience
        {
            self.device = Device::Hung;
            return Step::Hung(self.take_all());
        }
        let late = self.late(now);
        if !late.is_empty() {
            return Step::Late(late);
        }
        match self.device {
            Device::Free => self.start(now),
            Device::Busy { since } => {
                let overdue = since.checked_add(self.options.patience);
                earliest(overdue, self.first_deadline()).map_or(Step::Wait, Step::WaitUntil)
            }
            Device::Hung => Step::Wait,
        }
    }

    /// How many requests wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Since when the oldest request has waited.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, waiting)| waiting.since)
    }

    /// How long the last quote took that succeeded.
    #[must_use]
    pub const fn quoting_time(&self) -> Option<Duration> {
        self.quoting_time
    }

    /// Everything that waits, because nobody will quote any more.
    pub fn take_all(&mut self) -> Vec<T> {
        self.deadlines.clear();
        (self.solos, self.new_hops, self.rounds, self.loners) = Default::default();
        std::mem::take(&mut self.waiting).into_values().map(|waiting| waiting.job).collect()
    }

    fn sessions(&self) -> usize {
        self.new_hops.len() + self.rounds.len()
    }

    const fn line(&mut self, line: Line) -> &mut Ring {
        match line {
            Line::Solos => &mut self.solos,
            Line::NewHops => &mut self.new_hops,
            Line::Rounds => &mut self.rounds,
            Line::Loners => &mut self.loners,
        }
    }

    fn first_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(by, _)| *by)
    }

    fn late(&mut self, now: Instant) -> Vec<T> {
        let mut late = Vec::new();
        while let Some((by, ticket)) = self.deadlines.first().copied()
            && by <= now
        {
            late.extend(self.withdraw(ticket));
        }
        late
    }

    fn start(&mut self, now: Instant) -> Step<T> {
        let (batch, loner) = (self.batch_due(now), self.loner_due(now));
        let due = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        // In turn, so that none keeps the others from the device.
        let order = match self.last {
            Turn::Solo => [Turn::Batch, Turn::Loner, Turn::Solo],
            Turn::Batch => [Turn::Loner, Turn::Solo, Turn::Batch],
            Turn::Loner => [Turn::Solo, Turn::Batch, Turn::Loner],
        };
        let next = order.into_iter().find(|turn| match turn {
            Turn::Solo => !self.solos.is_empty(),
            Turn::Loner => due(loner),
            Turn::Batch => due(batch),
        });
        let Some(turn) = next else {
            return earliest(batch, loner).map_or(Step::Wait, Step::WaitUntil);
        };
        let alone = match turn {
            Turn::Solo => self.take(Line::Solos, 1).pop(),
            Turn::Loner => self.take(Line::Loners, 1).pop(),
            Turn::Batch => None,
        };
        self.last = turn;
        match turn {
            Turn::Solo => {}
            Turn::Loner => self.loner_started = Some(now),
            Turn::Batch => self.batch_started = Some(now),
        }
        self.device = Device::Busy { since: now };
        match alone {
            Some(job) => Step::Solo(job),
            None => Step::Batch(self.take_batch()),
        }
    }

    /// When the next quote starts for a session alone if nothing else happens. Not
    /// sooner than a quarter of the device's time allows.
    fn loner_due(&self, now: Instant) -> Option<Instant> {
        if self.loners.is_empty() {
            return None;
        }
        let pause = self.quoting_time.unwrap_or_default().saturating_mul(self.options.pause_quotes);
        Some(self.loner_started.and_then(|started| started.checked_add(pause)).unwrap_or(now).max(now))
    }

    /// When the next batch starts if nothing else happens.
    fn batch_due(&self, now: Instant) -> Option<Instant> {
        if !self.new_hops.is_empty() || self.rounds.len() >= self.options.leaves {
            return Some(now);
        }
        if self.rounds.is_empty() {
            return None;
        }
        let quoting = self.quoting_time.unwrap_or_default();
        let pause = self.options.pause.max(quoting.saturating_mul(self.options.pause_quotes));
        let paced = self.batch_started.and_then(|started| started.checked_add(pause)).unwrap_or(now);
        // Twice the time it took, since another quote may come in between.
        let hurried =
            self.first_deadline().map(|by| by.checked_sub(quoting.saturating_mul(2)).unwrap_or(now));
        earliest(Some(paced), hurried)
    }

    /// New hops first, but rounds keep a quarter: a flood of new hops must not
    /// let live ones lapse.
    fn take_batch(&mut self) -> Vec<T> {
        let leaves = self.options.leaves;
        let kept = self.rounds.len().min(leaves / 4);
        let mut batch = self.take(Line::NewHops, leaves - kept);
        batch.extend(self.take(Line::Rounds, leaves - batch.len()));
        batch
    }

    fn take(&mut self, line: Line, most: usize) -> Vec<T> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(ticket) = self.line(line).pop()
        {
            taken.extend(self.forget(ticket).map(|waiting| waiting.job));
        }
        taken
    }

    fn forget(&mut self, ticket: Ticket) -> Option<Waiting<T>> {
        let waiting = self.waiting.remove(&ticket)?;
        if let Some(by) = waiting.class.deadline() {
            self.deadlines.remove(&(by, ticket));
        }
        Some(waiting)
    }
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    [a, b].into_iter().flatten().min()
}

#[cfg(test)]
mod tests;
