//! `countersign get`: resources, as a table or as documents.

use countersign_config::{Kind, Resource};
use countersign_wire::proto;
use serde_json::{Value, json};

use super::delete::{Kinds, namespace_of};
use crate::context::{Client, ContextArgs, ask};
use crate::failure::{Failure, Outcome, Result};
use crate::output::{DIM, Output, clean, paint};

/// The form of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// A line a resource.
    #[default]
    Table,
    /// Documents that `apply` takes.
    Yaml,
    /// One JSON list.
    Json,
}

/// Show resources
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign get attestationpolicies
  countersign get refval ledger-2026-11 -n payments -o yaml
  countersign get wid --all-namespaces -o json

Kinds may be written in full, as a plural or short: td, wid, attpol, refval,
platlist, authzpol, we, svc, hr, gr.")]
pub(crate) struct Args {
    /// The kind, in any of its spellings
    #[arg(value_parser = Kinds)]
    kind: Kind,
    /// Only the one of this name
    name: Option<String>,
    /// The namespace; all when neither a name nor a namespace is given
    #[arg(short, long)]
    namespace: Option<String>,
    /// Of every namespace
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    #[command(flatten)]
    context: ContextArgs,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    let namespace = match (&args.namespace, &args.name) {
        (Some(namespace), _) => namespace_of(args.kind, namespace),
        (None, Some(_)) if !args.all_namespaces => namespace_of(args.kind, "default"),
        (None, _) => String::new(),
    };
    let request = proto::ListRequest {
        kind: args.kind.name().to_owned(),
        namespace,
        name: args.name.clone().unwrap_or_default(),
    };
    let response = ask(&args.context, async |client| find(client, request).await)?;
    match args.output {
        Form::Json => {
            let items: Vec<Value> = response.items.iter().map(with_status).collect();
            out.json(&json!({ "generation": response.generation, "items": items }));
        }
        Form::Yaml => {
            for (i, item) in response.items.iter().enumerate() {
                if i > 0 {
                    out.line("---");
                }
                out.line(clean_document(&resource(item)?.to_yaml()));
            }
        }
        Form::Table if response.items.is_empty() => out.line(paint(DIM, "none")),
        Form::Table => {
            let rows = response.items.iter().map(row).collect();
            out.table(&["NAMESPACE", "NAME", "SUMMARY", "GENERATION", "PROXIES", "STATE"], rows);
        }
    }
    Ok(Outcome::Pass)
}

/// Lists; a name that is not there is a failure that says what is.
pub(crate) async fn find(mut client: Client, request: proto::ListRequest) -> Result<proto::ListResponse> {
    let response = client.list(request.clone()).await?;
    if request.name.is_empty() || !response.items.is_empty() {
        return Ok(response);
    }
    let all = proto::ListRequest { kind: request.kind.clone(), ..Default::default() };
    let there: Vec<_> = client.list(all).await?.items.iter().filter_map(place).collect();
    Err(Failure::input(absent(&request, &there)))
}

/// Namespace and name of an item.
fn place(item: &proto::Item) -> Option<(String, String)> {
    let value: Value = serde_json::from_str(&item.json).ok()?;
    let text = |pointer: &str| Some(value.pointer(pointer)?.as_str()?.to_owned());
    Some((text("/metadata/namespace").unwrap_or_default(), text("/metadata/name")?))
}

/// That there is none of this name, and which one was meant.
fn absent(wanted: &proto::ListRequest, there: &[(String, String)]) -> String {
    let proto::ListRequest { kind, namespace, name } = wanted;
    let elsewhere: Vec<_> =
        there.iter().filter(|(_, n)| n == name).map(|(ns, _)| format!("-n {ns}")).collect();
    let near = there.iter().filter(|(ns, _)| namespace.is_empty() || ns == namespace);
    let hint = match countersign_config::nearest(name, near.map(|(_, name)| name.as_str())) {
        _ if !elsewhere.is_empty() => format!("; there is one with {}", elsewhere.join(" and ")),
        Some(near) => format!("; did you mean {near}?"),
        None => String::new(),
    };
    let of = if namespace.is_empty() { String::new() } else { format!(" in the namespace {namespace}") };
    format!("there is no {kind} {name}{of}{hint}")
}

/// A resource of an answer.
pub(crate) fn resource(item: &proto::Item) -> Result<Resource> {
    Resource::from_json(&item.json).map_err(|problems| {
        let text: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Failure::failed(format!(
            "the control plane sent a resource that we do not understand: {}",
            text.join("; ")
        ))
    })
}

/// A YAML document for the terminal: every line without what could steer it.
pub(crate) fn clean_document(text: &str) -> String {
    text.trim_end().lines().map(clean).collect::<Vec<_>>().join("\n")
}

/// A resource with its status, as a document.
pub(crate) fn with_status(item: &proto::Item) -> Value {
    let mut value: Value = serde_json::from_str(&item.json).unwrap_or(Value::Null);
    if let (Some(object), Some(status)) = (value.as_object_mut(), &item.status) {
        let rejected: Vec<_> =
            status.rejected.iter().map(|r| json!({ "proxy": r.name, "reason": r.reason })).collect();
        object.insert(
            "status".to_owned(),
            json!({
                "generation": status.generation, "proxies": status.proxies, "applied": status.applied,
                "rejected": rejected, "rejectedHere": status.rejected_here,
            }),
        );
    }
    value
}

fn row(item: &proto::Item) -> Vec<String> {
    let value: Value = serde_json::from_str(&item.json).unwrap_or(Value::Null);
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
    let status = item.status.clone().unwrap_or_default();
    vec![
        text("/metadata/namespace"),
        text("/metadata/name"),
        summary(&value),
        status.generation.to_string(),
        format!("{}/{}", status.applied, status.proxies),
        state(&status),
    ]
}

/// Whether a resource is in force.
pub(crate) fn state(status: &proto::ItemStatus) -> String {
    if !status.rejected_here.is_empty() {
        "unusable".to_owned()
    } else if !status.rejected.is_empty() {
        format!("rejected by {}", status.rejected.len())
    } else if status.applied < status.proxies {
        "on its way".to_owned()
    } else {
        "applied".to_owned()
    }
}

/// The one thing that somebody who lists this kind wants to see.
fn summary(value: &Value) -> String {
    let spec = value.get("spec").unwrap_or(&Value::Null);
    let text = |key: &str| spec.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let list = |key: &str| spec.get(key).and_then(Value::as_array).into_iter().flatten();
    let count = |key: &str| list(key).count();
    match value.get("kind").and_then(Value::as_str) {
        Some("AttestationPolicy") => {
            let tees: Vec<_> = spec
                .get("anyOf")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|alternative| alternative.as_object()?.keys().next().cloned())
                .collect();
            let mode = text("mode");
            format!("{} {}", if mode.is_empty() { "Enforce" } else { &mode }, tees.join(" or "))
        }
        Some("ReferenceValues") => {
            format!("tdx {}, sgx {}, sevSnp {}", count("tdx"), count("sgx"), count("sevSnp"))
        }
        Some("WorkloadIdentity") => text("spiffeId"),
        Some("AuthorizationPolicy") => {
            let action = text("action");
            format!("{}, {} rules", if action.is_empty() { "Allow" } else { &action }, count("rules"))
        }
        Some("WorkloadEntry") => {
            let port = spec.get("proxyPort").and_then(Value::as_u64).unwrap_or(15_008);
            format!("{} at {}, proxy port {port}", text("workload"), text("address"))
        }
        Some("Service") => {
            let texts = |key: &str| list(key).filter_map(Value::as_str).map(str::to_owned);
            let names: Vec<String> = texts("hosts").chain(texts("addresses")).collect();
            let ports: Vec<String> = list("ports").map(port).collect();
            format!("{} port {}", names.join(" "), ports.join(", ")).trim_start().to_owned()
        }
        Some("HTTPRoute" | "GRPCRoute") => {
            let parents = list("parentRefs").filter_map(|parent| parent.get("name")?.as_str());
            format!("of {}, {} rules", parents.collect::<Vec<_>>().join(", "), count("rules"))
        }
        _ => String::new(),
    }
}

/// A port of a Service: `443 to 8443 HTTP2`.
fn port(port: &Value) -> String {
    let number = |key: &str| port.get(key).and_then(Value::as_u64);
    let target = number("targetPort").map(|target| format!(" to {target}")).unwrap_or_default();
    let protocol = port.get("appProtocol").and_then(Value::as_str).map(|p| format!(" {p}"));
    format!("{}{target}{}", number("port").unwrap_or_default(), protocol.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_there_brings_the_one_that_was_meant() {
        let there = [("payments", "ledger-peers"), ("default", "control-plane")]
            .map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
        let told = |namespace: &str, name: &str| {
            let wanted = proto::ListRequest {
                kind: "AttestationPolicy".to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            };
            absent(&wanted, &there)
        };
        assert!(
            told("default", "ledger-peers").ends_with("namespace default; there is one with -n payments")
        );
        assert!(told("payments", "ledger-pers").ends_with("; did you mean ledger-peers?"));
        assert_eq!(told("", "xyz"), "there is no AttestationPolicy xyz");
    }
}
