//! A queue that serves its peers in turn: who asks a thousand times waits a
//! thousand turns, and nobody else does.

use std::collections::{HashMap, VecDeque};

use super::Ticket;

#[derive(Debug, Default)]
pub(super) struct Ring {
    queues: HashMap<u64, VecDeque<Ticket>>,
    /// Peers with something in their queue, the next first.
    turns: VecDeque<u64>,
    len: usize,
}

impl Ring {
    pub(super) fn push(&mut self, peer: u64, ticket: Ticket) {
        let queue = self.queues.entry(peer).or_default();
        if queue.is_empty() {
            self.turns.push_back(peer);
        }
        queue.push_back(ticket);
        self.len += 1;
    }

    /// The first of the peer whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Ticket> {
        let peer = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&peer)?;
        let ticket = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&peer);
        } else {
            self.turns.push_back(peer);
        }
        self.len -= 1;
        Some(ticket)
    }

    pub(super) fn remove(&mut self, peer: u64, ticket: Ticket) {
        let Some(queue) = self.queues.get_mut(&peer) else { return };
        let before = queue.len();
        queue.retain(|waiting| *waiting != ticket);
        self.len -= before - queue.len();
        if queue.is_empty() {
            self.queues.remove(&peer);
            self.turns.retain(|waiting| *waiting != peer);
        }
    }

    /// How many requests of `peer` wait.
    pub(super) fn of(&self, peer: u64) -> usize {
        self.queues.get(&peer).map_or(0, VecDeque::len)
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }
}
