//! Searches a world, and says what came out.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use stateright::{Checker, HasDiscoveries, Model};

use crate::defences::Defence;
use crate::invariants::Invariant;
use crate::mesh::Mesh;
use crate::trace;
use crate::world::World;

/// What a search found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Sets of connections that were begun with.
    pub topologies: usize,
    /// Different states that were seen.
    pub states: usize,
    /// The longest way to one, in steps.
    pub depth: usize,
    /// The watched invariants that the end of the trace breaks.
    pub broken: Vec<Invariant>,
    /// A shortest way there, a line for each step.
    pub trace: Vec<String>,
    /// Of the properties of progress, those that were seen not to hold, and the
    /// ways to those that were to be reached.
    pub others: Vec<(&'static str, Vec<String>)>,
}

/// Searches a world without these defences, to the end or to the first attack.
#[must_use]
pub fn search(world: World, removed: &[Defence], watched: &[Invariant]) -> Outcome {
    run(Mesh::new(world, removed, watched))
}

/// Searches a world in which nobody disturbs, for runs that do not end well too.
#[must_use]
pub fn progress(world: World) -> Outcome {
    let mut mesh = Mesh::new(world, &[], Invariant::ALL);
    mesh.progress = true;
    run(mesh)
}

fn run(mesh: Mesh) -> Outcome {
    let topologies = mesh.init_states().len();
    // One thread: the first attack is a shortest one, and always the same.
    let builder = mesh.checker().threads(1).finish_when(HasDiscoveries::AnyFailures);
    let checker = builder.spawn_bfs().join();
    let mut outcome = Outcome {
        topologies,
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        broken: Vec::new(),
        trace: Vec::new(),
        others: Vec::new(),
    };
    let mut discoveries: Vec<_> = checker.discoveries().into_iter().collect();
    discoveries.sort_by_key(|(name, _)| *name);
    for (name, path) in discoveries {
        let last = path.last_state().broken;
        let steps = path.into_vec();
        let actions: Vec<_> = steps.iter().filter_map(|(_, action)| action.clone()).collect();
        let lines = match steps.first() {
            Some((first, _)) => trace::lines(checker.model(), first, &actions),
            None => Vec::new(),
        };
        if name == "sound" {
            outcome.broken = last.list().filter(|broken| checker.model().watched.contains(broken)).collect();
            outcome.trace = lines;
        } else {
            outcome.others.push((name, lines));
        }
    }
    outcome
}

/// Does a thing for each of the items, on as many threads as there are processors.
pub fn each<T: Sync, R: Send>(items: &[T], what: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = what(item);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}
