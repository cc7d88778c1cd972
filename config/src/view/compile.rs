//! From what operators write to what the appraisal reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_evidence::anchors::{Anchors, Fingerprint};
use countersign_evidence::dependencies;
use countersign_evidence::policy::{
    self as compiled, Common, EventContent, EventReference, EventRule, IntelTcbRule, Level, PlatformList,
    Policy, PolicyRef, ReferenceSet, SgxReference, SgxRule, SnpReference, SnpRule, TdxReference, TdxRule,
};
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::Form;

use super::depend;
use crate::kinds::Selector;
use crate::kinds::assurance::Continuous;
use crate::kinds::attestation_policy::{
    Alternative, AnyOrNone, AttestationPolicySpec, CrlUse, EvidenceForm, Measurements, Mode, RuntimeEvents,
    SgxBlock, SnpBlock, TcbStatus, TdxBlock,
};
use crate::kinds::platform_list::PlatformListSpec;
use crate::kinds::reference_values::ReferenceValuesSpec;
use crate::kinds::scalar::{Duration, Hex, Name, Pattern};
use crate::resource::{Key, Kind, Metadata};

/// An AttestationPolicy, ready to be applied.
#[derive(Debug)]
pub(super) struct HopPolicy {
    pub(super) key: Key,
    pub(super) selector: Selector,
    peers: Option<Vec<Pattern>>,
    pub(super) mode: Mode,
    pub(super) level: Level,
    pub(super) continuous: Continuous,
    /// The whole resource as canonical JSON.
    pub(super) json: String,
    /// The facts that its verdicts rest on: itself first, then what it names.
    pub(super) facts: Vec<dependencies::Name>,
    forms: Vec<Form>,
    pub(super) policy: Policy,
    /// The measurements that each alternative names, for explanations.
    pub(super) demands: Vec<String>,
}

impl HopPolicy {
    pub(super) fn new(
        metadata: &Metadata,
        spec: &AttestationPolicySpec,
        json: String,
        lists: &PlatformLists,
        generation: u64,
    ) -> Self {
        let namespace = &metadata.namespace;
        let scope = Scope { namespace, lists };
        let any_of = spec.any_of.iter().map(|a| alternative(a, scope)).collect();
        let key =
            Key { kind: Kind::AttestationPolicy, namespace: namespace.clone(), name: metadata.name.clone() };
        let name = PolicyRef { namespace: namespace.clone(), name: metadata.name.clone(), generation };
        let forms = spec.accept_forms.iter().map(|form| match form {
            EvidenceForm::Native => Form::Native,
            EvidenceForm::Ccc => Form::Ccc,
        });
        let mut policy = Self {
            key,
            selector: spec.selector.clone(),
            peers: spec.peers.clone(),
            mode: spec.mode,
            level: spec.level.into(),
            continuous: spec.continuous.clone().unwrap_or_default(),
            json,
            facts: Vec::new(),
            forms: forms.collect(),
            policy: Policy {
                name,
                mode: match spec.mode {
                    Mode::Enforce => compiled::Mode::Enforce,
                    Mode::Audit => compiled::Mode::Audit,
                },
                any_of,
                max_evidence_age: spec.freshness.as_ref().map(|f| f.max_evidence_age.as_secs()),
            },
            demands: spec.any_of.iter().enumerate().map(|(i, a)| demand(i, a)).collect(),
        };
        let sets = policy.references().map(|name| depend::named(Kind::ReferenceValues, name));
        let lists = policy.lists().map(|list| depend::named(Kind::PlatformList, &list.name));
        policy.facts = std::iter::once(policy.fact()).chain(sets).chain(lists).collect();
        policy
    }

    /// The fact that is the policy itself.
    pub(super) fn fact(&self) -> dependencies::Name {
        match self.facts.first() {
            Some(known) => *known,
            None => depend::of_resource(&self.key),
        }
    }

    fn lists(&self) -> impl Iterator<Item = &Arc<PlatformList>> {
        self.policy.any_of.iter().flat_map(|a| &common_of(a).platform_lists)
    }

    /// Whether it speaks of this peer.
    pub(super) fn speaks_of(&self, peer: &SpiffeId) -> bool {
        self.peers.as_ref().is_none_or(|peers| peers.iter().any(|p| p.0.matches(peer)))
    }

    /// Whether it accepts evidence in this form.
    pub(super) fn accepts(&self, form: Form) -> bool {
        self.forms.contains(&form)
    }

    /// The forms of evidence that it accepts.
    pub(super) fn accepted_forms(&self) -> &[Form] {
        &self.forms
    }

    /// The forms as operators write them.
    pub(super) fn forms(&self) -> String {
        let names = self.forms.iter().map(|form| match form {
            Form::Native => "Native",
            Form::Ccc => "Ccc",
        });
        names.collect::<Vec<_>>().join(", ")
    }

    /// Lets verifications end at the roots that the policy names.
    pub(super) fn admit(&self, anchors: &mut Anchors) {
        for alternative in &self.policy.any_of {
            let common = common_of(alternative);
            common.roots.iter().flatten().for_each(|root| anchors.admit_vendor(*root));
            common.emulated_roots.iter().for_each(|root| anchors.admit_emulated(*root));
        }
    }

    /// Whether it looks at the event log of a guest.
    pub(super) fn wants_event_log(&self) -> bool {
        let wants = |a: &compiled::Alternative| match a {
            compiled::Alternative::Tdx(rule) => rule.runtime_events.wants_log(),
            compiled::Alternative::Sgx(_) | compiled::Alternative::SevSnp(_) => false,
        };
        self.policy.any_of.iter().any(wants)
    }

    /// The PlatformLists that it names and that do not exist, as `namespace/name`.
    pub(super) fn missing_lists(&self) -> impl Iterator<Item = &str> {
        self.lists().filter(|list| list.members.is_none()).map(|list| list.name.as_str())
    }

    /// The sets of Reference Values that it names, as `namespace/name`.
    pub(super) fn references(&self) -> impl Iterator<Item = &String> {
        self.policy.any_of.iter().flat_map(|a| common_of(a).references.iter().chain(events_of(a)))
    }
}

fn common_of(alternative: &compiled::Alternative) -> &Common {
    match alternative {
        compiled::Alternative::Tdx(rule) => &rule.common,
        compiled::Alternative::Sgx(rule) => &rule.common,
        compiled::Alternative::SevSnp(rule) => &rule.common,
    }
}

/// The sets of Reference Values that admit events.
fn events_of(alternative: &compiled::Alternative) -> &[String] {
    match alternative {
        compiled::Alternative::Tdx(TdxRule { runtime_events: EventRule::Admitted(names), .. }) => names,
        _ => &[],
    }
}

/// One line about an alternative: what stands out for a reader.
fn demand(index: usize, alternative: &Alternative) -> String {
    let tee = countersign_evidence::claims::Tee::from(alternative.tee());
    let names: Vec<&str> = alternative.measurements().names().iter().map(|n| n.0.as_str()).collect();
    let measurements = if names.is_empty() {
        "any measurement".to_owned()
    } else {
        format!("measurements of {}", names.join(" or "))
    };
    let machines = match (alternative.platform_lists(), alternative.names_platforms()) {
        ([], false) => String::new(),
        ([], true) => ", listed machines".to_owned(),
        (lists, _) => {
            let names: Vec<&str> = lists.iter().map(|n| n.0.as_str()).collect();
            format!(", machines of {}", names.join(" or "))
        }
    };
    let (emulated, more) = match alternative {
        Alternative::Tdx(b) => {
            let more = format!("{}{}", statuses(&b.tcb_status), events(b.runtime_events.as_ref()));
            (!b.emulated_roots.is_empty(), more)
        }
        Alternative::Sgx(b) => (!b.emulated_roots.is_empty(), statuses(&b.tcb_status)),
        Alternative::SevSnp(b) => (!b.emulated_roots.is_empty(), format!("VMPL {}", b.vmpl)),
    };
    let emulated = if emulated { ", emulated platforms admitted" } else { "" };
    format!("anyOf[{index}].{tee}: {measurements}, {more}{machines}{emulated}")
}

fn statuses(statuses: &[TcbStatus]) -> String {
    let names: Vec<String> = statuses.iter().map(|s| format!("{s:?}")).collect();
    format!("TCB {}", names.join(" or "))
}

fn events(events: Option<&RuntimeEvents>) -> String {
    match events {
        None => String::new(),
        Some(RuntimeEvents::Literal(AnyOrNone::None)) => ", no runtime event".to_owned(),
        Some(RuntimeEvents::Literal(AnyOrNone::Any)) => ", any runtime event that is logged".to_owned(),
        Some(RuntimeEvents::Approved(approved)) => {
            let names: Vec<&str> = approved.names().iter().map(|n| n.0.as_str()).collect();
            format!(", runtime events of {}", names.join(" or "))
        }
    }
}

/// The lists of machines by `namespace/name`, each of which many policies share.
pub(super) type PlatformLists = BTreeMap<String, Arc<PlatformList>>;

/// Where the names of a policy are looked up.
#[derive(Clone, Copy)]
struct Scope<'a> {
    namespace: &'a str,
    lists: &'a PlatformLists,
}

impl Scope<'_> {
    fn qualified(self, name: &Name) -> String {
        format!("{}/{name}", self.namespace)
    }

    fn list(self, name: &Name) -> Arc<PlatformList> {
        let name = self.qualified(name);
        match self.lists.get(&name) {
            Some(list) => Arc::clone(list),
            None => Arc::new(PlatformList { name, members: None }),
        }
    }
}

fn alternative(alternative: &Alternative, scope: Scope<'_>) -> compiled::Alternative {
    match alternative {
        Alternative::Tdx(block) => compiled::Alternative::Tdx(tdx(block, scope)),
        Alternative::Sgx(block) => compiled::Alternative::Sgx(sgx(block, scope)),
        Alternative::SevSnp(block) => compiled::Alternative::SevSnp(snp(block, scope)),
    }
}

fn tdx(block: &TdxBlock, scope: Scope<'_>) -> TdxRule {
    TdxRule {
        common: Common {
            platforms: listed(&block.platforms),
            platform_lists: block.platforms_from.iter().flatten().map(|name| scope.list(name)).collect(),
            ..common(&block.roots, &block.emulated_roots, &block.measurements, scope)
        },
        tcb: IntelTcbRule {
            accepted: block.tcb_status.iter().map(|s| (*s).into()).collect(),
            advisories: block.advisories.clone(),
            grace_period: block.tcb_grace_period.as_ref().map_or(0, Duration::as_secs),
            min_evaluation_data_number: block.min_tcb_evaluation_data_number,
        },
        td_attributes: block.td_attributes.map(|h| h.0),
        xfam: block.xfam.map(|h| h.0),
        mr_config_id: block.mr_config_id.map(|h| h.0),
        mr_owner: block.mr_owner.map(|h| h.0),
        mr_owner_config: block.mr_owner_config.map(|h| h.0),
        service_tds: block.service_tds.iter().map(|h| h.0).collect(),
        runtime_events: match &block.runtime_events {
            None => EventRule::Unchecked,
            Some(RuntimeEvents::Literal(AnyOrNone::None)) => EventRule::Nothing,
            Some(RuntimeEvents::Literal(AnyOrNone::Any)) => EventRule::Anything,
            Some(RuntimeEvents::Approved(approved)) => {
                EventRule::Admitted(approved.names().iter().map(|name| scope.qualified(name)).collect())
            }
        },
    }
}

fn sgx(block: &SgxBlock, scope: Scope<'_>) -> SgxRule {
    SgxRule {
        common: Common {
            platforms: listed(&block.platforms),
            platform_lists: block.platforms_from.iter().flatten().map(|name| scope.list(name)).collect(),
            ..common(&block.roots, &block.emulated_roots, &block.measurements, scope)
        },
        tcb: IntelTcbRule {
            accepted: block.tcb_status.iter().map(|s| (*s).into()).collect(),
            advisories: block.advisories.clone(),
            grace_period: block.tcb_grace_period.as_ref().map_or(0, Duration::as_secs),
            min_evaluation_data_number: block.min_tcb_evaluation_data_number,
        },
        config_id: block.config_id.map(|h| h.0),
    }
}

fn snp(block: &SnpBlock, scope: Scope<'_>) -> SnpRule {
    let (platform_info_set, platform_info_clear) =
        block.platform_info.as_ref().map_or((0, 0), |flags| flags.masks());
    let (policy_set, policy_clear) = block.guest_policy.as_ref().map_or((0, 0), |flags| flags.masks());
    let digests = |list: &Option<Vec<Hex<48>>>| list.as_ref().map(|l| l.iter().map(|h| h.0).collect());
    SnpRule {
        common: Common {
            platforms: listed(&block.platforms),
            platform_lists: block.platforms_from.iter().flatten().map(|name| scope.list(name)).collect(),
            ..common(&block.roots, &block.emulated_roots, &block.measurements, scope)
        },
        products: block.products.iter().flatten().map(|p| (*p).into()).collect(),
        min_tcb: block.min_tcb.map(Into::into),
        vmpl: u32::from(block.vmpl),
        host_data: block.host_data.map(|h| h.0),
        id_key_digests: digests(&block.id_key_digests),
        author_key_digests: digests(&block.author_key_digests),
        min_guest_svn: block.min_guest_svn,
        crl_optional: block.crl == CrlUse::Optional,
        platform_info_set,
        platform_info_clear,
        policy_set,
        policy_clear,
        csp_id: block.csp_id.clone(),
    }
}

fn listed<const N: usize>(platforms: &Option<Vec<Hex<N>>>) -> Option<Vec<String>> {
    platforms.as_ref().map(|list| list.iter().map(Hex::to_string).collect())
}

fn common(
    roots: &Option<Vec<Hex<32>>>,
    emulated_roots: &[Hex<32>],
    measurements: &Measurements,
    scope: Scope<'_>,
) -> Common {
    let fingerprints = |list: &[Hex<32>]| list.iter().map(|h| Fingerprint(h.0)).collect();
    Common {
        roots: roots.as_deref().map(fingerprints),
        emulated_roots: fingerprints(emulated_roots),
        references: measurements.names().iter().map(|name| scope.qualified(name)).collect(),
        ..Common::default()
    }
}

/// A list of machines, ready to be compared with.
pub(super) fn platform_list(metadata: &Metadata, spec: &PlatformListSpec) -> PlatformList {
    let members = spec.platforms.iter().map(|platform| (platform.tee.into(), platform.id.0.clone()));
    PlatformList {
        name: format!("{}/{}", metadata.namespace, metadata.name),
        members: Some(members.collect()),
    }
}

/// A set of Reference Values, ready to be compared with.
pub(super) fn reference_set(spec: &ReferenceValuesSpec) -> ReferenceSet {
    let tdx = spec.tdx.iter().map(|entry| {
        let registers = entry.rtmr.clone().unwrap_or_default();
        let rtmr = [registers.rtmr0, registers.rtmr1, registers.rtmr2, registers.rtmr3];
        TdxReference {
            name: entry.name.clone(),
            mr_td: Some(entry.mr_td.0),
            rtmr: rtmr.map(|register| register.map(|h| h.0)),
            mr_seam: entry.mr_seam.map(|h| h.0),
        }
    });
    let sgx = spec.sgx.iter().map(|entry| SgxReference {
        name: entry.name.clone(),
        mr_enclave: entry.mr_enclave.map(|h| h.0),
        mr_signer: entry.mr_signer.map(|h| h.0),
        isv_prod_id: entry.isv_prod_id,
        min_isv_svn: entry.min_isv_svn,
    });
    let snp = spec
        .sev_snp
        .iter()
        .map(|entry| SnpReference { name: entry.name.clone(), measurement: entry.measurement.0 });
    let events = spec.runtime_events.iter().map(|entry| EventReference {
        name: entry.name.clone(),
        kind: entry.kind.clone(),
        content: match (entry.digest, &entry.content) {
            (Some(digest), _) => EventContent::Digest(digest.0),
            (None, Some(content)) => EventContent::Exactly(content.clone().into_bytes()),
            (None, None) => EventContent::Any,
        },
    });
    ReferenceSet {
        valid_until: spec.valid_until.as_ref().map(|at| at.0),
        tdx: tdx.collect(),
        sgx: sgx.collect(),
        sev_snp: snp.collect(),
        runtime_events: events.collect(),
    }
}
