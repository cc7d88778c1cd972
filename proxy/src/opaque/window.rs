//! How much data may be under way. A dedicated hop has one ordered stream, and what
//! stands in it behind data comes after it: so no more data is sent than the peer
//! takes in at once, whether or not its application reads, and what it takes in is
//! bounded by the window that it granted.

use countersign_evidence::Finding;

use super::record::malformed;

/// What our peers may send beyond what our application has taken: as much as one
/// stream of HTTP/2.
pub(super) const WINDOW: u32 = 4 << 20;

/// What we send.
#[derive(Debug)]
pub(super) struct Sending {
    window: usize,
    /// Sent, and not known to be with the peer's application.
    under_way: usize,
}

impl Sending {
    pub(super) fn new(window: u32) -> Self {
        Self { window: usize::try_from(window).unwrap_or(usize::MAX), under_way: 0 }
    }

    /// How much may be sent now.
    pub(super) const fn room(&self) -> usize {
        self.window.saturating_sub(self.under_way)
    }

    pub(super) const fn sent(&mut self, n: usize) {
        self.under_way = self.under_way.saturating_add(n);
    }

    /// The peer's application has taken `n` bytes more.
    pub(super) fn credited(&mut self, n: u32) -> Result<(), Finding> {
        let left = usize::try_from(n).ok().filter(|n| *n > 0).and_then(|n| self.under_way.checked_sub(n));
        let Some(left) = left else {
            let expected = format!("1 to {}", self.under_way);
            return Err(malformed("credit", expected, n.to_string()));
        };
        self.under_way = left;
        Ok(())
    }

    /// Whether everything that was sent is with the peer's application.
    pub(super) const fn is_done(&self) -> bool {
        self.under_way == 0
    }
}

/// What we receive.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    /// Arrived, and the peer has no credit for it.
    arrived: usize,
    /// Of these, with the application.
    taken: usize,
}

impl Receiving {
    pub(super) fn arrived(&mut self, n: usize) -> Result<(), Finding> {
        self.arrived = self.arrived.saturating_add(n);
        match self.arrived > WINDOW as usize {
            true => Err(malformed("data", format!("at most {WINDOW} bytes without credit"), "more")),
            false => Ok(()),
        }
    }

    pub(super) const fn taken(&mut self, n: usize) {
        self.taken = self.taken.saturating_add(n);
    }

    /// The credit that is due: a quarter of the window, or what there is when no more
    /// data comes.
    pub(super) fn due(&mut self, ended: bool) -> Option<u32> {
        let least = if ended { 1 } else { WINDOW as usize / 4 };
        if self.taken < least {
            return None;
        }
        let credit = std::mem::take(&mut self.taken);
        self.arrived = self.arrived.saturating_sub(credit);
        u32::try_from(credit).ok()
    }

    /// Whether the peer has credit for everything that it sent.
    pub(super) const fn is_done(&self) -> bool {
        self.arrived == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_sends_more_than_was_granted_nor_credits_what_was_not_sent() {
        let mut sending = Sending::new(100);
        sending.sent(60);
        assert_eq!((sending.room(), sending.is_done()), (40, false));
        assert!(sending.credited(0).is_err());
        assert!(sending.credited(61).is_err());
        sending.credited(60).unwrap();
        assert_eq!((sending.room(), sending.is_done()), (100, true));
        assert!(sending.credited(1).is_err());
    }

    #[test]
    fn credit_is_given_by_the_quarter_and_for_the_rest_at_the_end() {
        let (mut receiving, quarter) = (Receiving::default(), WINDOW as usize / 4);
        receiving.arrived(WINDOW as usize).unwrap();
        receiving.taken(quarter - 1);
        assert_eq!(receiving.due(false), None);
        receiving.taken(1);
        assert_eq!(receiving.due(false), Some(WINDOW / 4));
        receiving.arrived(quarter).unwrap();
        assert!(receiving.arrived(1).is_err());
        let mut receiving = Receiving::default();
        receiving.arrived(3).unwrap();
        receiving.taken(3);
        assert_eq!((receiving.due(false), receiving.is_done()), (None, false));
        assert_eq!((receiving.due(true), receiving.is_done()), (Some(3), true));
        assert_eq!(receiving.due(true), None);
    }
}
