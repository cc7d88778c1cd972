//! Routes: whether what they name is there, and speaks HTTP.

use std::collections::BTreeMap;

use super::{Set, error};
use crate::kinds::ServiceSpec;
use crate::kinds::gateway::Routing;
use crate::kinds::scalar::Name;
use crate::kinds::service::ServicePort;
use crate::problem::Problem;
use crate::resource::{Key, Kind, Resource};

type Services<'a> = BTreeMap<(&'a str, &'a str), &'a ServiceSpec>;

impl Set<'_> {
    pub(super) fn routes(&self, problems: &mut Vec<Problem>) {
        let services: Services<'_> = self
            .resources
            .iter()
            .filter_map(|resource| match resource {
                Resource::Service(m, spec) => Some(((m.namespace.as_str(), m.name.as_str()), spec)),
                _ => None,
            })
            .collect();
        for resource in self.resources {
            let (parents, places, routing) = match resource {
                Resource::HttpRoute(_, spec) => (&spec.parent_refs, spec.places(), Routing::Requests),
                Resource::GrpcRoute(_, spec) => (&spec.parent_refs, spec.places(), Routing::Calls),
                _ => continue,
            };
            let key = resource.key();
            let namespace = &key.namespace;
            for (i, parent) in parents.iter().enumerate() {
                let path = format!("spec.parentRefs[{i}]");
                let Some(service) = self.service(&services, &key, &path, &parent.name, problems) else {
                    continue;
                };
                let asked = |port: &&ServicePort| parent.port.is_none_or(|number| number == port.port);
                let asked: Vec<_> = service.ports.iter().filter(asked).collect();
                match parent.port.filter(|_| asked.is_empty()) {
                    Some(port) => problems.push(no_port(&key, &path, &parent.name, port, service)),
                    None if asked.iter().any(|p| p.app_protocol.is_some_and(|p| routing.fits(p))) => {}
                    None => {
                        let which = parent.port.map(|port| format!(" {port}")).unwrap_or_default();
                        let message = format!(
                            "Service {namespace}/{} has no port{which} with appProtocol {}: there is nothing to route",
                            parent.name,
                            routing.protocols()
                        );
                        problems.push(error(&key, &path, message));
                    }
                }
            }
            for (path, name, port) in places {
                let service = self.service(&services, &key, &path, name, problems);
                if let Some(service) = service.filter(|s| !s.ports.iter().any(|p| p.port == port)) {
                    problems.push(no_port(&key, &path, name, port, service));
                }
            }
        }
    }

    fn service<'s>(
        &self,
        services: &Services<'s>,
        key: &Key,
        path: &str,
        name: &Name,
        problems: &mut Vec<Problem>,
    ) -> Option<&'s ServiceSpec> {
        let place = || (key.clone(), format!("{path}.name"));
        self.exists(Kind::Service, &key.namespace, &name.0, place, problems);
        services.get(&(key.namespace.as_str(), name.0.as_str())).copied()
    }
}

fn no_port(key: &Key, path: &str, name: &Name, port: u16, service: &ServiceSpec) -> Problem {
    let known: Vec<_> = service.ports.iter().map(|p| p.port.to_string()).collect();
    let message = format!("Service {}/{name} has no port {port}, but {}", key.namespace, known.join(", "));
    error(key, &format!("{path}.port"), message)
}
