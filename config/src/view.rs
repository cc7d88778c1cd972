//! The view: everything that decides, made from one generation of configuration.

mod authorize;
mod compile;
pub mod demand;
pub mod depend;
pub mod explain;
mod judge;
pub mod route;
pub mod service;
pub mod session;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use countersign_evidence::cache::Cache;
use countersign_evidence::collateral::{Collateral, Item, Marks};
use countersign_evidence::policy::{Level, References};
use countersign_evidence::{Anchors, Finding, Fingerprint, UnixTime};
use countersign_ratls::key::KeyType;
use countersign_ratls::{Bundle, SpiffeId, TrustDomain};

use self::authorize::CallPolicy;
use self::compile::{HopPolicy, PlatformLists};
use self::depend::{Facts, Interned};
use self::service::Services;
use self::session::Sessions;
use crate::kinds::trust_domain::{KeyType as Wanted, TrustDomainSpec};
use crate::kinds::{Selector, WorkloadIdentitySpec};
use crate::resource::{Key, Kind, Metadata, ROOT_NAMESPACE, Resource};

/// How many verified certificate chains and TCB evaluations are kept.
const CACHE_ENTRIES: usize = 4096;
/// How many verified pieces of evidence of connections are kept.
const SESSION_ENTRIES: usize = 4096;
/// How many sets of dependencies are shared.
const DEPENDENCY_ENTRIES: usize = 4096;

/// The number of the next view. The first is 1, so that 0 stands for none.
static EDITIONS: AtomicU64 = AtomicU64::new(1);

/// What a view is made from.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The generation of the snapshot; 0 for files.
    pub generation: u64,
    /// The resources.
    pub resources: Vec<Arc<Resource>>,
    /// The bundles of the trust domains that are known. Never merged.
    pub bundles: Vec<Bundle>,
    /// Vendor collateral as fetched.
    pub collateral: Vec<Item>,
}

/// A view, and what could not become part of it.
#[derive(Debug)]
pub struct Built {
    /// The view of everything else.
    pub view: View,
    /// Resources that cannot be used, or not fully, with the reason. What they
    /// would have admitted is refused: a policy whose Reference Values are
    /// missing still guards, and accepts nobody by them.
    pub rejected: Vec<(Key, String)>,
    /// Collateral that cannot be used, by item name.
    pub refused_collateral: Vec<(String, Finding)>,
}

/// One generation of everything that decides. Immutable; shared by `Arc`.
#[derive(Debug)]
pub struct View {
    /// The generation of the snapshot.
    pub generation: u64,
    /// Appraised collateral.
    pub collateral: Collateral,
    edition: u64,
    /// What it was made from: equal views decide equally.
    id: Fingerprint,
    collateral_items: Vec<(String, Fingerprint)>,
    refused_collateral: Vec<(String, Finding)>,
    anchors: Anchors,
    cache: Arc<Cache>,
    sessions: Arc<Sessions>,
    facts: Facts,
    interned: Arc<Interned>,
    bundles: BTreeMap<TrustDomain, Bundle>,
    references: References,
    hop_policies: Vec<HopPolicy>,
    /// Where the policy of a namespace and a name is among them.
    policies_by_name: HashMap<(String, String), usize>,
    call_policies: Vec<CallPolicy>,
    identities: Identities,
    /// SPIFFE IDs by `namespace/name` of the WorkloadIdentity.
    workloads: HashMap<String, SpiffeId>,
    services: Services,
    trust_domain: TrustDomainSpec,
    guards_control_plane: bool,
}

/// WorkloadIdentities by SPIFFE ID.
type Identities = HashMap<SpiffeId, Identity>;

/// A WorkloadIdentity, as the policies see it.
#[derive(Debug)]
struct Identity {
    key: Key,
    labels: BTreeMap<String, String>,
    granted_by: String,
    /// The policies that select it, found when somebody asks.
    guarding: OnceLock<Box<[usize]>>,
    /// The policies that say who may call it, likewise.
    called_under: OnceLock<Box<[usize]>>,
}

impl Identity {
    /// Whether a policy in `namespace` with this selector selects it.
    fn selected_by(&self, namespace: &str, selector: &Selector) -> bool {
        (self.key.namespace == namespace || namespace == ROOT_NAMESPACE) && selector.matches(&self.labels)
    }
}

/// What an AuthorizationPolicy decided.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Whether the call may go on.
    pub allowed: bool,
    /// The deciding rule, for example `AuthorizationPolicy payments/ledger, rules[0]`;
    /// or why there is none.
    pub rule: String,
    /// Policies with `action: Audit` that match.
    pub audited: Vec<String>,
}

impl View {
    /// Compiles a view at `now`.
    #[must_use]
    pub fn build(inputs: Inputs, marks: &mut Marks, now: UnixTime) -> Built {
        build(inputs, None, false, marks, now)
    }

    /// Compiles the view that replaces `previous`, and takes over what is still
    /// true: collateral that did not change, and certificate chains that were
    /// verified under the same anchors (their cache is keyed by the collateral).
    #[must_use]
    pub fn build_after(previous: &View, inputs: Inputs, marks: &mut Marks, now: UnixTime) -> Built {
        build(inputs, Some(previous), previous.guards_control_plane, marks, now)
    }

    /// Compiles the view by which a proxy judges its control plane, from the
    /// files of its bootstrap. There are no WorkloadIdentities: every policy
    /// with an empty selector guards, whoever `me` is in
    /// [`judge_hop`](View::judge_hop); the other policies do nothing.
    #[must_use]
    pub fn for_control_plane(inputs: Inputs, marks: &mut Marks, now: UnixTime) -> Built {
        build(inputs, None, true, marks, now)
    }

    /// What the view was made from, except its generation: SHA-256. Views with
    /// the same ID decide equally.
    #[must_use]
    pub const fn id(&self) -> &Fingerprint {
        &self.id
    }

    /// The number of the view, which no other has in this process: two can be
    /// of one generation.
    #[must_use]
    pub const fn edition(&self) -> u64 {
        self.edition
    }

    /// The first second at which the same inputs make another view, because
    /// collateral comes into use that was issued ahead of our clock. Whoever uses
    /// the view builds it again then. What ends by itself (a certificate, a list, a
    /// set of Reference Values) needs no new view: verdicts end with it.
    #[must_use]
    pub const fn renew_at(&self) -> Option<u64> {
        self.collateral.renewed_at()
    }

    /// The roots at which verifications may end.
    #[must_use]
    pub const fn anchors(&self) -> &Anchors {
        &self.anchors
    }

    /// The bundle of a trust domain.
    #[must_use]
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<&Bundle> {
        self.bundles.get(trust_domain)
    }

    /// The SPIFFE ID of the WorkloadIdentity `namespace/name`.
    #[must_use]
    pub fn workload(&self, name: &str) -> Option<&SpiffeId> {
        self.workloads.get(name)
    }

    /// The name, `namespace/name`, of the WorkloadIdentity that somebody who wrote `name` meant.
    #[must_use]
    pub fn workload_like(&self, name: &str) -> Option<&str> {
        let same = |known: &&str| known.rsplit('/').next() == Some(name);
        let known = || self.workloads.keys().map(String::as_str);
        known().filter(same).min().or_else(|| crate::nearest(name, known()))
    }

    /// The AttestationPolicies as the appraisal reads them, with the forms of
    /// evidence that each accepts: for tools that appraise offline.
    pub fn policies(
        &self,
    ) -> impl Iterator<Item = (&countersign_evidence::Policy, &[countersign_ratls::peer::Form])> {
        self.hop_policies.iter().map(|policy| (&policy.policy, policy.accepted_forms()))
    }

    /// The Reference Values by `namespace/name`.
    #[must_use]
    pub const fn references(&self) -> &References {
        &self.references
    }

    /// The SVID lifetime of the trust domain in seconds.
    #[must_use]
    pub fn svid_lifetime(&self) -> u64 {
        self.trust_domain.svid.lifetime.as_secs()
    }

    /// The kind of key of the trust domain's SVIDs.
    #[must_use]
    pub const fn svid_key_type(&self) -> KeyType {
        match self.trust_domain.svid.key_type {
            Wanted::EcP256 => KeyType::EcP256,
            Wanted::EcP384 => KeyType::EcP384,
        }
    }
}

fn build(
    inputs: Inputs,
    previous: Option<&View>,
    guards_control_plane: bool,
    marks: &mut Marks,
    now: UnixTime,
) -> Built {
    let Inputs { generation, mut resources, bundles, collateral: items } = inputs;
    // One set of resources makes one view, in whatever order they arrive.
    resources.sort_by_cached_key(|resource| resource.key());
    let mut rejected = Vec::new();

    let trust_domain = trust_domain(&resources, &mut rejected);
    let references: References = resources
        .iter()
        .filter_map(|resource| match resource.as_ref() {
            Resource::ReferenceValues(m, spec) => {
                Some((format!("{}/{}", m.namespace, m.name), compile::reference_set(spec)))
            }
            _ => None,
        })
        .collect();
    let lists = resources
        .iter()
        .filter_map(|resource| match resource.as_ref() {
            Resource::PlatformList(m, spec) => Some(compile::platform_list(m, spec)),
            _ => None,
        })
        .map(|list| (list.name.clone(), Arc::new(list)))
        .collect();
    let hop_policies = hop_policies(&resources, generation, &references, &lists, &mut rejected);
    let identities =
        identities(&resources, trust_domain.as_ref().map(|(d, _)| d), &hop_policies, &mut rejected);
    let call_policies = resources.iter().filter_map(|resource| match resource.as_ref() {
        Resource::AuthorizationPolicy(_, spec) => Some(CallPolicy::new(resource.key(), spec)),
        _ => None,
    });
    let call_policies = call_policies.collect();

    let mut anchors = Anchors::built_in();
    hop_policies.iter().for_each(|policy| policy.admit(&mut anchors));
    let collateral_items: Vec<_> =
        items.iter().map(|item| (item.name.clone(), Fingerprint::of(&item.bytes))).collect();
    // Whatever was verified under other anchors is not believed again.
    let reusable = previous.filter(|p| p.anchors == anchors);
    let (collateral, refused_collateral) = match reusable {
        Some(p) if p.collateral_items == collateral_items && p.collateral.is_current(now) => {
            (p.collateral.clone(), p.refused_collateral.clone())
        }
        _ => {
            let appraised = Collateral::appraise(&items, &anchors, marks, now);
            (appraised.collateral, appraised.refused)
        }
    };
    let cache = reusable.map_or_else(|| Arc::new(Cache::new(CACHE_ENTRIES)), |p| Arc::clone(&p.cache));
    // Their keys name the collateral, which names the anchors.
    let sessions =
        previous.map_or_else(|| Arc::new(Sessions::new(SESSION_ENTRIES)), |p| Arc::clone(&p.sessions));
    let workloads = identities
        .iter()
        .map(|(id, identity)| (format!("{}/{}", identity.key.namespace, identity.key.name), id.clone()))
        .collect();
    let services = match guards_control_plane {
        true => Services::default(),
        false => Services::new(&resources, &workloads, previous.map(|p| &p.services), &mut rejected),
    };
    let interned =
        previous.map_or_else(|| Arc::new(Interned::new(DEPENDENCY_ENTRIES)), |p| Arc::clone(&p.interned));
    let texts: Vec<String> = resources.iter().map(|resource| resource.to_json()).collect();
    let named = resources.iter().map(Arc::as_ref).zip(texts.iter().map(String::as_str));
    let facts = depend::facts(named, &identities, bundles.iter(), (&anchors, &collateral));
    let view = View {
        generation,
        edition: EDITIONS.fetch_add(1, Ordering::Relaxed),
        id: id(&texts, &bundles, &collateral, guards_control_plane),
        collateral,
        collateral_items,
        refused_collateral: refused_collateral.clone(),
        anchors,
        cache,
        sessions,
        facts,
        interned,
        bundles: bundles.into_iter().map(|b| (b.trust_domain.clone(), b)).collect(),
        references,
        policies_by_name: hop_policies
            .iter()
            .enumerate()
            .rev()
            .map(|(index, p)| ((p.key.namespace.clone(), p.key.name.clone()), index))
            .collect(),
        hop_policies,
        call_policies,
        workloads,
        services,
        identities,
        trust_domain: trust_domain.map(|(_, spec)| spec).unwrap_or_default(),
        guards_control_plane,
    };
    Built { view, rejected, refused_collateral }
}

type Rejected = Vec<(Key, String)>;

/// The trust domain, if exactly one is defined.
fn trust_domain(
    resources: &[Arc<Resource>],
    rejected: &mut Rejected,
) -> Option<(TrustDomain, TrustDomainSpec)> {
    let mut found: Option<(TrustDomain, TrustDomainSpec)> = None;
    for resource in resources {
        let Resource::TrustDomain(metadata, spec) = resource.as_ref() else { continue };
        match (&found, TrustDomain::parse(&metadata.name)) {
            (Some((first, _)), _) => {
                rejected.push((resource.key(), format!("the mesh has one trust domain, which is {first}")));
            }
            (None, Ok(name)) => found = Some((name, spec.clone())),
            (None, Err(finding)) => rejected.push((resource.key(), finding.to_string())),
        }
    }
    found
}

fn hop_policies(
    resources: &[Arc<Resource>],
    generation: u64,
    references: &References,
    lists: &PlatformLists,
    rejected: &mut Rejected,
) -> Vec<HopPolicy> {
    let mut policies = Vec::new();
    for resource in resources {
        let Resource::AttestationPolicy(metadata, spec) = resource.as_ref() else { continue };
        let policy = HopPolicy::new(metadata, spec, resource.to_json(), lists, generation);
        let references: BTreeSet<&str> =
            policy.references().filter(|name| !references.contains_key(*name)).map(String::as_str).collect();
        for (kind, missing) in
            [(Kind::ReferenceValues, references), (Kind::PlatformList, policy.missing_lists().collect())]
        {
            if !missing.is_empty() {
                let names: Vec<&str> = missing.into_iter().collect();
                let message = format!(
                    "there is no {} {}: the policy guards, and accepts nobody by them",
                    kind.name(),
                    names.join(", ")
                );
                rejected.push((resource.key(), message));
            }
        }
        // It stays in force: to drop it would admit whom it refuses.
        policies.push(policy);
    }
    policies
}

fn identities(
    resources: &[Arc<Resource>],
    trust_domain: Option<&TrustDomain>,
    policies: &[HopPolicy],
    rejected: &mut Rejected,
) -> Identities {
    let all: Vec<(&Metadata, &WorkloadIdentitySpec)> = resources
        .iter()
        .filter_map(|resource| match resource.as_ref() {
            Resource::WorkloadIdentity(metadata, spec) => Some((metadata, spec)),
            _ => None,
        })
        .collect();
    let mut owners: HashMap<&SpiffeId, usize> = HashMap::new();
    for (_, spec) in &all {
        *owners.entry(&spec.spiffe_id.0).or_default() += 1;
    }
    let levels: HashMap<_, _> =
        policies.iter().rev().map(|p| ((p.key.namespace.as_str(), p.key.name.as_str()), p.level)).collect();
    let mut identities = HashMap::new();
    for (metadata, spec) in all {
        let id = &spec.spiffe_id.0;
        let key = Key {
            kind: Kind::WorkloadIdentity,
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
        };
        // Which of two is meant cannot be known: taking either could hand one
        // workload's identity to another.
        if owners.get(id).is_some_and(|n| *n > 1) {
            rejected.push((key, format!("{id} is given to more than one WorkloadIdentity: nobody gets it")));
            continue;
        }
        if let Some(domain) = trust_domain.filter(|d| **d != id.trust_domain()) {
            rejected.push((key, format!("{id} is outside the trust domain {domain}")));
            continue;
        }
        let granted_by = spec.attestation.policy.0.clone();
        let granting = levels.get(&(key.namespace.as_str(), granted_by.as_str())).copied();
        let namespace = &key.namespace;
        match granting {
            None => {
                let message =
                    format!("there is no AttestationPolicy {namespace}/{granted_by}: nobody gets {id}");
                rejected.push((key.clone(), message));
            }
            Some(Level::L0) => {
                let message = format!("{namespace}/{granted_by} asks for no evidence: nobody gets {id}");
                rejected.push((key.clone(), message));
            }
            Some(_) => {}
        }
        let labels = spec.labels.clone();
        let (guarding, called_under) = (OnceLock::new(), OnceLock::new());
        identities.insert(id.clone(), Identity { key, labels, granted_by, guarding, called_under });
    }
    identities
}

fn id(
    resources: &[String],
    bundles: &[Bundle],
    collateral: &Collateral,
    guards_control_plane: bool,
) -> Fingerprint {
    let mut text = format!("{guards_control_plane}\n{}\n", hex::encode(collateral.id()));
    for resource in resources {
        text.push_str(resource);
        text.push('\n');
    }
    let mut bundles: Vec<_> = bundles.iter().collect();
    bundles.sort_by(|a, b| a.trust_domain.cmp(&b.trust_domain));
    for bundle in bundles {
        text.push_str(&format!("{}\n{}\n", bundle.trust_domain, bundle.to_json()));
    }
    Fingerprint::of(text.as_bytes())
}
