//! Why a call is not allowed, in words.

use countersign_evidence::claims::Tee;

use super::rule::{self, Matched};
use super::{Asked, Call, CallPolicy};
use crate::kinds::authorization_policy::{Action, Operation, Rule, Source};
use crate::kinds::scalar::Pattern;
use crate::request::RequestFacts;

/// The most rules, ports or callers that a denial lists.
const SHOWN: usize = 4;

/// What has to be added to a rule that decides without matching for certain.
pub(super) fn doubt(action: Action, matched: Matched, call: &Call<'_>) -> String {
    match (matched, call.asked) {
        (Matched::Perhaps, Asked::Requests) if action == Action::Allow => " for some requests".to_owned(),
        (Matched::Perhaps, Asked::Bytes) => ", as nobody looks at what these bytes ask for".to_owned(),
        (Matched::Perhaps, Asked::Request(request)) => match (request.path(), request.host()) {
            (Err(why), _) => format!(", as the path {why}"),
            (Ok(_), None) => ", as the request names no host".to_owned(),
            (Ok(_), Some(_)) => ", as the opposite is not certain".to_owned(),
        },
        _ => String::new(),
    }
}

pub(super) fn default_deny(call: &Call<'_>, selecting: &[&CallPolicy]) -> String {
    let allowing: Vec<_> = selecting.iter().filter(|policy| policy.action == Action::Allow).collect();
    if allowing.is_empty() {
        return format!("default deny: no AuthorizationPolicy with action Allow selects {}", call.me);
    }
    let names: Vec<_> =
        allowing.iter().map(|policy| format!("{}/{}", policy.key.namespace, policy.key.name)).collect();
    let mut wants: Vec<String> = allowing
        .iter()
        .zip(&names)
        .flat_map(|(policy, name)| policy.rules.iter().enumerate().map(move |rule| (policy, name, rule)))
        .map(|(policy, name, (i, rule))| {
            format!("{name} rules[{i}] {}", wanted(rule, &policy.key.namespace, call))
        })
        .collect();
    if wants.is_empty() {
        wants.push("they have no rule".to_owned());
    }
    let more = wants.len().saturating_sub(SHOWN);
    wants.truncate(SHOWN);
    if more > 0 {
        wants.push(format!("and {more} more"));
    }
    let what = match call.asked {
        Asked::Bytes | Asked::Requests => String::new(),
        Asked::Request(request) => format!("{} at ", asked(request)),
    };
    format!(
        "default deny: no rule of {} allows {what}{}: {}",
        names.join(", "),
        if call.port == 0 { "any port".to_owned() } else { format!("port {}", call.port) },
        wants.join("; ")
    )
}

/// The port that was asked for, if there was one.
fn port(call: &Call<'_>) -> String {
    if call.port == 0 { "any".to_owned() } else { call.port.to_string() }
}

/// The request, in short.
fn asked(request: &RequestFacts<'_>) -> String {
    let path = request.path().map_or_else(|why| format!("(the path {why})"), str::to_owned);
    format!("{} {path} of {}", request.method(), request.host().unwrap_or("no host"))
}

/// What a rule that does not match would have wanted of this call.
fn wanted(rule: &Rule, namespace: &str, call: &Call<'_>) -> String {
    let mut wants = Vec::new();
    if let Some(to) = rule.to.as_ref().filter(|_| rule::operations(rule, call) < Matched::Yes) {
        let operations: Vec<_> = to.iter().map(operation).collect();
        let asked = match call.asked {
            Asked::Bytes => format!("{}, where nobody looks for requests", port(call)),
            Asked::Requests => port(call),
            Asked::Request(request) => format!("{} {}", port(call), asked(request)),
        };
        // A port alone is said in the fewest words.
        let alone = to.iter().all(|o| *o == Operation { ports: o.ports.clone(), ..Operation::default() });
        match alone {
            true => {
                let ports: Vec<_> =
                    to.iter().flat_map(|o| o.ports.iter().flatten()).map(u16::to_string).collect();
                wants.push(format!("allows ports {}, asked: {}", listed(&ports), port(call)));
            }
            false => wants.push(format!("allows {}, asked: {asked}", operations.join(" or "))),
        }
    }
    if let Some(from) = rule.from.as_ref().filter(|_| rule::sources(rule, namespace, call) < Matched::Yes) {
        let caller = call.peer.map_or("a caller without a SPIFFE ID".to_owned(), ToString::to_string);
        let tee = call.tee.map_or("no evidence at hand", Tee::name);
        let sources: Vec<_> = from.iter().map(|from| source(from, namespace)).collect();
        wants.push(format!("allows callers {}, asked by: {caller} ({tee})", listed(&sources)));
    }
    wants.join(" and ")
}

fn operation(operation: &Operation) -> String {
    let Operation { ports, not_ports, methods, not_methods, paths, not_paths, hosts, not_hosts } = operation;
    let parts = [
        field("ports", ports),
        field("ports other than", not_ports),
        field("methods", methods),
        field("methods other than", not_methods),
        field("paths", paths),
        field("paths other than", not_paths),
        field("hosts", hosts),
        field("hosts other than", not_hosts),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" with ")
}

fn field<T: ToString>(name: &str, list: &Option<Vec<T>>) -> Option<String> {
    let texts: Vec<_> = list.as_ref()?.iter().map(ToString::to_string).collect();
    Some(format!("{name} {}", listed(&texts)))
}

fn source(source: &Source, namespace: &str) -> String {
    let patterns = |list: &[Pattern]| listed(&list.iter().map(|p| p.0.to_string()).collect::<Vec<_>>());
    let parts = [
        source.principals.as_deref().map(patterns),
        source.not_principals.as_deref().map(|list| format!("not {}", patterns(list))),
        field("of", &source.namespaces),
        field("not of", &source.not_namespaces),
        source.tees.as_deref().map(|tees| {
            let names: Vec<_> = tees.iter().map(|tee| Tee::from(*tee).name().to_owned()).collect();
            format!("on {}", listed(&names))
        }),
        source.attestation.as_ref().and_then(|a| a.level).map(|level| format!("that prove {level:?}")),
        source
            .attestation
            .as_ref()
            .and_then(|a| a.policy.as_ref())
            .map(|policy| format!("that satisfy {namespace}/{policy}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// The first of many: a denial is a line of a log.
fn listed(items: &[String]) -> String {
    match items.split_at_checked(SHOWN) {
        Some((first, more)) if !more.is_empty() => format!("{} and {} more", first.join(", "), more.len()),
        _ => items.join(", "),
    }
}
