//! Frames: `u32be len || u8 type || payload`, where `len` counts type and payload.

use countersign_evidence::{Finding, Reason};

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Who we are and what we can do; the first frame of each side.
    Hello,
    /// Prove yourself.
    Challenge,
    /// The proof.
    Evidence,
    /// What became of the proof.
    Result,
    /// The hop comes to an end.
    Drain,
    /// Challenge me, please.
    Changed,
    /// The last frame of each side before the gate.
    Open,
    /// A new certificate.
    Identity,
}

impl Kind {
    /// Every kind, by its number from 1.
    pub const ALL: [Self; 8] = [
        Self::Hello,
        Self::Challenge,
        Self::Evidence,
        Self::Result,
        Self::Drain,
        Self::Changed,
        Self::Open,
        Self::Identity,
    ];

    /// The byte on the wire.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Challenge => 2,
            Self::Evidence => 3,
            Self::Result => 4,
            Self::Drain => 5,
            Self::Changed => 6,
            Self::Open => 7,
            Self::Identity => 8,
        }
    }

    /// The kind of this byte.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte)
    }

    /// The name, for findings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hello => "Hello",
            Self::Challenge => "Challenge",
            Self::Evidence => "Evidence",
            Self::Result => "Result",
            Self::Drain => "Drain",
            Self::Changed => "Changed",
            Self::Open => "Open",
            Self::Identity => "Identity",
        }
    }

    /// The largest payload in bytes; for evidence what was configured.
    #[must_use]
    pub const fn cap(self, evidence: usize) -> usize {
        match self {
            Self::Hello | Self::Challenge => 2 << 10,
            Self::Evidence => evidence,
            Self::Identity => 64 << 10,
            Self::Result | Self::Drain | Self::Changed | Self::Open => 1 << 10,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A whole frame. The kind bounds the payload far below 4 GiB.
#[must_use]
pub fn encode(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + payload.len());
    let length = u32::try_from(payload.len().saturating_add(1)).unwrap_or(u32::MAX);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.push(kind.byte());
    frame.extend_from_slice(payload);
    frame
}

/// Length and type.
const HEAD: usize = 5;

/// Puts frames together from bytes as they come, one at a time.
///
/// A length is checked when its five bytes are there; a payload is buffered as
/// it comes, never reserved ahead, and let go with its frame.
#[derive(Debug, Default)]
pub struct Decoder {
    head: [u8; HEAD],
    have: usize,
    /// The frame whose payload comes: its kind and length.
    open: Option<(Kind, usize)>,
    payload: Vec<u8>,
}

impl Decoder {
    /// Takes from the front of `input` what belongs to the current frame. The
    /// frame, once it is complete; `None` when the input is used up before.
    /// `admit` says how large a payload may be, or that there may be none.
    ///
    /// # Errors
    /// `malformed` or `oversized`, or what `admit` says. The stream is of no use then.
    pub fn next(
        &mut self,
        input: &mut &[u8],
        admit: impl FnOnce(Kind) -> Result<usize, Finding>,
    ) -> Result<Option<(Kind, Vec<u8>)>, Finding> {
        let (kind, length) = match self.open {
            Some(open) => open,
            None => {
                let missing = self.head.get_mut(self.have..).unwrap_or_default();
                let take = missing.len().min(input.len());
                let (taken, rest) = input.split_at_checked(take).unwrap_or_default();
                missing.iter_mut().zip(taken).for_each(|(to, from)| *to = *from);
                *input = rest;
                self.have += take;
                if self.have < HEAD {
                    return Ok(None);
                }
                *self.open.insert(head(self.head, admit)?)
            }
        };
        let take = length.saturating_sub(self.payload.len()).min(input.len());
        let (taken, rest) = input.split_at_checked(take).unwrap_or_default();
        self.payload.extend_from_slice(taken);
        *input = rest;
        if self.payload.len() < length {
            return Ok(None);
        }
        self.have = 0;
        self.open = None;
        Ok(Some((kind, std::mem::take(&mut self.payload))))
    }

    /// The bytes that are held.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.have + self.payload.len()
    }
}

fn head(
    [a, b, c, d, byte]: [u8; HEAD],
    admit: impl FnOnce(Kind) -> Result<usize, Finding>,
) -> Result<(Kind, usize), Finding> {
    let malformed =
        |expected: &str, presented| Err(Finding::new(Reason::Malformed, "frame", expected, presented));
    let Some(length) = u32::from_be_bytes([a, b, c, d]).checked_sub(1) else {
        return malformed("a length of at least 1", "0".to_owned());
    };
    let Some(kind) = Kind::from_byte(byte) else {
        return malformed("a type from 1 to 8", byte.to_string());
    };
    let cap = admit(kind)?;
    match usize::try_from(length) {
        Ok(length) if length <= cap => Ok((kind, length)),
        _ => {
            let field = format!("frame {kind}");
            Err(Finding::new(Reason::Oversized, field, format!("at most {cap} bytes"), length.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(kind: Kind) -> Result<usize, Finding> {
        Ok(kind.cap(256 << 10))
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_split() {
        let frames: Vec<_> =
            Kind::ALL.iter().map(|kind| (*kind, vec![kind.byte(); 3 * usize::from(kind.byte())])).collect();
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, payload)| encode(*kind, payload)).collect();
        for size in 1..bytes.len() {
            let mut decoder = Decoder::default();
            let mut out = Vec::new();
            for mut piece in bytes.chunks(size) {
                while let Some(frame) = decoder.next(&mut piece, admit).unwrap() {
                    out.push(frame);
                }
                assert!(piece.is_empty());
            }
            assert_eq!((&out, decoder.buffered()), (&frames, 0));
        }
    }

    #[test]
    fn a_length_is_judged_before_a_byte_of_the_payload_is_there() {
        for kind in Kind::ALL {
            let cap = kind.cap(256 << 10);
            for (length, fits) in [(cap, true), (cap + 1, false), (u32::MAX as usize - 1, false)] {
                let mut head = u32::try_from(length + 1).unwrap().to_be_bytes().to_vec();
                head.push(kind.byte());
                let mut decoder = Decoder::default();
                let answer = decoder.next(&mut head.as_slice(), admit);
                match fits {
                    true => assert_eq!(answer.unwrap(), None),
                    false => assert_eq!(answer.unwrap_err().reason, Reason::Oversized),
                }
                // Nothing is reserved for what was only announced.
                assert_eq!(decoder.payload.capacity(), 0);
            }
        }
    }

    #[test]
    fn lengths_and_types_that_do_not_exist_are_refused() {
        for bytes in [[0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 1, 9], [0, 0, 0, 1, 255], *b"PRI *"] {
            let finding = Decoder::default().next(&mut &bytes[..], admit).unwrap_err();
            assert_eq!(finding.reason, Reason::Malformed, "{bytes:?}");
        }
    }

    #[test]
    fn a_frame_may_be_empty_and_the_rest_stays_where_it_is() {
        let bytes = [encode(Kind::Drain, &[]), b"PRI * HTTP/2.0".to_vec()].concat();
        let mut rest = bytes.as_slice();
        assert_eq!(Decoder::default().next(&mut rest, admit).unwrap(), Some((Kind::Drain, Vec::new())));
        assert_eq!(rest, b"PRI * HTTP/2.0");
    }
}
