//! Letting time pass: between attempts at a busy device, and as the latency of
//! an emulated one.

use std::fmt;
use std::time::Duration;

/// Somebody who lets time pass. Tests count instead of waiting.
pub trait Pause: Send + Sync + fmt::Debug {
    /// Lets `duration` pass.
    fn pause(&self, duration: Duration);
}

/// Blocks the thread: an [`Attester`](crate::Attester) is called on a blocking thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sleep;

impl Pause for Sleep {
    fn pause(&self, duration: Duration) {
        if !duration.is_zero() {
            std::thread::sleep(duration);
        }
    }
}
