//! The parts of docs/security-argument.md that are written from what was found.

use std::fmt::Write;

use crate::cases::{CASES, Case};
use crate::check::Outcome;
use crate::defences::Defence;
use crate::invariants::Invariant;
use crate::terms::Level;
use crate::world::World;
use crate::worlds::{WORLDS, named};

fn begin(name: &str) -> String {
    format!("<!-- {name}: written by the tests -->\n")
}

/// The page with this part of it replaced; `None` if it is not there.
#[must_use]
pub fn replace(page: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (begin(name), format!("<!-- end of {name} -->\n"));
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n{text}\n{end}{after}"))
}

/// What must hold.
#[must_use]
pub fn invariants() -> String {
    let mut text = "| invariant | what it says |\n|---|---|\n".to_owned();
    for invariant in Invariant::ALL {
        let _ = writeln!(text, "| `{invariant}` | {} |", invariant.text());
    }
    text
}

fn demands(world: &World) -> &'static str {
    match world.demands {
        (Level::L2, Level::L2) => "both",
        (Level::L1, Level::L2) => "callee",
        (Level::L2, Level::L1) => "caller",
        (Level::L1, Level::L1) => "nobody",
    }
}

/// The worlds, and what searching them took.
#[must_use]
pub fn worlds(outcomes: &[Outcome]) -> String {
    let mut text = "| world | what it is | who demands evidence | connections | rounds | repeats | renewals | sets of connections | states | depth |\n|---|---|---|---|---|---|---|---|---|---|\n".to_owned();
    for (world, outcome) in WORLDS.iter().zip(outcomes) {
        let rounds = match (world.demands, world.rounds) {
            ((Level::L1, Level::L1), _) => "none".to_owned(),
            (_, 0) => "0".to_owned(),
            (_, last) => format!("0 to {last}"),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {rounds} | {} | {} | {} | {} | {} |",
            world.name,
            world.about,
            demands(world),
            world.links,
            world.retries,
            world.renewals,
            outcome.topologies,
            outcome.states,
            outcome.depth,
        );
    }
    let states: usize = outcomes.iter().map(|outcome| outcome.states).sum();
    let _ = writeln!(text, "\nIn all: {states} states. No invariant is broken in any of them.");
    text
}

fn codes(defences: &[Defence], and: &str) -> String {
    let codes: Vec<_> = defences.iter().map(|defence| format!("`{defence}`")).collect();
    codes.join(and)
}

/// What each defence is needed for.
#[must_use]
pub fn kinds() -> String {
    let alone = |defence: Defence| CASES.iter().find(|case| case.removed == [defence]);
    let records = |case: &Case| named(case.world).is_some_and(|world| world.loot.records);
    let progress = |case: &Case| case.breaks == Invariant::NoFalseCut;
    let list = |of: &dyn Fn(Option<&Case>) -> bool| {
        let chosen: Vec<_> = Defence::ALL.iter().copied().filter(|defence| of(alone(*defence))).collect();
        codes(&chosen, ", ")
    };
    let network = list(&|case| case.is_some_and(|case| !records(case) && !progress(case)));
    let writers = list(&|case| case.is_some_and(|case| records(case) && !progress(case)));
    let covered = list(&|case| case.is_none());
    let hops = list(&|case| case.is_some_and(progress));
    format!(
        "| needed | defences |\n|---|---|\n\
         | against whoever owns the network, and may have TLS keys | {network} |\n\
         | against whoever can also write records of an honest connection | {writers} |\n\
         | if another one fails | {covered} |\n\
         | for honest hops, which fail without | {hops} |\n"
    )
}

/// Each defence, what is found without it, and what stands behind it.
#[must_use]
pub fn defences() -> String {
    let mut text =
        "| defence | what it is | without it | breaks | in world |\n|---|---|---|---|---|\n".to_owned();
    for defence in Defence::ALL {
        let first = |case: &&Case| case.removed.first() == Some(defence);
        let any = |case: &&Case| case.removed.contains(defence);
        let of = if CASES.iter().any(|case| first(&case)) { &first as &dyn Fn(&&Case) -> bool } else { &any };
        for case in CASES.iter().filter(of) {
            let others: Vec<_> = case.removed.iter().copied().filter(|other| other != defence).collect();
            let without = match others.as_slice() {
                [] => case.attack.to_owned(),
                others => format!(
                    "In this world nothing, as long as {} is there. Without: {}",
                    codes(others, " or "),
                    case.attack
                ),
            };
            let _ = writeln!(
                text,
                "| `{defence}` | {} | {without} | `{}` | {} |",
                defence.text(),
                case.breaks,
                case.world
            );
        }
    }
    text
}

/// The attacks, step by step.
#[must_use]
pub fn attacks(outcomes: &[(Case, Outcome)]) -> String {
    let mut text = String::new();
    for (case, outcome) in outcomes {
        let broken: Vec<_> = outcome.broken.iter().map(|broken| format!("`{broken}`")).collect();
        let _ = writeln!(
            text,
            "**Without {}** (world: {}; breaks {})\n\n```text",
            codes(case.removed, " and "),
            case.world,
            broken.join(", ")
        );
        for line in &outcome.trace {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "```\n");
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}
