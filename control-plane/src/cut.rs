//! Cutting snapshots: resources, collateral and bundle become one signed
//! generation and the view of it, by which we decide as proxies do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_config::{Built, Inputs, View};
use countersign_evidence::collateral::{Marks, Shelf, Stock};
use countersign_wire::snapshot::{Entries, Entry};
use countersign_wire::{EntryName, Snapshot};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::authority::Keys;
use crate::clock::Clock;
use crate::collateral::Directory;
use crate::error::Error;
use crate::keep::Keep;
use crate::metrics::Metrics;
use crate::ready::{CLOCK, Ready, SNAPSHOT};
use crate::resources::{Resources, Set};

/// Changes that come this close together make one generation.
const QUIET: Duration = Duration::from_millis(10);
/// However many come, a generation is cut this long after the first.
const AT_MOST: Duration = Duration::from_millis(100);

/// One generation, as we hand it out and as we decide by it.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) view: Arc<View>,
    /// The revision of the store that it contains.
    pub(crate) revision: u64,
    /// Resources that even our own view cannot use: entry name, reason.
    pub(crate) rejected: Vec<(String, String)>,
    /// Collateral that is not handed out: item, reason.
    pub(crate) refused_collateral: Vec<(String, String)>,
    /// Collateral whose file is gone or not good any more, and which is used all the same.
    pub(crate) kept_collateral: Vec<String>,
    /// The generation in which each entry last changed, as far as this process knows.
    pub(crate) changed_in: BTreeMap<Arc<str>, u64>,
    /// When it was published.
    pub(crate) at: Instant,
}

/// Makes cuts.
#[derive(Debug)]
pub(crate) struct Cutter {
    pub(crate) keys: Arc<Keys>,
    pub(crate) keep: Keep,
    pub(crate) resources: Arc<Resources>,
    pub(crate) directory: Directory,
    pub(crate) clock: Clock,
    marks: Marks,
    kept_marks: Marks,
    shelf: Shelf,
    last: Option<Arc<Cut>>,
}

impl Cutter {
    pub(crate) fn new(
        keys: Arc<Keys>,
        keep: Keep,
        resources: Arc<Resources>,
        directory: Directory,
        clock: Clock,
    ) -> Result<Self, Error> {
        let (marks, shelf) = (keep.marks()?, Shelf::new(keep.collateral()?));
        let kept_marks = marks.clone();
        clock.signed(marks.newest_issue());
        Ok(Self { keys, keep, resources, directory, clock, kept_marks, marks, shelf, last: None })
    }

    /// The current cut: the last one when nothing of its content changed.
    pub(crate) fn cut(&mut self) -> Result<Arc<Cut>, Error> {
        if let Err(e) = self.directory.refresh() {
            tracing::warn!(error = %e, "cannot read the collateral directory; what was read before stays");
        }
        let set = self.resources.load()?;
        let stored = self.keep.generation()?;
        let stock = self.shelf.stock(self.directory.items());
        let (built, entries) = self.build(&set, &stock, stored.number + 1);
        let (collateral, now) = (&built.view.collateral, self.clock.now());
        let kept_collateral = stock.kept(collateral, now).iter().map(|item| item.name.clone()).collect();
        if self.shelf.settle(&stock, collateral, now) {
            self.keep.set_collateral(self.shelf.items())?;
        }
        let content = content(&entries);
        let number = self.keep.number(&content)?;
        if let Some(last) = self.last.clone().filter(|last| last.snapshot.generation() == number) {
            // The same content comes to another view when time has passed.
            let view = match last.view.renew_at() {
                Some(at) if at <= now.as_secs() => Arc::new(self.build(&set, &stock, number).0.view),
                _ => Arc::clone(&last.view),
            };
            let same = Arc::new(Cut { view, revision: set.revision, kept_collateral, ..last.again() });
            self.last = Some(Arc::clone(&same));
            return Ok(same);
        }
        let built = if built.view.generation == number { built } else { self.build(&set, &stock, number).0 };
        if self.marks != self.kept_marks {
            self.keep.set_marks(&self.marks)?;
            self.kept_marks = self.marks.clone();
        }
        let changed_in = self.changes(&entries, number);
        let domain = self.keys.bundle.trust_domain.clone();
        let snapshot = Snapshot::sign(domain, number, entries, &self.keys.snapshot)?;
        let cut = Arc::new(Cut {
            snapshot: Arc::new(snapshot),
            view: Arc::new(built.view),
            revision: set.revision,
            rejected: built
                .rejected
                .into_iter()
                .map(|(key, why)| (EntryName::Resource(key).to_string(), why))
                .collect(),
            refused_collateral: built
                .refused_collateral
                .into_iter()
                .map(|(item, finding)| (item, finding.to_string()))
                .collect(),
            kept_collateral,
            changed_in,
            at: Instant::now(),
        });
        for (item, why) in &cut.refused_collateral {
            tracing::warn!(item, why, "collateral is not used and not handed out");
        }
        self.last = Some(Arc::clone(&cut));
        Ok(cut)
    }

    /// Whether something besides the resources changed: the collateral, or the
    /// number of the generation, which an operator can raise; or it is time for
    /// the view to be another one.
    fn is_due(&mut self) -> bool {
        let renewal = self.last.as_ref().and_then(|last| last.view.renew_at());
        if renewal.is_some_and(|at| at <= self.clock.now().as_secs()) {
            return true;
        }
        let number = self.last.as_ref().map(|last| last.snapshot.generation());
        let raised = self
            .keep
            .generation()
            .is_ok_and(|stored| number != Some(stored.number) || stored.content.is_empty());
        raised || self.directory.refresh().unwrap_or(false)
    }

    fn build(&mut self, set: &Set, stock: &Stock, generation: u64) -> (Built, Entries) {
        let inputs = Inputs {
            generation,
            resources: set.resources.values().map(|kept| Arc::clone(&kept.resource)).collect(),
            bundles: vec![self.keys.bundle.clone()],
            collateral: stock.items.clone(),
        };
        let now = self.clock.now();
        let mut built = match &self.last {
            Some(last) => View::build_after(&last.view, inputs, &mut self.marks, now),
            None => View::build(inputs, &mut self.marks, now),
        };
        self.clock.signed(self.marks.newest_issue());
        // What was kept and has a newer issue now is no news.
        built.refused_collateral.retain(|(item, _)| stock.came(item));
        let kept = stock.kept(&built.view.collateral, now);
        let refused: BTreeSet<&str> =
            built.refused_collateral.iter().map(|(item, _)| item.as_str()).collect();
        let mut entries = Entries::new();
        for (name, kept) in &set.resources {
            entries.insert(name.as_str().into(), Entry::new(Bytes::from(kept.resource.to_json())));
        }
        let came = stock.items.iter().filter(|item| stock.came(&item.name));
        for item in came.filter(|item| !refused.contains(item.name.as_str())).chain(kept) {
            let name = EntryName::Collateral(item.name.clone()).to_string();
            entries.insert(name.into(), Entry::new(Bytes::copy_from_slice(&item.bytes)));
        }
        let bundle = EntryName::Bundle(self.keys.bundle.trust_domain.as_str().to_owned()).to_string();
        entries.insert(bundle.into(), Entry::new(Bytes::from(self.keys.bundle.to_json())));
        (built, entries)
    }

    fn changes(&self, entries: &Entries, number: u64) -> BTreeMap<Arc<str>, u64> {
        let last = self.last.as_ref();
        entries
            .iter()
            .map(|(name, entry)| {
                let unchanged = last
                    .filter(|last| {
                        last.snapshot.entries().get(name).map(Entry::version) == Some(entry.version())
                    })
                    .and_then(|last| last.changed_in.get(name));
                (Arc::clone(name), unchanged.copied().unwrap_or(number))
            })
            .collect()
    }
}

impl Cut {
    fn again(&self) -> Self {
        Self {
            snapshot: Arc::clone(&self.snapshot),
            view: Arc::clone(&self.view),
            revision: self.revision,
            rejected: self.rejected.clone(),
            refused_collateral: self.refused_collateral.clone(),
            kept_collateral: self.kept_collateral.clone(),
            changed_in: self.changed_in.clone(),
            at: self.at,
        }
    }
}

/// What a generation holds, by names and versions.
fn content(entries: &Entries) -> String {
    let mut bytes = Vec::new();
    for (name, entry) in entries {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(entry.version().to_string().as_bytes());
        bytes.push(0);
    }
    countersign_wire::Version::of(&bytes).to_string()
}

/// Cuts whenever the store or the collateral changes, until shutdown.
pub(crate) async fn keep_cutting(
    mut cutter: Cutter,
    cuts: watch::Sender<Arc<Cut>>,
    mut changed: watch::Receiver<u64>,
    mut tick: watch::Receiver<u64>,
    (ready, metrics): (Arc<Ready>, Arc<Metrics>),
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (clock, mut failed) = (cutter.clock.clone(), false);
    loop {
        match clock.check() {
            Ok(()) => ready.done(CLOCK),
            Err(finding) => ready.missing(CLOCK, finding.to_string()),
        }
        let by_change = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Ok(()) = changed.changed() => true,
            Ok(()) = tick.changed() => false,
            else => return Ok(()),
        };
        if by_change {
            until_quiet(&mut changed).await;
        }
        let ours = tokio::task::spawn_blocking(move || {
            let wanted = by_change || failed || cutter.is_due();
            let cut = wanted.then(|| cutter.cut());
            (cutter, cut)
        });
        let (back, outcome) = ours.await.map_err(|e| Error::Task(format!("cut: {e}")))?;
        cutter = back;
        match outcome {
            None => {}
            Some(Ok(cut)) => {
                failed = false;
                ready.done(SNAPSHOT);
                publish(&cuts, cut, &metrics);
            }
            Some(Err(e)) => {
                // What is out stays out; the next tick tries again.
                failed = true;
                tracing::error!(error = %e, "cannot cut a snapshot");
                ready.missing(SNAPSHOT, e.to_string());
            }
        }
    }
}

fn publish(cuts: &watch::Sender<Arc<Cut>>, cut: Arc<Cut>, metrics: &Metrics) {
    let generation = cut.snapshot.generation();
    let new = cuts.borrow().snapshot.generation() != generation;
    if new {
        let entries = cut.snapshot.entries().len();
        tracing::info!(generation, entries, rejected = cut.rejected.len(), "cut a snapshot");
        metrics.generation(generation);
    }
    alarm(Some(&cuts.borrow()), &cut, metrics);
    cuts.send_replace(cut);
}

/// Tells of collateral that lost its file since `before`, and of what has one again.
pub(crate) fn alarm(before: Option<&Cut>, cut: &Cut, metrics: &Metrics) {
    let before = before.map_or(&[][..], |before| &before.kept_collateral);
    for item in cut.kept_collateral.iter().filter(|item| !before.contains(item)) {
        tracing::error!(
            item,
            "the file of this collateral is gone, damaged or older than what it was: its last good issue \
             stays in use until it ends; put a current one into collateralDir"
        );
    }
    for item in before.iter().filter(|item| !cut.kept_collateral.contains(item)) {
        tracing::info!(item, "collateral is not kept beyond its file any more");
    }
    metrics.collateral_kept(cut.kept_collateral.len());
}

async fn until_quiet(changed: &mut watch::Receiver<u64>) {
    let limit = tokio::time::sleep(AT_MOST);
    tokio::pin!(limit);
    loop {
        tokio::select! {
            () = &mut limit => return,
            () = tokio::time::sleep(QUIET) => return,
            Ok(()) = changed.changed() => {}
        }
    }
}
