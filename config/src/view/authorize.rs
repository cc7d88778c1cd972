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
            (None, None) => Decision { allowed: false, rule: default_deny(me, &selecting), audited },
        }
    }
}

fn default_deny(me: &SpiffeId, selecting: &[&CallPolicy]) -> String {
    let names: Vec<String> = selecting
        .iter()
        .filter(|policy| policy.action == Action::Allow)
        .map(|policy| format!("{}/{}", policy.key.namespace, policy.key.name))
        .collect();
    if names.is_empty() {
        format!("default deny: no AuthorizationPolicy with action Allow selects {me}")
    } else {
        format!("default deny: no rule matches of {}", names.join(", "))
    }
}
