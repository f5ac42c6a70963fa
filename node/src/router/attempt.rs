//! Attempts at a leader until one has an answer, the deadline passes, or an outcome is unknown.
//!
//! Invariant: another attempt is made only after a `Miss::Elsewhere`, which certainly had no effect,
//! or a `Miss::Doubtful`, which whoever attempts says is harmless to repeat. Must not know what is
//! attempted.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};
use tristream_proto::domain::NodeId;

use super::Error;
use super::route::{Route, Search};
use crate::entropy::Entropy;
use crate::raft::ProposeError;
use crate::shard::{AppendError, ReadError};

/// Pauses between rounds, doubling: an election takes a few hundred milliseconds.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(160);

/// Why an attempt has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// It certainly had no effect and never will: another node, or a later time, may do.
    Elsewhere {
        /// Who leads, if the answer said.
        leader: Option<NodeId>,
        /// What went wrong.
        why: String,
    },
    /// It may have had an effect, but the same again would be recognised and do nothing: as after
    /// `Elsewhere`, another attempt may be made. Whoever attempts remembers the doubt.
    Doubtful(String),
    /// The answer to give.
    Final(Error),
}

impl Miss {
    pub(super) fn elsewhere(why: impl Into<String>) -> Miss {
        Miss::Elsewhere { leader: None, why: why.into() }
    }
}

/// Makes attempts along `search` until `until`. `leader` tells who leads as far as this node knows;
/// an attempt gets what is left of the time.
pub(super) async fn at_leader<'a, T>(
    mut search: Search,
    leader: impl Fn() -> Option<NodeId>,
    until: Instant,
    entropy: &dyn Entropy,
    attempt: impl Fn(Route, Duration) -> BoxFuture<'a, Result<T, Miss>>,
) -> Result<T, Error> {
    let mut reason = "no replica could be asked".to_owned();
    let mut pause = PAUSE_MIN;
    search.begin(leader());
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Unavailable(reason));
        }
        let route = search.next();
        if route == Route::NoLeader {
            // Half of the pause is left to chance, so that requests that failed together come
            // apart.
            let jitter = entropy.u64() % (pause.as_millis() as u64 / 2).max(1);
            sleep((pause / 2 + Duration::from_millis(jitter)).min(left)).await;
            pause = (pause * 2).min(PAUSE_MAX);
            search.begin(leader());
            continue;
        }
        match attempt(route, left).await {
            Ok(result) => return Ok(result),
            Err(Miss::Final(error)) => return Err(error),
            Err(Miss::Elsewhere { leader, why }) => {
                search.learn(leader);
                reason = why;
            }
            Err(Miss::Doubtful(why)) => {
                // It was asked in this round, so it is not asked again before a pause.
                search.learn(None);
                reason = why;
            }
        }
    }
}

impl From<AppendError> for Miss {
    fn from(error: AppendError) -> Self {
        let why = error.to_string();
        match error {
            AppendError::NotLeader { leader } => Miss::Elsewhere { leader, why },
            AppendError::Unavailable(_) => Miss::Elsewhere { leader: None, why },
            AppendError::Throttled { .. } => Miss::Final(Error::Throttled(why)),
            AppendError::StorageFull(why) => Miss::Final(Error::StorageFull(why)),
            AppendError::Sealed => Miss::elsewhere(why),
            AppendError::Invalid(why) => Miss::Final(Error::Invalid(why)),
            AppendError::Unknown(why) => Miss::Final(Error::Unknown(why)),
        }
    }
}

impl From<ProposeError> for Miss {
    fn from(error: ProposeError) -> Self {
        let why = error.to_string();
        match error {
            ProposeError::NotLeader { leader } => Miss::Elsewhere { leader, why },
            ProposeError::Unavailable(_) => Miss::Elsewhere { leader: None, why },
            ProposeError::Unknown(why) => Miss::Final(Error::Unknown(why)),
        }
    }
}

/// Of a barrier, which changes nothing: it may be asked for again, whatever went wrong.
impl From<ReadError> for Miss {
    fn from(error: ReadError) -> Self {
        let why = error.to_string();
        match error {
            ReadError::NotLeader { leader } => Miss::Elsewhere { leader, why },
            ReadError::Unavailable(_) | ReadError::Damaged(_) => Miss::elsewhere(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use parking_lot::Mutex;

    use super::*;
    use crate::entropy::OsEntropy;

    /// Plays answers in turn and tells who was asked.
    async fn play(
        known: Option<NodeId>,
        answers: Vec<Result<u32, Miss>>,
        time: Duration,
    ) -> (Result<u32, Error>, Vec<Route>) {
        let answers = Mutex::new(VecDeque::from(answers));
        let asked = Mutex::new(vec![]);
        let attempt = |route: Route, _: Duration| -> BoxFuture<'_, Result<u32, Miss>> {
            asked.lock().push(route);
            let answer = answers.lock().pop_front();
            Box::pin(async move { answer.unwrap_or(Err(Miss::elsewhere("still nobody"))) })
        };
        let search = Search::new(NodeId(1), &[NodeId(1), NodeId(2), NodeId(3)]);
        let until = Instant::now() + time;
        let result = at_leader(search, || known, until, &OsEntropy, attempt).await;
        (result, asked.into_inner())
    }

    const LONG: Duration = Duration::from_secs(60);

    fn not_leader(leader: u64) -> Result<u32, Miss> {
        Err(AppendError::NotLeader { leader: Some(NodeId(leader)) }.into())
    }

    #[tokio::test]
    async fn misses_without_effect_are_followed_to_the_leader() {
        let unavailable = Err(AppendError::Unavailable("starting".to_owned()).into());
        let answers = vec![not_leader(3), unavailable, Ok(7)];
        let (result, asked) = play(Some(NodeId(2)), answers, LONG).await;
        assert!(matches!(result, Ok(7)), "{result:?}");
        assert_eq!(asked, [Route::There(NodeId(2)), Route::There(NodeId(3)), Route::Here]);
    }

    #[tokio::test]
    async fn another_round_begins_when_nobody_leads() {
        let none = || Err(AppendError::NotLeader { leader: None }.into());
        let (result, asked) = play(None, vec![none(), none(), none(), none(), Ok(1)], LONG).await;
        assert!(matches!(result, Ok(1)), "{result:?}");
        assert_eq!(asked.len(), 5);
    }

    #[tokio::test]
    async fn an_unknown_outcome_is_never_tried_again() {
        for unknown in [
            Miss::from(AppendError::Unknown("deposed".to_owned())),
            Miss::from(ProposeError::Unknown("deposed".to_owned())),
        ] {
            let (result, asked) = play(None, vec![not_leader(2), Err(unknown), Ok(1)], LONG).await;
            assert!(matches!(result, Err(Error::Unknown(_))), "{result:?}");
            assert_eq!(asked.len(), 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_doubtful_attempt_is_made_again_but_not_at_the_same_node_before_a_pause() {
        let doubtful = || Err(Miss::Doubtful("it went silent".to_owned()));
        let begun = Instant::now();
        let answers = vec![doubtful(), not_leader(2), not_leader(2), Ok(1)];
        let (result, asked) = play(Some(NodeId(2)), answers, LONG).await;
        assert!(matches!(result, Ok(1)), "{result:?}");
        let two = Route::There(NodeId(2));
        assert_eq!(asked, [two, Route::Here, Route::There(NodeId(3)), two]);
        assert!(begun.elapsed() >= PAUSE_MIN / 2, "the second round waits");
    }

    #[tokio::test]
    async fn throttling_is_the_callers_to_handle() {
        let throttled = Err(AppendError::Throttled { waiting_bytes: 5 }.into());
        let (result, asked) = play(None, vec![throttled, Ok(1)], LONG).await;
        assert!(matches!(result, Err(Error::Throttled(_))), "{result:?}");
        assert_eq!(asked.len(), 1);
    }

    #[tokio::test]
    async fn the_deadline_ends_it_with_the_last_reason_and_no_effect() {
        let (result, asked) = play(None, vec![], Duration::from_millis(300)).await;
        let Err(Error::Unavailable(why)) = &result else { panic!("{result:?}") };
        assert_eq!(why, "still nobody");
        assert!(asked.len() >= 3, "{asked:?}");
    }
}
