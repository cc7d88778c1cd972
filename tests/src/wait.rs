//! Waiting, with a deadline and a name for what is waited for.

use std::time::Duration;

/// How long anything may take. Far above what it takes, so that a slow machine
/// does not decide.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at what cannot be awaited.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What `event` brings, which is `what`.
///
/// # Panics
/// When it does not come.
pub async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, event).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// Waits until `look` finds something. For what the product shows and does not
/// announce: the only place of the suites that looks again and again.
///
/// # Panics
/// With what was seen last, when it does not come.
pub async fn eventually<T, S: std::fmt::Display>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let seen = match look().await {
            Ok(found) => return found,
            Err(seen) => seen,
        };
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within {DEADLINE:?}; last seen: {seen}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
