//! What a change does not touch is decided as before.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

mod common;

use std::cell::Cell;
use std::sync::LazyLock;

use common::{AUDIT, LEDGER, WORLD, at, id, other_release, policy, resources};
use countersign_attester::Attester as _;
use countersign_attester::emulated::{CollateralSpec, SnpSpec, TdxSpec};
use countersign_config::{Inputs, SessionAdmission, SessionEvidence, View};
use countersign_evidence::Denial;
use countersign_evidence::collateral::{Item, Marks};
use countersign_evidence::verdict::Verdict;
use countersign_ratls::binding::{ReportData, batch_report_data};
use countersign_ratls::peer::{Admission, Presented};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// One AttestationPolicy of a world, by choices.
#[derive(Clone, Debug)]
struct Choice {
    namespace: &'static str,
    selector: &'static str,
    peers: &'static str,
    mode: &'static str,
    level: &'static str,
    measurements: &'static str,
    machines: &'static str,
    more: &'static str,
    other_vendor: bool,
}

/// Everything that can differ between two views.
#[derive(Clone, Debug)]
struct Set {
    policies: Vec<Option<Choice>>,
    label: &'static str,
    release: Option<&'static str>,
    machine: Option<&'static str>,
    collateral: usize,
    bundle: u8,
    calls: bool,
}

const HEAD: &str = "---\napiVersion: countersign.dev/v1alpha1\n";

static COLLATERAL: LazyLock<[Vec<Item>; 4]> = LazyLock::new(|| {
    let vendor = &WORLD.vendor;
    let with = |spec: &CollateralSpec| {
        let mut items = WORLD.collateral.clone();
        items.extend(vendor.collateral_with(spec, at(0)).unwrap());
        items
    };
    // TCB info of a platform that nobody here has.
    let other = CollateralSpec { fmspcs: vec![[9; 6]], ..CollateralSpec::default() };
    let mut another = WORLD.collateral.clone();
    another.extend(
        vendor.collateral_with(&other, at(0)).unwrap().into_iter().filter(|i| i.name.contains("tcb-info")),
    );
    let machine = vendor.tdx(TdxSpec::default()).unwrap();
    let revoked = vec![machine.pck_serial().clone()];
    let revoking = CollateralSpec { crl_number: 2, revoked_pck: revoked, ..CollateralSpec::default() };
    [WORLD.collateral.clone(), another, with(&revoking), Vec::new()]
});

impl Set {
    fn text(&self) -> String {
        let mut text = String::new();
        for (name, label) in [("ledger", "ledger"), ("audit", self.label)] {
            text += &format!(
                "{HEAD}kind: WorkloadIdentity\nmetadata: {{ name: {name}, namespace: payments }}\n\
                 spec: {{ spiffeId: spiffe://demo.example/ns/payments/{name}, labels: {{ app: {label} }}, \
                 attestation: {{ policy: p0 }} }}\n"
            );
        }
        for namespace in ["payments", "countersign-system"] {
            if let Some(digit) = self.release {
                text += &format!(
                    "{HEAD}kind: ReferenceValues\nmetadata: {{ name: release, namespace: {namespace} }}\n\
                     spec: {{ tdx: [{{ name: v, mrTd: '{}', rtmr: {{ 2: '{}' }} }}] }}\n",
                    "d0".repeat(48),
                    digit.repeat(48)
                );
            }
            if let Some(digit) = self.machine {
                text += &format!(
                    "{HEAD}kind: PlatformList\nmetadata: {{ name: ours, namespace: {namespace} }}\n\
                     spec: {{ platforms: [{{ tee: tdx, id: '{}' }}] }}\n",
                    digit.repeat(16)
                );
            }
        }
        if self.calls {
            text += &format!(
                "{HEAD}kind: AuthorizationPolicy\nmetadata: {{ name: a, namespace: payments }}\nspec: {{ rules: [{{}}] }}\n"
            );
        }
        for (index, choice) in self.policies.iter().enumerate() {
            let Some(c) = choice else { continue };
            let amd = WORLD.vendor.amd_root().unwrap();
            let vendors = if c.other_vendor { format!("\"ROOT\", \"{amd}\"") } else { "\"ROOT\"".to_owned() };
            text += &format!(
                "{HEAD}kind: AttestationPolicy\nmetadata: {{ name: p{index}, namespace: {} }}\nspec:\n",
                c.namespace
            );
            text += &format!(
                "  selector: {{ {} }}\n{}  mode: {}\n  level: {}\n",
                c.selector, c.peers, c.mode, c.level
            );
            if c.level == "L0" {
                text += "  acceptUnattested: true\n";
                continue;
            }
            let machines = if c.level == "L3" { "platformsFrom: [ours], " } else { c.machines };
            text += &format!(
                "{}  anyOf: [{{ tdx: {{ emulatedRoots: [{vendors}], {machines}measurements: {} }} }}]\n",
                c.more, c.measurements
            );
        }
        text
    }

    fn inputs(&self) -> Inputs {
        let mut inputs = WORLD.inputs(&self.text());
        inputs.collateral = COLLATERAL[self.collateral].clone();
        match self.bundle {
            0 => inputs.bundles.clear(),
            sequence => inputs.bundles[0].sequence = u64::from(sequence),
        }
        inputs
    }
}

fn choice() -> impl Strategy<Value = Choice> {
    let pick = |of: &[&'static str]| prop::sample::select(of.to_vec());
    let names = (
        prop::sample::select(vec!["payments", "payments", "payments", "countersign-system", "other"]),
        pick(&[
            "",
            "",
            "matchLabels: { app: audit }",
            "matchLabels: { app: other }",
            "matchLabels: { app: ledger }",
        ]),
        pick(&[
            "",
            "",
            "  peers: [\"spiffe://demo.example/ns/payments/*\"]\n",
            "  peers: [\"spiffe://demo.example/x/*\"]\n",
        ]),
    );
    let what = (
        pick(&["Enforce", "Enforce", "Enforce", "Audit"]),
        pick(&["L0", "L1", "L2", "L2", "L3"]),
        pick(&["Any", "Any", "{ fromReferenceValues: release }"]),
        pick(&["", "", "platformsFrom: [ours], "]),
        pick(&["", "  freshness: { maxEvidenceAge: 1h }\n", "  acceptForms: [Ccc]\n"]),
        prop::bool::weighted(0.2),
    );
    (names, what).prop_map(
        |((namespace, selector, peers), (mode, level, measurements, machines, more, other_vendor))| Choice {
            namespace,
            selector,
            peers,
            mode,
            level,
            measurements,
            machines,
            more,
            other_vendor,
        },
    )
}

fn set() -> impl Strategy<Value = Set> {
    (
        prop::collection::vec(prop::option::weighted(0.7, choice()), 4),
        prop::sample::select(vec!["audit", "audit", "other"]),
        prop::sample::select(vec![Some("d3"), Some("d3"), Some("ee"), None]),
        prop::sample::select(vec![Some("e2"), Some("e2"), Some("77"), None]),
        prop::sample::select(vec![0, 0, 0, 0, 1, 1, 2, 3]),
        prop::sample::select(vec![1, 1, 1, 1, 1, 2, 0]),
        any::<bool>(),
    )
        .prop_map(|(policies, label, release, machine, collateral, bundle, calls)| Set {
            policies,
            label,
            release,
            machine,
            collateral,
            bundle,
            calls,
        })
}

/// A set, and another that differs in some of it.
fn pair() -> impl Strategy<Value = (Set, Set)> {
    (set(), set(), prop::collection::vec(prop::bool::weighted(0.2), 10)).prop_map(|(one, other, differs)| {
        let mut next = one.clone();
        for (index, policy) in next.policies.iter_mut().enumerate() {
            if differs[index] {
                *policy = other.policies[index].clone();
            }
        }
        if differs[4] {
            next.label = other.label;
        }
        if differs[5] {
            next.release = other.release;
        }
        if differs[6] {
            next.machine = other.machine;
        }
        if differs[7] {
            next.collateral = other.collateral;
        }
        if differs[8] {
            next.bundle = other.bundle;
        }
        if differs[9] {
            next.calls = other.calls;
        }
        (one, next)
    })
}

type Outcome<'a> = (u64, Vec<(String, String)>, Vec<String>);

fn names(verdicts: &[Verdict]) -> Vec<(String, String)> {
    verdicts.iter().map(|v| (v.policy.name.clone(), format!("{:?}", v.outcome))).collect()
}

fn reasons(audited: &[Denial]) -> Vec<String> {
    audited.iter().map(|d| format!("{} {:?}", d.rule, d.findings)).collect()
}

fn admitted(admission: &Admission) -> Outcome<'_> {
    (admission.valid_until, names(&admission.verdicts), reasons(&admission.audited))
}

fn verdict(judged: &Result<Admission, Denial>) -> Result<(Outcome<'_>, u64, String), String> {
    let admission = judged.as_ref().map_err(ToString::to_string)?;
    Ok((admitted(admission), admission.path_until, format!("{:?}", admission.dependencies)))
}

fn proved(session: &SessionAdmission) -> Outcome<'_> {
    (session.valid_until, names(&session.verdicts), reasons(&session.audited))
}

/// A peer, and its answer to a challenge.
struct Peer {
    presented: Presented,
    media_type: &'static str,
    value: Vec<u8>,
}

fn binder() -> ReportData {
    batch_report_data(1, &[1; 64])
}

static PEERS: LazyLock<[Peer; 3]> = LazyLock::new(|| {
    let tdx = |spec: TdxSpec| {
        let produced = WORLD.vendor.tdx(spec.clone()).unwrap().evidence(binder().as_bytes()).unwrap();
        let presented = WORLD.presented(LEDGER, spec);
        Peer { presented, media_type: produced.media_type, value: produced.value }
    };
    let snp = WORLD.vendor.snp(SnpSpec::default()).unwrap().evidence(binder().as_bytes()).unwrap();
    let other = Peer { media_type: snp.media_type, value: snp.value, ..tdx(TdxSpec::default()) };
    [tdx(TdxSpec::default()), tdx(other_release()), other]
});

#[test]
fn what_a_change_does_not_affect_is_decided_as_before() {
    let (affected, spared, sessions) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let config = Config { cases: 700, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let strategy = (pair(), prop::sample::select(vec![0_usize, 0, 0, 0, 1, 2]), prop::bool::weighted(0.3));
    let outcome = runner.run(&strategy, |((one, next), peer, to_ledger)| {
        let peer = &PEERS[peer];
        let me = id(if to_ledger { LEDGER } else { AUDIT });
        let them = peer.presented.id.clone().unwrap();
        let first = View::build(one.inputs(), &mut Marks::default(), at(60)).view;
        let Ok(admission) = first.judge_hop(&me, peer.presented.clone(), at(60)) else { return Ok(()) };
        let mut inputs = next.inputs();
        inputs.generation = 18;
        let second = View::build_after(&first, inputs, &mut Marks::default(), at(60)).view;
        let changes = second.changes_since(&first);
        let touched = changes.affects(&admission.dependencies, &me, &them);
        prop_assert_eq!(touched, !second.upholds(&admission.dependencies, &me, &them));
        // What need not be verified again makes no difference.
        let (again, anew) = (
            second.rejudge_hop(&me, &admission, at(60)),
            second.judge_hop(&me, peer.presented.clone(), at(60)),
        );
        prop_assert_eq!(verdict(&again), verdict(&anew));
        if !touched {
            spared.set(spared.get() + i32::from(!changes.is_empty()));
            let again = second.judge_hop(&me, peer.presented.clone(), at(60));
            let again = again.map_err(|denial| TestCaseError::fail(denial.to_string()))?;
            prop_assert_eq!(admitted(&again), admitted(&admission));
            prop_assert_eq!(&again.dependencies, &admission.dependencies);
        } else {
            affected.set(affected.get() + 1);
        }
        let report_data = binder();
        let evidence = SessionEvidence {
            media_type: peer.media_type,
            value: &peer.value,
            event_log: None,
            report_data: &report_data,
            challenged: at(50),
        };
        let Ok(session) = first.judge_session(&me, &admission, &evidence, at(60)) else { return Ok(()) };
        if !touched && !changes.affects(&session.dependencies, &me, &them) {
            sessions.set(sessions.get() + 1);
            let again = second.rejudge_session(&me, &admission, &session, at(60));
            let again = again.map_err(|denial| TestCaseError::fail(denial.to_string()))?;
            prop_assert_eq!(proved(&again), proved(&session));
        }
        let Ok(current) = again else { return Ok(()) };
        let again = second.rejudge_session(&me, &current, &session, at(60));
        let anew = second.judge_session(&me, &current, &evidence, at(60));
        prop_assert_eq!(
            again.as_ref().map(proved).map_err(ToString::to_string),
            anew.as_ref().map(proved).map_err(ToString::to_string)
        );
        Ok(())
    });
    outcome.unwrap();
    let counts = [affected.get(), spared.get(), sessions.get()];
    assert!(counts.iter().all(|count| *count > 20), "too little was tried: {counts:?}");
}

/// The reverse, for what happens every day: nobody is judged again for nothing.
#[test]
fn a_change_affects_those_that_rest_on_it() {
    let elsewhere = "---\napiVersion: countersign.dev/v1alpha1\nkind: WorkloadIdentity\n\
                     metadata: { name: other, namespace: elsewhere }\n\
                     spec: { spiffeId: spiffe://demo.example/elsewhere, attestation: { policy: p } }\n"
        .to_owned()
        + &policy("elsewhere", "p", "", "Any");
    let text = resources() + &elsewhere;
    let first = WORLD.view(&text);
    let peer = &PEERS[0];
    let admission = first.judge_hop(&id(AUDIT), peer.presented.clone(), at(60)).unwrap();
    let affects = |text: &str, collateral: &[Item]| {
        let inputs = Inputs { generation: 18, collateral: collateral.to_vec(), ..WORLD.inputs(text) };
        let next = View::build_after(&first, inputs, &mut Marks::default(), at(60)).view;
        let changes = next.changes_since(&first);
        assert!(!changes.is_empty());
        (changes.affects(&admission.dependencies, &id(AUDIT), &id(LEDGER)), changes.affects_calls(&id(AUDIT)))
    };
    let same = &WORLD.collateral;
    // Somebody else's policy, identity, reference values; collateral of another platform.
    assert_eq!(affects(&text.replace("namespace: elsewhere", "namespace: nowhere"), same), (false, false));
    let unused = text.clone() + &resources().replace("name: release,", "name: unused,");
    let unused =
        unused.split("---\n").filter(|d| d.contains("unused")).fold(text.clone(), |t, d| t + "---\n" + d);
    assert_eq!(affects(&unused, same), (false, false));
    assert_eq!(affects(&text, &COLLATERAL[1]), (false, false));
    let call = "---\napiVersion: countersign.dev/v1alpha1\nkind: AuthorizationPolicy\n\
                metadata: { name: a, namespace: payments }\nspec: { rules: [{}] }\n";
    assert_eq!(affects(&(text.clone() + call), same), (false, true));
    // What it rests on; a policy that starts to speak of the peer.
    assert_eq!(affects(&text.replace(&"d3".repeat(48), &"d4".repeat(48)), same), (true, false));
    assert_eq!(affects(&(text.clone() + &policy("payments", "new", "", "Any")), same), (true, false));
    let audit = policy("countersign-system", "new", "mode: Audit", "Any");
    assert_eq!(affects(&(text.clone() + &audit), same), (true, false));
    let others = policy("payments", "new", "peers: [\"spiffe://demo.example/x/*\"]", "Any");
    assert_eq!(affects(&(text.clone() + &others), same), (false, false));
    assert_eq!(affects(&text, &COLLATERAL[2]), (true, false));
    assert_eq!(affects(&text.replace("app: audit", "app: log"), same), (true, true));
}

#[test]
fn hops_that_rest_on_the_same_share_what_says_so() {
    let view = WORLD.view(&resources());
    let judge =
        |spec| view.judge_hop(&id(AUDIT), WORLD.presented(LEDGER, spec), at(60)).unwrap().dependencies;
    let (one, other) = (judge(TdxSpec::default()), judge(TdxSpec::default()));
    assert!(std::ptr::eq(one.facts().unwrap(), other.facts().unwrap()));
    assert!(one.facts().unwrap().len() < 16, "{}", one.facts().unwrap().len());
}
