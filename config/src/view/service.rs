//! What can be called: from what an application wants to reach to who must
//! answer, and where.
//!
//! Everything is found out when the view is made; to look something up is to
//! hash it. What is the same as in the view before is shared with it, so that
//! whoever holds a [`Called`] can tell by the pointer that nothing changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use countersign_ratls::SpiffeId;

use super::route::{self, Routes};
use super::{Rejected, View};
use crate::kinds::scalar::Locality;
use crate::kinds::service::{AppProtocol, Claim};
use crate::kinds::{ServiceSpec, WorkloadEntrySpec};
use crate::labels::Labelled;
use crate::resource::{Key, Kind, Resource};

/// What an application wants to reach.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address, as a captured connection has it.
    Address(SocketAddr),
    /// A name, as SOCKS5 and HTTP CONNECT have it. Upper and lower case are the
    /// same, and a dot at the end says nothing.
    Name {
        /// The name. One that is an IP address is looked up as one.
        host: String,
        /// The port.
        port: u16,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// A port of a Service, and who answers there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// The Service.
    pub service: Key,
    /// The port that is called.
    pub port: u16,
    /// The port of the workload, which the CONNECT on the hop names.
    pub target_port: u16,
    /// What applications speak, if that was said.
    pub protocol: Option<AppProtocol>,
    /// Who answers: none with weight 0, in the order of their names. Can be empty.
    /// One, if the target was the address of a WorkloadEntry.
    pub endpoints: Arc<[Endpoint]>,
    /// Where its requests go instead, if there are routes: see
    /// [`match_request`](Called::match_request). Who was called by the address of a
    /// WorkloadEntry is not routed elsewhere.
    pub routes: Option<Arc<Routes>>,
}

/// Who answers: a WorkloadEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The name of the WorkloadEntry, which is of the Service's namespace.
    pub entry: String,
    /// Who must answer.
    pub id: SpiffeId,
    /// The address of its proxy: `host:port`.
    pub address: String,
    /// Its share of new connections, at least 1.
    pub weight: u32,
    /// Where it is.
    pub locality: Option<Locality>,
}

/// All Services of a view.
#[derive(Debug, Default)]
pub(super) struct Services {
    by_address: HashMap<SocketAddr, Arc<Called>>,
    by_host: HashMap<String, BTreeMap<u16, Arc<Called>>>,
    /// Who may answer at the address of a proxy.
    proxies: HashMap<String, Vec<SpiffeId>>,
    all: BTreeMap<(Key, u16), Arc<Called>>,
    /// The same without routes, as routes lead to them.
    plain: BTreeMap<(Key, u16), Arc<Called>>,
    /// What is spoken at the ports of workloads, as the Services that lead there say.
    spoken: HashMap<SpiffeId, BTreeMap<u16, AppProtocol>>,
}

impl View {
    /// Who answers calls of `target`; `None` when no Service is called so.
    #[must_use]
    pub fn destination(&self, target: &Target) -> Option<&Arc<Called>> {
        match target {
            Target::Address(address) => self.services.at(*address),
            Target::Name { host, port } => {
                let host = host.strip_suffix('.').unwrap_or(host);
                if let Ok(ip) = host.parse::<IpAddr>() {
                    return self.services.at((ip, *port).into());
                }
                let found = match host.bytes().any(|b| b.is_ascii_uppercase()) {
                    true => self.services.by_host.get(&host.to_ascii_lowercase()),
                    false => self.services.by_host.get(host),
                };
                found?.get(port)
            }
        }
    }

    /// The port of a Service.
    #[must_use]
    pub fn service(&self, namespace: &str, name: &str, port: u16) -> Option<&Arc<Called>> {
        let key = Key { kind: Kind::Service, namespace: namespace.to_owned(), name: name.to_owned() };
        self.services.all.get(&(key, port))
    }

    /// Every port of every Service, in the order of their names.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Called>> {
        self.services.all.values()
    }

    /// What is spoken at port `port` of the workload `id`, as the Services that lead
    /// there say, if one does. Where they differ it is requests, in HTTP of either version.
    #[must_use]
    pub fn spoken(&self, id: &SpiffeId, port: u16) -> Option<AppProtocol> {
        self.services.spoken.get(id)?.get(&port).copied()
    }

    /// Whether a WorkloadEntry says that the proxy at `address`, which is
    /// `host:port`, is that of `id`.
    #[must_use]
    pub fn is_endpoint(&self, id: &SpiffeId, address: &str) -> bool {
        self.services.proxies.get(address).is_some_and(|ids| ids.contains(id))
    }
}

/// A WorkloadEntry whose identity is known.
#[derive(Clone, Copy)]
struct Entry<'a> {
    name: &'a str,
    spec: &'a WorkloadEntrySpec,
    id: &'a SpiffeId,
}

impl Entry<'_> {
    fn endpoint(self) -> Endpoint {
        let WorkloadEntrySpec { proxy_port, weight, locality, .. } = self.spec;
        Endpoint {
            entry: self.name.to_owned(),
            id: self.id.clone(),
            address: self.spec.address.with_port(*proxy_port),
            weight: *weight,
            locality: locality.clone(),
        }
    }
}

impl Services {
    /// A Service says what is spoken at a port. Who looks at requests is told more than
    /// who does not, so that one Service does not hide what another one says.
    fn says(&mut self, id: &SpiffeId, port: u16, protocol: AppProtocol) {
        let ports = match self.spoken.get_mut(id) {
            Some(ports) => ports,
            None => self.spoken.entry(id.clone()).or_default(),
        };
        let known = ports.entry(port).or_insert(protocol);
        if *known != protocol {
            *known = AppProtocol::Http;
        }
    }

    fn at(&self, address: SocketAddr) -> Option<&Arc<Called>> {
        self.by_address.get(&SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// Lets a Service be called by what it claims.
    fn claim(&mut self, key: &Key, spec: &ServiceSpec, disputed: &BTreeSet<Claim>) {
        for (_, claim) in spec.claims().filter(|(_, claim)| !disputed.contains(claim)) {
            let of = |port: u16| self.all.get(&(key.clone(), port)).map(Arc::clone);
            match claim {
                Claim::Host(host) => {
                    let ports = spec.ports.iter().filter_map(|p| Some((p.port, of(p.port)?))).collect();
                    self.by_host.insert(host, ports);
                }
                Claim::Address(address) => {
                    if let Some(called) = of(address.port()) {
                        self.by_address.insert(address, called);
                    }
                }
            }
        }
    }

    /// All Services of these resources, which are in the order of their keys.
    pub(super) fn new(
        resources: &[Arc<Resource>],
        workloads: &HashMap<String, SpiffeId>,
        previous: Option<&Self>,
        rejected: &mut Rejected,
    ) -> Self {
        let entries = entries(resources, workloads, rejected);
        let labels = Labelled::new(entries.iter().map(|(n, entry)| (*n, &entry.spec.labels, *entry)));
        let services: Vec<(Key, &ServiceSpec)> = resources
            .iter()
            .filter_map(|resource| match resource.as_ref() {
                Resource::Service(_, spec) => Some((resource.key(), spec)),
                _ => None,
            })
            .collect();
        let disputed = disputed(&services, rejected);

        let mut made = Self::default();
        for (_, entry) in &entries {
            let ids = made.proxies.entry(entry.spec.address.with_port(entry.spec.proxy_port)).or_default();
            if !ids.contains(entry.id) {
                ids.push(entry.id.clone());
            }
        }
        let mut alone = Alone::default();
        let mut added = HashSet::new();
        // Services that select by the same labels share the list.
        let mut lists: HashMap<_, Arc<[Endpoint]>> = HashMap::new();
        for (key, spec) in &services {
            let selected = || labels.selected(Some(&key.namespace), &spec.selector);
            let endpoints = lists
                .entry((key.namespace.clone(), &spec.selector.match_labels))
                .or_insert_with(|| selected().filter(|e| e.spec.weight > 0).map(Entry::endpoint).collect());
            for port in &spec.ports {
                let called = Called {
                    service: key.clone(),
                    port: port.port,
                    target_port: port.target(),
                    protocol: port.app_protocol,
                    endpoints: Arc::clone(endpoints),
                    routes: None,
                };
                if let Some(protocol) = port.app_protocol {
                    selected().for_each(|entry| made.says(entry.id, port.target(), protocol));
                }
                if added.insert((key.namespace.clone(), &spec.selector.match_labels, port.target())) {
                    selected().for_each(|entry| alone.add(entry, &called));
                }
                let name = (key.clone(), port.port);
                let known = previous.and_then(|p| p.plain.get(&name));
                made.plain.insert(name, shared(called, known));
            }
        }
        let mut routes = route::attached(resources, &made.plain, rejected);
        for (name, plain) in &made.plain {
            let called = match routes.remove(name) {
                None => Arc::clone(plain),
                Some(routes) => {
                    let called = Called { routes: Some(Arc::new(routes)), ..Called::clone(plain) };
                    shared(called, previous.and_then(|p| p.all.get(name)))
                }
            };
            made.all.insert(name.clone(), called);
        }
        for (key, spec) in services {
            made.claim(&key, spec, &disputed);
        }
        alone.join(&mut made, &disputed, previous);
        made
    }
}

/// Endpoints by their own address; nothing where several proxies have the same
/// one, so that it does not say which is meant.
#[derive(Default)]
struct Alone(HashMap<Target, Option<Called>>);

impl Alone {
    fn add(&mut self, entry: Entry<'_>, called: &Called) {
        let mut endpoint = entry.endpoint();
        endpoint.weight = endpoint.weight.max(1);
        let port = called.target_port;
        let target = match entry.spec.address.ip() {
            Some(ip) => Target::Address((ip, port).into()),
            None => Target::Name { host: entry.spec.address.0.clone(), port },
        };
        let same = |known: &Called| {
            known.endpoints.iter().all(|e| e.address == endpoint.address && e.id == endpoint.id)
        };
        self.0
            .entry(target)
            .and_modify(|known| *known = known.take().filter(same))
            .or_insert_with(|| Some(Called { endpoints: Arc::new([endpoint.clone()]), ..called.clone() }));
    }

    /// What a Service claims is the Service's, and nobody's if it is disputed.
    fn join(self, made: &mut Services, disputed: &BTreeSet<Claim>, previous: Option<&Services>) {
        for (target, called) in self.0 {
            let Some(called) = called else { continue };
            match target {
                Target::Address(address) if !disputed.contains(&Claim::Address(address)) => {
                    let known = previous.and_then(|p| p.by_address.get(&address));
                    made.by_address.entry(address).or_insert_with(|| shared(called, known));
                }
                Target::Name { host, port } if !disputed.contains(&Claim::Host(host.clone())) => {
                    let known = previous.and_then(|p| p.by_host.get(&host)?.get(&port));
                    let ports = made.by_host.entry(host).or_default();
                    ports.entry(port).or_insert_with(|| shared(called, known));
                }
                _ => {}
            }
        }
    }
}

/// The one that is known, if it says the same.
fn shared(called: Called, known: Option<&Arc<Called>>) -> Arc<Called> {
    match known {
        Some(known) if **known == called => Arc::clone(known),
        _ => Arc::new(called),
    }
}

fn entries<'a>(
    resources: &'a [Arc<Resource>],
    workloads: &'a HashMap<String, SpiffeId>,
    rejected: &mut Rejected,
) -> Vec<(&'a str, Entry<'a>)> {
    let mut entries = Vec::new();
    for resource in resources {
        let Resource::WorkloadEntry(metadata, spec) = resource.as_ref() else { continue };
        let workload = format!("{}/{}", metadata.namespace, spec.workload);
        match workloads.get(&workload) {
            Some(id) => entries.push((metadata.namespace.as_str(), Entry { name: &metadata.name, spec, id })),
            None => {
                let why = format!("there is no usable WorkloadIdentity {workload}: nobody is called there");
                rejected.push((resource.key(), why));
            }
        }
    }
    entries
}

/// What several Services claim: which is meant cannot be known, so none is called by it.
fn disputed(services: &[(Key, &ServiceSpec)], rejected: &mut Rejected) -> BTreeSet<Claim> {
    let mut owners: BTreeMap<Claim, Vec<&Key>> = BTreeMap::new();
    for (key, spec) in services {
        for (_, claim) in spec.claims() {
            owners.entry(claim).or_default().push(key);
        }
    }
    owners.retain(|_, keys| keys.len() > 1);
    for (claim, keys) in &owners {
        for key in keys {
            let others: Vec<_> = keys.iter().filter(|k| k != &key).map(ToString::to_string).collect();
            let why = format!("{claim} belongs to {} as well: nobody is called by it", others.join(", "));
            rejected.push(((*key).clone(), why));
        }
    }
    owners.into_keys().collect()
}
