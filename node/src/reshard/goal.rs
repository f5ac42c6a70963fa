//! Steps of a goal: the next splits and merges, and the end.

use super::calls::Calls;
use super::driver::Stuck;
use crate::metadata::plan::Step;
use crate::metadata::{Command, Outcome, Stream};

/// Begins these splits and merges.
pub(super) async fn begin<C: Calls>(
    calls: &C,
    stream: &Stream,
    steps: &[Step],
) -> Result<(), Stuck> {
    let (name, incarnation) = (stream.name.clone(), stream.incarnation);
    for step in steps {
        let (name, now, while_updating) = (name.clone(), calls.now(), true);
        let command = match *step {
            Step::Split { shard, at } => {
                Command::SplitShard { name, incarnation, shard, at, now, while_updating }
            }
            Step::Merge { shard, adjacent } => {
                Command::MergeShards { name, incarnation, shard, adjacent, now, while_updating }
            }
        };
        propose(calls, "begin", &command).await?;
    }
    Ok(())
}

/// Nothing of the goal is left.
pub(super) async fn reach<C: Calls>(calls: &C, stream: &Stream) -> Result<(), Stuck> {
    let (name, incarnation) = (stream.name.clone(), stream.incarnation);
    propose(calls, "reach the goal", &Command::ReachGoal { name, incarnation }).await?;
    calls.reach("reshard.goal_reached").await;
    tracing::info!(stream = %stream.name, shards = stream.map.open().count(), "goal reached");
    Ok(())
}

/// Proposes a command of `step` that must be carried out. Every other outcome means that the view
/// it was made from is no longer true, or not yet: whoever looks again finds out.
pub(super) async fn propose<C: Calls>(
    calls: &C,
    step: &'static str,
    command: &Command,
) -> Result<(), Stuck> {
    match calls.propose(command).await {
        Ok(Outcome::Done) => Ok(()),
        Ok(outcome) => Err(Stuck::new(step, format!("{outcome:?}"))),
        Err(error) => Err(Stuck::new(step, error)),
    }
}
