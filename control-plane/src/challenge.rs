//! Challenges: 32 random bytes, single use, short-lived, bound to the connection
//! over which they were given. Nobody can use up those of others.

use std::collections::VecDeque;

use aws_lc_rs::rand;
use countersign_evidence::{Finding, Reason};

/// How long a challenge can be used, seconds (3-attestation section 6.4).
pub(crate) const LIFETIME: u64 = 60;
/// The most that one connection can have open; the oldest is forgotten.
const MAX_OPEN: usize = 8;

/// The open challenges of one connection.
#[derive(Debug, Default)]
pub(crate) struct Challenges(VecDeque<([u8; 32], u64)>);

impl Challenges {
    /// A new challenge, and the last second at which it can be used.
    pub(crate) fn give(&mut self, now: u64) -> Result<([u8; 32], u64), Finding> {
        let mut nonce = [0; 32];
        rand::fill(&mut nonce)
            .map_err(|_| Finding::new(Reason::Internal, "challenge", "random numbers", "none"))?;
        let expires = now.saturating_add(LIFETIME);
        if self.0.len() >= MAX_OPEN {
            self.0.pop_front();
        }
        self.0.push_back((nonce, expires));
        Ok((nonce, expires))
    }

    /// Uses a challenge up.
    pub(crate) fn take(&mut self, presented: &[u8], now: u64) -> Result<(), Finding> {
        let expected = "a challenge of this connection, unused and at most 60 s old";
        let refuse = |what: String| Finding::new(Reason::BindingMismatch, "challenge", expected, what);
        // Challenges are no secrets: the evidence over them is what counts.
        let Some(position) = self.0.iter().position(|(nonce, _)| nonce == presented) else {
            return Err(refuse("another or a used one".to_owned()));
        };
        match self.0.remove(position) {
            Some((_, expires)) if now <= expires => Ok(()),
            _ => Err(refuse("an expired one".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_works_once() {
        let mut challenges = Challenges::default();
        let (nonce, expires) = challenges.give(1000).unwrap();
        assert_eq!(expires, 1060);
        assert!(challenges.take(&nonce, 1060).is_ok());
        assert_eq!(challenges.take(&nonce, 1060).unwrap_err().reason, Reason::BindingMismatch);
    }

    #[test]
    fn a_challenge_expires() {
        let mut challenges = Challenges::default();
        let (nonce, _) = challenges.give(1000).unwrap();
        assert!(challenges.take(&nonce, 1061).is_err());
    }

    #[test]
    fn challenges_are_bounded_and_the_newest_stay() {
        let mut challenges = Challenges::default();
        let (first, _) = challenges.give(0).unwrap();
        let mut last = first;
        for _ in 0..MAX_OPEN {
            last = challenges.give(0).unwrap().0;
        }
        assert_eq!(challenges.0.len(), MAX_OPEN);
        assert!(challenges.take(&first, 0).is_err());
        assert!(challenges.take(&last, 0).is_ok());
        assert!(challenges.take(&[], 0).is_err());
    }
}
