//! Trust bundles (SPIFFE Trust Domain and Bundle specification): what chains
//! are validated to. Their documents are in `jwks`.

use countersign_evidence::finding::timestamp;
use countersign_evidence::{Finding, Reason, UnixTime};
use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::{EndEntityCert, KeyUsage};

use crate::peer::Presented;
use crate::spiffe::TrustDomain;
use crate::{certificate, jwks};

/// The roots of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The trust domain. Not in the document itself: bundles are never merged.
    pub trust_domain: TrustDomain,
    /// Certificates of `use: x509-svid`.
    pub x509_authorities: Vec<CertificateDer<'static>>,
    /// Keys that sign policy snapshots: `use: countersign-snapshot`, P-256,
    /// uncompressed points with their `kid`. Other software ignores them.
    pub snapshot_keys: Vec<(String, Vec<u8>)>,
    /// `spiffe_sequence`.
    pub sequence: u64,
    /// `spiffe_refresh_hint`, seconds.
    pub refresh_hint: Option<u64>,
}

impl Bundle {
    /// The JWK Set document.
    #[must_use]
    pub fn to_json(&self) -> String {
        jwks::write(self)
    }

    /// Reads a JWK Set document (or PEM certificates).
    ///
    /// # Errors
    /// When it is malformed; unknown `use` values are ignored, as the specification says.
    pub fn parse(trust_domain: TrustDomain, document: &[u8]) -> Result<Self, Finding> {
        jwks::read(trust_domain, document)
    }

    /// Validates the path of an SVID to this bundle at `now` and returns the
    /// last second at which all of it is valid.
    ///
    /// # Errors
    /// `svid-untrusted`, `svid-expired`, or another trust domain.
    pub fn validate(&self, peer: &Presented, now: UnixTime) -> Result<u64, Finding> {
        let id = peer.id.as_ref().ok_or_else(|| {
            Finding::new(Reason::SvidInvalid, "leaf", "an X.509-SVID", "a certificate without a SPIFFE ID")
        })?;
        if !id.is_member_of(&self.trust_domain) {
            let presented = id.trust_domain().to_string();
            return Err(Finding::new(
                Reason::SvidUntrusted,
                "trust domain",
                self.trust_domain.as_str(),
                presented,
            ));
        }
        let Some((leaf, intermediates)) = peer.chain.split_first() else {
            return Err(Finding::new(Reason::CertificateRequired, "certificate chain", "a leaf", "nothing"));
        };
        let roots = self.roots(now);
        let anchors: Vec<_> = roots.iter().map(|root| root.anchor.clone()).collect();
        let leaf = EndEntityCert::try_from(leaf).map_err(|error| self.refusal(&error, now))?;
        let path = leaf
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                intermediates,
                now,
                // The profile has both usages or none; webpki asks for one.
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map_err(|error| self.refusal(&error, now))?;
        let mut valid_until = peer.not_after;
        for intermediate in path.intermediate_certificates() {
            let der = intermediate.der();
            let parsed = certificate::parse("signing certificate", &der)?;
            valid_until = valid_until.min(certificate::validity(&parsed).1);
        }
        let root = roots.iter().find(|root| root.anchor == *path.anchor());
        Ok(valid_until.min(root.map_or(0, |root| root.not_after)))
    }

    /// The roots that may end a path at `now`. webpki takes an anchor as it is,
    /// so validity and the right to sign are looked at here.
    fn roots(&self, now: UnixTime) -> Vec<Root<'_>> {
        self.x509_authorities.iter().filter_map(|der| Root::at(der, now)).collect()
    }

    fn refusal(&self, error: &webpki::Error, now: UnixTime) -> Finding {
        use webpki::Error;
        let validity = |presented: String| {
            let expected = format!("one that includes {}", timestamp(now.as_secs()));
            Finding::new(Reason::SvidExpired, "SVID validity", expected, presented)
        };
        match error {
            // Of the leaf, or of a certificate that signed it.
            Error::CertExpired { not_after, .. } => {
                validity(format!("over since {}", timestamp(not_after.as_secs())))
            }
            Error::CertNotValidYet { not_before, .. } => {
                validity(format!("one that begins at {}", timestamp(not_before.as_secs())))
            }
            _ => {
                let expected = format!(
                    "a path to the bundle of {} ({} authorities)",
                    self.trust_domain,
                    self.x509_authorities.len()
                );
                Finding::new(Reason::SvidUntrusted, "certificate path", expected, error.to_string())
            }
        }
    }
}

#[derive(Debug)]
struct Root<'a> {
    anchor: TrustAnchor<'a>,
    not_after: u64,
}

impl<'a> Root<'a> {
    fn at(der: &'a CertificateDer<'static>, now: UnixTime) -> Option<Self> {
        let certificate = certificate::parse("root", der).ok().filter(|root| root.is_ca())?;
        let (not_before, not_after) = certificate::validity(&certificate);
        let anchor = webpki::anchor_from_trusted_cert(der).ok()?;
        (not_before..=not_after).contains(&now.as_secs()).then_some(Self { anchor, not_after })
    }
}
