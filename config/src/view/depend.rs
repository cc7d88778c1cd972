//! What admissions rest on, and what a new view changes of it.
//!
//! A view is a set of facts (see [`countersign_evidence::dependencies`]). What
//! was decided under one view is what another would decide, as long as the facts
//! that it rests on are the same, and no policy has come that has a say as well.

use std::collections::{HashMap, HashSet};

use countersign_evidence::dependencies::{Content, Dependencies, Fact, Name};
use countersign_evidence::{Anchors, Claims, Collateral, UnixTime};
use countersign_ratls::{Bundle, SpiffeId, TrustDomain};

use super::compile::HopPolicy;
use super::judge::Applied;
use super::{Identities, View};
use crate::resource::{Key, Kind, Resource};

/// The facts of a view by name.
pub(super) type Facts = HashMap<Name, Content>;

/// One copy of dependencies that many hops share.
pub(super) type Interned = quick_cache::sync::Cache<Dependencies, Dependencies>;

/// The fact that is a resource.
pub(super) fn of_resource(key: &Key) -> Name {
    named(key.kind, &format!("{}/{}", key.namespace, key.name))
}

/// The fact that is the resource `namespace/name` of this kind.
pub(super) fn named(kind: Kind, name: &str) -> Name {
    Name::new(kind.name(), name)
}

/// Who has this SPIFFE ID, as far as selectors see it.
fn of_identity(id: &SpiffeId) -> Name {
    Name::new("identity", id.as_str())
}

/// The trust bundle of this trust domain.
pub(super) fn of_bundle(trust_domain: &TrustDomain) -> Name {
    Name::new("bundle", trust_domain.as_str())
}

fn of_anchors() -> Name {
    Name::new("anchors", "")
}

/// All facts of a view. `texts` are the resources as canonical JSON.
pub(super) fn facts<'a>(
    texts: impl Iterator<Item = (&'a Resource, &'a str)>,
    identities: &Identities,
    bundles: impl Iterator<Item = &'a Bundle>,
    (anchors, collateral): (&Anchors, &Collateral),
) -> Facts {
    let resources =
        texts.map(|(resource, text)| (of_resource(&resource.key()), Content::of(text.as_bytes())));
    let identities = identities.iter().map(|(id, identity)| {
        let seen = format!("{}\n{:?}\n{}", identity.key.namespace, identity.labels, identity.granted_by);
        (of_identity(id), Content::of(seen.as_bytes()))
    });
    let bundles = bundles.map(|b| (of_bundle(&b.trust_domain), Content::of(b.to_json().as_bytes())));
    let anchors = (of_anchors(), Content::of(format!("{anchors:?}").as_bytes()));
    let collateral = collateral.facts().into_iter().map(|fact| (fact.name, fact.content));
    resources.chain(identities).chain(bundles).chain([anchors]).chain(collateral).collect()
}

impl View {
    /// What a verdict rests on.
    pub(super) fn resting_on(
        &self,
        me: &SpiffeId,
        trust_domain: Option<&TrustDomain>,
        policies: &[Applied<'_>],
        claims: Option<&Claims>,
    ) -> Dependencies {
        let mut names: Vec<Name> = policies.iter().flat_map(|(p, _)| p.facts.iter().copied()).collect();
        if !self.guards_control_plane {
            names.push(of_identity(me));
        }
        names.extend(trust_domain.map(of_bundle));
        if let Some(claims) = claims {
            names.push(of_anchors());
            names.extend(claims.collateral());
        }
        let facts = names.into_iter().map(|name| Fact { name, content: self.content(&name) });
        let known = Dependencies::new(facts.collect());
        match self.interned.get(&known) {
            Some(shared) => shared,
            None => {
                self.interned.insert(known.clone(), known.clone());
                known
            }
        }
    }

    fn content(&self, name: &Name) -> Content {
        self.facts.get(name).copied().unwrap_or_default()
    }

    fn holds(&self, fact: &Fact) -> bool {
        self.content(&fact.name) == fact.content
    }

    /// Whether what rests on `dependencies` rests on this, and it says what it said.
    pub(super) fn still_says(&self, dependencies: &Dependencies, name: &Name) -> bool {
        dependencies.content(name).is_some_and(|content| content == self.content(name))
    }

    /// Whether the evidence that these claims were verified from would verify to
    /// the same: anchors and collateral say what they said, and nothing has ended.
    pub(super) fn still_proves(&self, dependencies: &Dependencies, claims: &Claims, now: UnixTime) -> bool {
        claims.window.contains(now.as_secs())
            && self.still_says(dependencies, &of_anchors())
            && claims.collateral().iter().all(|name| self.still_says(dependencies, name))
    }

    /// Whether a verdict about `peer`, reached on behalf of `me` under any other
    /// view, is the one that this view would reach, except for the time.
    #[must_use]
    pub fn upholds(&self, dependencies: &Dependencies, me: &SpiffeId, peer: &SpiffeId) -> bool {
        let Some(facts) = dependencies.facts() else { return false };
        let Ok(guarding) = self.guarding(me) else { return false };
        facts.iter().all(|fact| self.holds(fact))
            && guarding.iter().all(|p| !p.speaks_of(peer) || dependencies.contains(&p.fact()))
    }

    /// What is not as it was in `previous`.
    #[must_use]
    pub fn changes_since(&self, previous: &Self) -> Changes<'_> {
        let differs = |name: &&Name| self.content(name) != previous.content(name);
        let names: HashSet<Name> =
            self.facts.keys().chain(previous.facts.keys()).filter(differs).copied().collect();
        let policies = self.hop_policies.iter().filter(|p| names.contains(&p.fact())).collect();
        let calls = self
            .call_policies
            .iter()
            .chain(&previous.call_policies)
            .any(|policy| names.contains(&of_resource(&policy.key)));
        Changes { view: self, names, policies, calls }
    }
}

/// What one view changes of another.
#[derive(Debug)]
pub struct Changes<'v> {
    view: &'v View,
    names: HashSet<Name>,
    /// The policies that are new or say something else.
    policies: Vec<&'v HopPolicy>,
    calls: bool,
}

impl Changes<'_> {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The facts that changed, came or went: for an index of what rests on them.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.names.iter()
    }

    /// Whether a verdict about `peer` that was reached on behalf of `me` may be
    /// another one now: something that it rests on changed, or a policy that
    /// changed or is new has a say. The verdict has to be one of the previous
    /// view, or one that its changes did not affect.
    #[must_use]
    pub fn affects(&self, dependencies: &Dependencies, me: &SpiffeId, peer: &SpiffeId) -> bool {
        let Some(facts) = dependencies.facts() else { return true };
        facts.iter().any(|fact| !self.view.holds(fact)) || self.bring_policies_to(me, peer)
    }

    /// Whether there are policies that are new or say something else.
    #[must_use]
    pub fn bring_policies(&self) -> bool {
        !self.policies.is_empty()
    }

    /// Whether one of these policies has a say between `me` and `peer`.
    #[must_use]
    pub fn bring_policies_to(&self, me: &SpiffeId, peer: &SpiffeId) -> bool {
        self.policies.iter().any(|p| p.speaks_of(peer) && self.view.is_guarded_by(me, p))
    }

    /// Whether calls of `me` may be decided otherwise: by an AuthorizationPolicy,
    /// or because they select `me` by other labels.
    #[must_use]
    pub fn affects_calls(&self, me: &SpiffeId) -> bool {
        self.calls || self.names.contains(&of_identity(me))
    }
}
