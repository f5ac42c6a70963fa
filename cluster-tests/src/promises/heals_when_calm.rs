//! Once faults are over, all that a cluster in health does comes about by itself and in time.

use super::Verdict;
use crate::history::History;

/// Judges a history with a calm in it.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("heals_when_calm");
    for hope in history.hopes() {
        let in_time = hope.took.as_ref().is_ok_and(|took| *took <= hope.within);
        verdict.check(in_time, || {
            let (what, ms) = (hope.what, hope.within.as_millis());
            match &hope.took {
                Ok(took) => {
                    format!("{what}: {} ms after it could, not within {ms}", took.as_millis())
                }
                Err(waits) => format!("{what}: not within {ms} ms: {waits}"),
            }
        });
    }
    verdict
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::history::Hope;

    fn broken(took: Result<u64, &str>) -> u64 {
        let mut history = History::new();
        let took = took.map(Duration::from_millis).map_err(str::to_owned);
        history.note_hope(Hope { what: "puts flow", within: Duration::from_millis(30), took });
        check(&history).broken
    }

    #[test]
    fn what_comes_late_or_never_is_a_breach() {
        assert_eq!(broken(Ok(30)), 0);
        assert_eq!(broken(Ok(31)), 1);
        assert_eq!(broken(Err("no leader")), 1);
    }

    #[test]
    fn without_a_calm_nothing_is_shown() {
        assert!(!check(&History::new()).holds());
    }
}
