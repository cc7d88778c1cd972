//! The protocol in the model: sound in every world; each defence needed or
//! covered; the page says what was found.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use countersign_model::cases::{CASES, Case, covered};
use countersign_model::check::{Outcome, each, progress, search};
use countersign_model::defences::Defence;
use countersign_model::invariants::Invariant;
use countersign_model::page;
use countersign_model::world::World;
use countersign_model::worlds::{EXCLUDED, WORLDS, named};

/// Whether nobody disturbs in a world.
fn honest(world: &World) -> bool {
    world.name.starts_with("honest")
}

/// Every world, searched with all defences in place.
fn worlds() -> &'static [Outcome] {
    static OUTCOMES: OnceLock<Vec<Outcome>> = OnceLock::new();
    OUTCOMES.get_or_init(|| {
        each(
            WORLDS,
            |world| if honest(world) { progress(*world) } else { search(*world, &[], Invariant::ALL) },
        )
    })
}

/// Every case.
fn cases() -> &'static [(Case, Outcome)] {
    static OUTCOMES: OnceLock<Vec<(Case, Outcome)>> = OnceLock::new();
    OUTCOMES.get_or_init(|| {
        each(CASES, |case| (*case, search(named(case.world).unwrap(), case.removed, &[case.breaks])))
    })
}

fn told(outcome: &Outcome) -> String {
    format!("{:?} after\n{}", outcome.broken, outcome.trace.join("\n"))
}

#[test]
fn no_invariant_is_broken_in_any_world() {
    for (world, outcome) in WORLDS.iter().zip(worlds()) {
        println!("{}: {} states, depth {}", world.name, outcome.states, outcome.depth);
        assert!(outcome.trace.is_empty(), "{}: {}", world.name, told(outcome));
    }
}

#[test]
fn honest_ends_never_get_stuck_and_reach_everything() {
    for (world, outcome) in WORLDS.iter().zip(worlds()).filter(|(world, _)| honest(world)) {
        let seen: Vec<_> = outcome.others.iter().map(|(name, _)| *name).collect();
        let stuck = outcome.others.iter().find(|(name, _)| *name == "never stuck");
        assert!(stuck.is_none(), "{}: {stuck:?}", world.name);
        assert!(seen.contains(&"complete"), "{}: {seen:?}", world.name);
        if world.name == "honest" {
            assert!(seen.contains(&"complete after a retry"), "{seen:?}");
            assert!(seen.contains(&"a round over an identity renewed at both ends"), "{seen:?}");
        }
    }
}

#[test]
fn without_a_defence_the_attack_is_found() {
    for (case, outcome) in cases() {
        assert_eq!(outcome.broken, [case.breaks], "{:?} in {}", case.removed, case.world);
    }
    let removed: BTreeSet<_> = CASES.iter().flat_map(|case| case.removed).collect();
    let broken: BTreeSet<_> = CASES.iter().map(|case| case.breaks).collect();
    assert_eq!(removed.len(), Defence::ALL.len(), "each defence has a case");
    assert_eq!(broken.len(), Invariant::ALL.len(), "each invariant can be broken");
}

#[test]
fn of_several_defences_each_is_enough() {
    let parts: Vec<_> =
        CASES.iter().flat_map(|case| case.parts().into_iter().map(|part| (case.world, part))).collect();
    each(&parts, |(world, part)| {
        let outcome = search(named(world).unwrap(), part, Invariant::ALL);
        assert!(outcome.trace.is_empty(), "{part:?} in {world}: {}", told(&outcome));
    });
}

#[test]
fn a_covered_defence_alone_changes_nothing() {
    // The largest worlds are left out: see docs/security-argument.md.
    let left_out = ["network, three", "leaked, three", "records, two connections"];
    let searched = WORLDS.iter().filter(|world| !honest(world) && !left_out.contains(&world.name));
    let mut runs: Vec<_> =
        searched.flat_map(|world| covered().map(move |defence| (world, defence))).collect();
    // What guards renewals does nothing where there are none.
    runs.retain(|(world, defence)| world.renewals > 0 || !defence.code().starts_with("identity-"));
    each(&runs, |(world, defence)| {
        let outcome = search(**world, &[*defence], Invariant::ALL);
        assert!(outcome.trace.is_empty(), "{defence} in {}: {}", world.name, told(&outcome));
    });
}

#[test]
fn without_traffic_keys_exporter_and_role_are_all_that_a_binder_needs() {
    let removed = [
        Defence::Keys,
        Defence::Ids,
        Defence::Hellos,
        Defence::Nonce,
        Defence::Round,
        Defence::Chain,
        Defence::OpenCompared,
        Defence::OpenKeyed,
        Defence::OpenRole,
    ];
    let runs: Vec<_> = WORLDS.iter().filter(|world| !world.loot.records).collect();
    each(&runs, |world| {
        let outcome = search(**world, &removed, Invariant::ALL);
        assert!(outcome.trace.is_empty(), "{}: {}", world.name, told(&outcome));
    });
}

#[test]
fn what_the_assumptions_exclude_would_break_it() {
    for world in EXCLUDED {
        let outcome = search(*world, &[], &[Invariant::PeerIsTee]);
        assert_eq!(outcome.broken, [Invariant::PeerIsTee], "{}", world.name);
    }
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/security-argument.md")
}

/// `COUNTERSIGN_WRITE_DOCS=1 cargo test -p countersign-model` writes the page.
#[test]
fn the_page_says_what_was_found() {
    let page = std::fs::read_to_string(path()).unwrap();
    let parts = [
        ("invariants", page::invariants()),
        ("worlds", page::worlds(worlds())),
        ("kinds", page::kinds()),
        ("defences", page::defences()),
        ("attacks", page::attacks(cases())),
    ];
    let written = parts.iter().fold(page, |page, (name, text)| {
        page::replace(&page, name, text)
            .unwrap_or_else(|| panic!("docs/security-argument.md has a part {name}"))
    });
    if std::env::var_os("COUNTERSIGN_WRITE_DOCS").is_some() {
        std::fs::write(path(), &written).unwrap();
    }
    assert!(
        std::fs::read_to_string(path()).unwrap() == written,
        "docs/security-argument.md is stale: COUNTERSIGN_WRITE_DOCS=1 cargo test -p countersign-model"
    );
}
