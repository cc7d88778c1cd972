//! Who may call whom, in Istio's order: Deny, Allow, default deny; Audit aside.

use countersign_evidence::claims::Tee;
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::Admission;

use super::{Decision, View};
use crate::kinds::Selector;
use crate::kinds::authorization_policy::{Action, AuthorizationPolicySpec, Operation, Rule, Source};
use crate::kinds::scalar::Pattern;
use crate::resource::Key;

/// An AuthorizationPolicy, ready to be applied.
#[derive(Debug)]
pub(super) struct CallPolicy {
    pub(super) key: Key,
    pub(super) selector: Selector,
    action: Action,
    rules: Vec<Rule>,
}

/// The most rules, ports or callers that a denial lists.
const SHOWN: usize = 4;

/// A call, as the rules see it.
pub(super) struct Call<'a> {
    pub(super) peer: Option<&'a SpiffeId>,
    pub(super) tee: Option<Tee>,
    pub(super) port: u16,
}

impl CallPolicy {
    pub(super) fn new(key: Key, spec: &AuthorizationPolicySpec) -> Self {
        Self { key, selector: spec.selector.clone(), action: spec.action, rules: spec.rules.clone() }
    }

    /// The index of the first rule that matches.
    fn matches(&self, call: &Call<'_>) -> Option<usize> {
        self.rules.iter().position(|rule| {
            rule.from.as_ref().is_none_or(|from| from.iter().any(|s| source_matches(s, call)))
                && rule.to.as_ref().is_none_or(|to| to.iter().any(|o| operation_matches(o, call)))
        })
    }
}

fn source_matches(source: &Source, call: &Call<'_>) -> bool {
    let covers =
        |patterns: &Vec<Pattern>| call.peer.is_some_and(|peer| patterns.iter().any(|p| p.0.matches(peer)));
    source.principals.as_ref().is_none_or(covers)
        && source.not_principals.as_ref().is_none_or(|patterns| !covers(patterns))
        && source.tees.as_ref().is_none_or(|tees| tees.iter().any(|t| Some(Tee::from(*t)) == call.tee))
}

fn operation_matches(operation: &Operation, call: &Call<'_>) -> bool {
    operation.ports.as_ref().is_none_or(|ports| ports.contains(&call.port))
}

impl View {
    /// Whether `peer` may call port `port` of `me`: Deny, then Allow, then
    /// Audit, as Istio orders them; without any Allow that matches the answer is no.
    #[must_use]
    pub fn authorize(&self, peer: &Admission, me: &SpiffeId, port: u16) -> Decision {
        let tee = peer.claims.as_ref().map(|claims| claims.tee);
        self.decide(&Call { peer: peer.presented.id.as_ref(), tee, port }, me)
    }

    pub(super) fn decide(&self, call: &Call<'_>, me: &SpiffeId) -> Decision {
        let Some(identity) = self.identities.get(me) else {
            let rule = format!("no WorkloadIdentity has the SPIFFE ID {me}: nobody may call it");
            return Decision { allowed: false, rule, audited: Vec::new() };
        };
        let mut deny = None;
        let mut allow = None;
        let mut audited = Vec::new();
        let mut selecting = Vec::new();
        for policy in &self.call_policies {
            if !identity.selected_by(&policy.key.namespace, &policy.selector) {
                continue;
            }
            selecting.push(policy);
            let Some(index) = policy.matches(call) else { continue };
            let rule = || format!("{}, rules[{index}]", policy.key);
            match policy.action {
                Action::Deny => deny = deny.or_else(|| Some(rule())),
                Action::Allow => allow = allow.or_else(|| Some(rule())),
                Action::Audit => audited.push(rule()),
            }
        }
        match (deny, allow) {
            (Some(rule), _) => Decision { allowed: false, rule, audited },
            (None, Some(rule)) => Decision { allowed: true, rule, audited },
            (None, None) => Decision { allowed: false, rule: default_deny(call, me, &selecting), audited },
        }
    }
}

fn default_deny(call: &Call<'_>, me: &SpiffeId, selecting: &[&CallPolicy]) -> String {
    let allowing: Vec<_> = selecting.iter().filter(|policy| policy.action == Action::Allow).collect();
    if allowing.is_empty() {
        return format!("default deny: no AuthorizationPolicy with action Allow selects {me}");
    }
    let names: Vec<_> =
        allowing.iter().map(|policy| format!("{}/{}", policy.key.namespace, policy.key.name)).collect();
    let mut wants: Vec<String> = allowing
        .iter()
        .zip(&names)
        .flat_map(|(policy, name)| policy.rules.iter().enumerate().map(move |(i, rule)| (name, i, rule)))
        .map(|(name, i, rule)| format!("{name} rules[{i}] {}", wanted(rule, call)))
        .collect();
    if wants.is_empty() {
        wants.push("they have no rule".to_owned());
    }
    let more = wants.len().saturating_sub(SHOWN);
    wants.truncate(SHOWN);
    if more > 0 {
        wants.push(format!("and {more} more"));
    }
    format!("default deny: no rule of {} allows port {}: {}", names.join(", "), call.port, wants.join("; "))
}

/// What a rule that does not match would have wanted of this call.
fn wanted(rule: &Rule, call: &Call<'_>) -> String {
    let mut wants = Vec::new();
    if let Some(to) = rule.to.as_ref().filter(|to| !to.iter().any(|o| operation_matches(o, call))) {
        let ports: Vec<_> = to.iter().flat_map(|o| o.ports.iter().flatten()).map(u16::to_string).collect();
        wants.push(format!("allows ports {}, asked: {}", listed(&ports), call.port));
    }
    if let Some(from) = rule.from.as_ref().filter(|from| !from.iter().any(|s| source_matches(s, call))) {
        let caller = call.peer.map_or("a caller without a SPIFFE ID".to_owned(), ToString::to_string);
        let tee = call.tee.map_or("no evidence at hand", Tee::name);
        let sources: Vec<_> = from.iter().map(described).collect();
        wants.push(format!("allows callers {}, asked by: {caller} ({tee})", listed(&sources)));
    }
    wants.join(" and ")
}

fn described(source: &Source) -> String {
    let patterns = |list: &[Pattern]| listed(&list.iter().map(|p| p.0.to_string()).collect::<Vec<_>>());
    let parts = [
        source.principals.as_deref().map(patterns),
        source.not_principals.as_deref().map(|list| format!("not {}", patterns(list))),
        source.tees.as_deref().map(|tees| {
            let names: Vec<_> = tees.iter().map(|tee| Tee::from(*tee).name().to_owned()).collect();
            format!("on {}", listed(&names))
        }),
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
