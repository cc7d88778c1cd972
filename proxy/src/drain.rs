//! The end of a proxy in two steps: graceful, then at once.

use tokio_util::sync::CancellationToken;

/// Where the proxy is on its way to the end. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    graceful: CancellationToken,
    force: CancellationToken,
}

impl Drain {
    /// No new connections and streams; those that are open may finish.
    pub fn begin(&self) {
        self.graceful.cancel();
    }

    /// Everything ends now.
    pub fn force(&self) {
        self.graceful.cancel();
        self.force.cancel();
    }

    /// Whether [`Drain::begin`] was called.
    #[must_use]
    pub fn begun(&self) -> bool {
        self.graceful.is_cancelled()
    }

    /// Resolves when draining begins.
    pub async fn beginning(&self) {
        self.graceful.cancelled().await;
    }

    /// Resolves when everything must end.
    pub async fn forced(&self) {
        self.force.cancelled().await;
    }
}
