//! `Service`: what can be called.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Selector;
use super::scalar::{Host, Ip};
use crate::document::Path;

/// What can be called, under which names and addresses, and which
/// WorkloadEntries answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    /// Any of: DNS names under which applications call it. A name belongs to one Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub hosts: Vec<Host>,
    /// Any of: IP addresses under which applications call it. They need not exist
    /// anywhere. An address belongs to one Service, or to several with different ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub addresses: Vec<Ip>,
    /// Any of: the ports under which applications call it.
    #[schemars(length(min = 1, max = 64))]
    pub ports: Vec<ServicePort>,
    /// The WorkloadEntries that answer: those of its namespace with these labels.
    pub selector: Selector,
}

/// A port under which applications call a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    /// The port.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// The port of the workload that answers, which its proxy has to offer
    /// (`inbound.ports`). Left out: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub target_port: Option<u16>,
    /// What applications speak. Left out: bytes, which nobody looks at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<AppProtocol>,
}

/// What applications speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum AppProtocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS, with prior knowledge.
    Http2,
    /// gRPC, which is HTTP/2 as well.
    Grpc,
    /// Bytes, which nobody looks at.
    Tcp,
}

impl AppProtocol {
    /// Whether requests can be told apart.
    #[must_use]
    pub const fn is_http(self) -> bool {
        !matches!(self, Self::Tcp)
    }
}

impl ServicePort {
    /// The port of the workload.
    #[must_use]
    pub fn target(&self) -> u16 {
        self.target_port.unwrap_or(self.port)
    }
}

/// What at most one Service can have.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Claim {
    Host(String),
    Address(SocketAddr),
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => f.write_str(host),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

impl ServiceSpec {
    /// What it claims, each with its place.
    pub(crate) fn claims(&self) -> impl Iterator<Item = (Path, Claim)> + '_ {
        let spec = Path::default().key("spec");
        let place = move |field: &str, i| spec.key(field).index(i);
        let hosts = self.hosts.iter().enumerate().map({
            let place = place.clone();
            move |(i, host)| (place("hosts", i), Claim::Host(host.0.clone()))
        });
        let addresses = self.addresses.iter().enumerate().flat_map(move |(i, ip)| {
            let at = place("addresses", i);
            let ports = self.ports.iter();
            ports.map(move |p| (at.clone(), Claim::Address((ip.0.to_canonical(), p.port).into())))
        });
        hosts.chain(addresses)
    }

    pub(super) fn check(&self, spec: &Path, report: &mut dyn FnMut(Path, String)) {
        self.selector.check(&spec.key("selector"), report);
        let mut seen = BTreeSet::new();
        for (i, host) in self.hosts.iter().enumerate() {
            if !seen.insert(&host.0) {
                report(spec.key("hosts").index(i), format!("{host} is listed twice"));
            }
        }
        let mut seen = BTreeSet::new();
        for (i, ip) in self.addresses.iter().enumerate() {
            let path = spec.key("addresses").index(i);
            if let Some(why) = unfit(&ip.0) {
                report(path, format!("{ip} {why}: nobody calls a Service there"));
            } else if !seen.insert(ip.0.to_canonical()) {
                report(path, format!("{ip} is listed twice"));
            }
        }
        let mut seen = BTreeSet::new();
        for (i, port) in self.ports.iter().enumerate() {
            if !seen.insert(port.port) {
                report(spec.key("ports").index(i).key("port"), format!("{} is listed twice", port.port));
            }
        }
    }
}

/// Why an address is not that of one machine or one service.
pub(super) fn unfit(ip: &IpAddr) -> Option<&'static str> {
    let ip = ip.to_canonical();
    if ip.is_unspecified() {
        Some("stands for every address")
    } else if ip.is_multicast() {
        Some("is a multicast address")
    } else if ip == IpAddr::V4(std::net::Ipv4Addr::BROADCAST) {
        Some("is the broadcast address")
    } else {
        None
    }
}
