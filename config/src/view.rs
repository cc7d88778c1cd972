//! The view: everything that decides, made from one generation of configuration.

use std::sync::Arc;

use countersign_evidence::collateral::{Collateral, Item, Marks};
use countersign_evidence::{Claims, Denial, UnixTime, Verdict};
use countersign_ratls::peer::{Admission, Presented};
use countersign_ratls::{Bundle, SpiffeId};

use crate::resource::{Key, Resource};

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
    /// Resources that cannot be used, with the reason.
    pub rejected: Vec<(Key, String)>,
    /// Collateral that cannot be used, by item name.
    pub refused_collateral: Vec<(String, countersign_evidence::Finding)>,
}

/// One generation of everything that decides. Immutable; shared by `Arc`.
#[derive(Debug)]
pub struct View {
    /// The generation of the snapshot.
    pub generation: u64,
    /// Appraised collateral.
    pub collateral: Collateral,
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
        let _ = (inputs, marks, now);
        todo!()
    }

    /// Judges a hop's peer on behalf of the workload `me`: path to the bundle of
    /// its own trust domain, evidence, and every AttestationPolicy that selects
    /// `me` and speaks of the peer. Uncached; [`Guard`](crate::Guard) caches.
    ///
    /// # Errors
    /// The denial: of the path, the evidence, the first `Enforce` policy that
    /// does not hold, or `no-policy`.
    pub fn judge_hop(&self, me: &SpiffeId, presented: Presented, now: UnixTime) -> Result<Admission, Denial> {
        let _ = (me, presented, now);
        todo!()
    }

    /// Judges a proxy that calls the control plane: path, and the policy of the
    /// `WorkloadIdentity` that has this SPIFFE ID.
    ///
    /// # Errors
    /// The denial.
    pub fn judge_workload(&self, presented: Presented, now: UnixTime) -> Result<Admission, Denial> {
        let _ = (presented, now);
        todo!()
    }

    /// Verifies evidence with this view's collateral and anchors.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self, media_type: &str, value: &[u8], now: UnixTime) -> Result<Arc<Claims>, Denial> {
        let _ = (media_type, value, now);
        todo!()
    }

    /// Appraises verified evidence for the identity of the `WorkloadIdentity`
    /// `namespace/name`: its SPIFFE ID when its policy holds.
    ///
    /// # Errors
    /// The denial; `no-policy` when there is no such identity.
    pub fn entitle(
        &self,
        workload: &str,
        claims: &Arc<Claims>,
        now: UnixTime,
    ) -> Result<(SpiffeId, Verdict), Denial> {
        let _ = (workload, claims, now);
        todo!()
    }

    /// Whether `peer` may call port `port` of `me`: Deny, then Allow, then
    /// Audit, as Istio orders them; without any Allow that matches the answer is no.
    #[must_use]
    pub fn authorize(&self, peer: &Admission, me: &SpiffeId, port: u16) -> Decision {
        let _ = (peer, me, port);
        todo!()
    }

    /// The SVID lifetime of the trust domain in seconds.
    #[must_use]
    pub fn svid_lifetime(&self) -> u64 {
        todo!()
    }
}
