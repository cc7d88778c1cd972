//! How far a peer goes before it stalls.

use countersign_ratls::session::Level;
use countersign_ratls::session::frame::Kind::{self, Challenge, Evidence, Hello, Open, Result};

use super::support::peer::Peer;

/// A state of the way through the gate, from the view of the hostile peer.
#[derive(Clone, Copy, Debug)]
pub struct State {
    pub name: &'static str,
    /// What the proxy under test demands of the peer.
    pub proxy: &'static str,
    /// What the peer demands of the proxy.
    pub peer: Level,
    /// What the peer does not say, though its machine would.
    pub withheld: &'static [Kind],
    /// What the proxy says up to here.
    pub heard: &'static [Kind],
}

/// Every state in which something is still to be said before application bytes may flow.
pub const STATES: [State; 10] = [
    State {
        name: "nothing said",
        proxy: "L2",
        peer: Level::L2,
        withheld: &[Hello, Challenge, Evidence, Result, Open],
        heard: &[Hello, Challenge],
    },
    State {
        name: "Hello said",
        proxy: "L2",
        peer: Level::L2,
        withheld: &[Challenge, Evidence, Result, Open],
        heard: &[Hello, Challenge],
    },
    State {
        name: "both challenged",
        proxy: "L2",
        peer: Level::L2,
        withheld: &[Evidence, Result, Open],
        heard: &[Hello, Challenge, Evidence],
    },
    State {
        name: "only the peer has proved itself",
        proxy: "L2",
        peer: Level::L2,
        withheld: &[Result, Open],
        heard: &[Hello, Challenge, Evidence, Result],
    },
    State {
        name: "only the proxy has proved itself",
        proxy: "L2",
        peer: Level::L2,
        withheld: &[Evidence, Open],
        heard: &[Hello, Challenge, Evidence],
    },
    State {
        name: "both proved, the proxy's Open said",
        proxy: "L2",
        peer: Level::L2,
        withheld: &[Open],
        heard: &[Hello, Challenge, Evidence, Result, Open],
    },
    State {
        name: "the peer alone is challenged",
        proxy: "L2",
        peer: Level::L1,
        withheld: &[Evidence, Open],
        heard: &[Hello, Challenge],
    },
    State {
        name: "the peer alone has proved itself, as demanded",
        proxy: "L2",
        peer: Level::L1,
        withheld: &[Open],
        heard: &[Hello, Challenge, Result, Open],
    },
    State {
        name: "the proxy alone is challenged",
        proxy: "L1",
        peer: Level::L2,
        withheld: &[Result, Open],
        heard: &[Hello, Evidence],
    },
    State {
        name: "nothing is demanded, the proxy's Open said",
        proxy: "L1",
        peer: Level::L1,
        withheld: &[Open],
        heard: &[Hello, Open],
    },
];

impl State {
    /// Leads `peer` here.
    pub async fn reach(&self, peer: &mut Peer) {
        peer.withheld = self.withheld.to_vec();
        peer.until(self.name, |peer| self.heard.iter().all(|kind| peer.has_heard(*kind))).await;
        assert!(
            peer.kinds().iter().all(|kind| self.heard.contains(kind)),
            "{}: {:?}",
            self.name,
            peer.kinds()
        );
    }
}
