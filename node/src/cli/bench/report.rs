//! What the bench of resharding found, as a table and as JSON.

use std::time::Duration;

use serde_json::{Value, json};
use tristream_proto::domain::ShardId;

use super::load::Shape;
use super::tally::{Phase, Tally};
use crate::cli::screen::Colours;
use crate::cli::table::{Align, Table, WIDTH};

/// A split or merge that was done.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) phase: Phase,
    pub(super) parents: Vec<ShardId>,
    pub(super) children: Vec<ShardId>,
    /// From the call until the stream was ACTIVE again.
    pub(super) took: Duration,
}

impl Step {
    fn kind(&self) -> &'static str {
        if self.phase == Phase::Splits { "split" } else { "merge" }
    }

    fn shards(&self) -> String {
        let list = |ids: &[ShardId]| {
            ids.iter().map(|id| id.index().to_string()).collect::<Vec<_>>().join(", ")
        };
        format!("{} -> {}", list(&self.parents), list(&self.children))
    }

    pub(super) fn title(&self) -> String {
        format!("{} {}", self.kind(), self.shards())
    }
}

#[derive(Debug)]
pub(super) struct Report {
    pub(super) shape: Shape,
    pub(super) shards: u32,
    pub(super) tally: Tally,
    pub(super) steps: Vec<Step>,
    /// Of each phase.
    pub(super) seconds: [f64; 4],
}

impl Report {
    /// Every put was acked.
    pub(super) fn is_good(&self) -> bool {
        self.tally.failed() == 0
    }

    pub(super) fn show(&self, colours: Colours) -> Vec<String> {
        let Shape { rate, keys, bytes } = self.shape;
        let shards = self.shards;
        let mut lines = vec![
            format!("{shards} shards, {rate} records of {bytes} bytes per second, {keys} keys"),
            String::new(),
        ];
        for table in [self.phases(), self.each_step()] {
            let mut table = table.lines(WIDTH);
            table[0] = colours.bold(&table[0]);
            lines.extend(table);
            lines.push(String::new());
        }
        lines.push(match &self.tally.failure {
            None => "every put was acked".to_owned(),
            Some(first) => {
                let failed = self.tally.failed();
                colours.bad(&format!("{failed} puts failed, the first with: {first}"))
            }
        });
        lines
    }

    fn phases(&self) -> Table {
        let heads = ["SECONDS", "ACKED", "P50 MS", "P99 MS", "MAX MS", "PAUSE MS", "FAILED"];
        let heads = heads.map(|head| (head, Align::Right));
        let mut table = Table::new(&[&[("PHASE", Align::Left)], &heads[..]].concat(), 0);
        for phase in Phase::ALL {
            let puts = self.tally.puts(phase);
            table.row(vec![
                phase.name().to_owned(),
                format!("{:.1}", self.seconds[phase as usize]),
                puts.latency.count().to_string(),
                millis(puts.latency.quantile(0.5)),
                millis(puts.latency.quantile(0.99)),
                millis(puts.latency.max()),
                millis(puts.pause),
                (puts.not_stored + puts.unknown).to_string(),
            ]);
        }
        table
    }

    fn each_step(&self) -> Table {
        let heads = [
            ("STEP", Align::Left),
            ("SHARDS", Align::Left),
            ("SECONDS", Align::Right),
            ("PAUSE MS", Align::Right),
        ];
        let mut table = Table::new(&heads, 1);
        for (at, step) in self.steps.iter().enumerate() {
            table.row(vec![
                step.kind().to_owned(),
                step.shards(),
                format!("{:.2}", step.took.as_secs_f64()),
                millis(self.tally.pause(at)),
            ]);
        }
        table
    }

    pub(super) fn as_json(&self) -> Value {
        let number = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let phase = |phase: Phase| {
            let puts = self.tally.puts(phase);
            json!({
                "phase": phase.name(),
                "seconds": self.seconds[phase as usize],
                "acked": puts.latency.count(),
                "p50_ms": number(puts.latency.quantile(0.5)),
                "p99_ms": number(puts.latency.quantile(0.99)),
                "max_ms": number(puts.latency.max()),
                "pause_ms": number(puts.pause),
                "not_stored": puts.not_stored,
                "unknown": puts.unknown,
            })
        };
        let step = |(at, step): (usize, &Step)| {
            let ids = |ids: &[ShardId]| ids.iter().map(ShardId::to_string).collect::<Vec<_>>();
            json!({
                "step": step.kind(),
                "parents": ids(&step.parents),
                "children": ids(&step.children),
                "seconds": step.took.as_secs_f64(),
                "pause_ms": number(self.tally.pause(at)),
            })
        };
        json!({
            "shards": self.shards,
            "rate": self.shape.rate,
            "keys": self.shape.keys,
            "record_bytes": self.shape.bytes,
            "phases": Phase::ALL.map(phase),
            "steps": self.steps.iter().enumerate().map(step).collect::<Vec<_>>(),
            "failed": self.tally.failed(),
            "first_failure": self.tally.failure,
        })
    }
}

fn millis(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::super::tally::{Answered, Place};
    use super::*;
    use tristream_client::Error;

    fn report(outcome: Result<(), Error>) -> Report {
        let mut tally = Tally::new(1);
        let before = tally.place;
        let put = |begun, millis| Answered {
            begun,
            took: Duration::from_millis(millis),
            waited: Duration::from_millis(millis),
            outcome: Ok(()),
        };
        tally.add(put(before, 4));
        tally.place = Place { phase: Phase::Splits, step: 0 };
        tally.add(Answered { outcome, ..put(before, 40) });
        let step = Step {
            phase: Phase::Splits,
            parents: vec![ShardId::from(0)],
            children: [4, 5].map(ShardId::from).to_vec(),
            took: Duration::from_millis(1234),
        };
        let shape = Shape { rate: 500, keys: 100, bytes: 1000 };
        Report { shape, shards: 4, tally, steps: vec![step], seconds: [10.0, 1.7, 0.0, 10.0] }
    }

    #[test]
    fn the_table_of_a_run() {
        assert_eq!(
            report(Ok(())).show(Colours::off()).join("\n"),
            "\
4 shards, 500 records of 1000 bytes per second, 100 keys

PHASE   SECONDS  ACKED  P50 MS  P99 MS  MAX MS  PAUSE MS  FAILED
before     10.0      1     4.0     4.0     4.0       4.0       0
splits      1.7      1    40.0    40.0    40.0      40.0       0
merges      0.0      0     0.0     0.0     0.0       0.0       0
after      10.0      0     0.0     0.0     0.0       0.0       0

STEP   SHARDS     SECONDS  PAUSE MS
split  0 -> 4, 5     1.23      40.0

every put was acked"
        );
    }

    #[test]
    fn a_put_that_was_not_acked_makes_it_bad() {
        assert!(report(Ok(())).is_good());
        let bad = report(Err(Error::Unknown("cut off".to_owned())));
        assert!(!bad.is_good());
        let text = bad.show(Colours::off()).join("\n");
        assert!(text.ends_with("1 puts failed, the first with: outcome unknown: cut off"));
        let json = bad.as_json();
        assert_eq!((&json["failed"], &json["phases"][1]["unknown"]), (&json!(1), &json!(1)));
        assert_eq!(json["steps"][0]["children"][1], "shardId-000000000005");
        assert_eq!(json["steps"][0]["pause_ms"], 40.0);
    }
}
