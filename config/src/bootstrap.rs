//! The files that a proxy and a control plane start from.

mod spec;

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path as FsPath, PathBuf};
use std::time::Duration;

use countersign_attester::emulated::{SgxSpec, SnpSpec, TdxSpec};
use countersign_evidence::collateral::Item;
use countersign_ratls::{Bundle, SpiffeId, TrustDomain};
use serde::de::DeserializeOwned;

pub use self::spec::{Capture, ControlPlaneBootstrapSpec, Hop, ProxyBootstrapSpec};
use crate::document::{self, MAX_BYTES, Node, Path, Position};
use crate::kinds::scalar::{FilePath, quoted};
use crate::kinds::service::AppProtocol;
use crate::problem::Problem;
use crate::resource::{Kind, Resource};
use crate::schema;

/// The most files of a collateral directory.
pub const MAX_COLLATERAL_FILES: usize = 256;
/// The most bytes of one collateral file.
pub const MAX_COLLATERAL_BYTES: u64 = 4 << 20;
/// The most bytes of all of them.
pub const MAX_COLLATERAL_TOTAL: u64 = 64 << 20;

/// Which attester a process uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttesterChoice {
    /// The first usable device of this machine.
    Device,
    /// The broker of this machine.
    Broker {
        /// Its socket.
        socket: PathBuf,
    },
    /// An emulated platform: the directory of its vendor, and the machine.
    Emulated {
        /// Where `countersign emulate init` put the vendor's keys.
        vendor: PathBuf,
        /// The machine, see `countersign_attester::emulated`.
        machine: Machine,
    },
}

/// An emulated machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Machine {
    /// A TDX guest.
    Tdx(Box<TdxSpec>),
    /// An SGX enclave.
    Sgx(Box<SgxSpec>),
    /// An SEV-SNP guest.
    SevSnp(Box<SnpSpec>),
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
    /// Where captured connections arrive.
    pub capture: Option<Capture>,
    /// Where workloads say where they want to go: loopback. Default 127.0.0.1:15080.
    pub explicit: Option<SocketAddr>,
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
    /// Where it was read, to be read again when the control plane cannot be verified.
    pub collateral_dir: Option<PathBuf>,
}

/// The inbound listener: hops end here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Default 0.0.0.0:15008.
    pub listen: SocketAddr,
    /// Where the workload's ports are, usually 127.0.0.1.
    pub workload: std::net::IpAddr,
    /// The ports of the workload that hops may ask for.
    pub ports: Vec<InboundPort>,
}

/// A port of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboundPort {
    /// The number.
    pub port: u16,
    /// What is spoken there. Left out: what the Services say that lead there.
    pub protocol: Option<AppProtocol>,
}

impl From<u16> for InboundPort {
    fn from(port: u16) -> Self {
        Self { port, protocol: None }
    }
}

impl From<spec::InboundPort> for InboundPort {
    fn from(port: spec::InboundPort) -> Self {
        match port {
            spec::InboundPort::Number(port) => port.into(),
            spec::InboundPort::Declared(spec::DeclaredPort { port, protocol }) => {
                Self { port, protocol: Some(protocol) }
            }
        }
    }
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
    /// How its connections travel.
    pub hop: Hop,
}

/// Limits, each with a sensible default.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the schema carries the text")]
pub struct Limits {
    pub handshakes_in_progress: usize,
    pub hops: usize,
    pub streams_per_hop: u32,
    pub handshake_timeout: Duration,
    /// How long both sides may take after it to prove themselves.
    pub gate_timeout: Duration,
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
    pub http: HttpLimits,
}

/// Limits of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the schema carries the text")]
pub struct HttpLimits {
    pub header_bytes: u32,
    pub header_timeout: Duration,
    pub body_bytes: Option<u64>,
    pub requests_per_connection: u32,
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
    /// The file by which operators judge it, which was read; `None` for one of its own.
    pub attestation: Option<PathBuf>,
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
    pub fn load(path: &FsPath) -> Result<Self, Vec<Problem>> {
        let mut file =
            open::<ProxyBootstrapSpec>(path, schema::PROXY_BOOTSTRAP, |s, report| s.check(report))?;
        let spec = file.spec;
        let at = Path::default().key("spec");
        let control_plane = at.key("controlPlane");

        let id = spec.control_plane.id.0;
        let bundle = file.source.bundle(&spec.trust_bundle, &at.key("trustBundle"), &id.trust_domain());
        let attestation =
            file.source.attestation(&spec.control_plane.attestation, &control_plane.key("attestation"));
        let collateral = spec
            .control_plane
            .collateral
            .as_ref()
            .map_or_else(Vec::new, |dir| file.source.collateral(dir, &control_plane.key("collateral")));
        let Some(bundle) = bundle.filter(|_| file.source.problems.is_empty()) else {
            return Err(std::mem::take(&mut file.source.problems));
        };
        let source = &file.source;
        Ok(Self {
            name: spec.name,
            workload: spec.workload.0,
            bundle,
            state_dir: source.resolve(&spec.state_dir),
            attester: source.attester(spec.attester),
            control_plane: ControlPlaneRef {
                address: spec.control_plane.address.0,
                id,
                attestation,
                collateral,
                collateral_dir: spec.control_plane.collateral.as_ref().map(|dir| source.resolve(dir)),
            },
            inbound: spec.inbound.map(|i| Inbound {
                listen: i.listen.0,
                workload: i.workload.0,
                ports: i.ports.into_iter().map(InboundPort::from).collect(),
            }),
            outbound: spec
                .outbound
                .into_iter()
                .map(|o| Outbound {
                    listen: o.listen.0,
                    to: o.to.0,
                    address: o.address.0,
                    port: o.port,
                    hop: o.hop,
                })
                .collect(),
            capture: spec.capture,
            explicit: spec.explicit.map(|e| e.listen.0),
            admin: spec.admin.0,
            metrics: spec.metrics.0,
            readiness: spec.readiness.0,
            limits: spec.limits.into(),
            drain_timeout: spec.drain_timeout.0,
        })
    }
}

impl From<spec::Limits> for Limits {
    fn from(limits: spec::Limits) -> Self {
        let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        Self {
            handshakes_in_progress: size(limits.handshakes_in_progress),
            hops: size(limits.hops),
            streams_per_hop: limits.streams_per_hop,
            handshake_timeout: limits.handshake_timeout.0,
            gate_timeout: limits.gate_timeout.0,
            connect_timeout: limits.connect_timeout.0,
            idle_timeout: limits.idle_timeout.0,
            http: limits.http.into(),
        }
    }
}

impl From<spec::HttpLimits> for HttpLimits {
    fn from(limits: spec::HttpLimits) -> Self {
        Self {
            header_bytes: limits.header_bytes,
            header_timeout: limits.header_timeout.0,
            body_bytes: limits.body_bytes,
            requests_per_connection: limits.requests_per_connection,
        }
    }
}

impl Default for HttpLimits {
    fn default() -> Self {
        spec::HttpLimits::default().into()
    }
}

impl Default for Limits {
    fn default() -> Self {
        spec::Limits::default().into()
    }
}

impl ControlPlaneBootstrap {
    /// Reads `path`.
    ///
    /// # Errors
    /// Every problem.
    pub fn load(path: &FsPath) -> Result<Self, Vec<Problem>> {
        let file = open::<ControlPlaneBootstrapSpec>(path, schema::CONTROL_PLANE_BOOTSTRAP, |s, report| {
            s.check(report);
        })?;
        let (spec, mut source) = (file.spec, file.source);
        let attestation = spec.attestation.map(|file| {
            source.attestation(&file, &Path::default().key("spec").key("attestation"));
            source.resolve(&file)
        });
        if !source.problems.is_empty() {
            return Err(source.problems);
        }
        let trust_domain = spec.trust_domain.0;
        let id = match spec.id {
            Some(id) => id.0,
            None => {
                SpiffeId::parse(&format!("{}/countersign/control-plane", trust_domain.id())).map_err(|e| {
                    vec![source.problem(&Path::default().key("spec").key("trustDomain"), e.to_string())]
                })?
            }
        };
        Ok(Self {
            trust_domain,
            id,
            listen: spec.listen.0,
            state_dir: source.resolve(&spec.state_dir),
            attester: source.attester(spec.attester),
            collateral_dir: source.resolve(&spec.collateral_dir),
            attestation,
            admin: spec.admin.0,
            metrics: spec.metrics.0,
            readiness: spec.readiness.0,
        })
    }
}

/// A file with exactly one document of a kind.
struct File<S> {
    source: Source,
    spec: S,
}

/// Checks the text of a bootstrap file without reading the files that it names.
///
/// # Errors
/// Every problem.
pub fn validate(file: &str, text: &str) -> Result<(), Vec<Problem>> {
    let kind = document::read(file, text).ok().and_then(|nodes| {
        nodes.first().and_then(|node| node.get("kind")).and_then(Node::as_str).map(str::to_owned)
    });
    if kind.as_deref() == Some(schema::CONTROL_PLANE_BOOTSTRAP) {
        read::<ControlPlaneBootstrapSpec>(file, text, schema::CONTROL_PLANE_BOOTSTRAP, |s, r| s.check(r))
            .map(drop)
    } else {
        read::<ProxyBootstrapSpec>(file, text, schema::PROXY_BOOTSTRAP, |s, r| s.check(r)).map(drop)
    }
}

fn open<T: DeserializeOwned>(
    path: &FsPath,
    kind: &str,
    check: impl FnOnce(&T, spec::Report<'_>),
) -> Result<File<T>, Vec<Problem>> {
    let name = path.display().to_string();
    let text = read_bounded(path, MAX_BYTES as u64)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| io::Error::other("is not UTF-8")))
        .map_err(|e| vec![Problem::error(&name, Position::default(), "", format!("cannot be read: {e}"))])?;
    let (node, spec) = read(&name, &text, kind, check)?;
    let base = path.parent().map(FsPath::to_path_buf).unwrap_or_default();
    Ok(File { source: Source { name, base, node, problems: Vec::new() }, spec })
}

/// The one document of a text, as a tree and as its specification.
fn read<T: DeserializeOwned>(
    name: &str,
    text: &str,
    kind: &str,
    check: impl FnOnce(&T, spec::Report<'_>),
) -> Result<(Node, T), Vec<Problem>> {
    let refuse = |at: Position, path: &str, message: String| vec![Problem::error(name, at, path, message)];
    let mut nodes = document::read(name, text).map_err(|problem| vec![problem])?.into_iter();
    let node = match (nodes.next(), nodes.next()) {
        (Some(node), None) => node,
        (_, second) => {
            let at = second.map_or(Position::default(), |node| node.at);
            return Err(refuse(at, "", format!("must hold exactly one document, of kind {kind}")));
        }
    };
    let found = node.get("kind").and_then(Node::as_str).unwrap_or_default();
    if found != kind {
        let at = node.locate(&Path::default().key("kind"));
        return Err(refuse(at, "kind", format!("is {}, accepted: `{kind}`", quoted(found))));
    }
    let mut problems = schema::of(kind).map(|s| schema::check::check(name, &node, s)).unwrap_or_default();
    if !problems.is_empty() {
        return Err(problems);
    }
    let at = node.locate(&Path::default().key("spec"));
    let spec = node.get("spec").map(Node::to_json).unwrap_or_default();
    let spec: T = serde_json::from_value(spec).map_err(|e| refuse(at, "spec", e.to_string()))?;
    check(&spec, &mut |path, message| {
        problems.push(Problem::error(name, node.locate(&path), &path, message));
    });
    if problems.is_empty() { Ok((node, spec)) } else { Err(problems) }
}

/// Where a file is, for the files that it names and for messages.
struct Source {
    name: String,
    base: PathBuf,
    node: Node,
    problems: Vec<Problem>,
}

impl Source {
    fn resolve(&self, path: &FilePath) -> PathBuf {
        self.base.join(&path.0)
    }

    fn problem(&self, path: &Path, message: String) -> Problem {
        Problem::error(&self.name, self.node.locate(path), path, message)
    }

    fn unreadable(&mut self, file: &FsPath, path: &Path, error: &io::Error) {
        let problem = self.problem(path, format!("{} cannot be read: {error}", file.display()));
        self.problems.push(problem);
    }

    fn attester(&self, attester: spec::Attester) -> AttesterChoice {
        let emulated = match attester {
            spec::Attester::Device(_) => return AttesterChoice::Device,
            spec::Attester::Broker(broker) => {
                return AttesterChoice::Broker { socket: self.resolve(&broker.socket) };
            }
            spec::Attester::Emulated(emulated) => emulated,
        };
        let machine = match *emulated {
            spec::Emulated { tdx: Some(tdx), .. } => Machine::Tdx(Box::new(tdx)),
            spec::Emulated { sgx: Some(sgx), .. } => Machine::Sgx(Box::new(sgx)),
            spec::Emulated { sev_snp, .. } => Machine::SevSnp(Box::new(sev_snp.unwrap_or_default())),
        };
        AttesterChoice::Emulated { vendor: self.resolve(&emulated.vendor), machine }
    }

    fn bundle(&mut self, file: &FilePath, path: &Path, trust_domain: &TrustDomain) -> Option<Bundle> {
        let file = self.resolve(file);
        match read_bounded(&file, MAX_BYTES as u64) {
            Err(e) => self.unreadable(&file, path, &e),
            Ok(bytes) => match Bundle::parse(trust_domain.clone(), &bytes) {
                Ok(bundle) => return Some(bundle),
                Err(finding) => {
                    let problem = self.problem(path, format!("{}: {finding}", file.display()));
                    self.problems.push(problem);
                }
            },
        }
        None
    }

    fn attestation(&mut self, file: &FilePath, path: &Path) -> Vec<Resource> {
        let file = self.resolve(file);
        let name = file.display().to_string();
        let text = match read_bounded(&file, MAX_BYTES as u64) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) => {
                self.unreadable(&file, path, &e);
                return Vec::new();
            }
        };
        let resources = match crate::resource::parse(&name, &text) {
            Ok(resources) => resources,
            Err(problems) => {
                self.problems.extend(problems);
                return Vec::new();
            }
        };
        let accepted = [Kind::AttestationPolicy, Kind::ReferenceValues, Kind::PlatformList];
        for other in resources.iter().filter(|r| !accepted.contains(&r.kind())) {
            let names = accepted.map(Kind::name).join(", ");
            let message = format!("{name} holds {}, accepted: {names}", other.key());
            let problem = self.problem(path, message);
            self.problems.push(problem);
        }
        if !resources.iter().any(|r| r.kind() == Kind::AttestationPolicy) {
            let problem = self.problem(path, format!("{name} holds no AttestationPolicy"));
            self.problems.push(problem);
        }
        resources
    }

    fn collateral(&mut self, dir: &FilePath, path: &Path) -> Vec<Item> {
        let dir = self.resolve(dir);
        read_collateral(&dir).unwrap_or_else(|e| {
            self.unreadable(&dir, path, &e);
            Vec::new()
        })
    }
}

/// Reads every file of a collateral directory, sorted by name, bounded in number
/// and size. Directories and names that begin with a dot are left out.
///
/// # Errors
/// When it cannot be read, or is over a limit.
pub fn read_collateral(dir: &FsPath) -> io::Result<Vec<Item>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || !std::fs::metadata(entry.path())?.is_file() {
            continue;
        }
        names.push((name, entry.path()));
        if names.len() > MAX_COLLATERAL_FILES {
            return Err(io::Error::other(format!("more than {MAX_COLLATERAL_FILES} files")));
        }
    }
    names.sort();
    let mut left = MAX_COLLATERAL_TOTAL;
    let mut items = Vec::with_capacity(names.len());
    for (name, path) in names {
        let bytes = read_bounded(&path, MAX_COLLATERAL_BYTES.min(left))
            .map_err(|e| io::Error::new(e.kind(), format!("{name}: {e}")))?;
        left = left.saturating_sub(bytes.len() as u64);
        items.push(Item { name, bytes });
    }
    Ok(items)
}

fn read_bounded(path: &FsPath, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("is larger than {limit} bytes")));
    }
    Ok(bytes)
}
