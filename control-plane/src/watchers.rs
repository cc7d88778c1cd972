//! Who watches what hops prove, and what proxies tell them. Proxies tell only
//! while somebody watches. Each watcher has the newest of every proxy that it
//! has not read yet, so one that reads slowly sees less often, not something
//! else; one that does not read at all is dropped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_evidence::Reason;
use countersign_wire::{MAX_REPORTED_HOPS, proto, refusal};
use futures_util::Stream;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// How often a proxy tells, seconds.
const EVERY: u32 = 2;
/// For how long it tells when it is asked once, seconds.
const LEASE: u32 = 12;
/// The same when nobody goes on watching: one answer.
const ONCE: u32 = 1;
/// When it is asked again.
pub(crate) const RENEW_AFTER: Duration = Duration::from_secs(5);
/// The most hops that all proxies tell of at a time, as far as each may tell of some.
const HOPS: usize = 20_000;
const FEWEST_HOPS: usize = 16;
/// How long news may wait for a watcher to read it.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most watchers.
const MAX_WATCHERS: usize = 64;

/// Wishes for proofs that a session may be behind.
const WISHES: usize = 16;

/// What an operator wants of these proxies, by name.
#[derive(Debug)]
pub(crate) struct Wish {
    /// Names of proxies.
    pub(crate) proxies: BTreeSet<String>,
    /// What.
    pub(crate) what: What,
}

/// What an operator may want.
#[derive(Debug)]
pub(crate) enum What {
    /// That this peer (SPIFFE ID), or with an empty one all, prove themselves at once.
    Prove(String),
    /// That they tell of themselves, once and at once.
    Tell(proto::Watch),
}

/// What a watcher reads.
pub(crate) type Told = Pin<Box<dyn Stream<Item = Result<proto::ProxyAttestation, Status>> + Send>>;
/// Workload and name of a proxy.
pub(crate) type Name = (String, String);
pub(crate) type News = Arc<proto::ProxyAttestation>;

/// The watchers of this control plane.
#[derive(Debug)]
pub(crate) struct Watchers {
    count: watch::Sender<usize>,
    mailboxes: Mutex<Mailboxes>,
    wishes: broadcast::Sender<Arc<Wish>>,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Mailboxes {
    joined: u64,
    by_number: BTreeMap<u64, Arc<Mailbox>>,
}

/// What one watcher has not read yet.
#[derive(Debug)]
struct Mailbox {
    /// Names of proxies; all when it is empty.
    wanted: BTreeSet<String>,
    /// On whose account proxies are asked again and again.
    asking: bool,
    unread: Mutex<Unread>,
    arrived: Notify,
}

#[derive(Debug)]
struct Unread {
    /// In the order in which they are read, each name once.
    names: VecDeque<Name>,
    /// The newest of each.
    newest: BTreeMap<Name, News>,
    /// Since when something waits.
    since: Instant,
    dropped: bool,
}

/// One watcher, for as long as it reads.
struct Watcher {
    number: u64,
    mailbox: Arc<Mailbox>,
    watchers: Arc<Watchers>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watchers.leave(self.number);
    }
}

impl Watchers {
    pub(crate) fn new() -> Self {
        Self {
            count: watch::channel(0).0,
            mailboxes: Mutex::default(),
            wishes: broadcast::channel(WISHES).0,
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
        proto::Watch { every_seconds: EVERY, for_seconds: LEASE, hops, refusals: 0 }
    }

    /// What these proxies tell of themselves now, as far as they do so in time.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        proxies: BTreeSet<Name>,
        (hops, refusals): (u32, u32),
        within: Duration,
    ) -> Result<Vec<News>, Status> {
        let mut silent = proxies;
        if silent.is_empty() {
            return Ok(Vec::new());
        }
        let names: BTreeSet<String> = silent.iter().map(|(_, name)| name.clone()).collect();
        let mailbox = Mailbox { asking: false, ..Mailbox::new(names.iter().cloned(), Instant::now()) };
        let watcher = self.enter(mailbox)?;
        let question = proto::Watch { every_seconds: EVERY, for_seconds: ONCE, hops, refusals };
        self.wish(Wish { proxies: names, what: What::Tell(question) });
        let mut told = Vec::new();
        let listening = async {
            while !silent.is_empty()
                && let Some(news) = watcher.next().await?
            {
                // One that goes tells nothing more; what others asked for is no answer.
                let answers = news.attestation.as_ref().is_some_and(|told| told.with_refusals);
                if (news.connected && !answers) || !silent.remove(&name(&news)) {
                    continue;
                }
                if answers {
                    told.push(news);
                }
            }
            Ok::<_, Status>(())
        };
        // Whoever has not told by then is not waited for.
        tokio::time::timeout(within, listening).await.unwrap_or(Ok(()))?;
        Ok(told)
    }

    /// Passes a wish on to the sessions.
    pub(crate) fn wish(&self, wish: Wish) {
        // Without a session nobody is there to prove anything.
        let _ = self.wishes.send(Arc::new(wish));
    }

    /// The wishes from now on. Whoever is behind misses some: operators ask again.
    pub(crate) fn wishes(&self) -> broadcast::Receiver<Arc<Wish>> {
        self.wishes.subscribe()
    }

    /// A proxy has news of itself.
    pub(crate) fn tell(&self, news: proto::ProxyAttestation, now: Instant) {
        let mut mailboxes = lock(&self.mailboxes);
        if mailboxes.by_number.is_empty() {
            return;
        }
        let news = Arc::new(news);
        mailboxes.by_number.retain(|_, mailbox| mailbox.put(&news, now));
        self.counted(&mailboxes);
    }

    /// Everything that proxies tell from now on, after what is `known` of them.
    /// That must be read after the watcher is counted, so that nobody is missed.
    pub(crate) fn join(
        self: &Arc<Self>,
        wanted: Vec<String>,
        now: Instant,
        known: impl FnOnce() -> Vec<proto::ProxyAttestation>,
    ) -> Result<Told, Status> {
        let watcher = self.enter(Mailbox::new(wanted, now))?;
        watcher.mailbox.begin(known());
        Ok(Box::pin(futures_util::stream::unfold(Some(watcher), |watcher| async {
            let watcher = watcher?;
            match watcher.next().await {
                Ok(Some(news)) => Some((Ok(Arc::unwrap_or_clone(news)), Some(watcher))),
                Ok(None) => None,
                // The reason is the last thing that it hears.
                Err(status) => Some((Err(status), None)),
            }
        })))
    }

    fn enter(self: &Arc<Self>, mailbox: Mailbox) -> Result<Watcher, Status> {
        let mailbox = Arc::new(mailbox);
        let mut mailboxes = lock(&self.mailboxes);
        if mailboxes.by_number.len() >= MAX_WATCHERS {
            let why = format!("{MAX_WATCHERS} watch already: end one, or try again later");
            return Err(refusal::with_reason(Reason::Overloaded, why));
        }
        mailboxes.joined += 1;
        let number = mailboxes.joined;
        mailboxes.by_number.insert(number, Arc::clone(&mailbox));
        self.counted(&mailboxes);
        drop(mailboxes);
        Ok(Watcher { number, mailbox, watchers: Arc::clone(self) })
    }

    /// Ends all of it.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    fn leave(&self, number: u64) {
        let mut mailboxes = lock(&self.mailboxes);
        mailboxes.by_number.remove(&number);
        self.counted(&mailboxes);
    }

    fn counted(&self, mailboxes: &Mailboxes) {
        let now = mailboxes.by_number.values().filter(|mailbox| mailbox.asking).count();
        self.count.send_if_modified(|count| std::mem::replace(count, now) != now);
    }
}

impl Mailbox {
    fn new(wanted: impl IntoIterator<Item = String>, now: Instant) -> Self {
        let unread = Unread { names: VecDeque::new(), newest: BTreeMap::new(), since: now, dropped: false };
        Self {
            wanted: wanted.into_iter().collect(),
            asking: true,
            unread: Mutex::new(unread),
            arrived: Notify::new(),
        }
    }

    fn wants(&self, news: &proto::ProxyAttestation) -> bool {
        self.wanted.is_empty() || self.wanted.contains(&news.proxy)
    }

    /// Everybody who is there, unless there is newer of them, and that those were all.
    fn begin(&self, known: Vec<proto::ProxyAttestation>) {
        let mut unread = lock(&self.unread);
        for news in known.into_iter().filter(|news| self.wants(news)) {
            if !unread.newest.contains_key(&name(&news)) {
                unread.put(Arc::new(news));
            }
        }
        unread.put(Arc::default());
        self.arrived.notify_one();
    }

    /// Whether the watcher still reads.
    fn put(&self, news: &News, now: Instant) -> bool {
        let mut unread = lock(&self.unread);
        if unread.names.is_empty() {
            unread.since = now;
        }
        if now.saturating_duration_since(unread.since) > PATIENCE {
            *unread = Unread { names: VecDeque::new(), newest: BTreeMap::new(), since: now, dropped: true };
        } else if self.wants(news) {
            unread.put(Arc::clone(news));
        }
        self.arrived.notify_one();
        !unread.dropped
    }

    fn take(&self, now: Instant) -> Result<Option<News>, Status> {
        let mut unread = lock(&self.unread);
        if unread.dropped {
            let why = format!("nothing was read for {} s: the watch was dropped", PATIENCE.as_secs());
            return Err(refusal::with_reason(Reason::Overloaded, why));
        }
        unread.since = now;
        let Some(name) = unread.names.pop_front() else { return Ok(None) };
        Ok(unread.newest.remove(&name))
    }
}

impl Unread {
    fn put(&mut self, news: News) {
        let name = name(&news);
        if self.newest.insert(name.clone(), news).is_none() {
            self.names.push_back(name);
        }
    }
}

impl Watcher {
    /// `None` when the control plane ends.
    async fn next(&self) -> Result<Option<News>, Status> {
        loop {
            if let Some(news) = self.mailbox.take(Instant::now())? {
                return Ok(Some(news));
            }
            tokio::select! {
                biased;
                () = self.watchers.closed.cancelled() => return Ok(None),
                () = self.mailbox.arrived.notified() => {}
            }
        }
    }
}

fn name(news: &proto::ProxyAttestation) -> Name {
    (news.workload.clone(), news.proxy.clone())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    fn news(proxy: &str, connected: bool) -> proto::ProxyAttestation {
        proto::ProxyAttestation { proxy: proxy.to_owned(), connected, ..Default::default() }
    }

    async fn read(told: &mut Told) -> proto::ProxyAttestation {
        told.next().await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_watcher_hears_of_those_it_wants_for_as_long_as_it_reads() {
        let (watchers, now) = (Arc::new(Watchers::new()), Instant::now());
        let count = watchers.count();
        watchers.tell(news("a", true), now);
        let known = || vec![news("a", true), news("b", true)];
        let mut told = watchers.join(vec!["a".into()], now, known).unwrap();
        assert_eq!(*count.borrow(), 1);
        assert_eq!(read(&mut told).await, news("a", true));
        watchers.tell(news("b", false), now);
        watchers.tell(news("a", false), now);
        assert_eq!(read(&mut told).await, news("", false), "those were all");
        assert_eq!(read(&mut told).await, news("a", false));
        drop(told);
        assert_eq!(*count.borrow(), 0);
    }

    #[tokio::test]
    async fn watchers_are_bounded_and_end_with_the_control_plane() {
        let (watchers, now) = (Arc::new(Watchers::new()), Instant::now());
        let mut all: Vec<_> =
            (0..MAX_WATCHERS).map(|_| watchers.join(Vec::new(), now, Vec::new).unwrap()).collect();
        assert!(watchers.join(Vec::new(), now, Vec::new).is_err());
        watchers.close();
        assert!(all[0].next().await.is_some() && all[0].next().await.is_none());
        all.clear();
        assert_eq!(*watchers.count().borrow(), 0);
    }

    #[tokio::test]
    async fn a_slow_watcher_reads_the_newest_of_each_proxy_and_holds_no_more() {
        let (watchers, now) = (Arc::new(Watchers::new()), Instant::now());
        let newer_than_known = || {
            watchers.tell(news("a", false), now);
            vec![news("a", true)]
        };
        let mut told = watchers.join(Vec::new(), now, newer_than_known).unwrap();
        for round in 0..10_000 {
            watchers.tell(proto::ProxyAttestation { now: round, ..news("b", true) }, now);
        }
        assert_eq!(read(&mut told).await, news("a", false));
        assert_eq!(read(&mut told).await.proxy, "");
        assert_eq!(read(&mut told).await.now, 9_999);
    }

    #[tokio::test]
    async fn a_watcher_that_does_not_read_is_dropped_and_told_why() {
        let (watchers, now) = (Arc::new(Watchers::new()), Instant::now());
        let mut told = watchers.join(Vec::new(), now, Vec::new).unwrap();
        watchers.tell(news("a", true), now + PATIENCE);
        assert_eq!(*watchers.count().borrow(), 1);
        watchers.tell(news("a", true), now + PATIENCE + Duration::from_secs(1));
        assert_eq!(*watchers.count().borrow(), 0, "nobody is asked on its account");
        let ended = told.next().await.unwrap().unwrap_err();
        assert_eq!(refusal::reason(&ended), Some(Reason::Overloaded));
        assert!(told.next().await.is_none());
    }

    #[tokio::test]
    async fn a_question_is_answered_by_those_who_answer_it_in_time() {
        let watchers = Arc::new(Watchers::new());
        let (mut wishes, count) = (watchers.wishes(), watchers.count());
        let asked: BTreeSet<Name> = ["a", "b", "c"].map(|name| (String::new(), name.to_owned())).into();
        let question = tokio::spawn({
            let watchers = Arc::clone(&watchers);
            async move { watchers.ask(asked, (9, 7), Duration::MAX).await }
        });
        let wish = wishes.recv().await.unwrap();
        let What::Tell(question_of) = &wish.what else { panic!("{wish:?}") };
        assert_eq!((question_of.hops, question_of.refusals, wish.proxies.len()), (9, 7, 3));
        assert_eq!(*count.borrow(), 0, "nobody is asked again on its account");
        let told = |proxy: &str, with_refusals| proto::ProxyAttestation {
            attestation: Some(proto::Attestation { with_refusals, ..Default::default() }),
            ..news(proxy, true)
        };
        let now = Instant::now();
        // What somebody else asked for does not count; `b` goes away.
        for told in [told("a", false), told("a", true), news("b", false), told("c", true)] {
            watchers.tell(told, now);
            tokio::task::yield_now().await;
        }
        let answers = question.await.unwrap().unwrap();
        assert_eq!(answers.iter().map(|news| news.proxy.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        assert!(watchers.ask(BTreeSet::new(), (9, 7), Duration::MAX).await.unwrap().is_empty());
        // Whoever says nothing is not waited for.
        let silent = [(String::new(), "d".to_owned())].into();
        assert!(watchers.ask(silent, (9, 7), Duration::ZERO).await.unwrap().is_empty());
    }

    #[test]
    fn many_proxies_tell_less_each() {
        assert_eq!(Watchers::question(0).hops, 256);
        assert_eq!(Watchers::question(200).hops, 100);
        assert_eq!(Watchers::question(10_000).hops, 16);
    }
}
