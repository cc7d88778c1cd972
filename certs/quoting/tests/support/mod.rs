//! Devices that do as they are told, and the check that a quote proves a session.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_attester::{Attester, Error, Produced};
use countersign_evidence::claims::Tee;
use countersign_evidence::evidence::media_type;
use countersign_quoting::{Platform, Quoted, Quoter, Quoting, QuotingTask, Source, SourceError, Subject};
use countersign_ratls::binding::{KeyContext, SessionCore, batch_report_data};
use countersign_ratls::merkle::root_from_proof;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// What a device does with one call.
#[derive(Clone, Debug)]
pub enum Act {
    /// Quotes after this time.
    Quote(Duration),
    /// Fails.
    Fail,
    /// Does not answer before [`Device::wake`].
    Hang,
}

/// A quote that was made.
#[derive(Clone, Debug)]
pub struct Made {
    pub at: Instant,
    pub subject: Arc<Subject>,
}

/// A device in simulated time, whose quote is its report data.
#[derive(Debug)]
pub struct Device {
    usual: Act,
    next: Mutex<VecDeque<Act>>,
    made: Mutex<Vec<Made>>,
    running: AtomicUsize,
    woken: Notify,
}

impl Device {
    pub fn new(quoting_time: Duration) -> Arc<Self> {
        Arc::new(Self {
            usual: Act::Quote(quoting_time),
            next: Mutex::default(),
            made: Mutex::default(),
            running: AtomicUsize::new(0),
            woken: Notify::new(),
        })
    }

    /// What it does with the next calls, before the usual.
    pub fn does(&self, acts: &[Act]) {
        self.next.lock().unwrap().extend(acts.iter().cloned());
    }

    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Every call, by the time at which it came.
    pub fn made(&self) -> Vec<Made> {
        self.made.lock().unwrap().clone()
    }

    /// How many sessions or keys each quote was for.
    pub fn sizes(&self) -> Vec<usize> {
        self.made().iter().map(|made| made.subject.len()).collect()
    }
}

impl Source for Device {
    fn platform(&self) -> Platform {
        Platform { tee: Tee::Tdx, driver: "scripted", emulated: true, event_log: false }
    }

    fn quote(&self, subject: Arc<Subject>) -> Quoting<'_> {
        Box::pin(async move {
            assert_eq!(self.running.fetch_add(1, Ordering::SeqCst), 0, "two calls at once");
            self.made.lock().unwrap().push(Made { at: Instant::now(), subject: Arc::clone(&subject) });
            let act = self.next.lock().unwrap().pop_front().unwrap_or_else(|| self.usual.clone());
            let failed = Err(SourceError::Failed("broken".to_owned()));
            let outcome = match act {
                Act::Quote(time) => {
                    sleep(time).await;
                    Ok(produced(subject.report_data().as_bytes()))
                }
                Act::Fail => failed,
                Act::Hang => {
                    self.woken.notified().await;
                    failed
                }
            };
            self.running.fetch_sub(1, Ordering::SeqCst);
            outcome
        })
    }
}

fn produced(report_data: &[u8; 64]) -> Produced {
    Produced::new(media_type::SGX_QUOTE, report_data.to_vec())
}

/// A driver that blocks, as those of devices do, and remembers what it was given.
#[derive(Debug, Default)]
pub struct Driver {
    pub given: Mutex<Vec<[u8; 64]>>,
    pub panics: bool,
    pub takes: Duration,
}

impl Attester for Driver {
    fn tee(&self) -> Tee {
        Tee::Sgx
    }
    fn driver(&self) -> &'static str {
        "recorder"
    }
    fn evidence(&self, report_data: &[u8; 64]) -> Result<Produced, Error> {
        assert!(!self.panics, "the driver panics, as it was told");
        std::thread::sleep(self.takes);
        self.given.lock().unwrap().push(*report_data);
        Ok(produced(report_data))
    }
}

/// Runs the task for as long as the test runs.
pub fn run(task: QuotingTask) {
    tokio::spawn(task.run());
}

/// A queue in front of a device.
pub fn quoter(device: &Arc<Device>) -> Quoter {
    let (quoter, task) = Quoter::new(Arc::clone(device) as _, countersign_quoting::Options::default());
    run(task);
    quoter
}

/// The core of a session of its own.
pub fn core(n: u32) -> SessionCore {
    let mut bytes = [0x5e; 64];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    SessionCore::from_bytes(bytes)
}

/// A key context of its own.
pub fn context(n: u8) -> Vec<u8> {
    KeyContext { spki_sha256: [n; 32], challenge: (&[7; 32]).into(), id: None }.encode()
}

/// Checks as a peer does that `quoted` proves the session of `core`.
pub fn check(core: &SessionCore, quoted: &Quoted) {
    let binder = core.binder(&[]);
    assert_eq!(quoted.binder, binder);
    let expected = match &quoted.proof {
        None => binder,
        Some(proof) => {
            let root = root_from_proof(proof.index, proof.size, binder.as_bytes(), &proof.path).unwrap();
            batch_report_data(proof.size, &root)
        }
    };
    expected.check(quoted.evidence.value.as_slice().try_into().unwrap()).unwrap();
}
