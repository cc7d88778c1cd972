//! The resources of the mesh, with what tests vary.

use std::fmt::Write as _;

use countersign_attester::emulated::Vendor;

/// The trust domain of all tests.
pub const DOMAIN: &str = "demo.example";

/// The SPIFFE ID of a workload of the mesh.
#[must_use]
pub fn id(workload: &str) -> String {
    format!("spiffe://{DOMAIN}/ns/demo/sa/{workload}")
}

/// What the operator decides. Measurements are given by their repeated byte.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Approved MRTDs.
    pub tdx: Vec<u8>,
    /// Approved launch measurements of SEV-SNP guests.
    pub snp: Vec<u8>,
    /// The roots of the emulated vendor are named, so that it is admitted.
    pub emulated: bool,
    /// WorkloadIdentities.
    pub workloads: Vec<&'static str>,
    /// Who may call whom.
    pub calls: Vec<(&'static str, &'static str)>,
    /// Events that guests may measure while they run, by type and content;
    /// `None`: nobody looks.
    pub events: Option<Vec<(&'static str, &'static str)>>,
    /// Seconds.
    pub svid_lifetime: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            tdx: vec![0xd0],
            snp: vec![0xa0],
            emulated: true,
            workloads: vec!["web", "ledger", "audit"],
            calls: vec![("web", "ledger")],
            events: None,
            svid_lifetime: 3600,
        }
    }
}

impl Policy {
    /// As YAML documents.
    ///
    /// # Panics
    /// When the vendor has no AMD root.
    #[must_use]
    pub fn yaml(&self, vendor: &Vendor) -> String {
        let roots = |root: String| {
            if self.emulated { format!("emulatedRoots: [\"{root}\"], ") } else { String::new() }
        };
        let (intel, amd) =
            (roots(vendor.intel_root().to_string()), roots(vendor.amd_root().unwrap().to_string()));
        // Tests of events move the clock over what keeps two rounds apart, perhaps
        // while a machine of this process has yet to answer.
        let (events, continuous) = match self.events {
            Some(_) => {
                (", runtimeEvents: { fromReferenceValues: images }", "  continuous: { timeout: 60s }\n")
            }
            None => ("", ""),
        };
        let mut text = format!(
            "{}spec: {{ svid: {{ lifetime: {}s }} }}\n",
            head("TrustDomain", DOMAIN, false),
            self.svid_lifetime
        );
        let _ = write!(
            text,
            "---\n{}---\n{}spec:\n{continuous}  anyOf:\n    - tdx: {{ {intel}measurements: {{ fromReferenceValues: images }}{events} }}\n    \
             - sevSnp: {{ {amd}measurements: {{ fromReferenceValues: images }} }}\n",
            self.reference_values(),
            head("AttestationPolicy", "peers", true),
        );
        for name in &self.workloads {
            let _ = write!(
                text,
                "---\n{}spec: {{ spiffeId: \"{}\", labels: {{ app: {name} }}, attestation: {{ policy: peers }} }}\n",
                head("WorkloadIdentity", name, true),
                id(name)
            );
        }
        for (from, to) in &self.calls {
            let _ = write!(
                text,
                "---\n{}spec:\n  selector: {{ matchLabels: {{ app: {to} }} }}\n  rules: [{{ from: [{{ principals: [\"{}\"] }}] }}]\n",
                head("AuthorizationPolicy", &format!("{from}-{to}"), true),
                id(from)
            );
        }
        text
    }

    /// The ReferenceValues alone.
    #[must_use]
    pub fn reference_values(&self) -> String {
        let mut text = format!("{}spec:\n", head("ReferenceValues", "images", true));
        let mut list = |kind: &str, field: &str, approved: &[u8]| {
            if !approved.is_empty() {
                let _ = writeln!(text, "  {kind}:");
            }
            for byte in approved {
                let _ = writeln!(
                    text,
                    "    - {{ name: image {byte:02x}, {field}: \"{}\" }}",
                    hex::encode([*byte; 48])
                );
            }
        };
        list("tdx", "mrTd", &self.tdx);
        list("sevSnp", "measurement", &self.snp);
        for (n, (kind, content)) in self.events.iter().flatten().enumerate() {
            let first = if n == 0 { "  runtimeEvents:\n" } else { "" };
            let _ = writeln!(text, "{first}    - {{ name: {content}, type: {kind}, content: {content} }}");
        }
        text
    }
}

/// apiVersion, kind and metadata.
fn head(kind: &str, name: &str, namespaced: bool) -> String {
    let namespace = if namespaced { ", namespace: demo" } else { "" };
    format!("apiVersion: countersign.dev/v1alpha1\nkind: {kind}\nmetadata: {{ name: {name}{namespace} }}\n")
}

/// What proxies want of their control plane: `byte` is its approved MRTD.
#[must_use]
pub fn control_plane(vendor: &Vendor, byte: u8) -> String {
    format!(
        "{}spec: {{ tdx: [{{ name: release, mrTd: \"{}\" }}] }}\n---\n{}spec:\n  anyOf:\n    - tdx: {{ \
         emulatedRoots: [\"{}\"], measurements: {{ fromReferenceValues: control-plane }} }}\n",
        head("ReferenceValues", "control-plane", false),
        hex::encode([byte; 48]),
        head("AttestationPolicy", "control-plane", false),
        vendor.intel_root(),
    )
}
