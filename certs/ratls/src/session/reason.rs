//! Why, as the wire says it, and what follows: the failure matrix (section 4.4).

use countersign_evidence::{Denial, Finding, Reason};

/// The coarse reason that the peer learns. The whole denial stays here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WireReason {
    /// The evidence is not for this session.
    Binding,
    /// A signature or a chain does not verify.
    Signature,
    /// Something is revoked.
    Revoked,
    /// The trusted computing base is not acceptable.
    Tcb,
    /// Measurements or attributes are not acceptable.
    Measurement,
    /// Debugging is possible.
    Debug,
    /// The platform or its kind is not admitted.
    Platform,
    /// The event log does not lead to the quoted registers.
    LogReplay,
    /// The SVID is not acceptable.
    Identity,
    /// Something is malformed, too large, or out of order.
    Format,
    /// Something took too long.
    Timeout,
    /// Who should decide cannot.
    Unavailable,
    /// What is needed to decide is stale.
    Collateral,
    /// The policy is another one now.
    Policy,
    /// Something is past its time.
    Expired,
}

impl WireReason {
    /// Every reason, by its number on the wire, from 1.
    pub const ALL: [Self; 15] = [
        Self::Binding,
        Self::Signature,
        Self::Revoked,
        Self::Tcb,
        Self::Measurement,
        Self::Debug,
        Self::Platform,
        Self::LogReplay,
        Self::Identity,
        Self::Format,
        Self::Timeout,
        Self::Unavailable,
        Self::Collateral,
        Self::Policy,
        Self::Expired,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u64 {
        self as u64 + 1
    }

    /// The reason with this number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        Self::ALL.get(index).copied()
    }

    /// For logs and metric labels.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Binding => "binding",
            Self::Signature => "signature",
            Self::Revoked => "revoked",
            Self::Tcb => "tcb",
            Self::Measurement => "measurement",
            Self::Debug => "debug",
            Self::Platform => "platform",
            Self::LogReplay => "log-replay",
            Self::Identity => "identity",
            Self::Format => "format",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Collateral => "collateral",
            Self::Policy => "policy",
            Self::Expired => "expired",
        }
    }

    /// What the wire says for `reason`.
    #[must_use]
    pub const fn of(reason: Reason) -> Self {
        row(reason).0
    }

    /// What a peer that says so means of us, and what to look at on our side.
    #[must_use]
    pub const fn in_words(self) -> (&'static str, &'static str) {
        match self {
            Self::Binding => {
                ("our evidence is not for this connection", "what stands between the proxies and ends TLS")
            }
            Self::Signature => (
                "our evidence does not verify for it",
                "whether its policy names the vendor root of this machine",
            ),
            Self::Revoked => (
                "a certificate or the TCB of this machine is revoked",
                "what the vendor says of this machine",
            ),
            Self::Tcb => {
                ("the TCB of this machine is not accepted", "microcode and firmware of this machine")
            }
            Self::Measurement => (
                "what runs here, or was measured while it ran, is not approved",
                "the software and its events on this machine against the peer's ReferenceValues",
            ),
            Self::Debug => ("this guest can be debugged", "how this guest was started"),
            Self::Platform => {
                ("this machine, or its kind of TEE, is not on its list", "countersign platforms list")
            }
            Self::LogReplay => (
                "our event log is missing or does not lead to our registers",
                "whether this machine keeps an event log: countersign doctor",
            ),
            Self::Identity => (
                "our certificate is not acceptable, or of another TEE",
                "the certificate at /certs of this proxy",
            ),
            Self::Format => {
                ("it cannot read what we say, or reads it out of order", "the versions of both proxies")
            }
            Self::Timeout => {
                ("our proof did not come in time", "the quoting device of this machine: countersign doctor")
            }
            Self::Unavailable => ("it cannot decide now, or goes away", "nothing: we try again"),
            Self::Collateral => {
                ("it has no current vendor collateral for this machine", "collateralDir of the control plane")
            }
            Self::Policy => {
                ("its policies do not admit us, or not any more", "the AttestationPolicies of its workload")
            }
            Self::Expired => {
                ("something of ours is past its time", "both clocks, and whether our certificate is renewed")
            }
        }
    }

    /// The peer's refusal of us, as a denial of ours: in `field` is what it answered.
    pub(super) fn as_refusal(self, field: &str) -> Denial {
        let (means, check) = self.in_words();
        let presented = format!(
            "the peer refuses us with reason {}, {}: {means}; check {check}",
            self.number(),
            self.code()
        );
        Finding::new(Reason::PeerRefused, field, "the peer's consent", presented).into()
    }
}

impl std::fmt::Display for WireReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

/// How a live hop ends for a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// At once, and the peer showed that it must not be trusted.
    CutAndDistrust,
    /// At once.
    Cut,
    /// After the grace, unless the policy says otherwise.
    Drain,
}

impl Ending {
    /// How a live hop ends for `reason`. A hop that is not open yet is always cut.
    #[must_use]
    pub const fn of(reason: Reason) -> Self {
        row(reason).1
    }
}

/// The matrix. Total, without a catch-all: a new reason is a new decision.
const fn row(reason: Reason) -> (WireReason, Ending) {
    use Ending::{Cut, CutAndDistrust, Drain};
    match reason {
        Reason::BindingMismatch => (WireReason::Binding, CutAndDistrust),

        Reason::BadSignature
        | Reason::BadChain
        | Reason::UntrustedRoot
        | Reason::EmulatedNotAdmitted
        | Reason::CertificateMismatch
        | Reason::AttestationKeyUnbound
        | Reason::QeIdentityMismatch
        | Reason::ModuleMismatch => (WireReason::Signature, CutAndDistrust),

        Reason::CertificateRevoked | Reason::TcbRevoked => (WireReason::Revoked, CutAndDistrust),

        // Drains only for a hop that was good before: new ones are refused.
        Reason::TcbOutOfDate => (WireReason::Tcb, Drain),
        Reason::TcbNotSupported | Reason::TcbStatusNotAccepted | Reason::TcbBelowMinimum => {
            (WireReason::Tcb, Cut)
        }

        Reason::MeasurementMismatch
        | Reason::EventNotAdmitted
        | Reason::AttributeMismatch
        | Reason::Migratable => (WireReason::Measurement, CutAndDistrust),
        Reason::Debug => (WireReason::Debug, CutAndDistrust),
        Reason::PlatformNotAllowed | Reason::TeeNotAccepted => (WireReason::Platform, CutAndDistrust),
        Reason::EventLogMismatch | Reason::EventLogMissing => (WireReason::LogReplay, CutAndDistrust),

        Reason::SvidInvalid
        | Reason::SvidUntrusted
        | Reason::IdentityMismatch
        | Reason::OtherTee
        | Reason::CertificateRequired
        | Reason::SelfConnection => (WireReason::Identity, CutAndDistrust),

        Reason::Malformed
        | Reason::Truncated
        | Reason::Oversized
        | Reason::NonCanonical
        | Reason::EvidenceMissing
        | Reason::EvidenceDuplicate
        | Reason::UnsupportedVersion
        | Reason::UnsupportedFormat
        | Reason::BadRequest
        | Reason::RequestTooLarge
        | Reason::NoApplicationProtocol
        | Reason::TlsFailure
        | Reason::Resumed => (WireReason::Format, CutAndDistrust),

        // The first one drains; the machine itself counts to the second.
        Reason::Timeout => (WireReason::Timeout, Drain),

        // Who closes the channel, or does not want us, is cut but not accused.
        Reason::ChannelClosed | Reason::PeerRefused => (WireReason::Unavailable, Cut),
        Reason::Overloaded
        | Reason::NotReady
        | Reason::ClockBehind
        | Reason::Internal
        | Reason::Draining
        | Reason::ConnectFailed
        | Reason::NoBackend
        | Reason::CollateralInvalid
        | Reason::CollateralRollback
        | Reason::SnapshotUntrusted
        | Reason::SnapshotRollback => (WireReason::Unavailable, Drain),

        Reason::CollateralMissing
        | Reason::CollateralExpired
        | Reason::CollateralNotYetValid
        | Reason::CollateralMismatch
        | Reason::CrlMissing
        | Reason::ReferenceValuesUnusable => (WireReason::Collateral, Drain),

        Reason::PolicyChanged => (WireReason::Policy, Drain),
        Reason::NoPolicy
        | Reason::UnknownWorkload
        | Reason::AuthorizationDenied
        | Reason::PortNotOffered
        | Reason::NoRoute
        | Reason::UnknownDestination
        | Reason::PlaintextRefused
        | Reason::LevelTooLow => (WireReason::Policy, Cut),

        Reason::SvidExpired
        | Reason::CertificateExpired
        | Reason::CertificateNotYetValid
        | Reason::EvidenceStale => (WireReason::Expired, Cut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_note() {
        for (index, reason) in WireReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.number(), index as u64 + 1);
            assert_eq!(WireReason::from_number(reason.number()), Some(reason));
        }
        assert_eq!((WireReason::Binding.number(), WireReason::Expired.number()), (1, 15));
        assert_eq!((WireReason::from_number(0), WireReason::from_number(16)), (None, None));
    }

    #[test]
    fn a_refusal_says_in_words_what_the_peer_means_and_what_to_look_at() {
        for wire in WireReason::ALL {
            let told = wire.as_refusal("our proof").to_string();
            let (means, check) = wire.in_words();
            assert!(
                told.contains(&format!("reason {}, {wire}: {means}; check {check}", wire.number())),
                "{told}"
            );
            assert!(!told.contains('…'), "cut: {told}");
        }
    }

    /// Section 4.4: what must cut, and what may drain.
    #[test]
    fn the_matrix_is_that_of_the_note() {
        for reason in Reason::ALL.iter().copied() {
            let (wire, ending) = (WireReason::of(reason), Ending::of(reason));
            let must_cut = matches!(
                wire,
                WireReason::Binding
                    | WireReason::Signature
                    | WireReason::Revoked
                    | WireReason::Debug
                    | WireReason::Measurement
                    | WireReason::Platform
                    | WireReason::Identity
                    | WireReason::LogReplay
                    | WireReason::Format
            );
            assert_eq!(must_cut, ending == Ending::CutAndDistrust, "{reason}");
            if ending == Ending::Drain {
                let ours = reason.fault() != countersign_evidence::reason::Fault::Peer;
                let named = matches!(
                    reason,
                    Reason::Timeout
                        | Reason::TcbOutOfDate
                        | Reason::PolicyChanged
                        | Reason::SnapshotUntrusted
                        | Reason::SnapshotRollback
                );
                assert!(ours || named, "{reason}");
            }
        }
    }
}
