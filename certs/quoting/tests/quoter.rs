//! The queue with its task, in simulated time: nothing here waits for real.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::{Finding, Reason};
use countersign_quoting::{
    Health, Local, Options, QuoteError, Quoted, Quoter, Refused, SourceError, Subject, Urgency,
};
use countersign_ratls::binding::key_report_data;
use support::{Act, Device, Driver, check, context, core, quoter, run};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

const QUOTE: Duration = Duration::from_millis(40);
const SECOND: Duration = Duration::from_secs(1);

fn by(time: Duration) -> Urgency {
    Urgency::Round { by: (Instant::now() + time).into_std() }
}

/// Asks for a quote from a task of its own.
fn ask(quoter: &Quoter, n: u32, peer: u64, urgency: Urgency) -> JoinHandle<Result<Quoted, QuoteError>> {
    let quoter = quoter.clone();
    tokio::spawn(async move { quoter.session(core(n), peer, urgency).await })
}

/// Lets everything happen that can happen now.
async fn settle() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn batches_of_every_size_prove_each_of_their_sessions() {
    for count in [1_u32, 2, 3, 1023, 1024, 1025] {
        let device = Device::new(QUOTE);
        let quoter = quoter(&device);
        let mut asked = JoinSet::new();
        for n in 0..count {
            let quoter = quoter.clone();
            asked.spawn(async move { (n, quoter.session(core(n), u64::from(n % 5), Urgency::NewHop).await) });
        }
        let mut direct = 0;
        while let Some(answered) = asked.join_next().await {
            let (n, quoted) = answered.unwrap();
            let quoted = quoted.unwrap();
            check(&core(n), &quoted);
            direct += usize::from(quoted.proof.is_none());
        }
        let mut sizes = device.sizes();
        // The first to ask may find the device free and go alone.
        let expected: &[usize] = if count > 1024 { &[1024, 1] } else { &[count as usize] };
        assert_eq!(sizes, expected);
        assert_eq!(direct, sizes.iter().filter(|size| **size == 1).count());
        let stats = quoter.stats();
        assert_eq!((stats.batch_quotes, stats.sessions), (sizes.len() as u64, u64::from(count)));
        assert_eq!(stats.batch_sizes.iter().sum::<u64>(), stats.batch_quotes);
        assert_eq!(stats.last_quoting_time, Some(QUOTE));
        sizes.clear();
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_quoted_under_their_own_label_one_by_one() {
    let device = Device::new(QUOTE);
    let quoter = quoter(&device);
    let (first, second) = tokio::join!(async { quoter.key(&context(1)).await.unwrap() }, async {
        quoter.key(&context(2)).await.unwrap()
    });
    assert_eq!(first.value, key_report_data(&context(1), &[]).as_bytes());
    assert_eq!(second.value, key_report_data(&context(2), &[]).as_bytes());
    assert_eq!(quoter.stats().solo_quotes, 2);
    // What is no context is not hashed, and the device does not hear of it.
    let error = quoter.key(b"64 bytes of somebody's choice").await.unwrap_err();
    assert!(matches!(error, QuoteError::Malformed(_)), "{error}");
    assert_eq!(device.made().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_peer_that_asks_a_thousand_times_starves_nobody() {
    let device = Device::new(QUOTE);
    let options = Options { leaves: 16, ..Options::default() };
    let (quoter, task) = Quoter::new(Arc::clone(&device) as _, options);
    run(task);
    let flood: Vec<_> = (0..1000).map(|n| ask(&quoter, n, 1, Urgency::NewHop)).collect();
    settle().await;
    let started = Instant::now();
    let honest = ask(&quoter, 5000, 2, Urgency::NewHop).await.unwrap().unwrap();
    check(&core(5000), &honest);
    // The quote in the making, and the next.
    assert!(started.elapsed() <= 2 * QUOTE, "{:?}", started.elapsed());
    for (n, asked) in flood.into_iter().enumerate() {
        check(&core(u32::try_from(n).unwrap()), &asked.await.unwrap().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_turns_new_hops_away_and_says_so() {
    let device = Device::new(QUOTE);
    let options = Options { sessions: 8, sessions_per_peer: 4, ..Options::default() };
    let (quoter, task) = Quoter::new(Arc::clone(&device) as _, options);
    run(task);
    let first = ask(&quoter, 0, 0, Urgency::NewHop);
    settle().await;
    let waiting: Vec<_> = (1..7).map(|n| ask(&quoter, n, u64::from(n), Urgency::NewHop)).collect();
    settle().await;
    let error = quoter.session(core(8), 8, Urgency::NewHop).await.unwrap_err();
    assert_eq!(error, QuoteError::Refused(Refused::Full));
    assert_eq!(Finding::from(error).reason, Reason::Overloaded);
    // The rounds of live hops still have room.
    let round = ask(&quoter, 9, 9, by(15 * SECOND));
    settle().await;
    let stats = quoter.stats();
    assert_eq!((stats.waiting, stats.refused), (7, 1));
    sleep(QUOTE / 2).await;
    assert_eq!(quoter.stats().oldest_wait, QUOTE / 2);
    for asked in waiting.into_iter().chain([first, round]) {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(device.sizes(), [1, 7]);
    assert_eq!(quoter.stats().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_any_more_leaves_the_queue() {
    let device = Device::new(QUOTE);
    let quoter = quoter(&device);
    let first = ask(&quoter, 0, 1, Urgency::NewHop);
    settle().await;
    let gone = ask(&quoter, 1, 1, Urgency::NewHop);
    let stays = ask(&quoter, 2, 1, Urgency::NewHop);
    settle().await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!((quoter.stats().waiting, quoter.stats().withdrawn), (1, 1));
    check(&core(2), &stays.await.unwrap().unwrap());
    first.await.unwrap().unwrap();
    assert_eq!(device.sizes(), [1, 1]);
    // Who leaves during the quote disturbs neither it nor the others.
    let leaves = ask(&quoter, 3, 1, Urgency::NewHop);
    let remains = ask(&quoter, 4, 1, Urgency::NewHop);
    settle().await;
    leaves.abort();
    check(&core(4), &remains.await.unwrap().unwrap());
    assert_eq!(quoter.stats().withdrawn, 1);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_hangs_fails_those_who_wait_and_is_used_when_it_answers() {
    let device = Device::new(QUOTE);
    device.does(&[Act::Hang]);
    let quoter = quoter(&device);
    let mut health = quoter.health();
    let inside = ask(&quoter, 0, 1, Urgency::NewHop);
    settle().await;
    let (queued, key) = (ask(&quoter, 1, 1, by(60 * SECOND)), context(1));
    let started = Instant::now();
    let keyed = quoter.key(&key).await.unwrap_err();
    assert_eq!(started.elapsed(), Options::default().patience);
    let expected = QuoteError::Hung(Options::default().patience);
    assert_eq!(keyed, expected);
    assert_eq!(inside.await.unwrap().unwrap_err(), expected);
    assert_eq!(queued.await.unwrap().unwrap_err(), expected);
    health.changed().await.unwrap();
    assert_eq!(*health.borrow_and_update(), Health::Hung);
    // While it hangs nobody waits, and it is not asked a second time.
    let error = quoter.session(core(2), 1, Urgency::NewHop).await.unwrap_err();
    assert_eq!(error, QuoteError::Refused(Refused::Hung));
    assert_eq!(Finding::from(error).reason, Reason::NotReady);
    assert_eq!(device.made().len(), 1);
    device.wake();
    health.changed().await.unwrap();
    assert!(matches!(*health.borrow_and_update(), Health::Failing(_)));
    check(&core(3), &quoter.session(core(3), 1, Urgency::NewHop).await.unwrap());
    assert_eq!(quoter.stats().health, Health::Good);
    assert_eq!((quoter.stats().hangs, quoter.stats().failures), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_fails_is_asked_again_for_the_next() {
    let device = Device::new(QUOTE);
    device.does(&[Act::Fail, Act::Fail, Act::Quote(QUOTE), Act::Fail]);
    let quoter = quoter(&device);
    for (n, works) in (0..).zip([false, false, true, false, true]) {
        let outcome = quoter.session(core(n), 1, Urgency::NewHop).await;
        assert_eq!(quoter.stats().health.is_good(), works);
        match outcome {
            Ok(quoted) if works => check(&core(n), &quoted),
            Err(QuoteError::Source(SourceError::Failed(why))) if !works => assert_eq!(why, "broken"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(quoter.stats().failures, 3);
}

#[tokio::test(start_paused = true)]
async fn rounds_come_in_time_for_their_deadlines_or_hear_at_once_that_they_do_not() {
    let device = Device::new(SECOND);
    let quoter = quoter(&device);
    // The first quote says how long one takes.
    quoter.session(core(0), 1, Urgency::NewHop).await.unwrap();
    let started = Instant::now();
    let (patient, hasty) = (ask(&quoter, 1, 1, by(60 * SECOND)), ask(&quoter, 2, 2, by(2500 * QUOTE / 40)));
    check(&core(2), &hasty.await.unwrap().unwrap());
    assert!(started.elapsed() <= Duration::from_millis(2500), "{:?}", started.elapsed());
    check(&core(1), &patient.await.unwrap().unwrap());
    assert_eq!(device.sizes(), [1, 2]);
    // A deadline that passes while the device is busy.
    let busy = ask(&quoter, 3, 1, Urgency::NewHop);
    settle().await;
    let started = Instant::now();
    let error = quoter.session(core(4), 1, by(SECOND / 2)).await.unwrap_err();
    assert_eq!((error.clone(), started.elapsed()), (QuoteError::Late, SECOND / 2));
    assert_eq!(Finding::from(error).reason, Reason::Timeout);
    busy.await.unwrap().unwrap();
    assert_eq!((device.sizes().len(), quoter.stats().late), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn peers_that_verify_no_batches_do_not_keep_us_from_our_certificate() {
    let device = Device::new(QUOTE);
    let quoter = quoter(&device);
    let alone: Vec<_> = (0..64)
        .map(|n| {
            let quoter = quoter.clone();
            let by = by(60 * SECOND);
            tokio::spawn(async move { quoter.session_alone(core(n), u64::from(n % 8), by).await })
        })
        .collect();
    settle().await;
    let started = Instant::now();
    quoter.key(&context(1)).await.unwrap();
    assert!(started.elapsed() <= 2 * QUOTE, "{:?}", started.elapsed());
    for (n, asked) in (0..).zip(alone) {
        let quoted = asked.await.unwrap().unwrap();
        assert!(quoted.proof.is_none());
        check(&core(n), &quoted);
    }
    assert_eq!(quoter.stats().refused, 0);
}

#[tokio::test(start_paused = true)]
async fn when_the_task_ends_everybody_hears_it() {
    let device = Device::new(QUOTE);
    let (quoter, task) = Quoter::new(Arc::clone(&device) as _, Options::default());
    let running = tokio::spawn(task.run());
    let inside = ask(&quoter, 0, 1, Urgency::NewHop);
    settle().await;
    let queued = ask(&quoter, 1, 1, Urgency::NewHop);
    settle().await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    for error in [inside.await, queued.await].map(|asked| asked.unwrap().unwrap_err()) {
        assert_eq!(error, QuoteError::Ended);
    }
    assert_eq!(quoter.key(&context(1)).await.unwrap_err(), QuoteError::Ended);
}

#[tokio::test]
async fn the_local_device_gets_nothing_but_hashes_under_the_label_of_their_purpose() {
    let driver = Arc::new(Driver::default());
    let (quoter, task) = Quoter::new(Arc::new(Local::new(Arc::clone(&driver) as _)), Options::default());
    run(task);
    quoter.key(&context(1)).await.unwrap();
    quoter.session(core(1), 1, Urgency::NewHop).await.unwrap();
    let (two, three) = tokio::join!(
        quoter.session(core(2), 1, Urgency::NewHop),
        quoter.session(core(3), 1, Urgency::NewHop)
    );
    check(&core(2), &two.unwrap());
    check(&core(3), &three.unwrap());
    let batch = Subject::sessions(vec![core(2), core(3)]).unwrap();
    let expected = [
        *key_report_data(&context(1), &[]).as_bytes(),
        *core(1).binder(&[]).as_bytes(),
        *batch.report_data().as_bytes(),
    ];
    assert_eq!(*driver.given.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_driver_that_panics_is_an_error_and_the_queue_goes_on() {
    let driver = Arc::new(Driver { panics: true, ..Driver::default() });
    let (quoter, task) = Quoter::new(Arc::new(Local::new(driver as _)), Options::default());
    run(task);
    for n in 0..2 {
        let asked = timeout(60 * SECOND, quoter.key(&context(n))).await.unwrap();
        let error = asked.unwrap_err().to_string();
        assert!(error.contains("recorder: the driver panicked"), "{error}");
    }
}
