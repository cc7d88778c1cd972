//! Routes: whether what they name is there, and speaks HTTP.

use std::collections::BTreeMap;

use super::{Set, error};
use crate::kinds::ServiceSpec;
use crate::kinds::scalar::Name;
use crate::kinds::service::{AppProtocol, ServicePort};
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
            let Resource::HttpRoute(metadata, spec) = resource else { continue };
            let (key, namespace) = (resource.key(), &metadata.namespace);
            for (i, parent) in spec.parent_refs.iter().enumerate() {
                let path = format!("spec.parentRefs[{i}]");
                let Some(service) = self.service(&services, &key, &path, &parent.name, problems) else {
                    continue;
                };
                let http = |port: &ServicePort| port.app_protocol.is_some_and(AppProtocol::is_http);
                let why = match parent.port.map(|number| service.ports.iter().find(|p| p.port == number)) {
                    None if service.ports.iter().any(http) => continue,
                    None => format!("no port of Service {namespace}/{} has", parent.name),
                    Some(Some(port)) if http(port) => continue,
                    Some(Some(port)) => {
                        format!("port {} of Service {namespace}/{} has no", port.port, parent.name)
                    }
                    Some(None) => {
                        problems.push(no_port(
                            &key,
                            &path,
                            &parent.name,
                            parent.port.unwrap_or_default(),
                            service,
                        ));
                        continue;
                    }
                };
                let message =
                    format!("{why} appProtocol HTTP, HTTP2 or GRPC: there are no requests to route");
                problems.push(error(&key, &path, message));
            }
            for (path, name, port) in spec.places() {
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
