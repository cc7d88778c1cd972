//! Who watches what hops prove, and what proxies tell them. Proxies tell only
//! while somebody watches; who reads too slowly misses some of it.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::Reason;
use countersign_wire::{MAX_REPORTED_HOPS, proto, refusal};
use futures_util::Stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// How often a proxy tells, seconds.
const EVERY: u32 = 2;
/// For how long it tells when it is asked once, seconds.
const LEASE: u32 = 12;
/// When it is asked again.
pub(crate) const RENEW_AFTER: Duration = Duration::from_secs(5);
/// The most hops that all proxies tell of at a time, as far as each may tell of some.
const HOPS: usize = 20_000;
const FEWEST_HOPS: usize = 16;
/// What a watcher may be behind.
const BACKLOG: usize = 1024;
/// The most watchers.
const MAX_WATCHERS: usize = 64;

/// What a watcher reads.
pub(crate) type Told = Pin<Box<dyn Stream<Item = Result<proto::ProxyAttestation, Status>> + Send>>;

/// The watchers of this control plane.
#[derive(Debug)]
pub(crate) struct Watchers {
    count: watch::Sender<usize>,
    told: broadcast::Sender<Arc<proto::ProxyAttestation>>,
    closed: CancellationToken,
}

/// One watcher, for as long as it reads.
struct Watcher {
    known: VecDeque<proto::ProxyAttestation>,
    told: broadcast::Receiver<Arc<proto::ProxyAttestation>>,
    /// Names of proxies; all when it is empty.
    wanted: BTreeSet<String>,
    watchers: Arc<Watchers>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watchers.count.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Watchers {
    pub(crate) fn new() -> Self {
        Self {
            count: watch::channel(0).0,
            told: broadcast::channel(BACKLOG).0,
            closed: CancellationToken::new(),
        }
    }

    /// How many there are, for those who ask proxies.
    pub(crate) fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// What to ask one of so many proxies for.
    pub(crate) fn question(proxies: usize) -> proto::Watch {
        let hops = (HOPS / proxies.max(1)).clamp(FEWEST_HOPS, MAX_REPORTED_HOPS);
        let hops = u32::try_from(hops).unwrap_or(u32::MAX);
        proto::Watch { every_seconds: EVERY, for_seconds: LEASE, hops }
    }

    /// A proxy has news of itself.
    pub(crate) fn tell(&self, news: proto::ProxyAttestation) {
        // Nobody listens: then nobody misses it.
        let _ = self.told.send(Arc::new(news));
    }

    /// Everything that proxies tell from now on, after what is `known` of them.
    /// It must be read after the watcher is counted, so that nobody is missed.
    pub(crate) fn join(
        self: &Arc<Self>,
        wanted: Vec<String>,
        known: impl FnOnce() -> Vec<proto::ProxyAttestation>,
    ) -> Result<Told, Status> {
        let joined = self.count.send_if_modified(|count| {
            let room = *count < MAX_WATCHERS;
            *count += usize::from(room);
            room
        });
        if !joined {
            return Err(refusal::with_reason(Reason::Overloaded, format!("more than {MAX_WATCHERS} watch")));
        }
        let told = self.told.subscribe();
        let mut watcher = Watcher {
            known: VecDeque::new(),
            told,
            wanted: wanted.into_iter().collect(),
            watchers: Arc::clone(self),
        };
        watcher.known = known().into_iter().filter(|news| watcher.wants(news)).collect();
        watcher.known.push_back(proto::ProxyAttestation::default());
        Ok(Box::pin(futures_util::stream::unfold(watcher, |mut watcher| async {
            let news = watcher.next().await?;
            Some((Ok(news), watcher))
        })))
    }

    /// Ends all of it.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }
}

impl Watcher {
    fn wants(&self, news: &proto::ProxyAttestation) -> bool {
        self.wanted.is_empty() || self.wanted.contains(&news.proxy)
    }

    /// `None` when the control plane ends.
    async fn next(&mut self) -> Option<proto::ProxyAttestation> {
        if let Some(known) = self.known.pop_front() {
            return Some(known);
        }
        loop {
            let told = tokio::select! {
                biased;
                () = self.watchers.closed.cancelled() => return None,
                told = self.told.recv() => told,
            };
            match told {
                Ok(news) if self.wants(&news) => return Some((*news).clone()),
                // What was missed is told again in a moment.
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    fn news(proxy: &str, connected: bool) -> proto::ProxyAttestation {
        proto::ProxyAttestation { proxy: proxy.to_owned(), connected, ..Default::default() }
    }

    #[tokio::test]
    async fn a_watcher_hears_of_those_it_wants_for_as_long_as_it_reads() {
        let watchers = Arc::new(Watchers::new());
        let count = watchers.count();
        watchers.tell(news("a", true));
        let mut told = watchers.join(vec!["a".into()], || vec![news("a", true), news("b", true)]).unwrap();
        assert_eq!(*count.borrow(), 1);
        watchers.tell(news("b", false));
        watchers.tell(news("a", false));
        assert_eq!(told.next().await.unwrap().unwrap(), news("a", true));
        assert_eq!(told.next().await.unwrap().unwrap(), news("", false), "those were all");
        assert_eq!(told.next().await.unwrap().unwrap(), news("a", false));
        drop(told);
        assert_eq!(*count.borrow(), 0);
    }

    #[tokio::test]
    async fn watchers_are_bounded_and_end_with_the_control_plane() {
        let watchers = Arc::new(Watchers::new());
        let mut all: Vec<_> =
            (0..MAX_WATCHERS).map(|_| watchers.join(Vec::new(), Vec::new).unwrap()).collect();
        assert!(watchers.join(Vec::new(), Vec::new).is_err());
        watchers.close();
        assert!(all[0].next().await.is_some() && all[0].next().await.is_none());
        all.clear();
        assert_eq!(*watchers.count().borrow(), 0);
    }

    #[tokio::test]
    async fn a_slow_watcher_misses_some_and_goes_on() {
        let watchers = Arc::new(Watchers::new());
        let mut told = watchers.join(Vec::new(), Vec::new).unwrap();
        for i in 0..BACKLOG + 10 {
            watchers.tell(news(&i.to_string(), true));
        }
        assert_eq!(told.next().await.unwrap().unwrap().proxy, "");
        assert_eq!(told.next().await.unwrap().unwrap().proxy, "10");
    }

    #[test]
    fn many_proxies_tell_less_each() {
        assert_eq!(Watchers::question(0).hops, 256);
        assert_eq!(Watchers::question(200).hops, 100);
        assert_eq!(Watchers::question(10_000).hops, 16);
    }
}
