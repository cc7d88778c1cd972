//! The judgement of peers: path, evidence, policies.

use std::borrow::Cow;
use std::sync::Arc;

use countersign_evidence::policy::{Level, Policy};
use countersign_evidence::verdict::{Outcome, Rejection};
use countersign_evidence::{
    Claims, Denial, Evidence, Finding, Reason, RegisterState, UnixTime, Verdict, appraise, verify_again,
};
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::{Admission, Conveyed, Form, Presented};

use super::compile::HopPolicy;
use super::{Identity, View, depend};
use crate::kinds::attestation_policy::Mode;

/// A policy, and whether it decides or is only recorded.
pub(super) type Applied<'a> = (&'a HopPolicy, Mode);

/// Between whom a verdict is.
struct Hop<'a> {
    /// Whether the peer is to prove itself for the connection as well.
    rounds: bool,
    me: &'a SpiffeId,
    peer: &'a SpiffeId,
    /// The last second of the peer's path to its bundle.
    path_until: u64,
    known: Known<'a>,
}

/// What is known of a peer's evidence already.
#[derive(Clone, Copy)]
enum Known<'a> {
    Nothing,
    /// What it proved under other collateral.
    Before(&'a Claims),
    /// What it proves.
    Now(&'a Arc<Claims>),
}

impl View {
    /// Judges a hop's peer on behalf of the workload `me`: path to the bundle of
    /// its own trust domain, evidence, and every AttestationPolicy that selects
    /// `me` and speaks of the peer. Uncached; [`Guard`](crate::Guard) caches.
    ///
    /// A peer without evidence is admitted when all policies that decide are of
    /// level L0. The verdicts of the admission include those of `Audit` policies,
    /// which may be denials. In a view [for the control plane](View::for_control_plane)
    /// `me` is not looked at.
    ///
    /// # Errors
    /// The denial: of the path, the evidence, the first `Enforce` policy that
    /// does not hold, or `no-policy`.
    pub fn judge_hop(&self, me: &SpiffeId, presented: Presented, now: UnixTime) -> Result<Admission, Denial> {
        let (peer, path_until) = self.path(&presented, now)?;
        self.judge_on_path(me, &peer, presented, path_until, Known::Nothing, now)
    }

    /// Judges a hop's peer again, as [`judge_hop`](View::judge_hop) would what it
    /// presented. What the admission rests on tells what need not be verified
    /// again: the path while the bundle is the same, all of the evidence while the
    /// collateral is, the signature over it in any case.
    ///
    /// # Errors
    /// As [`judge_hop`](View::judge_hop).
    pub fn rejudge_hop(&self, me: &SpiffeId, last: &Admission, now: UnixTime) -> Result<Admission, Denial> {
        let presented = last.presented.clone();
        let second = now.as_secs();
        let known = presented.id.clone().filter(|id| {
            (presented.not_before..=last.path_until).contains(&second)
                && self.still_says(&last.dependencies, &depend::of_bundle(&id.trust_domain()))
        });
        let (peer, path_until) = match known {
            Some(id) => (id, last.path_until),
            None => self.path(&presented, now)?,
        };
        let known = match &last.claims {
            Some(claims) if self.still_proves(&last.dependencies, claims, now) => Known::Now(claims),
            Some(claims) => Known::Before(claims),
            None => Known::Nothing,
        };
        self.judge_on_path(me, &peer, presented, path_until, known, now)
    }

    fn judge_on_path(
        &self,
        me: &SpiffeId,
        peer: &SpiffeId,
        presented: Presented,
        path_until: u64,
        known: Known<'_>,
        now: UnixTime,
    ) -> Result<Admission, Denial> {
        let policies = self.applied(me, peer)?;
        // Between a proxy and its control plane there are no session rounds.
        let rounds = !self.guards_control_plane;
        self.admit(presented, &Hop { rounds, me, peer, path_until, known }, &policies, now)
    }

    /// Judges a proxy that calls the control plane: path, and the policy of the
    /// `WorkloadIdentity` that has this SPIFFE ID.
    ///
    /// # Errors
    /// The denial.
    pub fn judge_workload(&self, presented: Presented, now: UnixTime) -> Result<Admission, Denial> {
        let (peer, path_until) = self.path(&presented, now)?;
        let policy = self.granting(self.identities.get(&peer).ok_or_else(|| no_identity(&peer))?)?;
        let of = Hop { rounds: false, me: &peer, peer: &peer, path_until, known: Known::Nothing };
        self.admit(presented, &of, &[(policy, Mode::Enforce)], now)
    }

    /// Verifies evidence with this view's collateral and anchors.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self, media_type: &str, value: &[u8], now: UnixTime) -> Result<Arc<Claims>, Denial> {
        self.verify_after(None, media_type, value, now)
    }

    /// The same for evidence that may be what proved this once.
    pub(super) fn verify_after(
        &self,
        last: Option<&Claims>,
        media_type: &str,
        value: &[u8],
        now: UnixTime,
    ) -> Result<Arc<Claims>, Denial> {
        let evidence = Evidence::parse(media_type, value)?;
        let (collateral, anchors, cache) = (&self.collateral, &self.anchors, Some(self.cache.as_ref()));
        Ok(match last {
            None => countersign_evidence::verify(&evidence, collateral, anchors, now, cache, &mut ())?,
            Some(last) => verify_again(&evidence, last, collateral, anchors, now, cache)?,
        })
    }

    /// Verifies evidence as it was conveyed, and the event log that came along.
    ///
    /// # Errors
    /// What is wrong with either.
    pub fn verify_conveyed(&self, evidence: &Conveyed, now: UnixTime) -> Result<Arc<Claims>, Denial> {
        self.verify_conveyed_after(None, evidence, now)
    }

    fn verify_conveyed_after(
        &self,
        last: Option<&Claims>,
        evidence: &Conveyed,
        now: UnixTime,
    ) -> Result<Arc<Claims>, Denial> {
        let claims = self.verify_after(last, &evidence.media_type, &evidence.value, now)?;
        let Some((kind, log)) = &evidence.event_log else { return Ok(claims) };
        let (claims, _) = claims.with_event_log(kind, log, &RegisterState::default())?;
        Ok(Arc::new(claims))
    }

    /// Appraises verified evidence for the identity of the `WorkloadIdentity`
    /// `namespace/name`: its SPIFFE ID when its policy holds. The evidence is
    /// taken as made just now: the caller has checked its challenge.
    ///
    /// # Errors
    /// The denial; `no-policy` when there is no such identity.
    pub fn entitle(
        &self,
        workload: &str,
        claims: &Arc<Claims>,
        now: UnixTime,
    ) -> Result<(SpiffeId, Verdict), Denial> {
        let id = self.workloads.get(workload).ok_or_else(|| {
            let expected = "the namespace/name of a WorkloadIdentity";
            Denial::from(Finding::new(Reason::UnknownWorkload, "workload", expected, workload))
        })?;
        let policy = self.granting(self.identities.get(id).ok_or_else(|| no_identity(id))?)?;
        let verdict = appraise(Arc::clone(claims), &policy.policy, &self.references, 0, now);
        match verdict.denial() {
            Some(denial) => Err(denial),
            None if verdict.allows() => Ok((id.clone(), verdict)),
            None => Err(unexplained(policy)),
        }
    }

    /// Who the peer is, and until when its path to the bundle of its own trust
    /// domain is valid.
    fn path(&self, presented: &Presented, now: UnixTime) -> Result<(SpiffeId, u64), Denial> {
        let Some(id) = &presented.id else {
            let expected = "a SPIFFE ID";
            return Err(
                Finding::new(Reason::SvidInvalid, "URI SAN of the certificate", expected, "none").into()
            );
        };
        let trust_domain = id.trust_domain();
        let Some(bundle) = self.bundles.get(&trust_domain) else {
            let known: Vec<&str> = self.bundles.keys().map(|d| d.as_str()).collect();
            return Err(Finding::new(
                Reason::SvidUntrusted,
                "trust domain",
                if known.is_empty() { "none: there is no trust bundle".to_owned() } else { known.join(", ") },
                trust_domain.as_str(),
            )
            .into());
        };
        Ok((id.clone(), bundle.validate(presented, now)?))
    }

    /// The policies that guard the hop between `me` and `peer`, at least one of
    /// which decides.
    pub(super) fn applied(&self, me: &SpiffeId, peer: &SpiffeId) -> Result<Vec<Applied<'_>>, Denial> {
        let speaking = self.guarding(me)?.into_iter().filter(|p| p.speaks_of(peer));
        let policies: Vec<_> = speaking.map(|p| (p, p.mode)).collect();
        if policies.iter().all(|(_, mode)| *mode == Mode::Audit) {
            return Err(no_policy(me, peer, &policies));
        }
        Ok(policies)
    }

    /// The policies that guard the hops of `me`.
    pub(super) fn guarding(&self, me: &SpiffeId) -> Result<Vec<&HopPolicy>, Denial> {
        if self.guards_control_plane {
            return Ok(self.hop_policies.iter().filter(|policy| policy.selector.is_empty()).collect());
        }
        let identity = self.identities.get(me).ok_or_else(|| no_identity(me))?;
        // There may be thousands of policies, and a proxy asks for one workload.
        let selecting = identity.guarding.get_or_init(|| {
            let all = self.hop_policies.iter().enumerate();
            all.filter(|(_, policy)| identity.selected_by(&policy.key.namespace, &policy.selector))
                .map(|(index, _)| index)
                .collect()
        });
        Ok(selecting.iter().filter_map(|index| self.hop_policies.get(*index)).collect())
    }

    /// Whether a policy of this view guards the hops of `me`.
    pub(super) fn is_guarded_by(&self, me: &SpiffeId, policy: &HopPolicy) -> bool {
        if self.guards_control_plane {
            return policy.selector.is_empty();
        }
        let identity = self.identities.get(me);
        identity.is_some_and(|identity| identity.selected_by(&policy.key.namespace, &policy.selector))
    }

    /// The policy that must hold to get an identity.
    fn granting(&self, identity: &Identity) -> Result<&HopPolicy, Denial> {
        let name = (identity.key.namespace.clone(), identity.granted_by.clone());
        let named = self.policies_by_name.get(&name).and_then(|index| self.hop_policies.get(*index));
        let refuse = |presented: &str| {
            let wanted = format!("AttestationPolicy {}/{}", identity.key.namespace, identity.granted_by);
            let field = format!("attestation.policy of {}", identity.key);
            Denial::from(Finding::new(Reason::NoPolicy, field, wanted, presented))
        };
        let policy = named.ok_or_else(|| refuse("no policy of that name"))?;
        if policy.level == Level::L0 {
            return Err(refuse("one of level L0, which asks for no evidence"));
        }
        Ok(policy)
    }

    fn admit(
        &self,
        presented: Presented,
        of: &Hop<'_>,
        policies: &[Applied<'_>],
        now: UnixTime,
    ) -> Result<Admission, Denial> {
        let asking: Vec<Applied<'_>> =
            policies.iter().filter(|(policy, _)| policy.level > Level::L0).copied().collect();
        let path_until = of.path_until.min(presented.not_after);
        if asking.iter().all(|(_, mode)| *mode == Mode::Audit) {
            let mut admission = self.admit_without_evidence(presented, &asking, path_until, now);
            admission.path_until = of.path_until;
            // Why evidence that decides nothing could not be verified may have to
            // do with anything.
            if admission.audited.is_empty() || !admission.verdicts.is_empty() {
                let claims = admission.verdicts.first().map(|verdict| Arc::clone(&verdict.claims));
                let domain = of.peer.trust_domain();
                admission.dependencies = self.resting_on(of.me, Some(&domain), policies, claims.as_deref());
            }
            return Ok(admission);
        }
        let evidence = evidence_of(&presented)?;
        // Before any signature: a form that a deciding policy does not accept.
        for (policy, mode) in &asking {
            if *mode == Mode::Enforce && !policy.accepts(evidence.form) {
                return Err(Denial {
                    reason: Reason::UnsupportedFormat,
                    policy: Some(policy.policy.name.clone()),
                    rule: "acceptForms".to_owned(),
                    findings: vec![form_finding(policy, evidence.form)],
                });
            }
        }
        let claims = match of.known {
            Known::Now(claims) => Arc::clone(claims),
            Known::Before(claims) => self.verify_conveyed_after(Some(claims), evidence, now)?,
            Known::Nothing => self.verify_conveyed(evidence, now)?,
        };
        // A policy that is only recorded makes nobody prove himself in rounds.
        let rounds =
            of.rounds && asking.iter().any(|(p, m)| *m == Mode::Enforce && p.level.is_session_bound());
        let in_rounds = |policy: &HopPolicy| rounds && policy.level.is_session_bound();
        let deferring = asking.iter().any(|(p, _)| p.wants_event_log() && in_rounds(p));
        let deferred = deferring.then(|| Arc::new(claims.with_event_log_to_follow()));
        let age = now.as_secs().saturating_sub(presented.not_before);
        let mut valid_until = path_until.min(claims.window.until);
        let (mut verdicts, mut audited) = (Vec::with_capacity(asking.len()), Vec::new());
        let mut denial = None;
        for (policy, mode) in asking {
            let claims = deferred.as_ref().filter(|_| in_rounds(policy)).unwrap_or(&claims);
            // Where evidence for the connection follows, the age is that of its challenge.
            let age = (!in_rounds(policy)).then_some(age);
            let verdict = self.verdict(policy, evidence.form, claims, age, now);
            match (&verdict.outcome, mode) {
                (Outcome::Allow { valid_until: until, .. }, Mode::Enforce) => {
                    valid_until = valid_until.min(*until);
                    if let Some(most) = policy.policy.max_evidence_age.filter(|_| age.is_some()) {
                        valid_until = valid_until.min(presented.not_before.saturating_add(most));
                    }
                }
                (Outcome::Allow { .. }, Mode::Audit) => {}
                (Outcome::Deny { .. }, mode) => {
                    let why = verdict.denial().unwrap_or_else(|| unexplained(policy));
                    match mode {
                        Mode::Enforce => denial = denial.or(Some(why)),
                        Mode::Audit => audited.push(why),
                    }
                }
            }
            verdicts.push(verdict);
        }
        if let Some(denial) = denial {
            return Err(denial);
        }
        let domain = of.peer.trust_domain();
        Ok(Admission {
            presented,
            dependencies: self.resting_on(of.me, Some(&domain), policies, Some(&claims)),
            claims: Some(claims),
            verdicts,
            audited,
            path_until: of.path_until,
            valid_until,
            generation: self.generation,
        })
    }

    /// Admits a peer of which nobody asks for evidence. What it may present all
    /// the same decides nothing, so that nothing it says is believed: policies
    /// that are only recorded look at it.
    fn admit_without_evidence(
        &self,
        presented: Presented,
        audits: &[Applied<'_>],
        valid_until: u64,
        now: UnixTime,
    ) -> Admission {
        let mut admission = Admission::without_evidence(presented, valid_until, self.generation);
        if audits.is_empty() {
            return admission;
        }
        let verified =
            evidence_of(&admission.presented).and_then(|e| Ok((e.form, self.verify_conveyed(e, now)?)));
        let age = now.as_secs().saturating_sub(admission.presented.not_before);
        for (policy, _) in audits {
            match &verified {
                Ok((form, claims)) => {
                    let verdict = self.verdict(policy, *form, claims, Some(age), now);
                    admission.audited.extend(verdict.denial());
                    admission.verdicts.push(verdict);
                }
                Err(denial) => {
                    let policy = Some(policy.policy.name.clone());
                    admission.audited.push(Denial { policy, ..denial.clone() });
                }
            }
        }
        admission
    }

    /// Without an age, how old the evidence may be is not looked at.
    fn verdict(
        &self,
        policy: &HopPolicy,
        form: Form,
        claims: &Arc<Claims>,
        age: Option<u64>,
        now: UnixTime,
    ) -> Verdict {
        if policy.accepts(form) {
            let rules = match (age, policy.policy.max_evidence_age) {
                (None, Some(_)) => Cow::Owned(Policy { max_evidence_age: None, ..policy.policy.clone() }),
                _ => Cow::Borrowed(&policy.policy),
            };
            return appraise(Arc::clone(claims), &rules, &self.references, age.unwrap_or_default(), now);
        }
        let rejection =
            Rejection { rule: "acceptForms".to_owned(), findings: vec![form_finding(policy, form)] };
        Verdict {
            policy: policy.policy.name.clone(),
            mode: policy.policy.mode,
            claims: Arc::clone(claims),
            outcome: Outcome::Deny { rejections: vec![rejection] },
        }
    }
}

fn evidence_of(presented: &Presented) -> Result<&Conveyed, Denial> {
    let expected = "attestation evidence in the certificate";
    let missing = || Finding::new(Reason::EvidenceMissing, "certificate", expected, "none").into();
    presented.evidence.as_ref().ok_or_else(missing)
}

fn form_finding(policy: &HopPolicy, form: Form) -> Finding {
    let presented = match form {
        Form::Native => "Native",
        Form::Ccc => "Ccc",
    };
    Finding::new(Reason::UnsupportedFormat, "form of the evidence", policy.forms(), presented)
}

fn no_identity(id: &SpiffeId) -> Denial {
    let expected = format!("one with the SPIFFE ID {id}");
    Finding::new(Reason::NoPolicy, "WorkloadIdentity", expected, "none").into()
}

pub(super) fn no_policy(me: &SpiffeId, peer: &SpiffeId, audits: &[Applied<'_>]) -> Denial {
    let expected = format!("one with mode Enforce that selects {me} and speaks of {peer}");
    let presented = match audits {
        [] => "none".to_owned(),
        _ => {
            let names: Vec<String> = audits.iter().map(|(p, _)| p.key.to_string()).collect();
            format!("only with mode Audit: {}", names.join(", "))
        }
    };
    Finding::new(Reason::NoPolicy, "AttestationPolicy", expected, presented).into()
}

/// A verdict that neither allows nor explains would be a defect: it denies.
pub(super) fn unexplained(policy: &HopPolicy) -> Denial {
    Denial {
        reason: Reason::Internal,
        policy: Some(policy.policy.name.clone()),
        rule: String::new(),
        findings: vec![Finding::new(Reason::Internal, "verdict", "a reason", "none")],
    }
}
