//! Which routes belong to which port of which Service.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::matching::{Match, Wanted};
use super::{RouteRule, Routes};
use crate::kinds::gateway::{ParentRef, Routing};
use crate::kinds::http_route::HttpRule;
use crate::kinds::scalar::Hostname;
use crate::kinds::{GrpcRouteSpec, HttpRouteSpec};
use crate::resource::{Key, Kind, Resource};
use crate::view::Rejected;
use crate::view::service::Called;

/// A port of a Service.
type Port = (Key, u16);

/// The routes of every port that has some. `ports` have none yet; the resources are
/// in the order of their keys.
pub(in crate::view) fn attached(
    resources: &[Arc<Resource>],
    ports: &BTreeMap<Port, Arc<Called>>,
    rejected: &mut Rejected,
) -> BTreeMap<Port, Routes> {
    let mut attached: BTreeMap<Port, Routes> = BTreeMap::new();
    let mut of_calls = BTreeSet::new();
    let (grpc, http): (Vec<_>, Vec<_>) = resources
        .iter()
        .filter_map(|resource| Some((resource.key(), Route::of(resource)?)))
        .partition(|(_, route)| matches!(route, Route::Grpc(_)));
    for (key, route) in grpc.into_iter().chain(http) {
        let service = |name: &str| {
            let (namespace, name) = (key.namespace.clone(), name.to_owned());
            Key { kind: Kind::Service, namespace, name }
        };
        let called = |name: &str, port| ports.get(&(service(name), port)).map(Arc::clone);
        let mut parents = BTreeSet::new();
        for parent in route.parents() {
            let found = parents_of(parent, &route, service(&parent.name.0), ports);
            if found.is_empty() {
                let port = parent.port.map(|port| format!(" {port}")).unwrap_or_default();
                let why = format!(
                    "{} has no port{port} with appProtocol {}: nothing is routed there",
                    service(&parent.name.0),
                    route.routing().protocols()
                );
                rejected.push((key.clone(), why));
            }
            parents.extend(found);
        }
        match &route {
            Route::Grpc(_) => of_calls.extend(parents.iter().cloned()),
            // The kind that says most of what it routes decides (GEP-1426).
            Route::Http(_) => {
                let (lost, kept): (BTreeSet<_>, BTreeSet<_>) =
                    parents.into_iter().partition(|port| of_calls.contains(port));
                // Who names no port means those that are left, if any are.
                let meant = |port: u16| route.parents().iter().any(|parent| parent.port == Some(port));
                for (service, port) in lost.into_iter().filter(|(_, port)| kept.is_empty() || meant(*port)) {
                    let why = format!("port {port} of {service} has GRPCRoutes, which come first");
                    rejected.push((key.clone(), why));
                }
                parents = kept;
            }
        }
        for (name, port) in route.targets().into_iter().filter(|(name, port)| called(name, *port).is_none()) {
            let why = format!("there is no port {port} of {}: requests for it get 500", service(name));
            rejected.push((key.clone(), why));
        }
        if parents.is_empty() {
            continue;
        }
        let rules = route.rules().into_iter().enumerate().map(|(i, (rule, wanted))| {
            (Arc::new(RouteRule::new(format!("{key}, rules[{i}]"), &rule, &called)), wanted)
        });
        let rules: Vec<_> = rules.collect();
        for parent in parents {
            attached.entry(parent).or_default().add(route.hostnames(), &rules);
        }
    }
    attached.into_iter().map(|(port, routes)| (port, routes.sorted())).collect()
}

fn parents_of(
    parent: &ParentRef,
    route: &Route<'_>,
    service: Key,
    ports: &BTreeMap<Port, Arc<Called>>,
) -> Vec<Port> {
    let all = ports.range((service.clone(), 0)..=(service, u16::MAX));
    let fitting = all.filter(|(_, called)| called.protocol.is_some_and(|p| route.routing().fits(p)));
    let asked = fitting.filter(|((_, port), _)| parent.port.is_none_or(|asked| asked == *port));
    asked.map(|(port, _)| port.clone()).collect()
}

impl Routes {
    fn add(&mut self, hostnames: &[Hostname], rules: &[(Arc<RouteRule>, Vec<Wanted>)]) {
        for (rule, wanted) in rules {
            for wanted in wanted {
                let mut add = |host| self.matches.push(Match::new(host, wanted.clone(), Arc::clone(rule)));
                if hostnames.is_empty() {
                    add(None);
                }
                hostnames.iter().for_each(|host| add(Some(host)));
            }
        }
    }

    /// The order of precedence. It is stable: what ties stays in the order of names and rules.
    fn sorted(mut self) -> Self {
        self.matches.sort_by_key(|m| std::cmp::Reverse(m.precision()));
        self
    }
}

/// A route of any kind.
enum Route<'a> {
    Http(&'a HttpRouteSpec),
    Grpc(&'a GrpcRouteSpec),
}

impl<'a> Route<'a> {
    fn of(resource: &'a Resource) -> Option<Self> {
        match resource {
            Resource::HttpRoute(_, spec) => Some(Self::Http(spec)),
            Resource::GrpcRoute(_, spec) => Some(Self::Grpc(spec)),
            _ => None,
        }
    }

    const fn routing(&self) -> Routing {
        match self {
            Self::Http(_) => Routing::Requests,
            Self::Grpc(_) => Routing::Calls,
        }
    }

    fn parents(&self) -> &'a [ParentRef] {
        match self {
            Self::Http(spec) => &spec.parent_refs,
            Self::Grpc(spec) => &spec.parent_refs,
        }
    }

    fn hostnames(&self) -> &'a [Hostname] {
        match self {
            Self::Http(spec) => &spec.hostnames,
            Self::Grpc(spec) => &spec.hostnames,
        }
    }

    /// The Services that it leads to, each once.
    fn targets(&self) -> BTreeSet<(&'a str, u16)> {
        let places = match self {
            Self::Http(spec) => spec.places(),
            Self::Grpc(spec) => spec.places(),
        };
        places.into_iter().map(|(_, name, port)| (name.0.as_str(), port)).collect()
    }

    /// The rules, each with its matches, of which there is at least one.
    fn rules(&self) -> Vec<(Cow<'a, HttpRule>, Vec<Wanted>)> {
        let or_all = |wanted: Vec<Wanted>| if wanted.is_empty() { vec![Wanted::default()] } else { wanted };
        match self {
            Self::Http(spec) => {
                let wanted = |rule: &HttpRule| or_all(rule.matches.iter().map(Wanted::request).collect());
                spec.rules.iter().map(|rule| (Cow::Borrowed(rule), wanted(rule))).collect()
            }
            Self::Grpc(spec) => {
                let rules = spec.rules.iter().map(|rule| {
                    let wanted = or_all(rule.matches.iter().map(Wanted::call).collect());
                    (Cow::Owned(HttpRule::from(rule)), wanted)
                });
                rules.collect()
            }
        }
    }
}
