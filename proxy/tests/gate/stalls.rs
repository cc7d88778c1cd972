//! The ways in which a peer that is somewhere on its way does not go on.

use countersign_ratls::session::WireReason;
use countersign_ratls::session::frame::{self, Kind};
use countersign_ratls::session::message::{Outcome, RoundResult, encode_open};
use tokio::io::AsyncWriteExt;

use super::states::State;
use super::support::World;
use super::support::peer::Peer;

/// The gate's deadline, in seconds.
pub const GATE: u64 = 10;

/// What the peer does instead of what is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    Silence,
    /// Some bytes of the head of the frame that is due.
    PartOfHead,
    /// Half of it.
    HalfFrame,
    /// One byte of it each second.
    Drip,
    /// A frame of this type that says nothing.
    Frame(u8),
    /// A head that promises four GiB.
    Huge,
    /// HTTP/2, as if the gate were open.
    Http2,
    /// An application that knows nothing of any of this.
    Application,
    /// An Open that is none, and HTTP/2.
    ForgedOpen,
    /// The proxy's own Open, sent back, and HTTP/2.
    Reflection,
    /// Its true Open, without the Result that is due before, and HTTP/2.
    OpenBeforeResult,
    /// A Result that says no, and HTTP/2.
    Reject,
    /// A Result that wants another proof, no challenge for it, and HTTP/2.
    RetryAndHttp2,
    /// The same, and silence.
    Retry,
    /// The frame that is due, twice.
    Twice,
    /// An end of TLS, and of TCP.
    Close,
    /// An end of TCP alone.
    Fin,
    /// A reset.
    Reset,
}

impl Stall {
    /// All that make sense in `state`.
    pub fn all(state: &State) -> Vec<Self> {
        use Stall::*;
        let mut all = vec![
            Silence,
            PartOfHead,
            HalfFrame,
            Drip,
            Huge,
            Http2,
            Application,
            ForgedOpen,
            Close,
            Fin,
            Reset,
        ];
        all.extend((0..=9).chain([128, 255]).map(Frame));
        if state.heard.contains(&Kind::Open) {
            all.push(Reflection);
        }
        if state.heard.contains(&Kind::Evidence) && state.withheld.contains(&Kind::Result) {
            all.extend([Reject, Retry, RetryAndHttp2]);
        }
        if state.withheld == [Kind::Result, Kind::Open] {
            all.push(OpenBeforeResult);
        }
        if state.withheld != [Kind::Open] {
            all.push(Twice);
        }
        all
    }

    /// Whether the proxy can only wait, for as long as it waits for anything.
    pub const fn is_slow(self) -> bool {
        matches!(self, Self::Silence | Self::PartOfHead | Self::HalfFrame | Self::Drip | Self::Retry)
    }

    /// What the proxy says of it, if it has not said Open and anybody is left to hear it.
    pub const fn reason(self) -> Option<WireReason> {
        match self {
            Self::Close | Self::Fin | Self::Reset => None,
            // Heard, and not answered.
            Self::Reject => None,
            _ if self.is_slow() => Some(WireReason::Timeout),
            _ => Some(WireReason::Format),
        }
    }

    /// Does it. `http2` is what the peer would say behind the gate. Time passes up
    /// to the last second of the gate where the stall needs it.
    pub async fn act(self, peer: &mut Peer, http2: &[u8], world: &World) {
        let due = peer.held.front().map(|(_, frame)| frame.clone()).expect("a frame that is due");
        let held = |kind: Kind| {
            let found = peer.held.iter().find(|(held, _)| *held == kind);
            found.map(|(_, frame)| frame.clone()).unwrap_or_else(|| panic!("no {kind} is held"))
        };
        let bytes = match self {
            Self::Silence => Vec::new(),
            Self::PartOfHead => due[..3].to_vec(),
            Self::HalfFrame => due[..due.len() / 2].to_vec(),
            Self::Drip => {
                for byte in due.iter().take(9) {
                    peer.write(&[*byte]).await.unwrap();
                    world.advance(1);
                    tokio::task::yield_now().await;
                }
                return;
            }
            Self::Frame(kind) => vec![0, 0, 0, 2, kind, 0xa0],
            Self::Huge => vec![0xff, 0xff, 0xff, 0xff, due[4]],
            Self::Http2 => http2.to_vec(),
            Self::Application => b"GET /secret HTTP/1.1\r\nhost: ledger\r\n\r\n".to_vec(),
            Self::ForgedOpen => [&frame::encode(Kind::Open, &encode_open(&[7; 32])), http2].concat(),
            Self::Reflection => {
                let (_, payload) = peer.heard.iter().find(|(kind, _)| *kind == Kind::Open).unwrap();
                [&frame::encode(Kind::Open, payload), http2].concat()
            }
            Self::OpenBeforeResult => [&held(Kind::Open), http2].concat(),
            Self::Reject => [&result(&held(Kind::Result), Outcome::Reject), http2].concat(),
            Self::Retry => result(&held(Kind::Result), Outcome::Retry),
            Self::RetryAndHttp2 => [&result(&held(Kind::Result), Outcome::Retry), http2].concat(),
            Self::Twice => [&due[..], &due].concat(),
            Self::Close => return peer.tls().shutdown().await.unwrap(),
            Self::Fin => return peer.tls().get_mut().0.shutdown().await.unwrap(),
            Self::Reset => return peer.reset(),
        };
        // The proxy may have gone already.
        let _ = peer.write(&bytes).await;
        if self.is_slow() {
            world.advance(GATE - 1);
        }
    }
}

/// The Result that the peer's machine would send, with another outcome.
fn result(true_one: &[u8], outcome: fn(WireReason) -> Outcome) -> Vec<u8> {
    let result = RoundResult::decode(&true_one[5..]).unwrap();
    let changed = RoundResult { outcome: outcome(WireReason::Tcb), ..result };
    frame::encode(Kind::Result, &changed.encode())
}
