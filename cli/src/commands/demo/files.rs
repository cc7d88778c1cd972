//! The files of the demonstration: what an operator would write.

use std::net::SocketAddr;

/// The trust domain.
pub(super) const TRUST_DOMAIN: &str = "demo.countersign.dev";
/// The caller.
pub(super) const AUDIT: &str = "spiffe://demo.countersign.dev/ns/payments/sa/audit";
/// The called.
pub(super) const LEDGER: &str = "spiffe://demo.countersign.dev/ns/payments/sa/ledger";
/// The control plane.
pub(super) const CONTROL_PLANE: &str = "spiffe://demo.countersign.dev/countersign/control-plane";

/// A byte that stands for a whole register.
fn register(byte: u8) -> String {
    hex::encode([byte; 48])
}

/// What the machines of the demonstration measure.
#[derive(Clone, Copy)]
pub(super) enum Software {
    /// The control plane, in a TDX guest.
    ControlPlane,
    /// The ledger's first release, in a TDX guest.
    LedgerV1,
    /// The ledger's next release, which nobody runs here.
    LedgerV2,
    /// The audit, in an SEV-SNP guest.
    Audit,
}

impl Software {
    const fn byte(self) -> u8 {
        match self {
            Self::ControlPlane => 0xc0,
            Self::LedgerV1 => 0x11,
            Self::LedgerV2 => 0x22,
            Self::Audit => 0xaa,
        }
    }

    /// An emulated TDX guest that runs it.
    fn tdx(self) -> String {
        let register = register(self.byte());
        format!(
            "{{ mrTd: \"{register}\", rtmr: [\"{register}\", \"{register}\", \"{register}\", \"{register}\"] }}"
        )
    }
}

/// Where everything listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) control_plane: SocketAddr,
    pub(super) control_plane_ops: [SocketAddr; 3],
    pub(super) ledger: SocketAddr,
    pub(super) ledger_proxy: SocketAddr,
    pub(super) ledger_ops: [SocketAddr; 3],
    pub(super) audit_outbound: SocketAddr,
    pub(super) audit_ops: [SocketAddr; 3],
}

/// The control plane's bootstrap.
pub(super) fn control_plane(ports: &Ports) -> String {
    let [admin, metrics, readiness] = ports.control_plane_ops;
    format!(
        "apiVersion: countersign.dev/v1alpha1
kind: ControlPlaneBootstrap
spec:
  trustDomain: {TRUST_DOMAIN}
  listen: {}
  stateDir: control-plane
  collateralDir: vendor/collateral
  attestation: control-plane-policy.yaml
  attester:
    emulated:
      vendor: vendor
      tdx: {}
  admin: {admin}
  metrics: {metrics}
  readiness: {readiness}
",
        ports.control_plane,
        Software::ControlPlane.tdx()
    )
}

/// The bootstrap of the ledger's proxy: hops come in.
pub(super) fn ledger_proxy(ports: &Ports) -> String {
    let specifics = format!(
        "  attester:
    emulated:
      vendor: vendor
      tdx: {}
  inbound:
    listen: {}
    workload: 127.0.0.1
    ports: [{}]
",
        Software::LedgerV1.tdx(),
        ports.ledger_proxy,
        ports.ledger.port()
    );
    proxy("ledger", ports, ports.ledger_ops, &specifics)
}

/// The bootstrap of the audit's proxy: hops go out.
pub(super) fn audit_proxy(ports: &Ports) -> String {
    let specifics = format!(
        "  attester:
    emulated:
      vendor: vendor
      sevSnp: {{ measurement: \"{}\" }}
  outbound:
    - listen: {}
      to: {LEDGER}
      address: {}
      port: {}
",
        register(Software::Audit.byte()),
        ports.audit_outbound,
        ports.ledger_proxy,
        ports.ledger.port()
    );
    proxy("audit", ports, ports.audit_ops, &specifics)
}

fn proxy(name: &str, ports: &Ports, ops: [SocketAddr; 3], specifics: &str) -> String {
    let [admin, metrics, readiness] = ops;
    format!(
        "apiVersion: countersign.dev/v1alpha1
kind: ProxyBootstrap
spec:
  name: {name}
  workload: payments/{name}
  trustBundle: bundle.json
  stateDir: {name}-proxy
  controlPlane:
    address: {}
    id: {CONTROL_PLANE}
    attestation: control-plane-policy.yaml
    collateral: vendor/collateral
{specifics}  admin: {admin}
  metrics: {metrics}
  readiness: {readiness}
",
        ports.control_plane
    )
}

/// What proxies demand of the control plane before they trust it.
pub(super) fn control_plane_policy(intel_root: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1
kind: AttestationPolicy
metadata: {{ name: control-plane, namespace: countersign-system }}
spec:
  anyOf:
    - tdx:
        emulatedRoots: [\"{intel_root}\"]
        measurements: {{ fromReferenceValues: control-plane }}
---
apiVersion: countersign.dev/v1alpha1
kind: ReferenceValues
metadata: {{ name: control-plane, namespace: countersign-system }}
spec:
  tdx:
    - name: control plane of the demonstration
      mrTd: \"{}\"
",
        register(Software::ControlPlane.byte())
    )
}

/// Who exists, what they must prove, and who may call whom.
pub(super) fn mesh(intel_root: &str, amd_root: &str, ports: &Ports) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1
kind: TrustDomain
metadata: {{ name: {TRUST_DOMAIN} }}
spec: {{}}
---
apiVersion: countersign.dev/v1alpha1
kind: WorkloadIdentity
metadata: {{ name: ledger, namespace: payments }}
spec:
  spiffeId: {LEDGER}
  labels: {{ app: ledger }}
  attestation: {{ policy: ledger }}
---
apiVersion: countersign.dev/v1alpha1
kind: WorkloadIdentity
metadata: {{ name: audit, namespace: payments }}
spec:
  spiffeId: {AUDIT}
  labels: {{ app: audit }}
  attestation: {{ policy: audit }}
---
# What a ledger must prove to its callers, and to be called a ledger at all.
apiVersion: countersign.dev/v1alpha1
kind: AttestationPolicy
metadata: {{ name: ledger, namespace: payments }}
spec:
  selector: {{ matchLabels: {{ app: audit }} }}
  peers: [\"{LEDGER}\"]
  anyOf:
    - tdx:
        emulatedRoots: [\"{intel_root}\"]
        measurements: {{ fromReferenceValues: ledger }}
---
# What the audit must prove.
apiVersion: countersign.dev/v1alpha1
kind: AttestationPolicy
metadata: {{ name: audit, namespace: payments }}
spec:
  selector: {{ matchLabels: {{ app: ledger }} }}
  peers: [\"{AUDIT}\"]
  anyOf:
    - sevSnp:
        emulatedRoots: [\"{amd_root}\"]
        measurements: {{ fromReferenceValues: audit }}
---
apiVersion: countersign.dev/v1alpha1
kind: ReferenceValues
metadata: {{ name: audit, namespace: payments }}
spec:
  sevSnp:
    - name: audit v3.1
      measurement: \"{}\"
---
apiVersion: countersign.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{ name: ledger, namespace: payments }}
spec:
  selector: {{ matchLabels: {{ app: ledger }} }}
  rules:
    - from:
        - principals: [\"{AUDIT}\"]
      to:
        - ports: [{}]
",
        register(Software::Audit.byte()),
        ports.ledger.port()
    )
}

/// Which releases of the ledger are approved.
pub(super) fn ledger_releases(releases: &[(&str, Software)]) -> String {
    let entries: String = releases
        .iter()
        .map(|(name, software)| {
            format!("    - name: {name}\n      mrTd: \"{}\"\n", register(software.byte()))
        })
        .collect();
    format!(
        "apiVersion: countersign.dev/v1alpha1
kind: ReferenceValues
metadata: {{ name: ledger, namespace: payments }}
spec:
  tdx:
{entries}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Ports {
        let mut next = 20_000_u16;
        let mut address = || {
            next += 1;
            SocketAddr::from(([127, 0, 0, 1], next))
        };
        Ports {
            control_plane: address(),
            control_plane_ops: [address(), address(), address()],
            ledger: address(),
            ledger_proxy: address(),
            ledger_ops: [address(), address(), address()],
            audit_outbound: address(),
            audit_ops: [address(), address(), address()],
        }
    }

    #[test]
    fn every_file_of_the_demonstration_is_valid() {
        let ports = ports();
        let root = "ab".repeat(32);
        for text in [control_plane(&ports), ledger_proxy(&ports), audit_proxy(&ports)] {
            countersign_config::bootstrap::validate("demo.yaml", &text)
                .unwrap_or_else(|p| panic!("{p:?}\n{text}"));
        }
        let mut all = Vec::new();
        let both = [("ledger v1", Software::LedgerV1), ("ledger v2", Software::LedgerV2)];
        for text in [mesh(&root, &root, &ports), ledger_releases(&both)] {
            all.extend(
                countersign_config::parse("demo.yaml", &text).unwrap_or_else(|p| panic!("{p:?}\n{text}")),
            );
        }
        let problems = countersign_config::resource::check_set(&all);
        assert!(problems.is_empty(), "{problems:?}");
        countersign_config::parse("demo.yaml", &control_plane_policy(&root)).unwrap();
    }
}
