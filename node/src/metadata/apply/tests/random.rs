//! Random walks: `Trial` checks after every command what holds for every view.

use proptest::prelude::*;

use super::*;
use crate::metadata::trial::{Trial, roll};

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_walk_keeps_the_invariants(
        dice in proptest::collection::vec(any::<(u8, u32, u32)>(), 1..250),
    ) {
        let mut trial = Trial::default();
        for dice in dice {
            let command = roll(&trial.view, dice);
            let (outcome, changed) = trial.apply(&command);
            let again = trial.apply(&command);
            if outcome != Outcome::Done {
                prop_assert_eq!(again, (outcome, false), "refused again: {:?}", command);
            } else if !changed {
                prop_assert_eq!(again, (outcome, false), "nothing again: {:?}", command);
            } else {
                prop_assert!(!again.1, "carried out twice: {:?}", command);
            }
        }
    }
}
