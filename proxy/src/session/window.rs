//! What the rounds keep of the window of a connection.
//!
//! All streams of a hop send out of one window, and the peer opens it again only
//! as workloads read. A few that do not read hold all of it, and rounds that
//! shared it with them would end the hop. A window for every stream that may be
//! open is no answer: at full speed that is 4 GiB for each hop, and at a size that
//! one may promise it is too little for one bulk stream. So the windows stay as
//! large as one bulk stream needs, and the side that sends keeps a little back:
//!
//! * stream 1 always has [`RESERVE`] of the window in hand;
//! * while it speaks, and until it has back in hand what it spent, no other stream
//!   asks for window. What its frames leave free is thus not taken by another.
//!
//! So frames of any length get through, as fast as the peer reads frames. The
//! other streams wait for a moment in which, if they wait at all, they would have
//! waited for their readers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{OwnedRwLockWriteGuard, RwLock, RwLockReadGuard, watch};

/// What stream 1 has in hand: half of the smallest window that HTTP/2 begins with
/// (RFC 9113, section 6.9.2), so that a peer that grants no more has the other
/// half for its streams.
pub(crate) const RESERVE: usize = 32 << 10;

/// Whose turn it is to ask for window: that of all other streams, or of stream 1.
#[derive(Debug)]
pub(crate) struct Window {
    turn: Arc<RwLock<()>>,
    called: watch::Sender<bool>,
}

impl Default for Window {
    fn default() -> Self {
        Self { turn: Arc::default(), called: watch::Sender::new(false) }
    }
}

impl Window {
    /// The turn of a stream, when stream 1 does not speak. Cancel-safe.
    pub(crate) async fn turn(&self) -> RwLockReadGuard<'_, ()> {
        self.turn.read().await
    }

    /// Tells who has its turn to give it back.
    pub(crate) fn calls(&self) -> Calls {
        Calls(self.called.subscribe())
    }

    /// The turns of stream 1.
    pub(crate) fn speaker(&self) -> Speaker {
        Speaker { turn: Arc::clone(&self.turn), called: self.called.clone(), stage: Stage::Silent }
    }
}

/// What a stream hears that waits for window.
#[derive(Debug)]
pub(crate) struct Calls(watch::Receiver<bool>);

impl Calls {
    /// Resolves when stream 1 wants to speak. Cancel-safe.
    pub(crate) async fn next(&mut self) {
        if self.0.wait_for(|called| *called).await.is_err() {
            // Nobody will call any more.
            std::future::pending::<()>().await;
        }
    }
}

type Guard = OwnedRwLockWriteGuard<()>;

enum Stage {
    Silent,
    Waiting(Pin<Box<dyn Future<Output = Guard> + Send>>),
    Speaking(#[expect(dead_code, reason = "held")] Guard),
}

/// Stream 1, which speaks or is silent.
pub(crate) struct Speaker {
    turn: Arc<RwLock<()>>,
    called: watch::Sender<bool>,
    stage: Stage,
}

impl std::fmt::Debug for Speaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Speaker").field("speaks", &self.speaks()).finish_non_exhaustive()
    }
}

impl Speaker {
    /// Ready when no other stream asks for window, until [`Speaker::done`].
    pub(crate) fn poll_speak(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self.stage, Stage::Silent) {
            self.stage = Stage::Waiting(Box::pin(Arc::clone(&self.turn).write_owned()));
        }
        let Stage::Waiting(turn) = &mut self.stage else { return Poll::Ready(()) };
        match turn.as_mut().poll(cx) {
            Poll::Ready(guard) => {
                self.stage = Stage::Speaking(guard);
                Poll::Ready(())
            }
            Poll::Pending => {
                // Who gives its turn back does not get it again before us: we stand in line.
                self.called.send_replace(true);
                Poll::Pending
            }
        }
    }

    pub(crate) const fn speaks(&self) -> bool {
        matches!(self.stage, Stage::Speaking(_))
    }

    /// It is the turn of the others.
    pub(crate) fn done(&mut self) {
        self.called.send_replace(false);
        self.stage = Stage::Silent;
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.done();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test]
    async fn a_stream_that_waits_for_window_makes_way_and_gets_its_turn_again() {
        let window = Arc::new(Window::default());
        let (mut speaker, mut calls) = (window.speaker(), window.calls());
        let turn = window.turn().await;
        let speaking = tokio::spawn(async move {
            poll_fn(|cx| speaker.poll_speak(cx)).await;
            speaker
        });
        calls.next().await;
        drop(turn);
        let mut speaker = speaking.await.unwrap();
        assert!(speaker.speaks());
        let again = tokio::spawn({
            let window = Arc::clone(&window);
            async move { drop(window.turn().await) }
        });
        tokio::task::yield_now().await;
        assert!(!again.is_finished());
        speaker.done();
        again.await.unwrap();
        // Nobody calls any more.
        assert!(!*window.called.borrow());
    }

    #[tokio::test]
    async fn a_speaker_that_goes_away_leaves_the_turn_to_the_others() {
        let window = Window::default();
        let mut speaker = window.speaker();
        poll_fn(|cx| speaker.poll_speak(cx)).await;
        drop(speaker);
        drop(window.turn().await);
    }
}
