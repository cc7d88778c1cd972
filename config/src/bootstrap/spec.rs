//! The files that processes start from, as they are written.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use countersign_attester::emulated::{SgxSpec, SnpSpec, TdxSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::Path;
use crate::kinds::scalar::{Domain, Duration, FilePath, HostPort, Ip, Socket, Spiffe, WorkloadName};
use crate::kinds::service::AppProtocol;

/// What a proxy starts from. Paths are relative to the directory of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyBootstrapSpec {
    /// The proxy's name in `countersign status`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The WorkloadIdentity to ask for, `namespace/name`.
    pub workload: WorkloadName,
    /// The file of the trust domain's bundle, a JWK Set or PEM certificates.
    pub trust_bundle: FilePath,
    /// The directory of the last good snapshot and the collateral marks.
    pub state_dir: FilePath,
    /// Who makes the evidence.
    #[serde(default)]
    pub attester: Attester,
    /// How to reach the control plane, and what it must prove.
    pub control_plane: ControlPlane,
    /// Where hops arrive. Left out: the proxy only makes hops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<Inbound>,
    /// All of: where the workload connects to leave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outbound: Vec<Outbound>,
    /// Where the connections arrive that `countersign-init` captures. Left out: it captures none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<Capture>,
    /// Where workloads connect that say where they want to go, by SOCKS5 or HTTP CONNECT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explicit: Option<Explicit>,
    /// The port for administrators, on a loopback address.
    #[serde(default = "proxy_admin")]
    pub admin: Socket,
    /// The port for metrics.
    #[serde(default = "proxy_metrics")]
    pub metrics: Socket,
    /// The port for readiness.
    #[serde(default = "proxy_readiness")]
    pub readiness: Socket,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// How long a drain may take.
    #[serde(default = "drain_timeout")]
    pub drain_timeout: Duration,
}

/// Who makes the evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Attester {
    /// A device of this machine.
    Device(Device),
    /// `countersign-broker`, which is alone with the device of this machine.
    Broker(Broker),
    /// An emulated platform, for tests: it proves nothing about hardware.
    Emulated(Box<Emulated>),
}

impl Default for Attester {
    fn default() -> Self {
        Self::Device(Device::Auto)
    }
}

/// Where the broker is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Broker {
    /// Its socket, as in `countersign-broker --socket`.
    pub socket: FilePath,
}

/// Which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Device {
    /// The first that is usable.
    Auto,
}

/// An emulated platform: exactly one of `tdx`, `sgx`, `sevSnp`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Emulated {
    /// The directory in which `countersign emulate init` put the vendor's keys.
    pub vendor: FilePath,
    /// An emulated TDX guest; `{}` for one that verifies as up to date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tdx: Option<TdxSpec>,
    /// An emulated enclave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sgx: Option<SgxSpec>,
    /// An emulated SEV-SNP guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sev_snp: Option<SnpSpec>,
}

/// How to reach the control plane, and what it must prove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlPlane {
    /// `host:port`.
    pub address: HostPort,
    /// Its SPIFFE ID; its trust domain is ours.
    pub id: Spiffe,
    /// A file with the AttestationPolicy that it must satisfy, and ReferenceValues.
    pub attestation: FilePath,
    /// The directory of the vendor collateral for the first contact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collateral: Option<FilePath>,
}

/// The inbound listener: hops end here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inbound {
    /// Where hops arrive.
    #[serde(default = "inbound_listen")]
    pub listen: Socket,
    /// Where the workload's ports are.
    #[serde(default = "loopback")]
    pub workload: Ip,
    /// Any of: the ports of the workload that hops may ask for, each a number, or
    /// with the protocol that is spoken there.
    #[schemars(length(min = 1))]
    pub ports: Vec<InboundPort>,
}

/// A port of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum InboundPort {
    /// What is spoken there is what `appProtocol` says at the Services that lead there;
    /// where none says so bytes pass, and nobody looks at them.
    Number(#[schemars(range(min = 1))] u16),
    /// What is spoken there is declared.
    Declared(DeclaredPort),
}

/// A port with its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeclaredPort {
    /// The port.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// What is spoken there. With HTTP, HTTP2 or GRPC each request is looked at by
    /// itself; `HTTP` reaches the workload as the caller speaks it, HTTP/1.1 or HTTP/2,
    /// the others as HTTP/2 without TLS.
    pub protocol: AppProtocol,
}

impl InboundPort {
    /// The number.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Number(port) | Self::Declared(DeclaredPort { port, .. }) => port,
        }
    }
}

/// What connects here leaves for one destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outbound {
    /// Loopback address and port.
    pub listen: Socket,
    /// The identity that must answer.
    pub to: Spiffe,
    /// `host:port` of its proxy's inbound listener.
    pub address: HostPort,
    /// The port of its workload.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Whether connections share hops, or each has one of its own.
    #[serde(default)]
    pub hop: Hop,
}

/// How connections travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Hop {
    /// As streams of hops that they share: a connection costs nothing but a stream.
    #[default]
    Shared,
    /// Each on a hop of its own, for bulk data: a connection costs a handshake and a
    /// proof. To a peer that does not speak `ratls-tcp/1` they share hops.
    Dedicated,
}

/// Where captured connections arrive; `{}` for the ports of `countersign-init`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capture {
    /// The port for those of the workload, on 127.0.0.1 and [::1]. They leave for the
    /// Service that they were going to, or are refused.
    #[serde(default = "captured_outbound")]
    #[schemars(range(min = 1))]
    pub outbound: u16,
    /// The port for those to the workload that bypass its proxy, on every address.
    /// They are refused.
    #[serde(default = "captured_inbound")]
    #[schemars(range(min = 1))]
    pub inbound: u16,
}

/// Where workloads say where they want to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Explicit {
    /// Loopback address and port, for SOCKS5 and HTTP CONNECT alike.
    #[serde(default = "explicit_listen")]
    pub listen: Socket,
}

/// Limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Limits {
    /// Handshakes in progress at once.
    #[schemars(range(min = 1, max = 65_536))]
    pub handshakes_in_progress: u32,
    /// Hops at once.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub hops: u32,
    /// Streams of one hop at once.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub streams_per_hop: u32,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How long both sides may take after it to prove themselves, 3s to 30s.
    pub gate_timeout: Duration,
    /// How long a connection to the workload or to a peer may take to open.
    pub connect_timeout: Duration,
    /// After how long without a byte a stream is closed.
    pub idle_timeout: Duration,
    /// Limits of requests, on ports with a declared protocol.
    pub http: HttpLimits,
}

/// Limits of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HttpLimits {
    /// Bytes of the head of one request: request line and header fields.
    #[schemars(range(min = 8_192, max = 1_048_576))]
    pub header_bytes: u32,
    /// How long the head of a request may take, from its first byte on.
    pub header_timeout: Duration,
    /// Bytes of the body of one request. Left out: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<u64>,
    /// Requests at once on one HTTP/2 connection of a caller.
    #[schemars(range(min = 1, max = 65_536))]
    pub requests_per_connection: u32,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            header_bytes: 64 << 10,
            header_timeout: Duration::from_secs(10),
            body_bytes: None,
            requests_per_connection: 100,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes_in_progress: 256,
            hops: 4096,
            streams_per_hop: 1024,
            handshake_timeout: Duration::from_secs(10),
            gate_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(3600),
            http: HttpLimits::default(),
        }
    }
}

/// What a control plane starts from. Paths are relative to the directory of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlPlaneBootstrapSpec {
    /// The trust domain that it serves.
    pub trust_domain: Domain,
    /// Its own SPIFFE ID. Left out: `spiffe://TRUST_DOMAIN/countersign/control-plane`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Spiffe>,
    /// The one TLS port: identity, distribution, operators.
    #[serde(default = "control_plane_listen")]
    pub listen: Socket,
    /// The directory of the store, the CA key and the collateral marks.
    pub state_dir: FilePath,
    /// Who makes the evidence.
    #[serde(default)]
    pub attester: Attester,
    /// The directory of the vendor collateral; read again when it changes.
    pub collateral_dir: FilePath,
    /// A file with the AttestationPolicy, and ReferenceValues, by which the CLI judges
    /// it: `operator.yaml` names it. Left out: `control-plane-attestation.yaml` in
    /// `stateDir`, which the first start writes from its own evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<FilePath>,
    /// The port for administrators, on a loopback address.
    #[serde(default = "control_plane_admin")]
    pub admin: Socket,
    /// The port for metrics.
    #[serde(default = "control_plane_metrics")]
    pub metrics: Socket,
    /// The port for readiness.
    #[serde(default = "control_plane_readiness")]
    pub readiness: Socket,
}

const fn local(port: u16) -> Socket {
    Socket(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
}
const fn everywhere(port: u16) -> Socket {
    Socket(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))
}
const fn proxy_admin() -> Socket {
    local(15000)
}
const fn proxy_metrics() -> Socket {
    everywhere(15020)
}
const fn proxy_readiness() -> Socket {
    everywhere(15021)
}
const fn inbound_listen() -> Socket {
    everywhere(15008)
}
const fn explicit_listen() -> Socket {
    local(15080)
}
const fn captured_outbound() -> u16 {
    15001
}
const fn captured_inbound() -> u16 {
    15006
}
const fn control_plane_listen() -> Socket {
    everywhere(15012)
}
const fn control_plane_admin() -> Socket {
    local(15010)
}
const fn control_plane_metrics() -> Socket {
    everywhere(15014)
}
const fn control_plane_readiness() -> Socket {
    everywhere(15013)
}
const fn loopback() -> Ip {
    Ip(IpAddr::V4(Ipv4Addr::LOCALHOST))
}
const fn drain_timeout() -> Duration {
    Duration::from_secs(30)
}

/// Reports a problem at a path.
pub(super) type Report<'a> = &'a mut dyn FnMut(Path, String);

impl ProxyBootstrapSpec {
    pub(super) fn check(&self, report: Report<'_>) {
        let spec = Path::default().key("spec");
        self.attester.check(&spec.key("attester"), report);
        check_local(&self.admin, "administrators", spec.key("admin"), report);
        let mut listeners = vec![
            (&self.admin, spec.key("admin")),
            (&self.metrics, spec.key("metrics")),
            (&self.readiness, spec.key("readiness")),
        ];
        if let Some(inbound) = &self.inbound {
            listeners.push((&inbound.listen, spec.key("inbound").key("listen")));
            inbound.check(&spec.key("inbound"), report);
        }
        for (i, outbound) in self.outbound.iter().enumerate() {
            let path = spec.key("outbound").index(i);
            check_local(&outbound.listen, "the workload", path.key("listen"), report);
            listeners.push((&outbound.listen, path.key("listen")));
        }
        let captured = self.capture.map(|c| [local(c.outbound), everywhere(c.inbound)]);
        if let Some([outbound, inbound]) = &captured {
            listeners.push((outbound, spec.key("capture").key("outbound")));
            listeners.push((inbound, spec.key("capture").key("inbound")));
        }
        if let Some(explicit) = &self.explicit {
            let path = spec.key("explicit").key("listen");
            check_local(&explicit.listen, "the workload", path.clone(), report);
            listeners.push((&explicit.listen, path));
        }
        check_distinct(&listeners, report);
        self.limits.check(&spec.key("limits"), report);
        let asked = self.capture.is_some() || self.explicit.is_some();
        if self.inbound.is_none() && self.outbound.is_empty() && !asked {
            let what = "neither inbound nor outbound, capture or explicit: the proxy would do nothing";
            report(spec, what.to_owned());
        }
    }
}

impl Inbound {
    fn check(&self, path: &Path, report: Report<'_>) {
        let ports: Vec<u16> = self.ports.iter().map(|port| port.number()).collect();
        for (i, port) in ports.iter().enumerate() {
            if ports.iter().take(i).any(|earlier| earlier == port) {
                report(path.key("ports").index(i), format!("{port} is listed twice"));
            }
        }
    }
}

impl Limits {
    fn check(&self, path: &Path, report: Report<'_>) {
        let (least, most) = (Duration::from_secs(3), Duration::from_secs(30));
        if !(least.0..=most.0).contains(&self.gate_timeout.0) {
            report(path.key("gateTimeout"), format!("{} is outside {least} to {most}", self.gate_timeout));
        }
    }
}

impl ControlPlaneBootstrapSpec {
    pub(super) fn check(&self, report: Report<'_>) {
        let spec = Path::default().key("spec");
        self.attester.check(&spec.key("attester"), report);
        check_local(&self.admin, "administrators", spec.key("admin"), report);
        let listeners = [
            (&self.listen, spec.key("listen")),
            (&self.admin, spec.key("admin")),
            (&self.metrics, spec.key("metrics")),
            (&self.readiness, spec.key("readiness")),
        ];
        check_distinct(&listeners, report);
        if let Some(id) = &self.id
            && id.0.trust_domain() != self.trust_domain.0
        {
            report(spec.key("id"), format!("{id} is outside the trust domain {}", self.trust_domain));
        }
    }
}

impl Attester {
    fn check(&self, path: &Path, report: Report<'_>) {
        let Self::Emulated(e) = self else { return };
        let machines = [e.tdx.is_some(), e.sgx.is_some(), e.sev_snp.is_some()];
        let found = machines.iter().filter(|given| **given).count();
        if found != 1 {
            let message = format!("holds {found} machines, accepted: exactly one of tdx, sgx, sevSnp");
            report(path.key("emulated"), message);
        }
    }
}

fn check_local(socket: &Socket, whom: &str, path: Path, report: Report<'_>) {
    if !socket.0.ip().is_loopback() {
        report(path, format!("{socket} is not a loopback address: it is for {whom} of this machine only"));
    }
}

fn check_distinct(listeners: &[(&Socket, Path)], report: Report<'_>) {
    for (i, (socket, path)) in listeners.iter().enumerate() {
        let earlier = listeners.iter().take(i).find(|(other, _)| {
            let same_address = other.0.ip() == socket.0.ip()
                || other.0.ip().is_unspecified()
                || socket.0.ip().is_unspecified();
            other.0.port() == socket.0.port() && socket.0.port() != 0 && same_address
        });
        if let Some((_, other)) = earlier {
            report(path.clone(), format!("{socket} is the port of {other} already"));
        }
    }
}
