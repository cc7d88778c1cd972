//! Whether a rule matches a call: for certain, perhaps, or not.

use countersign_evidence::claims::Tee;
use countersign_evidence::{Verdict, policy};

use super::{Asked, Call};
use crate::kinds::authorization_policy::{CallerAttestation, Operation, Rule, Source};
use crate::kinds::scalar::{Glob, Pattern};
use crate::request::RequestFacts;
use crate::view::demand::enforced;

/// How far something matches. The order is that of certainty: of all that must
/// match the least counts, of what is enough the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Matched {
    No,
    Perhaps,
    Yes,
}

impl From<bool> for Matched {
    fn from(matched: bool) -> Self {
        if matched { Self::Yes } else { Self::No }
    }
}

impl Matched {
    const fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Perhaps => Self::Perhaps,
            Self::Yes => Self::No,
        }
    }
}

fn all_of(parts: impl IntoIterator<Item = Matched>) -> Matched {
    parts.into_iter().min().unwrap_or(Matched::Yes)
}

fn any_of(parts: impl IntoIterator<Item = Matched>) -> Matched {
    parts.into_iter().max().unwrap_or(Matched::No)
}

/// Whether a rule of a policy of this namespace matches.
pub(super) fn matches(rule: &Rule, namespace: &str, call: &Call<'_>) -> Matched {
    all_of([sources(rule, namespace, call), operations(rule, call)])
}

pub(super) fn sources(rule: &Rule, namespace: &str, call: &Call<'_>) -> Matched {
    let any = |from: &Vec<Source>| any_of(from.iter().map(|s| source(s, namespace, call)));
    rule.from.as_ref().map_or(Matched::Yes, any)
}

pub(super) fn operations(rule: &Rule, call: &Call<'_>) -> Matched {
    rule.to.as_ref().map_or(Matched::Yes, |to| any_of(to.iter().map(|o| operation(o, call))))
}

/// A pair of fields: any of these, and none of those.
fn one_and_not<T>(
    wanted: Option<&Vec<T>>,
    unwanted: Option<&Vec<T>>,
    matched: impl Fn(&[T]) -> Matched,
) -> [Matched; 2] {
    [
        wanted.map_or(Matched::Yes, |list| matched(list)),
        unwanted.map_or(Matched::Yes, |list| matched(list).not()),
    ]
}

fn source(source: &Source, own: &str, call: &Call<'_>) -> Matched {
    let principals =
        one_and_not(source.principals.as_ref(), source.not_principals.as_ref(), |list: &[Pattern]| {
            call.peer.is_some_and(|peer| list.iter().any(|p| p.0.matches(peer))).into()
        });
    let namespaces = one_and_not(source.namespaces.as_ref(), source.not_namespaces.as_ref(), |list| {
        call.namespace.is_some_and(|namespace| list.iter().any(|n| n.0 == namespace)).into()
    });
    let tees = source.tees.as_ref();
    let tees = tees.is_none_or(|tees| tees.iter().any(|t| Some(Tee::from(*t)) == call.tee)).into();
    // Who has no name is none of those that are named. Whether they are one of those
    // that are not meant is another matter.
    let unnamed = |named: bool, unwanted: bool| match unwanted && !named {
        true => Matched::Perhaps,
        false => Matched::Yes,
    };
    let attested = source.attestation.as_ref().is_none_or(|wanted| is_attested(wanted, own, call));
    let known = [
        tees,
        attested.into(),
        unnamed(call.peer.is_some(), source.not_principals.is_some()),
        unnamed(call.namespace.is_some(), source.not_namespaces.is_some()),
    ];
    all_of(principals.into_iter().chain(namespaces).chain(known))
}

/// Whether the caller is here because it proved this: what is enforced between it
/// and who is called was shown, or there would be no connection.
fn is_attested(wanted: &CallerAttestation, namespace: &str, call: &Call<'_>) -> bool {
    let Some(peer) = call.peer else { return false };
    let Ok(applied) = call.view.applied(call.me, peer) else { return false };
    let enforced = enforced(&applied);
    let has_evidence = call.verdicts.is_none() || call.tee.is_some();
    let level = wanted.level.is_none_or(|level| {
        let level = policy::Level::from(level);
        has_evidence && enforced.iter().any(|policy| policy.level >= level)
    });
    let policy = wanted.policy.as_ref().is_none_or(|name| {
        let meant = |of: &str, called: &str| of == namespace && called == name.0;
        let allowed = |verdicts: &[Verdict]| {
            verdicts.iter().any(|v| meant(&v.policy.namespace, &v.policy.name) && v.allows())
        };
        enforced.iter().any(|policy| meant(&policy.key.namespace, &policy.key.name))
            && call.verdicts.is_none_or(allowed)
    });
    level && policy
}

fn operation(operation: &Operation, call: &Call<'_>) -> Matched {
    let Operation { ports, not_ports, methods, not_methods, paths, not_paths, hosts, not_hosts } = operation;
    let ports = one_and_not(ports.as_ref(), not_ports.as_ref(), |list| list.contains(&call.port).into());
    let request = |matched: &dyn Fn(&RequestFacts<'_>) -> Matched| match call.asked {
        Asked::Request(request) => matched(request),
        Asked::Bytes | Asked::Requests => Matched::Perhaps,
    };
    let methods = one_and_not(methods.as_ref(), not_methods.as_ref(), |list| {
        request(&|request| any_of(list.iter().map(|m| method(&m.0, request.method()))))
    });
    let paths = one_and_not(paths.as_ref(), not_paths.as_ref(), |list| {
        request(&|request| any_of(list.iter().map(|p| glob(&p.0, request.meaning().ok()))))
    });
    let hosts = one_and_not(hosts.as_ref(), not_hosts.as_ref(), |list| {
        request(&|request| any_of(list.iter().map(|h| glob(&h.0, request.host()))))
    });
    all_of(ports.into_iter().chain(methods).chain(paths).chain(hosts))
}

/// Methods are case-sensitive (RFC 9110, section 9.1), and not every server knows.
fn method(wanted: &str, asked: &str) -> Matched {
    match wanted.eq_ignore_ascii_case(asked) {
        true if wanted == asked => Matched::Yes,
        true => Matched::Perhaps,
        false => Matched::No,
    }
}

fn glob(pattern: &Glob, text: Option<&str>) -> Matched {
    match text {
        Some(text) => pattern.matches(text).into(),
        None if pattern.matches_all() => Matched::Yes,
        None => Matched::Perhaps,
    }
}
