//! Who may call whom, in Istio's order: Deny, Allow, default deny; Audit aside.
//!
//! Of some calls not everything is known: of bytes, what they ask for; of a path
//! that servers read differently, which one it is. A rule then matches for
//! certain, perhaps, or not: what allows must be certain, what denies need not.

mod rule;
mod told;

use std::collections::BTreeSet;

use countersign_evidence::Verdict;
use countersign_evidence::claims::Tee;
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::Admission;

use self::rule::Matched;
use super::{Decision, Identity, View};
use crate::kinds::Selector;
use crate::kinds::authorization_policy::{Action, AuthorizationPolicySpec, Rule};
use crate::request::RequestFacts;
use crate::resource::Key;

/// An AuthorizationPolicy, ready to be applied.
#[derive(Debug)]
pub(super) struct CallPolicy {
    pub(super) key: Key,
    pub(super) selector: Selector,
    action: Action,
    rules: Vec<Rule>,
}

/// What is known of what is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked<'a> {
    /// Bytes, which nobody looks at: no request will be known.
    Bytes,
    /// Requests, each of which will be decided about by itself.
    Requests,
    /// This request.
    Request(&'a RequestFacts<'a>),
}

/// A call, as the rules see it.
pub(super) struct Call<'a> {
    /// What decides, and who is called.
    pub(super) view: &'a View,
    pub(super) me: &'a SpiffeId,
    pub(super) peer: Option<&'a SpiffeId>,
    /// The namespace of the caller's WorkloadIdentity.
    pub(super) namespace: Option<&'a str>,
    pub(super) tee: Option<Tee>,
    /// The verdicts about the caller; `None` where none can be there yet.
    pub(super) verdicts: Option<&'a [Verdict]>,
    pub(super) port: u16,
    pub(super) asked: Asked<'a>,
}

impl CallPolicy {
    pub(super) fn new(key: Key, spec: &AuthorizationPolicySpec) -> Self {
        Self { key, selector: spec.selector.clone(), action: spec.action, rules: spec.rules.clone() }
    }

    /// The ports that its rules name.
    fn ports(&self) -> impl Iterator<Item = u16> {
        let operations = self.rules.iter().flat_map(|rule| rule.to.iter().flatten());
        operations.flat_map(|o| o.ports.iter().chain(&o.not_ports).flatten().copied())
    }

    /// The index of the first rule that decides.
    fn deciding(&self, call: &Call<'_>) -> Option<(usize, Matched)> {
        // Of what is yet to be asked, what may be allowed goes on to be decided about.
        let least = match (self.action, call.asked) {
            (Action::Allow, Asked::Requests) => Matched::Perhaps,
            (Action::Deny, Asked::Bytes | Asked::Request(_)) => Matched::Perhaps,
            _ => Matched::Yes,
        };
        let matched =
            self.rules.iter().map(|rule| rule::matches(rule, &self.key.namespace, call)).enumerate();
        matched.into_iter().find(|(_, matched)| *matched >= least)
    }
}

impl View {
    /// Whether `peer` may call port `port` of `me` with bytes that nobody looks
    /// at: Deny, then Allow, then Audit, as Istio orders them; without any Allow
    /// that matches the answer is no. Rules about requests allow nothing, and deny
    /// by their other fields.
    #[must_use]
    pub fn authorize(&self, peer: &Admission, me: &SpiffeId, port: u16) -> Decision {
        self.decide(&self.call(peer, me, port, Asked::Bytes))
    }

    /// Whether `peer` may call port `port` of `me` with some request: for
    /// connections that carry requests, of which each is to be decided about with
    /// [`authorize_request`](View::authorize_request). Nothing is audited here.
    #[must_use]
    pub fn authorize_http(&self, peer: &Admission, me: &SpiffeId, port: u16) -> Decision {
        let decision = self.decide(&self.call(peer, me, port, Asked::Requests));
        Decision { audited: Vec::new(), ..decision }
    }

    /// Whether `peer` may make this request at port `port` of `me`. The path of
    /// what is sent on must be [`RequestFacts::path`].
    #[must_use]
    pub fn authorize_request(
        &self,
        peer: &Admission,
        me: &SpiffeId,
        port: u16,
        request: &RequestFacts<'_>,
    ) -> Decision {
        self.decide(&self.call(peer, me, port, Asked::Request(request)))
    }

    fn call<'a>(&'a self, peer: &'a Admission, me: &'a SpiffeId, port: u16, asked: Asked<'a>) -> Call<'a> {
        let id = peer.presented.id.as_ref();
        let tee = peer.claims.as_ref().map(|claims| claims.tee);
        let namespace = id.and_then(|id| self.namespace_of(id));
        let verdicts = Some(peer.verdicts.as_slice());
        Call { view: self, me, peer: id, namespace, tee, verdicts, port, asked }
    }

    /// The namespace of the WorkloadIdentity that has this SPIFFE ID.
    pub(super) fn namespace_of(&self, id: &SpiffeId) -> Option<&str> {
        self.identities.get(id).map(|identity| identity.key.namespace.as_str())
    }

    /// The policies that select who is called.
    fn calls_of(&self, identity: &Identity) -> impl Iterator<Item = &CallPolicy> {
        // There may be thousands of policies, and each request asks for one workload.
        let selecting = identity.called_under.get_or_init(|| {
            let all = self.call_policies.iter().enumerate();
            all.filter(|(_, policy)| identity.selected_by(&policy.key.namespace, &policy.selector))
                .map(|(index, _)| index)
                .collect()
        });
        selecting.iter().filter_map(|index| self.call_policies.get(*index))
    }

    /// Decides about every port at once, for whoever has none in mind: it is allowed
    /// when some port is. `asking` decides about one; 0 stands for those that no rule names.
    pub(super) fn decide_anywhere(&self, me: &SpiffeId, asking: impl Fn(u16) -> Decision) -> Decision {
        let calls = self.identities.get(me).map(|identity| self.calls_of(identity));
        let named: BTreeSet<u16> = calls.into_iter().flatten().flat_map(CallPolicy::ports).collect();
        let rest = asking(0);
        let differing = named.into_iter().map(|port| (port, asking(port)));
        let differing: Vec<_> = differing
            .filter(|(_, decision)| (decision.allowed, &decision.rule) != (rest.allowed, &rest.rule))
            .collect();
        if !rest.allowed && differing.iter().all(|(_, decision)| !decision.allowed) {
            return rest;
        }
        let told = |allowed: bool| {
            let of = differing.iter().filter(move |(_, decision)| decision.allowed == allowed);
            of.map(|(port, decision)| format!("port {port}: {}", decision.rule))
        };
        let mut rules: Vec<String> = told(true).collect();
        match (rest.allowed, rules.is_empty()) {
            (true, true) if differing.is_empty() => rules.push(rest.rule),
            (true, _) => rules.push(format!("other ports: {}", rest.rule)),
            (false, _) => rules.push("no other port is allowed".to_owned()),
        }
        if rest.allowed {
            rules.extend(told(false).map(|rule| format!("denied for {rule}")));
        }
        Decision { allowed: true, rule: rules.join("; "), audited: rest.audited }
    }

    pub(super) fn decide(&self, call: &Call<'_>) -> Decision {
        let me = call.me;
        let Some(identity) = self.identities.get(me) else {
            let rule = format!("no WorkloadIdentity has the SPIFFE ID {me}: nobody may call it");
            return Decision { allowed: false, rule, audited: Vec::new() };
        };
        let mut deny = None;
        let mut allow = None;
        let mut audited = Vec::new();
        for policy in self.calls_of(identity) {
            let (action, decided) = (policy.action, policy.deciding(call));
            let Some((index, matched)) = decided else { continue };
            let rule = || format!("{}, rules[{index}]{}", policy.key, told::doubt(action, matched, call));
            match action {
                Action::Deny => deny = deny.or_else(|| Some(rule())),
                Action::Allow => allow = allow.or_else(|| Some(rule())),
                Action::Audit => audited.push(rule()),
            }
        }
        match (deny, allow) {
            (Some(rule), _) => Decision { allowed: false, rule, audited },
            (None, Some(rule)) => Decision { allowed: true, rule, audited },
            (None, None) => {
                let selecting: Vec<_> = self.calls_of(identity).collect();
                Decision { allowed: false, rule: told::default_deny(call, &selecting), audited }
            }
        }
    }
}
