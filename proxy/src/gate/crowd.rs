//! Who stands before the gate, and who need not come back soon.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::Presented;

use crate::context::Context;

/// Connections of one key that may stand before the gate at once: an honest peer
/// opens one at a time that its connections share, and four dedicated ones.
const PER_KEY: usize = 16;
/// Of one identity: its replicas have a key each, and who gets himself many
/// certificates shall not keep all others from the gate.
const PER_IDENTITY: usize = 64;
/// How long a key that was cut for cause is refused without a look, and at most
/// how many such keys are remembered.
const DISTRUST: Duration = Duration::from_secs(10);
const DISTRUSTED: usize = 1024;

type Key = [u8; 32];

/// Peers before the gate, by the SHA-256 of their keys and by their identities.
#[derive(Clone, Debug, Default)]
pub struct Crowd(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<Who, usize>,
    distrusted: HashMap<Key, Distrust>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    Key(Key),
    Identity(SpiffeId),
}

impl Who {
    const fn limit(&self) -> (usize, &'static str) {
        match self {
            Self::Key(_) => (PER_KEY, "key"),
            Self::Identity(_) => (PER_IDENTITY, "identity"),
        }
    }
}

#[derive(Debug)]
struct Distrust {
    until: Duration,
    generation: u64,
    denial: Denial,
}

/// A place before the gate, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    crowd: Crowd,
    taken: Vec<Who>,
}

impl Crowd {
    /// A place for this peer.
    pub(super) fn enter(&self, peer: &Presented, ctx: &Context) -> Result<Place, Denial> {
        let (key, id) = (peer.spki_sha256, peer.id.as_ref());
        self.enter_at(key, id, ctx.clock.monotonic(), ctx.view.load().generation)
    }

    fn enter_at(
        &self,
        key: Key,
        id: Option<&SpiffeId>,
        now: Duration,
        generation: u64,
    ) -> Result<Place, Denial> {
        let mut state = self.lock();
        if let Some(distrust) = state.distrusted.get(&key) {
            // Another view may see it with other eyes.
            if now < distrust.until && distrust.generation == generation {
                return Err(distrust.denial.clone());
            }
            state.distrusted.remove(&key);
        }
        drop(state);
        // What was taken before the one that is full goes with the place.
        let mut place = Place { crowd: self.clone(), taken: Vec::new() };
        for who in std::iter::once(Who::Key(key)).chain(id.cloned().map(Who::Identity)) {
            let (most, kind) = who.limit();
            let mut state = self.lock();
            let waiting = state.waiting.get(&who).copied().unwrap_or_default();
            if waiting >= most {
                drop(state);
                let expected = format!("at most {most} of one {kind}");
                return Err(Finding::new(
                    Reason::Overloaded,
                    "connections before the gate",
                    expected,
                    "more",
                )
                .into());
            }
            state.waiting.insert(who.clone(), waiting + 1);
            place.taken.push(who);
        }
        Ok(place)
    }

    /// A peer with this key was cut for cause: it is refused for a while, unless
    /// the configuration changes.
    pub(crate) fn distrust(&self, key: Key, denial: &Denial, ctx: &Context) {
        self.distrust_at(key, denial, ctx.clock.monotonic(), ctx.view.load().generation);
    }

    fn distrust_at(&self, key: Key, denial: &Denial, now: Duration, generation: u64) {
        let mut state = self.lock();
        if state.distrusted.len() >= DISTRUSTED {
            state.distrusted.retain(|_, distrust| now < distrust.until);
        }
        // Full of others: each connection is judged anyhow.
        if state.distrusted.len() < DISTRUSTED {
            let distrust = Distrust { until: now + DISTRUST, generation, denial: denial.clone() };
            state.distrusted.insert(key, distrust);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.crowd.lock();
        for who in &self.taken {
            if let Some(waiting) = state.waiting.get_mut(who) {
                *waiting = waiting.saturating_sub(1);
                if *waiting == 0 {
                    state.waiting.remove(who);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);
    const LATER: Duration = Duration::from_secs(20);

    #[test]
    fn one_key_has_so_many_places_and_gets_them_back() {
        let crowd = Crowd::default();
        let places: Vec<_> = (0..PER_KEY).map(|_| crowd.enter_at([1; 32], None, SOON, 1).unwrap()).collect();
        assert_eq!(crowd.enter_at([1; 32], None, SOON, 1).unwrap_err().reason, Reason::Overloaded);
        assert!(crowd.enter_at([2; 32], None, SOON, 1).is_ok());
        drop(places);
        assert!(crowd.enter_at([1; 32], None, SOON, 1).is_ok());
        assert!(crowd.lock().waiting.is_empty());
    }

    #[test]
    fn one_identity_has_so_many_places_whatever_its_keys() {
        let crowd = Crowd::default();
        let [one, other] =
            ["a", "b"].map(|name| SpiffeId::parse(&format!("spiffe://x.example/{name}")).unwrap());
        let enter = |key: usize, id| crowd.enter_at([u8::try_from(key).unwrap(); 32], Some(id), SOON, 1);
        let places: Vec<_> = (0..PER_IDENTITY).map(|key| enter(key, &one).unwrap()).collect();
        let denial = enter(200, &one).unwrap_err();
        assert!(denial.to_string().contains("at most 64 of one identity"), "{denial}");
        assert!(enter(200, &other).is_ok());
        drop(places);
        assert!(enter(200, &one).is_ok());
        assert!(crowd.lock().waiting.is_empty());
    }

    #[test]
    fn a_key_that_was_cut_is_refused_for_a_while_and_under_that_configuration() {
        let crowd = Crowd::default();
        let denial: Denial = Finding::new(Reason::BindingMismatch, "", "", "").into();
        let begin = || crowd.distrust_at([1; 32], &denial, Duration::ZERO, 1);
        begin();
        assert_eq!(crowd.enter_at([1; 32], None, SOON, 1).unwrap_err().reason, Reason::BindingMismatch);
        assert!(crowd.enter_at([2; 32], None, SOON, 1).is_ok());
        assert!(crowd.enter_at([1; 32], None, SOON, 2).is_ok(), "another configuration");
        begin();
        assert!(crowd.enter_at([1; 32], None, LATER, 1).is_ok(), "later");
    }

    #[test]
    fn strangers_do_not_fill_the_memory() {
        let crowd = Crowd::default();
        let denial: Denial = Finding::new(Reason::BindingMismatch, "", "", "").into();
        let key = |i: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&i.to_be_bytes());
            key
        };
        for i in 0..2 * DISTRUSTED {
            crowd.distrust_at(key(i), &denial, Duration::ZERO, 1);
        }
        assert_eq!(crowd.lock().distrusted.len(), DISTRUSTED);
        crowd.distrust_at(key(9999), &denial, LATER, 1);
        assert_eq!(crowd.lock().distrusted.len(), 1);
    }
}
