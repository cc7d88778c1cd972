//! The files that a proxy and a control plane start from.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use countersign_evidence::collateral::Item;
use countersign_ratls::{Bundle, SpiffeId, TrustDomain};

use crate::problem::Problem;
use crate::resource::Resource;

/// Which attester a process uses.
#[derive(Clone, Debug, PartialEq)]
pub enum AttesterChoice {
    /// The first usable device of this machine.
    Device,
    /// An emulated platform: the directory of its vendor, and the machine.
    Emulated {
        /// Where `countersign emulate init` put the vendor's keys.
        vendor: PathBuf,
        /// The machine, see `countersign_attester::emulated`.
        machine: Machine,
    },
}

/// An emulated machine. (Becomes the attester crate's specification types.)
#[derive(Clone, Debug, PartialEq)]
pub enum Machine {
    /// A TDX guest.
    Tdx(serde_json::Value),
    /// An SEV-SNP guest.
    SevSnp(serde_json::Value),
}

/// `kind: ProxyBootstrap`, read, with the files that it names.
#[derive(Clone, Debug)]
pub struct ProxyBootstrap {
    /// The proxy's name in `countersign status`.
    pub name: String,
    /// The `WorkloadIdentity` to ask for, `namespace/name`.
    pub workload: String,
    /// The trust domain's bundle (`trustBundle: FILE`).
    pub bundle: Bundle,
    /// Where the last good snapshot and the collateral marks are kept.
    pub state_dir: PathBuf,
    /// The attester.
    pub attester: AttesterChoice,
    /// The control plane.
    pub control_plane: ControlPlaneRef,
    /// Where hops arrive; `None` for a client-only proxy.
    pub inbound: Option<Inbound>,
    /// Where workloads connect to leave.
    pub outbound: Vec<Outbound>,
    /// Localhost only. Default 127.0.0.1:15000.
    pub admin: SocketAddr,
    /// Default 0.0.0.0:15020.
    pub metrics: SocketAddr,
    /// Default 0.0.0.0:15021.
    pub readiness: SocketAddr,
    /// Limits.
    pub limits: Limits,
    /// How long a drain may take. Default 30 s.
    pub drain_timeout: Duration,
}

/// How to reach the control plane, and what it must prove.
#[derive(Clone, Debug)]
pub struct ControlPlaneRef {
    /// `host:port`.
    pub address: String,
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// AttestationPolicy and ReferenceValues that it must satisfy (`attestation: FILE`).
    pub attestation: Vec<Resource>,
    /// Collateral for the first contact (`collateral: DIR`).
    pub collateral: Vec<Item>,
}

/// The inbound listener: hops end here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Default 0.0.0.0:15008.
    pub listen: SocketAddr,
    /// Where the workload's ports are, usually 127.0.0.1.
    pub workload: std::net::IpAddr,
    /// The ports of the workload that hops may ask for.
    pub ports: Vec<u16>,
}

/// A static mapping: what connects here leaves for one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Loopback address and port.
    pub listen: SocketAddr,
    /// The identity that must answer.
    pub to: SpiffeId,
    /// `host:port` of its proxy's inbound listener.
    pub address: String,
    /// The port of its workload.
    pub port: u16,
}

/// Limits, each with a sensible default.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the schema carries the text")]
pub struct Limits {
    pub handshakes_in_progress: usize,
    pub hops: usize,
    pub streams_per_hop: u32,
    pub handshake_timeout: Duration,
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
}

/// `kind: ControlPlaneBootstrap`, read, with the files that it names.
#[derive(Clone, Debug)]
pub struct ControlPlaneBootstrap {
    /// The trust domain that it serves.
    pub trust_domain: TrustDomain,
    /// Its own SPIFFE ID; default `spiffe://TRUST_DOMAIN/countersign/control-plane`.
    pub id: SpiffeId,
    /// The one TLS port: identity, distribution, operators. Default 0.0.0.0:15012.
    pub listen: SocketAddr,
    /// Store, CA key, marks.
    pub state_dir: PathBuf,
    /// The attester.
    pub attester: AttesterChoice,
    /// Directory with vendor collateral; read again when it changes.
    pub collateral_dir: PathBuf,
    /// Localhost only. Default 127.0.0.1:15010.
    pub admin: SocketAddr,
    /// Default 0.0.0.0:15014.
    pub metrics: SocketAddr,
    /// Default 0.0.0.0:15013.
    pub readiness: SocketAddr,
}

impl ProxyBootstrap {
    /// Reads `path` and the files that it names, relative to its directory.
    ///
    /// # Errors
    /// Every problem.
    pub fn load(path: &std::path::Path) -> Result<Self, Vec<Problem>> {
        let _ = path;
        todo!()
    }
}

impl ControlPlaneBootstrap {
    /// Reads `path`.
    ///
    /// # Errors
    /// Every problem.
    pub fn load(path: &std::path::Path) -> Result<Self, Vec<Problem>> {
        let _ = path;
        todo!()
    }
}

/// Reads every file of a collateral directory, sorted by name, bounded in number and size.
///
/// # Errors
/// When it cannot be read.
pub fn read_collateral(dir: &std::path::Path) -> std::io::Result<Vec<Item>> {
    let _ = dir;
    todo!()
}

/// x
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct ProxyBootstrapSpec {}
/// x
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct ControlPlaneBootstrapSpec {}
