//! `AuthorizationPolicy`: which attested identities may call which workload.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Selector;
use super::attestation_policy::{Level, TeeKind};
use super::scalar::{HostPattern, Method, Name, Namespace, PathPattern, Pattern};
use crate::document::Path;

/// Which attested identities may call which workload.
///
/// The order is Istio's: a matching `Deny` policy refuses; else a matching
/// `Allow` policy permits; else the call is refused. `Audit` policies decide
/// nothing, what they match is logged. Unlike Istio, a workload that no policy
/// selects cannot be called.
///
/// Where bytes are called that nobody looks at, a rule with `methods`, `paths`,
/// `hosts` or their opposites allows nothing, and denies by its other fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicySpec {
    /// The workloads that are called.
    #[serde(default, skip_serializing_if = "Selector::is_empty")]
    pub selector: Selector,
    /// What follows from a match.
    #[serde(default)]
    pub action: Action,
    /// Any of: the policy matches when one rule does. No rules match nothing,
    /// so that an `Allow` without rules allows nothing. The rule `{}` matches
    /// everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// What follows from a match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// Permit, unless a Deny matches.
    #[default]
    Allow,
    /// Refuse, whatever else allows.
    Deny,
    /// Log and count.
    Audit,
}

impl Action {
    /// As written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
            Self::Audit => "Audit",
        }
    }
}

/// A rule: matches when `from` and `to` both do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Any of: who calls. Left out: everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub from: Option<Vec<Source>>,
    /// Any of: what is called. Left out: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub to: Option<Vec<Operation>>,
}

/// Who calls: all of the fields that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct Source {
    /// Any of: the caller's SPIFFE ID. Left out: every caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub principals: Option<Vec<Pattern>>,
    /// None of: the caller's SPIFFE ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub not_principals: Option<Vec<Pattern>>,
    /// Any of: the namespace of the caller's WorkloadIdentity. Left out: every
    /// caller, also one that has none, which is of no namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub namespaces: Option<Vec<Namespace>>,
    /// None of: the namespace of the caller's WorkloadIdentity. A caller that has
    /// none is not allowed by this field, and denied by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub not_namespaces: Option<Vec<Namespace>>,
    /// Any of: the kind of TEE that the caller proved. Left out: every kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub tees: Option<Vec<TeeKind>>,
    /// What the caller must have proved to be here at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<CallerAttestation>,
}

/// What a caller must have proved: all of the fields that are given. What counts is
/// what AttestationPolicies with `mode: Enforce` demand of this caller, and so
/// have been shown, or there would be no connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct CallerAttestation {
    /// The least level: L1, L2 or L3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// The name of an AttestationPolicy in the same namespace, which guards the
    /// workload that is called and speaks of the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Name>,
}

/// What is called: all of the fields that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct Operation {
    /// Any of: the port of the workload. Left out: every port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), inner(range(min = 1)))]
    pub ports: Option<Vec<u16>>,
    /// None of: the port of the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), inner(range(min = 1)))]
    pub not_ports: Option<Vec<u16>>,
    /// Any of: the method of the request, in upper case. Left out: every method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub methods: Option<Vec<Method>>,
    /// None of: the method of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub not_methods: Option<Vec<Method>>,
    /// Any of: the path of the request, as in `/v1/info`, `/v1/*` (not `/v1`),
    /// `*/info` or `*`. Left out: every path. Compared without escapes, after dot
    /// segments were followed and slashes merged; what servers read differently
    /// (`%2F`, `%00`, backslashes, semicolons, escaped escapes) is not allowed by
    /// this field, and denied by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub paths: Option<Vec<PathPattern>>,
    /// None of: the path of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub not_paths: Option<Vec<PathPattern>>,
    /// Any of: the host of the request without its port, as in `api.example.com`,
    /// `*.example.com`, `api.*` or `*`. Upper and lower case are the same. Left
    /// out: every host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub hosts: Option<Vec<HostPattern>>,
    /// None of: the host of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub not_hosts: Option<Vec<HostPattern>>,
}

impl AuthorizationPolicySpec {
    /// What callers must have proved, each with its place.
    pub(crate) fn attestations(&self) -> impl Iterator<Item = (Path, &CallerAttestation)> {
        self.rules.iter().enumerate().flat_map(|(i, rule)| {
            rule.from.iter().flatten().enumerate().filter_map(move |(k, source)| {
                let path = Path::default().key("spec").key("rules").index(i).key("from").index(k);
                Some((path.key("attestation"), source.attestation.as_ref()?))
            })
        })
    }

    pub(super) fn check(&self, spec: &Path, report: &mut dyn FnMut(Path, String)) {
        self.selector.check(&spec.key("selector"), report);
        for (path, attestation) in self.attestations() {
            if attestation.level == Some(Level::L0) {
                report(path.key("level"), "is L0, which asks for no evidence: every caller is".to_owned());
            }
        }
        if self.action != Action::Allow && self.rules.is_empty() {
            let message =
                format!("a {} policy without rules matches nothing and has no effect", self.action.name());
            report(spec.key("rules"), message);
        }
    }
}
