//! Broken seeds run again with fewer and fewer faults, until what is left is a story.
//!
//! Must not know what a promise is.

use anyhow::Context;
use tristream_cluster_tests::simulation::{Report, Script, broken, shrink};

use super::run::{Only, RUNS_DIFFER, Run, in_a_process, twice};
use super::{Arguments, SHRUNK_MAX, complain, say};

/// Shrinks the first of the broken seeds, and tells how to replay each with the faults that it takes.
pub(super) fn tell(reports: &[Report], arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.tries == 0 {
        return Ok(());
    }
    for (number, report) in reports.iter().take(SHRUNK_MAX).enumerate() {
        let run = &arguments.run;
        let Some(breaks) = first_word(report) else { continue };
        // What a process that died told is no reason to let it die again and again.
        if report.simulated_ms == 0 {
            continue;
        }
        let only = shrunk(run, report.seed, &breaks, arguments.tries)?;
        let run = Run { only: Some(only), ..run.clone() };
        let events = run.faults(report.seed)?;
        let script = Script {
            plant: run.plant.clone(),
            breaks: Some(breaks.clone()),
            seed: Some(report.seed),
            seeds: None,
            seconds: Some(run.seconds()?),
            tables_last: run.script()?.is_some_and(|script| script.tables_last),
            retention_seconds: run.retention_seconds(report.seed)?,
            events,
        };
        let how = if breaks == RUNS_DIFFER { " --twice" } else { "" };
        let again = format!("{}{how}", run.command(report.seed)?);
        let count = script.events.len();
        let words = format!("seed {} breaks {breaks} with {count} faults: {again}", report.seed);
        // Lines of JSON stay what they are.
        match arguments.json {
            true => complain(&words),
            false => say(&format!("{words}\n{}", script.print()?))?,
        }
        if let Some(path) = arguments.save.as_ref().filter(|_| number == 0) {
            std::fs::write(path, script.print()?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

/// The promises come after everything else that a run can break, and say more.
fn first_word(report: &Report) -> Option<String> {
    let told = |violation: &String| broken(std::slice::from_ref(violation)).into_iter().next();
    let promise = report.violations.iter().find(|violation| violation.contains(" BROKEN: "));
    promise.or(report.violations.first()).and_then(told)
}

/// Places of the faults that a seed takes to break this, in the list that it was run with.
fn shrunk(run: &Run, seed: u64, breaks: &str, tries: usize) -> anyhow::Result<Only> {
    let places = match &run.only {
        Some(Only(places)) => places.clone(),
        None => (0..run.faults(seed)?.len()).collect(),
    };
    let of = |kept: &[usize]| Only(kept.iter().map(|at| places[*at]).collect());
    let kept = shrink(places.len(), tries, |rest| {
        let fewer =
            Run { only: Some(of(rest)), full: false, log: None, history: None, ..run.clone() };
        let report = match breaks {
            // One run cannot differ.
            RUNS_DIFFER => twice(seed, &fewer)?,
            _ => in_a_process(seed, &fewer)?,
        };
        Ok::<_, anyhow::Error>(broken(&report.violations).contains(breaks))
    })?;
    Ok(of(&kept))
}
