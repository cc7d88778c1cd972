//! By what operators judge us when nobody has said it: what we are at the first
//! start, which is when they hold our bundle to be ours as well. From then on
//! another control plane with our keys, or we ourselves after an update, must be
//! approved by somebody who writes to the file.

use std::fmt::Write as _;
use std::path::Path;

use countersign_evidence::amd::CertificateKind;
use countersign_evidence::intel::QuoteBody;
use countersign_evidence::{Evidence, Finding, Fingerprint};
use countersign_ratls::peer::Conveyed;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::error::Error;
use crate::files;

/// The policy by which operators judge the control plane.
pub const ATTESTATION: &str = "control-plane-attestation.yaml";

/// Writes the policy that our own evidence meets, unless there is one.
pub(crate) fn pin(path: &Path, evidence: &Conveyed, emulated: bool) -> Result<(), Error> {
    if path.try_exists().map_err(Error::io(format!("look for {}", path.display())))? {
        return Ok(());
    }
    let text = policy(evidence, emulated)?;
    files::write(path, 0o644, text.as_bytes()).map_err(Error::io(format!("write {}", path.display())))?;
    tracing::info!(path = %path.display(), "wrote the policy by which the CLI judges this control plane");
    Ok(())
}

/// Nothing is verified here: it is what our own device just said to us.
fn policy(evidence: &Conveyed, emulated: bool) -> Result<String, Finding> {
    let parsed = Evidence::parse(&evidence.media_type, &evidence.value)?;
    let (tee, entry) = match &parsed {
        Evidence::Intel(quote) => match quote.body() {
            QuoteBody::Tdx(report) => {
                let mut entry = format!("mrTd: \"{}\"\n      rtmr:", hex::encode(report.mr_td));
                // Register 3 grows while the guest runs.
                for (number, register) in report.rtmr.iter().take(3).enumerate() {
                    let _ = write!(entry, "\n        \"{number}\": \"{}\"", hex::encode(register));
                }
                ("tdx", entry)
            }
            QuoteBody::Sgx(report) => ("sgx", format!("mrEnclave: \"{}\"", hex::encode(report.mr_enclave))),
        },
        Evidence::Amd(attestation) => {
            ("sevSnp", format!("measurement: \"{}\"", hex::encode(attestation.report().measurement)))
        }
    };
    let roots = match root(&parsed).filter(|_| emulated) {
        Some(root) => format!("\n        emulatedRoots: [\"{root}\"]"),
        None => String::new(),
    };
    Ok(format!(
        "# What this control plane was when it started first: the CLI judges it by this, and proxies\n\
         # can be given it (controlPlane.attestation). It is never written again: after an update of\n\
         # the control plane, approve the new measurements here.\n\
         apiVersion: countersign.dev/v1alpha1\nkind: AttestationPolicy\n\
         metadata: {{ name: control-plane, namespace: countersign-system }}\nspec:\n  anyOf:\n    \
         - {tee}:{roots}\n        measurements: {{ fromReferenceValues: control-plane }}\n---\n\
         apiVersion: countersign.dev/v1alpha1\nkind: ReferenceValues\n\
         metadata: {{ name: control-plane, namespace: countersign-system }}\nspec:\n  {tee}:\n    \
         - name: the control plane at its first start\n      {entry}\n"
    ))
}

/// The root that came with the evidence.
fn root(evidence: &Evidence<'_>) -> Option<Fingerprint> {
    match evidence {
        Evidence::Intel(quote) => {
            let chain = CertificateDer::pem_slice_iter(quote.certification_data().data);
            chain.filter_map(Result::ok).last().map(|root| Fingerprint::of(&root))
        }
        Evidence::Amd(attestation) => attestation.certificate(CertificateKind::Ark).map(Fingerprint::of),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use countersign_attester::Attester;
    use countersign_attester::emulated::{SgxSpec, SnpSpec, TdxSpec, Vendor};
    use countersign_config::Resource;
    use countersign_evidence::UnixTime;
    use countersign_ratls::peer::Form;

    fn conveyed(attester: &dyn Attester) -> Conveyed {
        let produced = attester.evidence(&[7; 64]).unwrap();
        let media_type = produced.media_type.to_owned();
        Conveyed { form: Form::Native, media_type, value: produced.value, event_log: None }
    }

    #[test]
    fn each_kind_of_machine_has_a_policy_with_what_it_measured_and_its_emulated_root() {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
        let vendor = Vendor::generate(now, Duration::from_secs(86_400)).unwrap();
        let machines: [(&str, std::sync::Arc<dyn Attester>, Fingerprint); 3] = [
            ("mrTd", vendor.tdx(TdxSpec::default()).unwrap(), vendor.intel_root()),
            ("mrEnclave", vendor.sgx(SgxSpec::default()).unwrap(), vendor.intel_root()),
            ("measurement", vendor.snp(SnpSpec::default()).unwrap(), vendor.amd_root().unwrap()),
        ];
        for (field, machine, root) in machines {
            let text = policy(&conveyed(&*machine), true).unwrap();
            let resources = countersign_config::parse("pin.yaml", &text).unwrap_or_else(|p| panic!("{p:?}"));
            assert_eq!(resources.len(), 2, "{text}");
            assert!(resources.iter().any(|r| Resource::to_json(r).contains(&root.to_string())), "{text}");
            assert!(resources.iter().any(|r| Resource::to_json(r).contains(field)), "{text}");
            // A machine that is not emulated is judged by the roots of vendors.
            assert!(!policy(&conveyed(&*machine), false).unwrap().contains("emulatedRoots"));
        }
    }

    #[test]
    fn what_was_pinned_once_stays() {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
        let vendor = Vendor::generate(now, Duration::from_secs(86_400)).unwrap();
        let path = tempfile::tempdir().unwrap().keep().join(ATTESTATION);
        let machine = |byte| vendor.tdx(TdxSpec { mr_td: [byte; 48], ..TdxSpec::default() }).unwrap();
        pin(&path, &conveyed(&*machine(0xc0)), true).unwrap();
        let first = std::fs::read_to_string(&path).unwrap();
        assert!(first.contains(&"c0".repeat(48)));
        pin(&path, &conveyed(&*machine(0xee)), true).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
