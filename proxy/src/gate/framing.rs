//! What a hop speaks behind the gate.

use countersign_ratls::tls::{ALPN_H2, ALPN_MESH, ALPN_TCP};

/// What a hop speaks behind the gate, by its application protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// HTTP/2 without a gate: nothing is proved for the connection.
    Plain,
    /// HTTP/2, whose stream 1 is for the rounds.
    Shared,
    /// Records of one single stream, and of the rounds.
    Dedicated,
}

impl Framing {
    const ALL: [Self; 3] = [Self::Plain, Self::Shared, Self::Dedicated];

    /// That of a connection which agreed on this protocol.
    pub(crate) fn of(alpn: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|framing| framing.alpn() == alpn)
    }

    /// The application protocol.
    #[must_use]
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Plain => ALPN_H2,
            Self::Shared => ALPN_MESH,
            Self::Dedicated => ALPN_TCP,
        }
    }

    /// The same, for people and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "h2",
            Self::Shared => "ratls-h2/1",
            Self::Dedicated => "ratls-tcp/1",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_framing_is_named_as_on_the_wire() {
        for framing in Framing::ALL {
            assert_eq!(framing.name().as_bytes(), framing.alpn());
            assert_eq!(Framing::of(framing.alpn()), Some(framing));
        }
        assert_eq!(Framing::of(b"h3"), None);
    }
}
