//! Changes of the mode.

use std::time::Duration;

use tristream_proto::domain::{HashKey, Timestamp};

use super::*;
use crate::metadata::StreamMode::{OnDemand, Provisioned};
use crate::metadata::trial::{START, Trial, create, finish_early, set_mode, split};

fn hour(hours: u64) -> Timestamp {
    START.after(Duration::from_secs(3600 * hours))
}

#[test]
fn the_shards_stay_as_they_are() {
    let mut trial = Trial::with(3, Provisioned);
    let before = trial.a();
    trial.done(&set_mode(&before, OnDemand, START, true));
    let changed = Stream { mode: OnDemand, mode_changed: vec![START], ..before.clone() };
    assert_eq!(trial.a(), changed);
}

#[test]
fn aws_allows_two_changes_in_any_24_hours() {
    let mut trial = Trial::with(1, Provisioned);
    trial.done(&set_mode(&trial.a(), OnDemand, hour(0), true));
    trial.nothing(&set_mode(&trial.a(), OnDemand, hour(1), true));
    trial.done(&set_mode(&trial.a(), Provisioned, hour(1), true));
    for refused in [hour(23), hour(0)] {
        let outcome = trial.refused(&set_mode(&trial.a(), OnDemand, refused, true));
        let Outcome::ChangeLimit { reason } = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains("more than 2 times"), "{reason}");
    }
    trial.nothing(&set_mode(&trial.a(), Provisioned, hour(23), true));
    trial.done(&set_mode(&trial.a(), OnDemand, hour(24), true));
    trial.done(&set_mode(&trial.a(), Provisioned, hour(24), false));
    assert_eq!(trial.a().mode_changed, [hour(24), hour(24)]);
}

#[test]
fn a_stream_must_be_active_unless_nothing_changes() {
    let mut trial = Trial::default();
    trial.done(&create("a", 1, Provisioned));
    for mode in [Provisioned, OnDemand] {
        assert_eq!(trial.refused(&set_mode(&trial.a(), mode, START, true)), Outcome::NotActive);
    }
    let mut trial = Trial::with(1, Provisioned);
    trial.done(&split(&trial.a(), 0, HashKey(9), false));
    assert_eq!(trial.refused(&set_mode(&trial.a(), OnDemand, START, true)), Outcome::NotActive);
    trial.nothing(&set_mode(&trial.a(), Provisioned, START, true));
    trial.done(&finish_early(&trial.a(), 1));
    trial.done(&set_mode(&trial.a(), OnDemand, START, true));
}
