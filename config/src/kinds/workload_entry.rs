//! `WorkloadEntry`: where a workload runs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scalar::{Locality, Name, Place};
use crate::document::Path;

/// Where a workload runs: the address of its proxy, and which identity must
/// answer there. Services select it by its labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadEntrySpec {
    /// An IP address or a DNS name of the machine. Applications that connect to it
    /// by itself, at a `targetPort` of a Service, reach this one endpoint.
    pub address: Place,
    /// The port of its proxy.
    #[serde(default = "proxy_port", skip_serializing_if = "is_proxy_port")]
    #[schemars(range(min = 1))]
    pub proxy_port: u16,
    /// The name of a WorkloadIdentity in the same namespace: the proxy that answers
    /// must prove its SPIFFE ID, wherever the address leads.
    pub workload: Name,
    /// What the selectors of Services see.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The share of new connections, relative to the other endpoints. With 0 it
    /// gets none, except from who asks for its own address.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    #[schemars(range(max = 1_000_000))]
    pub weight: u32,
    /// Where it is: `region`, `region/zone` or `region/zone/subzone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
}

/// Where proxies take hops unless told otherwise, as other meshes do (HBONE).
const PROXY_PORT: u16 = 15_008;

const fn proxy_port() -> u16 {
    PROXY_PORT
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_proxy_port(port: &u16) -> bool {
    *port == PROXY_PORT
}

const fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_one(weight: &u32) -> bool {
    *weight == 1
}

impl WorkloadEntrySpec {
    pub(super) fn check(&self, spec: &Path, report: &mut dyn FnMut(Path, String)) {
        super::check_labels(&self.labels, &spec.key("labels"), report);
        if let Some(why) = self.address.ip().and_then(|ip| super::service::unfit(&ip)) {
            report(spec.key("address"), format!("{} {why}: nothing runs there", self.address));
        }
    }
}
