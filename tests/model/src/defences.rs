//! What the protocol and its implementation defend with. Each can be taken out.

use std::fmt;

macro_rules! defences {
    ($($name:ident => $code:literal, $text:literal;)*) => {
        /// A defence.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Defence {
            $(#[doc = $text] $name,)*
        }

        impl Defence {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// What it is called in docs/security-argument.md.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// What it is.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

defences! {
    Exporter => "exporter", "the EKM in the binder (key 5)";
    Role => "role", "the attester's role in the binder (key 2)";
    Keys => "keys", "both SPKIs in the binder (keys 6, 7)";
    Ids => "ids", "both SPIFFE IDs in the binder (keys 13, 14)";
    Hellos => "hellos", "the hash of the Hellos in the binder (key 8)";
    Nonce => "nonce", "a fresh nonce in each Challenge, hashed into the binder (key 9)";
    Round => "round", "the round number in the Challenge and in the binder (keys 9, 11)";
    Chain => "chain", "the last accepted binder in the binder (key 12)";
    Gate => "gate", "no application byte before the evidence that is demanded was accepted";
    OpenAwaited => "open-awaited", "no application byte before the peer's Open arrived";
    OpenCompared => "open-compared", "the value in Open is compared with one's own";
    OpenKeyed => "open-keyed", "the EKM in the value in Open";
    OpenRole => "open-role", "the sender's role in the value in Open";
    Demand => "demand", "the demanded level in the Hello (key 9)";
    Protocol => "protocol", "never an ALPN below the level that policy demands";
    PeerName => "peer-name", "the caller checks the SPIFFE ID in the certificate against the one it wants";
    NotMyself => "not-myself", "a peer that shows one's own key is refused";
    Platforms => "platforms", "the list of platforms";
    IdentitySigned => "identity-signed", "the new key signs the Identity frame";
    IdentityExporter => "identity-exporter", "the EKM under that signature";
    IdentityName => "identity-name", "a renewed certificate has the same SPIFFE ID";
    IdentityRole => "identity-role", "the role under that signature";
    IdentityHellos => "identity-hellos", "the hash of the Hellos under that signature";
    IdentitySerial => "identity-serial", "a serial number that counts up, also under that signature";
    IdentityOldKey => "identity-old-key", "the SPKI so far under that signature";
    IdentityNotMine => "identity-not-mine", "a renewed certificate with one's own key is refused";
    KeyPoints => "key-points", "which keys a binder names is fixed by points of the two streams: the challenger's where its Challenge stands, the prover's where its Evidence stands";
}

impl fmt::Display for Defence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Those that are in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Defences(u32);

impl Defences {
    /// All.
    #[must_use]
    pub fn all() -> Self {
        Self::without(&[])
    }

    /// All but these.
    #[must_use]
    pub fn without(removed: &[Defence]) -> Self {
        let all = Defence::ALL.iter().filter(|defence| !removed.contains(defence));
        Self(all.fold(0, |bits, defence| bits | 1 << *defence as u32))
    }

    /// Whether this one is in place.
    #[must_use]
    pub const fn has(self, defence: Defence) -> bool {
        self.0 & (1 << defence as u32) != 0
    }
}
