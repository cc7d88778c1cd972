//! Who drives a connection with several streams goes after them: what they have
//! to say leaves in one TLS record and one system call, and not in one each.
//!
//! A stream that writes wakes the driver of its connection, and the runtime runs
//! next who was woken last, before other streams that are ready. So the driver
//! steps back once, until the runtime has nothing else to run (or has run enough).

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use tokio::task::yield_now;

/// Runs `driver`. Whenever it is woken while there are `several`, all others that
/// are ready go first.
pub(crate) async fn after_others<F: Future>(driver: F, several: impl Fn() -> bool) -> F::Output {
    let mut driver = pin!(driver);
    let mut stood_back = false;
    poll_fn(|cx| {
        if !stood_back && several() {
            stood_back = true;
            // Wakes us again.
            if pin!(yield_now()).poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        stood_back = false;
        driver.as_mut().poll(cx)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::sync::Notify;

    #[derive(Default)]
    struct Scene {
        turns: Mutex<String>,
        ready: Notify,
        said: Notify,
    }

    impl Scene {
        fn turn(&self, whose: char) {
            self.turns.lock().unwrap().push(whose);
        }

        fn is_over(&self) -> bool {
            self.turns.lock().unwrap().matches('s').count() == 3
        }
    }

    /// In which order the driver and three streams have their turns that become ready
    /// together, and of which each wakes the driver.
    async fn turns(several: bool) -> String {
        let scene = Arc::new(Scene::default());
        let streams: Vec<_> = (0..3)
            .map(|_| {
                let scene = Arc::clone(&scene);
                tokio::spawn(async move {
                    scene.ready.notified().await;
                    scene.turn('s');
                    scene.said.notify_one();
                })
            })
            .collect();
        let driven = Arc::clone(&scene);
        let driver = async move {
            while !driven.is_over() {
                driven.said.notified().await;
                driven.turn('d');
            }
        };
        let driver = tokio::spawn(after_others(driver, move || several));
        // The driver goes last, then all of them wait.
        yield_now().await;
        yield_now().await;
        scene.ready.notify_waiters();
        driver.await.unwrap();
        for stream in streams {
            stream.await.unwrap();
        }
        scene.turns.lock().unwrap().clone()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn the_driver_of_several_streams_goes_after_all_that_are_ready() {
        assert_eq!(tokio::spawn(turns(true)).await.unwrap(), "sssd");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn the_driver_of_one_stream_goes_at_once() {
        assert_eq!(tokio::spawn(turns(false)).await.unwrap(), "sdsdsd");
    }
}
