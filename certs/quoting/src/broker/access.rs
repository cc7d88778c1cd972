//! Who may use the broker, and for what.

use tokio::net::unix::UCred;

use super::message::Request;

/// Users and groups, besides the broker's own user. What the kernel says of the
/// process that connected counts, whatever the mode of the socket is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The broker's own user, who may do everything.
    pub own: u32,
    /// Users who may quote: proxies.
    pub uids: Vec<u32>,
    /// Groups who may quote: the effective one of the process, not its
    /// supplementary ones.
    pub gids: Vec<u32>,
    /// Who may measure events, and nothing else: the agent of the guest.
    pub measuring: Who,
}

/// Users, and groups as in [`Access::gids`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// Users.
    pub uids: Vec<u32>,
    /// Groups.
    pub gids: Vec<u32>,
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    quote: bool,
    measure: bool,
}

impl Rights {
    /// Whether this may be asked.
    pub(super) const fn cover(self, request: &Request) -> bool {
        match request {
            Request::Status => true,
            Request::Evidence(_) | Request::Watch(_) => self.quote,
            Request::Measure(_) => self.measure,
        }
    }
}

impl Access {
    /// What the process may do that connected; `None` for nothing.
    pub(super) fn rights(&self, peer: &UCred) -> Option<Rights> {
        self.of(peer.uid(), peer.gid())
    }

    fn of(&self, uid: u32, gid: u32) -> Option<Rights> {
        let listed = |uids: &[u32], gids: &[u32]| uids.contains(&uid) || gids.contains(&gid);
        let own = uid == self.own;
        let rights = Rights {
            quote: own || listed(&self.uids, &self.gids),
            measure: own || listed(&self.measuring.uids, &self.measuring.gids),
        };
        (rights.quote || rights.measure).then_some(rights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    const ALL: Option<Rights> = Some(Rights { quote: true, measure: true });
    const QUOTES: Option<Rights> = Some(Rights { quote: true, measure: false });
    const MEASURES: Option<Rights> = Some(Rights { quote: false, measure: true });

    #[test]
    fn only_who_is_listed_is_admitted() {
        let nobody_else = Access { own: 1000, ..Access::default() };
        assert_eq!(nobody_else.of(1000, 1), ALL);
        // Root has no right of its own: it is listed, or it asks the device.
        assert_eq!((nobody_else.of(0, 0), nobody_else.of(1001, 1000)), (None, None));
        let listed = Access { own: 1000, uids: vec![0, 1001], gids: vec![50], ..Access::default() };
        assert_eq!([(0, 0), (1001, 7), (1002, 50)].map(|(u, g)| listed.of(u, g)), [QUOTES; 3]);
        assert_eq!(listed.of(1002, 51), None);
    }

    #[test]
    fn who_measures_may_not_quote_and_who_quotes_may_not_measure() {
        let measuring = Who { uids: vec![7], gids: vec![70] };
        let access = Access { own: 1, uids: vec![5], measuring, ..Access::default() };
        let may = [(5, 0), (7, 0), (8, 70), (1, 1)].map(|(u, g)| access.of(u, g));
        assert_eq!(may, [QUOTES, MEASURES, MEASURES, ALL]);
        let measure = Request::Measure(Event::new("exec", "").unwrap());
        let cover = |request: &Request| may.map(|rights| rights.unwrap().cover(request));
        assert_eq!(cover(&Request::Status), [true; 4]);
        assert_eq!(cover(&Request::Watch(0)), [true, false, false, true]);
        assert_eq!(cover(&measure), [false, true, true, true]);
    }
}
