//! Which of many faults a failure takes: those that can be left out while the same promise breaks are left out.
//!
//! Pure. Invariant: what is kept was seen to break it, unless nothing was tried. Must not know how a run goes.

use std::collections::BTreeSet;

/// What a violation says is broken, in one word: a promise's name, or what else a run can end with.
fn word(violation: &str) -> &str {
    const OTHERS: [(&str, &str); 7] = [
        ("panic", "panic"),
        ("no cluster", "no_cluster"),
        ("the simulation stopped", "simulation_stopped"),
        ("the process ended", "process_ended"),
        ("stopped itself", "stopped_itself"),
        ("did not start", "did_not_start"),
        ("did not stop", "did_not_stop"),
    ];
    let first_line = violation.lines().next().unwrap_or_default();
    let other = OTHERS.iter().find(|(words, _)| first_line.contains(words));
    let promise = || violation.split_whitespace().next().unwrap_or_default();
    other.map_or_else(promise, |(_, word)| word)
}

/// Everything that these violations say is broken, in one word each.
pub fn broken(violations: &[String]) -> BTreeSet<String> {
    violations.iter().map(|violation| word(violation).to_owned()).collect()
}

/// Leaves out of `0..len` what can be left out while `still_breaks` says yes, in at most `tries` questions: all,
/// halves, quarters, and so on to single ones. The error is the question's.
///
/// # Errors
/// Those of `still_breaks`.
pub fn shrink<E>(
    len: usize,
    mut tries: usize,
    mut still_breaks: impl FnMut(&[usize]) -> Result<bool, E>,
) -> Result<Vec<usize>, E> {
    let mut kept: Vec<usize> = (0..len).collect();
    let mut piece = len;
    while piece > 0 && !kept.is_empty() {
        let mut at = 0;
        let mut shrunk = false;
        while at < kept.len() {
            if tries == 0 {
                return Ok(kept);
            }
            tries -= 1;
            let end = (at + piece).min(kept.len());
            let rest = [&kept[..at], &kept[end..]].concat();
            match still_breaks(&rest)? {
                true => (kept, shrunk) = (rest, true),
                false => at = end,
            }
        }
        // Single ones again and again, until none can go.
        if piece > 1 || !shrunk {
            piece = piece.min(kept.len() + 1) / 2;
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of `len` when exactly these are needed, and how many questions it took.
    fn left(len: usize, tries: usize, needed: &[usize]) -> (Vec<usize>, usize) {
        let mut asked = 0;
        let kept = shrink(len, tries, |rest| {
            asked += 1;
            Ok::<_, ()>(needed.iter().all(|one| rest.contains(one)))
        });
        (kept.unwrap(), asked)
    }

    #[test]
    fn what_is_not_needed_goes() {
        for needed in [&[][..], &[0], &[29], &[3, 17], &[0, 1, 2], &[5, 14, 15, 29]] {
            let (kept, asked) = left(30, 200, needed);
            assert_eq!(kept, needed);
            assert!(asked <= 60, "{asked} for {needed:?}");
        }
        assert_eq!(left(30, 200, &[]).1, 1, "nothing at all is tried first");
        assert_eq!(left(0, 200, &[]), (vec![], 0));
    }

    #[test]
    fn what_is_needed_together_only_while_others_are_there_goes_in_a_second_pass() {
        // 0 is needed while 1 is there.
        let kept = shrink(3, 100, |rest| {
            Ok::<_, ()>(rest.contains(&2) && (!rest.contains(&1) || rest.contains(&0)))
        });
        assert_eq!(kept, Ok(vec![2]));
    }

    #[test]
    fn tries_are_bounded_and_what_is_left_still_breaks() {
        let (kept, asked) = left(64, 5, &[9]);
        assert_eq!(asked, 5);
        assert!(kept.contains(&9) && kept.len() < 64, "{kept:?}");
        assert_eq!(left(4, 0, &[1]), (vec![0, 1, 2, 3], 0));
    }

    #[test]
    fn an_error_ends_it() {
        assert_eq!(shrink(4, 9, |_| Err("no process")), Err("no process"));
    }

    #[test]
    fn violations_are_told_apart_by_what_they_break() {
        let told = [
            "acked_records_survive    BROKEN: 9 checked, 1 broken\n    az-a has no s/1",
            "az-b stopped itself: no disk",
            "panic: panicked at node/src/log/mod.rs:1:1",
            "heals_when_calm          BROKEN: 1 checked, 1 broken\n    puts flow: not within 9 ms",
        ];
        let words = broken(&told.map(str::to_owned));
        let expected = ["acked_records_survive", "heals_when_calm", "panic", "stopped_itself"];
        assert_eq!(words.into_iter().collect::<Vec<_>>(), expected);
    }
}
