//! A quoting device that a test breaks and mends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use countersign_quoting::{Local, Platform, Quoting, Source, SourceError, Subject};

#[derive(Debug)]
pub struct Device {
    inner: Local,
    broken: AtomicBool,
}

impl Device {
    pub fn new(world: &super::World) -> Arc<Self> {
        let platform = world.platform(countersign_attester::emulated::TdxSpec::default());
        Arc::new(Self { inner: Local::new(platform), broken: AtomicBool::new(false) })
    }

    pub fn is_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }
}

impl Source for Device {
    fn platform(&self) -> Platform {
        self.inner.platform()
    }

    fn quote(&self, subject: Arc<Subject>) -> Quoting<'_> {
        if self.broken.load(Ordering::SeqCst) {
            let failed = SourceError::Failed("the device is on fire".to_owned());
            return Box::pin(std::future::ready(Err(failed)));
        }
        self.inner.quote(subject)
    }
}
