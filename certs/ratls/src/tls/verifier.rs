//! The verifier of one connection: asks the judge, keeps the decision.

use std::sync::{Arc, OnceLock};

use countersign_evidence::{Denial, Finding, Reason, UnixTime};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::peer::{self, Admission, Judge, Role};
use crate::spiffe::IdPattern;

/// What the verifiers of one side share.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) judge: Arc<dyn Judge>,
    /// The role of the peer.
    pub(super) role: Role,
    pub(super) own_spki_sha256: [u8; 32],
    /// Who the peer must be, besides what the judge says.
    pub(super) expected: Option<IdPattern>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// Verifies the peer of one connection.
#[derive(Debug)]
pub(super) struct Verifier {
    rules: Arc<Rules>,
    decision: OnceLock<Result<Arc<Admission>, Denial>>,
}

impl Verifier {
    pub(super) const fn new(rules: Arc<Rules>) -> Self {
        Self { rules, decision: OnceLock::new() }
    }

    /// What was decided; `None` when the peer's certificate never came.
    pub(super) fn decision(&self) -> Option<Result<Arc<Admission>, Denial>> {
        self.decision.get().cloned()
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let rest = intermediates.iter().map(|certificate| CertificateDer::from(certificate.as_ref()));
        let chain: Vec<_> = std::iter::once(CertificateDer::from(leaf.as_ref())).chain(rest).collect();
        let decision = self.rules.decide(&chain, now);
        let outcome = decision.as_ref().map(|_| ()).map_err(|denial| tls_error(denial.reason));
        match self.decision.set(decision) {
            Ok(()) => outcome,
            // A second certificate on one connection: there is no post-handshake
            // authentication in this profile.
            Err(_) => Err(rustls::Error::General("a second certificate".to_owned())),
        }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.rules.algorithms)
    }
}

impl Rules {
    fn decide(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Arc<Admission>, Denial> {
        // Before anything hashes the chain.
        peer::check_sizes(chain)?;
        let admission = self.judge.judge(chain, self.role, now)?;
        let presented = &admission.presented;
        if presented.spki_sha256 == self.own_spki_sha256 {
            let own = hex::encode(self.own_spki_sha256);
            return Err(
                Finding::new(Reason::SelfConnection, "public key", "another key than ours", own).into()
            );
        }
        if let Some(expected) = &self.expected
            && !presented.id.as_ref().is_some_and(|id| expected.matches(id))
        {
            let id = presented.id.as_ref().map_or("none", |id| id.as_str());
            return Err(Finding::new(Reason::IdentityMismatch, "SPIFFE ID", expected.as_str(), id).into());
        }
        Ok(admission)
    }
}

/// The error of rustls whose alert is, or comes nearest to, the reason's.
pub(super) fn tls_error(reason: Reason) -> rustls::Error {
    let error = match reason.tls_alert() {
        42 => CertificateError::BadEncoding,
        43 => CertificateError::InvalidPurpose,
        44 => CertificateError::Revoked,
        45 => CertificateError::Expired,
        48 => CertificateError::UnknownIssuer,
        49 => CertificateError::ApplicationVerificationFailure,
        // rustls makes handshake_failure of it, which says as little about the
        // peer's certificate as internal_error would.
        _ => return rustls::Error::General(reason.code().to_owned()),
    };
    error.into()
}

impl ClientCertVerifier for Verifier {
    /// None: which roots we trust is nobody's business, and SPIFFE IDs select.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.rules.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.rules.algorithms.supported_schemes()
    }
}

fn tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken here".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::AlertDescription;

    /// The alert that rustls sends for an error of a verifier.
    fn alert(error: &rustls::Error) -> u8 {
        match error {
            rustls::Error::InvalidCertificate(error) => AlertDescription::from(error.clone()).into(),
            _ => AlertDescription::HandshakeFailure.into(),
        }
    }

    #[test]
    fn every_reason_has_its_alert_except_those_that_are_not_about_the_certificate() {
        for reason in Reason::ALL {
            let sent = alert(&tls_error(*reason));
            let expected = match reason.tls_alert() {
                // internal_error, and two that TLS itself sends before a verifier is asked.
                80 | 116 | 120 => 40,
                own => own,
            };
            assert_eq!(sent, expected, "{reason}");
        }
    }
}
