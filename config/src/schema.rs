//! JSON Schema, generated from the Rust types, and the structural check by it.
//!
//! One schema serves editors, Kubernetes and ourselves, so that they cannot
//! disagree. The typed value is read only when the structure holds.

pub(crate) mod check;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::bootstrap::{ControlPlaneBootstrapSpec, ProxyBootstrapSpec};
use crate::kinds::{
    AttestationPolicySpec, AuthorizationPolicySpec, GrpcRouteSpec, HttpRouteSpec, PlatformListSpec,
    ReferenceValuesSpec, ServiceSpec, TrustDomainSpec, WorkloadEntrySpec, WorkloadIdentitySpec, scalar,
};
use crate::resource::{API_VERSION, Kind, Metadata};

/// The kind of a proxy's own file.
pub const PROXY_BOOTSTRAP: &str = "ProxyBootstrap";
/// The kind of a control plane's own file.
pub const CONTROL_PLANE_BOOTSTRAP: &str = "ControlPlaneBootstrap";

/// The metadata of a `TrustDomain`: its name is the trust domain.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
struct TrustDomainMetadata {
    /// The trust domain, for example `prod.example`.
    name: scalar::Domain,
    /// For people and selectors.
    #[schemars(default)]
    labels: BTreeMap<String, String>,
    /// For people and tools.
    #[schemars(default)]
    annotations: BTreeMap<String, String>,
}

static SCHEMAS: LazyLock<BTreeMap<&'static str, Value>> = LazyLock::new(|| {
    BTreeMap::from([
        resource::<TrustDomainMetadata, TrustDomainSpec>(Kind::TrustDomain),
        resource::<Metadata, WorkloadIdentitySpec>(Kind::WorkloadIdentity),
        resource::<Metadata, AttestationPolicySpec>(Kind::AttestationPolicy),
        resource::<Metadata, ReferenceValuesSpec>(Kind::ReferenceValues),
        resource::<Metadata, PlatformListSpec>(Kind::PlatformList),
        resource::<Metadata, AuthorizationPolicySpec>(Kind::AuthorizationPolicy),
        resource::<Metadata, WorkloadEntrySpec>(Kind::WorkloadEntry),
        resource::<Metadata, ServiceSpec>(Kind::Service),
        resource::<Metadata, HttpRouteSpec>(Kind::HttpRoute),
        resource::<Metadata, GrpcRouteSpec>(Kind::GrpcRoute),
        document::<(), ProxyBootstrapSpec>(PROXY_BOOTSTRAP, API_VERSION),
        document::<(), ControlPlaneBootstrapSpec>(CONTROL_PLANE_BOOTSTRAP, API_VERSION),
    ])
});

/// The JSON Schema (2020-12) of every kind of document, by kind.
#[must_use]
pub fn schemas() -> BTreeMap<&'static str, String> {
    SCHEMAS.iter().map(|(kind, schema)| (*kind, format!("{schema:#}\n"))).collect()
}

pub(crate) fn of(kind: &str) -> Option<&'static Value> {
    SCHEMAS.get(kind)
}

fn resource<M: JsonSchema, S: JsonSchema>(kind: Kind) -> (&'static str, Value) {
    document::<M, S>(kind.name(), kind.api_version())
}

fn document<M: JsonSchema, S: JsonSchema>(
    kind: &'static str,
    api_version: &'static str,
) -> (&'static str, Value) {
    let mut generator: SchemaGenerator = SchemaSettings::draft2020_12().into_generator();
    let spec = generator.subschema_for::<S>();
    let description = S::json_schema(&mut generator).get("description").cloned();
    let mut properties = Map::from_iter([
        ("apiVersion".to_owned(), json!({ "const": api_version })),
        ("kind".to_owned(), json!({ "const": kind })),
        ("spec".to_owned(), spec.into()),
    ]);
    let mut required = vec!["apiVersion", "kind", "spec"];
    let metadata: Value = generator.subschema_for::<M>().into();
    if metadata.get("$ref").is_some() {
        properties.insert("metadata".to_owned(), metadata);
        required.push("metadata");
    }
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
        "$defs": generator.take_definitions(true),
    });
    if let (Value::Object(schema), Some(description)) = (&mut schema, description) {
        schema.insert("description".to_owned(), description);
    }
    forbid_null(&mut schema);
    // Whether a map of the JSON library keeps an order of its own is up to a
    // feature, which any crate that is built with this one may turn on.
    schema.sort_all_objects();
    (kind, schema)
}

/// `Option` fields are left out, not null: an empty value in YAML is a slip.
fn forbid_null(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(forbid_null),
        Value::Object(map) => {
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|t| t != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    map.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(values)) = map.get_mut("enum") {
                values.retain(|v| !v.is_null());
                if let [Value::Bool(only)] = values.as_slice() {
                    let only = Value::Bool(*only);
                    map.remove("enum");
                    map.insert("const".to_owned(), only);
                }
            }
            if let Some(Value::Array(alternatives)) = map.get_mut("anyOf") {
                alternatives.retain(|a| a.get("type").is_none_or(|t| t != "null"));
                if let [Value::Object(only)] = alternatives.as_slice() {
                    let only = only.clone();
                    map.remove("anyOf");
                    for (key, value) in only {
                        map.entry(key).or_insert(value);
                    }
                }
            }
            if map.get("default").is_some_and(Value::is_null) {
                map.remove("default");
            }
            map.values_mut().for_each(forbid_null);
        }
        _ => {}
    }
}
