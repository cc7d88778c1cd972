//! Why something was refused: one closed list for the whole product.
//!
//! A [`Reason`] is at once the code in a log line, the value of a metric label,
//! the flag of an access-log record, the HTTP status of a CONNECT answer, the
//! TLS alert of a handshake and the reason of a status condition. All of these
//! come from the one table below.

/// Whose fault a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// The peer presented something that is not acceptable.
    Peer,
    /// The workload or service behind us failed.
    Upstream,
    /// We ourselves lack something (configuration, collateral, capacity).
    Ourselves,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
struct Row {
    code: &'static str,
    flag: &'static str,
    http: u16,
    alert: u8,
    fault: Fault,
    retry: bool,
    remedy: &'static str,
}

// TLS alert numbers, RFC 8446 section 6.
const HANDSHAKE_FAILURE: u8 = 40;
const BAD_CERTIFICATE: u8 = 42;
const UNSUPPORTED_CERTIFICATE: u8 = 43;
const CERTIFICATE_REVOKED: u8 = 44;
const CERTIFICATE_EXPIRED: u8 = 45;
const UNKNOWN_CA: u8 = 48;
const ACCESS_DENIED: u8 = 49;
const INTERNAL_ERROR: u8 = 80;
const CERTIFICATE_REQUIRED: u8 = 116;
const NO_APPLICATION_PROTOCOL: u8 = 120;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident, $code:literal, $flag:literal, $http:literal, $alert:ident, $fault:ident, $retry:literal, $remedy:literal;)*) => {
        /// A stable reason of a refusal. The list is closed: a new refusal is a new row.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            const fn row(self) -> Row {
                match self {
                    $(Reason::$name => Row { code: $code, flag: $flag, http: $http, alert: $alert,
                        fault: Fault::$fault, retry: $retry, remedy: $remedy },)*
                }
            }
        }
    };
}

reasons! {
    // --- the form of the evidence
    /// The bytes do not have the form of what they claim to be.
    Malformed, "malformed", "ATTEST_INVALID", 400, BAD_CERTIFICATE, Peer, false, "the peer sends damaged or foreign evidence: compare its software version with ours";
    /// The bytes end before the structure does.
    Truncated, "truncated", "ATTEST_INVALID", 400, BAD_CERTIFICATE, Peer, false, "the evidence was cut on its way: look for a size limit between the device and the certificate";
    /// A size, a count or a depth is over its limit.
    Oversized, "oversized", "ATTEST_INVALID", 413, BAD_CERTIFICATE, Peer, false, "the evidence is larger than any genuine one: do not trust its sender";
    /// A version of the format that is unknown or no longer safe.
    UnsupportedVersion, "unsupported-version", "ATTEST_INVALID", 400, UNSUPPORTED_CERTIFICATE, Peer, false, "update the peer's firmware or guest tools to a version that produces a supported format";
    /// A format that this build does not verify or the policy does not accept.
    UnsupportedFormat, "unsupported-format", "ATTEST_INVALID", 400, UNSUPPORTED_CERTIFICATE, Peer, false, "let the peer send its evidence in the native form, or admit the foreign form in the policy";
    /// The peer presented no evidence.
    EvidenceMissing, "evidence-missing", "ATTEST_MISSING", 401, BAD_CERTIFICATE, Peer, false, "run the peer behind a Countersign proxy inside a TEE";
    /// More than one evidence extension of one kind.
    EvidenceDuplicate, "evidence-duplicate", "ATTEST_INVALID", 400, BAD_CERTIFICATE, Peer, false, "the peer's certificate is ambiguous: issue it anew";
    /// Bytes that have a canonical form and are not in it.
    NonCanonical, "non-canonical", "ATTEST_INVALID", 400, BAD_CERTIFICATE, Peer, false, "the peer must encode its evidence deterministically (RFC 8949 section 4.2.1)";

    // --- signatures, chains, bindings
    /// The evidence was not made for this key, session or challenge.
    BindingMismatch, "binding-mismatch", "ATTEST_INVALID", 401, ACCESS_DENIED, Peer, false, "the evidence belongs to another key: treat it as stolen until shown otherwise";
    /// Evidence made for the connection is of another machine, kind of TEE or
    /// software than the evidence in the certificate.
    OtherTee, "other-tee", "ATTEST_INVALID", 401, ACCESS_DENIED, Peer, false, "the key is used outside the TEE that it was certified for: treat it as stolen until shown otherwise";
    /// A signature does not verify.
    BadSignature, "bad-signature", "ATTEST_INVALID", 401, BAD_CERTIFICATE, Peer, false, "the evidence was changed after it was signed: do not trust its sender";
    /// A certificate chain is broken.
    BadChain, "bad-chain", "ATTEST_INVALID", 401, BAD_CERTIFICATE, Peer, false, "the vendor certificates do not fit together: fetch them anew on the peer's machine";
    /// A chain ends in a root that nothing admits.
    UntrustedRoot, "untrusted-root", "ATTEST_INVALID", 401, UNKNOWN_CA, Peer, false, "name the root's fingerprint in the policy if it should be trusted";
    /// The platform is emulated and the policy does not admit its root by name.
    EmulatedNotAdmitted, "emulated-not-admitted", "ATTEST_INVALID", 401, UNKNOWN_CA, Peer, false, "emulated platforms prove nothing about hardware; for a test, name the root under emulatedRoots";
    /// A vendor certificate is past its validity.
    CertificateExpired, "certificate-expired", "ATTEST_STALE", 401, CERTIFICATE_EXPIRED, Peer, false, "renew the certificate, and check the clock on both sides";
    /// A certificate is not valid yet.
    CertificateNotYetValid, "certificate-not-yet-valid", "ATTEST_STALE", 401, BAD_CERTIFICATE, Peer, true, "check the clock on both sides";
    /// A certificate is on a revocation list.
    CertificateRevoked, "certificate-revoked", "ATTEST_REVOKED", 401, CERTIFICATE_REVOKED, Peer, false, "the vendor or the operator withdrew trust from this platform: replace it";
    /// A certificate is genuine but belongs to another chip, TCB or product.
    CertificateMismatch, "certificate-mismatch", "ATTEST_INVALID", 401, BAD_CERTIFICATE, Peer, false, "fetch the vendor certificate for exactly this chip and TCB";
    /// The quoting enclave does not vouch for the attestation key.
    AttestationKeyUnbound, "attestation-key-unbound", "ATTEST_INVALID", 401, BAD_CERTIFICATE, Peer, false, "the quote was assembled from parts: do not trust its sender";
    /// The quoting enclave is not the vendor's.
    QeIdentityMismatch, "qe-identity-mismatch", "ATTEST_INVALID", 401, BAD_CERTIFICATE, Peer, false, "install the vendor's signed quoting enclave on the peer's host";
    /// The TDX module (SEAM) is not one that the vendor lists.
    ModuleMismatch, "tdx-module-mismatch", "ATTEST_INVALID", 401, BAD_CERTIFICATE, Peer, false, "load a TDX module that the vendor's TCB info lists";

    // --- collateral
    /// Collateral that is needed is not at hand.
    CollateralMissing, "collateral-missing", "ATTEST_UNAVAILABLE", 503, INTERNAL_ERROR, Ourselves, true, "add the vendor collateral for this platform to collateralDir of the control plane";
    /// Collateral is past its next update.
    CollateralExpired, "collateral-expired", "ATTEST_STALE", 503, INTERNAL_ERROR, Ourselves, true, "refresh the vendor collateral";
    /// Collateral is from the future of the clock in use.
    CollateralNotYetValid, "collateral-not-yet-valid", "ATTEST_STALE", 503, INTERNAL_ERROR, Ourselves, true, "check this machine's clock";
    /// Collateral is malformed or not signed by its vendor.
    CollateralInvalid, "collateral-invalid", "ATTEST_UNAVAILABLE", 503, INTERNAL_ERROR, Ourselves, false, "fetch the collateral again from the vendor";
    /// Collateral is older than what was already in use.
    CollateralRollback, "collateral-rollback", "ATTEST_UNAVAILABLE", 503, INTERNAL_ERROR, Ourselves, false, "somebody serves old collateral: fetch the current one from the vendor";
    /// Collateral is for another platform.
    CollateralMismatch, "collateral-mismatch", "ATTEST_UNAVAILABLE", 503, INTERNAL_ERROR, Ourselves, true, "add the TCB info for this FMSPC and PCEID to collateralDir of the control plane";
    /// A revocation list that the policy requires is not at hand.
    CrlMissing, "crl-missing", "ATTEST_UNAVAILABLE", 503, INTERNAL_ERROR, Ourselves, true, "add the vendor's CRL to collateralDir of the control plane";

    // --- trusted computing base
    /// No TCB level of the vendor matches the platform.
    TcbNotSupported, "tcb-not-supported", "ATTEST_TCB", 401, ACCESS_DENIED, Peer, false, "update the platform's microcode and firmware";
    /// The vendor says that the TCB is out of date.
    TcbOutOfDate, "tcb-out-of-date", "ATTEST_TCB", 401, ACCESS_DENIED, Peer, false, "update the platform's microcode and firmware, or grant a tcbGracePeriod";
    /// The vendor revoked the TCB.
    TcbRevoked, "tcb-revoked", "ATTEST_TCB", 401, CERTIFICATE_REVOKED, Peer, false, "the platform is known broken: update or replace it";
    /// A TCB status that the policy does not list.
    TcbStatusNotAccepted, "tcb-status-not-accepted", "ATTEST_TCB", 401, ACCESS_DENIED, Peer, false, "bring the platform to an accepted status, or list the status and its advisories in the policy";
    /// A TCB component is below the minimum of the policy.
    TcbBelowMinimum, "tcb-below-minimum", "ATTEST_TCB", 401, ACCESS_DENIED, Peer, false, "update the platform's firmware to the minimum that the policy names";

    // --- appraisal
    /// The guest can be inspected by a debugger.
    Debug, "debug", "ATTEST_INVALID", 401, ACCESS_DENIED, Peer, false, "start the workload without debug; no policy can admit it";
    /// The guest can be migrated by an agent that the policy does not know.
    Migratable, "migratable", "ATTEST_INVALID", 401, ACCESS_DENIED, Peer, false, "start the guest without migration";
    /// A measurement is not among the reference values.
    MeasurementMismatch, "measurement-mismatch", "ATTEST_REFVAL", 401, ACCESS_DENIED, Peer, false, "add the measurement to the ReferenceValues if this software is approved";
    /// The event log does not reproduce the registers of the quote.
    EventLogMismatch, "event-log-mismatch", "ATTEST_INVALID", 401, ACCESS_DENIED, Peer, false, "the log is not that of the quoted guest, or something extends its register without logging: find out what, and restart the guest";
    /// The policy looks at runtime events, and no log of them came with the evidence.
    EventLogMissing, "event-log-missing", "ATTEST_INVALID", 401, ACCESS_DENIED, Peer, false, "the peer's machine keeps no event log, or one too long for a certificate: see the peer's log for what is missing";
    /// Something was measured at runtime that the policy does not admit.
    EventNotAdmitted, "event-not-admitted", "ATTEST_REFVAL", 401, ACCESS_DENIED, Peer, false, "add the event to the runtimeEvents of the ReferenceValues if it is approved; if not, examine the guest and restart it, because a register cannot be taken back";
    /// The reference values that a policy names are absent or past their validity.
    ReferenceValuesUnusable, "reference-values-unusable", "ATTEST_REFVAL", 503, INTERNAL_ERROR, Ourselves, true, "apply current ReferenceValues under the name that the policy uses";
    /// The machine is not on the platform allow-list.
    PlatformNotAllowed, "platform-not-allowed", "ATTEST_INVALID", 401, ACCESS_DENIED, Peer, false, "if the machine is yours, put it on a list: countersign platforms approve ID --list NAMESPACE/NAME";
    /// An attribute (flags, VMPL, host data, owner, ...) differs from the policy.
    AttributeMismatch, "attribute-mismatch", "ATTEST_INVALID", 401, ACCESS_DENIED, Peer, false, "compare the launch configuration of the peer with the policy";
    /// The kind of TEE, or the product, is not one that the policy accepts.
    TeeNotAccepted, "tee-not-accepted", "ATTEST_INVALID", 401, ACCESS_DENIED, Peer, false, "add an alternative for this TEE to the policy's anyOf if it should be accepted";
    /// The evidence is older than the policy allows.
    EvidenceStale, "evidence-stale", "ATTEST_STALE", 401, CERTIFICATE_EXPIRED, Peer, true, "let the peer renew its identity";

    // --- identity
    /// The certificate breaks a rule of the X.509-SVID profile.
    SvidInvalid, "svid-invalid", "IDENTITY_ERROR", 401, BAD_CERTIFICATE, Peer, false, "issue the certificate by the rules of the X.509-SVID specification";
    /// The certificate does not chain to the bundle of its own trust domain.
    SvidUntrusted, "svid-untrusted", "IDENTITY_ERROR", 401, UNKNOWN_CA, Peer, false, "compare the trust bundles of both sides";
    /// The SVID is outside its validity.
    SvidExpired, "svid-expired", "IDENTITY_ERROR", 401, CERTIFICATE_EXPIRED, Peer, true, "the peer could not renew: look at its log and at both clocks";
    /// No certificate at all.
    CertificateRequired, "certificate-required", "IDENTITY_ERROR", 401, CERTIFICATE_REQUIRED, Peer, false, "connect through a Countersign proxy";
    /// The peer is genuine but not the one that was asked for.
    IdentityMismatch, "identity-mismatch", "IDENTITY_ERROR", 401, ACCESS_DENIED, Peer, false, "correct the destination's SPIFFE ID, or find out why another workload answers there";
    /// The peer presents our own key.
    SelfConnection, "self-connection", "IDENTITY_ERROR", 508, ACCESS_DENIED, Peer, false, "the hop leads back to this proxy: correct the destination address";

    // --- policy
    /// No attestation policy speaks of this peer.
    NoPolicy, "no-policy", "DENY", 403, ACCESS_DENIED, Ourselves, false, "apply an AttestationPolicy that covers this peer";
    /// A proxy asks to be a workload that nobody has declared.
    UnknownWorkload, "unknown-workload", "DENY", 403, ACCESS_DENIED, Peer, false, "correct `workload` in the proxy's bootstrap file, or apply a WorkloadIdentity of that namespace and name";
    /// The connection gives less assurance than a policy demands of this peer.
    LevelTooLow, "level-too-low", "DENY", 403, ACCESS_DENIED, Peer, false, "let the peer speak ratls-h2/1, or lower the level of the policies that speak of it";
    /// An authorization policy denies the hop, or none allows it.
    AuthorizationDenied, "authorization-denied", "DENY", 403, ACCESS_DENIED, Peer, false, "if the call is right, allow it by an AuthorizationPolicy: caller, port and request; where a Deny is named, no Allow helps";
    /// The caller is allowed, but the destination's proxy does not offer the port.
    PortNotOffered, "port-not-offered", "DENY", 403, ACCESS_DENIED, Upstream, false, "add the port to inbound.ports of the destination's proxy if its workload listens there, or correct the port";
    /// No Service is known under the name or the address that a workload calls.
    UnknownDestination, "unknown-destination", "DENY", 403, ACCESS_DENIED, Ourselves, false, "apply a Service with this host or address and this port, or correct what the workload calls: it reaches nothing else";
    /// Somebody connects to a port of the workload past its proxy.
    PlaintextRefused, "plaintext-refused", "DENY", 403, ACCESS_DENIED, Peer, false, "let the caller use its Countersign proxy; to let plaintext in all the same, name the port in --exclude-inbound-ports of countersign-init";
    /// The policy that admitted a live hop was replaced by one that does not.
    PolicyChanged, "policy-changed", "DENY", 403, ACCESS_DENIED, Peer, false, "see the findings of the new verdict";

    /// The control plane's snapshot is not signed by a key of our trust bundle.
    SnapshotUntrusted, "snapshot-untrusted", "DENY", 503, UNKNOWN_CA, Peer, false, "compare the control plane's bundle with the proxy's trustBundle";
    /// The control plane offers an older configuration than the one in use.
    SnapshotRollback, "snapshot-rollback", "DENY", 503, ACCESS_DENIED, Peer, false, "find out who restored the control plane's store; if it was you, raise its generation above the one in use";

    // --- transport and ourselves
    /// The peer did not agree on our application protocol.
    NoApplicationProtocol, "no-application-protocol", "TLS_FAILURE", 421, NO_APPLICATION_PROTOCOL, Peer, false, "the peer must offer the mesh's ALPN protocol";
    /// The handshake failed for a reason of TLS itself.
    TlsFailure, "tls-failure", "TLS_FAILURE", 502, HANDSHAKE_FAILURE, Peer, true, "see the TLS error in the log of both sides";
    /// A resumed session: it would skip every check.
    Resumed, "resumed-session", "TLS_FAILURE", 421, HANDSHAKE_FAILURE, Peer, true, "the peer must not resume sessions";
    /// Something took longer than its limit.
    Timeout, "timeout", "TIMEOUT", 504, INTERNAL_ERROR, Peer, true, "look at the load of the peer and at the network between";
    /// The channel on which a hop is attested ended before the hop did.
    ChannelClosed, "attestation-channel-closed", "ATTEST_INVALID", 401, INTERNAL_ERROR, Peer, true, "the peer restarted, or refused us and could not say so any more: look at its log and at countersign explain; or something between closes idle streams";
    /// The peer does not accept, or no longer, what we prove.
    PeerRefused, "refused-by-peer", "ATTEST_REFUSED", 403, ACCESS_DENIED, Peer, false, "the log of the peer's proxy and countersign explain have the full reason; what to check here is above";
    /// A limit on work in progress is reached.
    Overloaded, "overloaded", "OVERLOADED", 503, INTERNAL_ERROR, Ourselves, true, "raise the limit or add capacity";
    /// The request could not be understood.
    BadRequest, "bad-request", "BAD_REQUEST", 400, HANDSHAKE_FAILURE, Peer, false, "see the message; the request breaks the protocol";
    /// A request is larger than a limit of the proxy in front of its workload.
    RequestTooLarge, "request-too-large", "BAD_REQUEST", 413, HANDSHAKE_FAILURE, Peer, false, "send less, or raise limits.http in the bootstrap file of the destination's proxy";
    /// A request to a Service with routes that none of them matches.
    NoRoute, "no-route", "NO_ROUTE", 404, INTERNAL_ERROR, Peer, false, "correct the request, or add a match for it to a route of the Service";
    /// A route leads to no Service that exists, or to none with a weight.
    NoBackend, "no-backend", "NO_ROUTE", 500, INTERNAL_ERROR, Ourselves, false, "correct backendRefs of the route, or apply the Service that it names";
    /// The workload or the peer could not be reached.
    ConnectFailed, "connect-failed", "CONNECT", 503, INTERNAL_ERROR, Upstream, true, "check that the destination runs and that the network lets us through";
    /// We are shutting down.
    Draining, "draining", "DRAINING", 503, INTERNAL_ERROR, Ourselves, true, "try again: another instance takes over";
    /// We do not have what we need to decide yet.
    NotReady, "not-ready", "NOT_READY", 503, INTERNAL_ERROR, Ourselves, true, "see /healthz/ready for what is missing";
    /// The clock is behind a time at which something was signed.
    ClockBehind, "clock-behind", "NOT_READY", 503, INTERNAL_ERROR, Ourselves, true, "set this machine's clock, and find out who set it back; if it is right, something was signed in the future: see docs/operators.md";
    /// A defect of ours.
    Internal, "internal", "INTERNAL", 500, INTERNAL_ERROR, Ourselves, false, "please report this with the log around it";
}

impl Reason {
    /// The stable code, in kebab case: log text and metric label.
    #[must_use]
    pub const fn code(self) -> &'static str {
        self.row().code
    }

    /// The flag of the access log, in the manner of the field's other meshes.
    #[must_use]
    pub const fn flag(self) -> &'static str {
        self.row().flag
    }

    /// The status of the CONNECT or HTTP answer.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        self.row().http
    }

    /// The TLS alert description, RFC 8446 section 6.
    #[must_use]
    pub const fn tls_alert(self) -> u8 {
        self.row().alert
    }

    /// Whose fault it is.
    #[must_use]
    pub const fn fault(self) -> Fault {
        self.row().fault
    }

    /// Whether the same attempt can succeed later without anybody's help.
    #[must_use]
    pub const fn retry_can_help(self) -> bool {
        self.row().retry
    }

    /// Whether it speaks of what the vendor publishes, not of the peer.
    #[must_use]
    pub const fn is_about_collateral(self) -> bool {
        matches!(
            self,
            Self::CollateralMissing
                | Self::CollateralExpired
                | Self::CollateralNotYetValid
                | Self::CollateralInvalid
                | Self::CollateralRollback
                | Self::CollateralMismatch
                | Self::CrlMissing
        )
    }

    /// Whether its findings say what happened rather than which value was there.
    #[must_use]
    pub const fn tells_what_happened(self) -> bool {
        matches!(
            self,
            Self::ConnectFailed
                | Self::TlsFailure
                | Self::ChannelClosed
                | Self::PeerRefused
                | Self::AuthorizationDenied
                | Self::Internal
        )
    }

    /// What to do about it, as a sentence without a full stop.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        self.row().remedy
    }

    /// The reason with this code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Reason> {
        Reason::ALL.iter().copied().find(|r| r.code() == code)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_total_and_its_codes_are_unique() {
        let mut codes: Vec<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!((400..600).contains(&reason.http_status()), "{reason}");
            assert!(!reason.remedy().is_empty() && !reason.remedy().ends_with('.'), "{reason}");
            assert_eq!(Reason::from_code(reason.code()), Some(*reason));
        }
    }
}
