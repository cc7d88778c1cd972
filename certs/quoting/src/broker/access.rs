//! Who may use the broker.

use tokio::net::unix::UCred;

/// Users and groups, besides the broker's own user. What the kernel says of the
/// process that connected counts, whatever the mode of the socket is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The broker's own user.
    pub own: u32,
    /// Users.
    pub uids: Vec<u32>,
    /// Groups: the effective one of the process, not its supplementary ones.
    pub gids: Vec<u32>,
}

impl Access {
    pub(super) fn admits(&self, peer: &UCred) -> bool {
        self.lists(peer.uid(), peer.gid())
    }

    fn lists(&self, uid: u32, gid: u32) -> bool {
        uid == self.own || self.uids.contains(&uid) || self.gids.contains(&gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_listed_is_admitted() {
        let nobody_else = Access { own: 1000, ..Access::default() };
        assert!(nobody_else.lists(1000, 1));
        // Root has no right of its own: it is listed, or it asks the device.
        assert!(!nobody_else.lists(0, 0) && !nobody_else.lists(1001, 1000));
        let listed = Access { own: 1000, uids: vec![0, 1001], gids: vec![50] };
        assert!(listed.lists(0, 0) && listed.lists(1001, 7) && listed.lists(1002, 50));
        assert!(!listed.lists(1002, 51));
    }
}
