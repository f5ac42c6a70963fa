//! A new number of shards: the goal, set and reached.

use tristream_proto::domain::limits::ACCOUNT_SHARDS_MAX;
use tristream_proto::domain::{MapVersion, Timestamp};

use super::{Applied, invalid, noted, recent, serving, with};
use crate::metadata::command::Outcome;
use crate::metadata::plan;
use crate::metadata::view::{Goal, Stream, StreamMode, StreamStatus, View};

/// Changes of the number of shards within 24 hours.
pub(super) const RESCALES_MAX: usize = 10;

pub(super) fn begin(
    view: &View,
    stream: &Stream,
    map_version: MapVersion,
    goal: &Goal,
    now: Timestamp,
    limited: bool,
) -> Applied {
    if stream.mode == StreamMode::OnDemand {
        return Err(Outcome::OnDemand);
    }
    if stream.status != StreamStatus::Active {
        return Err(Outcome::NotActive);
    }
    let open = stream.map.open().count();
    let target = goal.target as usize;
    if target == open {
        return Ok(None);
    }
    if stream.map_version() != map_version {
        return Err(Outcome::StaleMap);
    }
    let rescaled = recent(&stream.rescaled, now);
    if limited {
        check_limits(open, target, rescaled.len())
            .map_err(|reason| Outcome::ChangeLimit { reason })?;
    }
    // Every split may come before the first merge.
    let added = goal.splits.len().max(target.saturating_sub(open));
    let held = view.shards_held();
    if held.saturating_add(added) > ACCOUNT_SHARDS_MAX {
        return Err(Outcome::ShardLimit { open: held, limit: ACCOUNT_SHARDS_MAX });
    }
    plan::check(&stream.map, goal).map_err(invalid)?;
    let mut stream = Stream { goal: Some(goal.clone()), ..stream.clone() };
    stream.rescaled = noted(rescaled, now, RESCALES_MAX);
    stream.status = serving(&stream);
    Ok(Some(with(view.clone(), stream)))
}

/// In AWS's words, except for the last, which nobody recorded.
fn check_limits(open: usize, target: usize, rescaled: usize) -> Result<(), String> {
    let counts = format!("Current open shard count: {open}, Target shard count: {target}");
    if target > open.saturating_mul(2) {
        let double = "UpdateShardCount cannot scale up over double your current open shard count";
        return Err(format!("{double}. {counts}"));
    }
    if target.saturating_mul(2) < open {
        let half = "UpdateShardCount cannot scale down below half your current open shard count";
        return Err(format!("{half}. {counts}"));
    }
    if rescaled >= RESCALES_MAX {
        return Err(format!(
            "UpdateShardCount cannot scale a stream more than {RESCALES_MAX} times in a rolling \
             24-hour period. {counts}"
        ));
    }
    Ok(())
}

pub(super) fn reach(view: &View, stream: &Stream) -> Applied {
    let Some(goal) = &stream.goal else { return Ok(None) };
    if !plan::is_reached(stream, goal) {
        return Err(Outcome::StaleMap);
    }
    let mut stream = Stream { goal: None, ..stream.clone() };
    stream.status = serving(&stream);
    Ok(Some(with(view.clone(), stream)))
}
