//! One question asked once for many who want to know at the same time.
//!
//! Invariant: an answer was asked for after the caller came: a round that was already under way is
//! never joined, only the next one. Failures are not shared: who failed may have had less time.
//! Must not know what is asked.

use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// Rounds of one question, one at a time.
pub struct Rounds<T> {
    turn: Semaphore,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// Rounds begun so far.
    begun: u64,
    /// The last round that succeeded, and its answer.
    last: Option<(u64, T)>,
}

impl<T: Clone> Default for Rounds<T> {
    fn default() -> Self {
        Rounds { turn: Semaphore::new(1), state: Mutex::new(State { begun: 0, last: None }) }
    }
}

impl<T: Clone> Rounds<T> {
    /// The answer of a round that began after this call; `ask` runs it when nobody else does. A
    /// caller that is dropped while it asks leaves the question to the next.
    pub async fn join<E>(&self, ask: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let known = self.state.lock().begun;
        let Ok(_turn) = self.turn.acquire().await else {
            unreachable!("the semaphore is never closed");
        };
        let round = {
            let mut state = self.state.lock();
            if let Some((round, answer)) = &state.last
                && *round > known
            {
                return Ok(answer.clone());
            }
            state.begun += 1;
            state.begun
        };
        let answer = ask.await?;
        self.state.lock().last = Some((round, answer.clone()));
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::FutureExt;
    use futures::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn who_comes_during_a_round_shares_the_next_one() {
        let rounds = Rounds::default();
        let (asked, go_on) = (AtomicU64::new(0), Notify::new());
        let ask = || async {
            let round = asked.fetch_add(1, Ordering::SeqCst);
            go_on.notified().await;
            Ok::<_, ()>(round)
        };
        let mut first = Box::pin(rounds.join(ask()));
        assert!((&mut first).now_or_never().is_none());
        let mut later = Box::pin(join_all((0..10).map(|_| rounds.join(ask()))));
        assert!((&mut later).now_or_never().is_none());
        assert_eq!(asked.load(Ordering::SeqCst), 1, "the second round waits for the first");
        go_on.notify_one();
        assert_eq!(first.await, Ok(0));
        assert!((&mut later).now_or_never().is_none());
        go_on.notify_one();
        assert_eq!(later.await, [Ok(1); 10]);
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_blocks_nobody() {
        let rounds = Arc::new(Rounds::default());
        let mut gone = Box::pin(rounds.join(std::future::pending::<Result<u64, ()>>()));
        assert!((&mut gone).now_or_never().is_none());
        drop(gone);
        assert_eq!(rounds.join(async { Ok::<_, ()>(7) }).await, Ok(7));
    }

    #[tokio::test]
    async fn a_failure_is_the_askers_own() {
        let rounds = Rounds::default();
        let go_on = Notify::new();
        let mut slow = Box::pin(rounds.join(async {
            go_on.notified().await;
            Ok::<_, &str>(0)
        }));
        assert!((&mut slow).now_or_never().is_none());
        let mut failing = Box::pin(rounds.join(async { Err("no time left") }));
        let mut patient = Box::pin(rounds.join(async { Ok::<_, &str>(2) }));
        assert!((&mut failing).now_or_never().is_none());
        assert!((&mut patient).now_or_never().is_none());
        go_on.notify_one();
        assert_eq!(slow.await, Ok(0));
        assert_eq!(failing.await, Err("no time left"));
        assert_eq!(patient.await, Ok(2));
    }
}
