//! `simulate --plant NAME` and nothing else: the bug's pinned script, over its seeds, until one of them finds the bug.
//!
//! Must not know what a bug does.

use tristream_cluster_tests::pinned;

use super::run::{Faults, Run};
use super::{Arguments, complain, run_seeds, say};

/// Seeds of random faults for a bug without a script.
const RANDOM_SEEDS: u64 = 20;

/// Whether a bug was named, and neither seeds nor faults.
pub(super) fn is_meant(arguments: &Arguments) -> bool {
    let Run { plant, script, only, faults, .. } = &arguments.run;
    let seeds = arguments.from.is_some() || arguments.seeds.is_some();
    let own = script.is_some() || only.is_some() || *faults != Faults::Mixed;
    plant.is_some() && !seeds && !own
}

/// Looks for the bug. `false` once it is found.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let name = arguments.run.plant.clone().unwrap_or_default();
    let about = arguments.run.plant()?.map_or("", |plant| plant.about());
    let script = pinned::script(&name)?;
    let run = Run { pinned: script.is_some(), ..arguments.run.clone() };
    let mut hunt = Arguments { run, until_broken: true, ..arguments.clone() };
    let how = match script {
        Some(script) => {
            // One after the other, for the first mostly does; and its faults are few as they are.
            hunt.jobs.get_or_insert(1);
            hunt.tries = if hunt.save.is_some() { hunt.tries } else { 0 };
            let (faults, seeds) = (script.events.len(), script.seeds.unwrap_or(1));
            format!("its pinned script runs: {faults} faults, {seeds} seeds at most")
        }
        None => {
            hunt.seeds = Some(RANDOM_SEEDS);
            format!(
                "it has no script; {RANDOM_SEEDS} seeds of random faults run, which seldom find it. What does is \
                 `cargo test -p tristream-cluster-tests --test planted_log`, on a log without a cluster"
            )
        }
    };
    tell(arguments, &format!("{name}: {about}\n{how}"))?;
    let clean = run_seeds(&hunt)?;
    tell(arguments, if clean { "NOT FOUND" } else { "found" })?;
    Ok(clean)
}

/// Lines of JSON stay what they are.
fn tell(arguments: &Arguments, words: &str) -> anyhow::Result<()> {
    match arguments.json {
        true => complain(words),
        false => say(words)?,
    }
    Ok(())
}
