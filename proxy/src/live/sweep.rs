//! Many hops looked at at once: a core alone would take its time.
//!
//! Whoever began goes on as he is; the other threads are worth less than what
//! carries bytes, so that a change takes the cores that are idle and no others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Handle, RuntimeFlavor};

/// For fewer items than this no other thread is started.
const SHARE: usize = 64;
/// The most threads; more would wait for the lock of the registry.
const THREADS: usize = 8;

/// Does `work` for each of these, beginning with the first. Returns when all is done.
pub(super) fn each<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let helpers = match items.len() / SHARE {
        0 => 0,
        shares => thread::available_parallelism().map_or(1, usize::from).min(THREADS).min(shares) - 1,
    };
    let runtime = Handle::try_current().ok();
    let many = runtime.as_ref().filter(|_| items.len() >= SHARE);
    // What else this thread has to do for connections, others do meanwhile.
    match many.map(Handle::runtime_flavor) {
        Some(RuntimeFlavor::MultiThread) => {
            tokio::task::block_in_place(|| share(items, &work, helpers, runtime.as_ref()));
        }
        _ => share(items, &work, helpers, runtime.as_ref()),
    }
}

fn share<T: Sync>(items: &[T], work: &(impl Fn(&T) + Sync), helpers: usize, runtime: Option<&Handle>) {
    let next = AtomicUsize::new(0);
    let take = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(item);
        }
    };
    thread::scope(|scope| {
        for _ in 0..helpers {
            let help = || {
                let _entered = runtime.map(Handle::enter);
                countersign_net::step_back();
                take();
            };
            // Where there can be no more threads, it takes longer.
            if thread::Builder::new().name("sweep".to_owned()).spawn_scoped(scope, help).is_err() {
                break;
            }
        }
        take();
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    fn all_of(count: usize) {
        let items: Vec<usize> = (0..count).collect();
        let done = Mutex::new(Vec::new());
        each(&items, |item| done.lock().unwrap().push(*item));
        let done = done.into_inner().unwrap();
        assert_eq!((done.len(), done.iter().collect::<BTreeSet<_>>().len()), (count, count));
    }

    #[test]
    fn each_item_has_its_turn_once_whatever_runs_it() {
        for count in [0, 1, SHARE - 1, SHARE, 100 * SHARE] {
            all_of(count);
        }
        let one = tokio::runtime::Builder::new_current_thread().build().unwrap();
        one.block_on(async { all_of(10 * SHARE) });
        let many = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        many.block_on(async { tokio::spawn(async { all_of(10 * SHARE) }).await.unwrap() });
    }
}
