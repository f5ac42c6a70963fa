//! `verify`: judges what `tristream put --history` and `tail --history` recorded.
//!
//! Must not know what a promise is.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tristream_cluster_tests::recording::{self, Case, Judgement, Ruling, Settings};

/// What `--help` adds to the flags.
const HELP: &str = "\
A recording is made with `tristream put STREAM ... --history FILE` and read back with
`tristream tail STREAM --from trim-horizon --no-follow --history FILE`; one file may hold both, and
several runs. What one file says to be before something else was so; clocks of different files are
compared only to tell whether a reader began after an ack. The exit status is 0 if no promise is
broken, 1 if one is, 2 if these are no recordings of one stream.";

#[derive(Args)]
#[command(after_help = HELP)]
pub(super) struct Arguments {
    /// Recordings of one stream.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// These recordings hold every put to the stream: then nothing else may be there.
    #[arg(long)]
    all_puts: bool,
    /// For how long the stream keeps records, such as 24h, or 90s where the cluster runs with
    /// `--retention-override 90s`: older ones may be gone.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = tristream_node::cli::seconds)]
    retention: u64,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Judges. Whether no promise is broken.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let retention = Duration::from_secs(arguments.retention);
    let settings = Settings { all_puts: arguments.all_puts, retention };
    let judged = recording::judge(&arguments.files, &settings)?;
    let clean = judged.is_clean();
    let text = if arguments.json {
        let mut json = serde_json::to_value(&judged)?;
        json["clean"] = json!(clean);
        json.to_string()
    } else {
        in_words(&judged)
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(clean)
}

fn in_words(judged: &Judgement) -> String {
    let Judgement { stream, sent, acked, unknown, foreign, torn_lines, promises } = judged;
    let mut lines = vec![format!(
        "stream {stream}: {sent} records sent, {acked} acked, {unknown} outcomes unknown"
    )];
    if *foreign > 0 {
        lines.push(format!("{foreign} places were read that hold what nobody recorded"));
    }
    if *torn_lines > 0 {
        lines.push(format!("{torn_lines} half lines of killed recorders were left out"));
    }
    lines.push(String::new());
    for case in promises {
        lines.extend(case_in_words(case));
    }
    lines.join("\n")
}

fn case_in_words(case: &Case) -> Vec<String> {
    let Case { promise, ruling, checked, broken, note, stories } = case;
    let what = match ruling {
        Ruling::Held => format!("held            {checked} checked"),
        Ruling::Broken => format!("BROKEN          {broken} of {checked} checked"),
        Ruling::NotApplicable => "not applicable ".to_owned(),
    };
    let note = note.as_ref().map(|note| match ruling {
        Ruling::NotApplicable => format!(" {note}"),
        _ => format!("; {note}"),
    });
    let mut lines = vec![format!("{promise:<24}{what}{}", note.unwrap_or_default())];
    lines.extend(stories.iter().flat_map(super::chaos::story_in_words));
    lines
}
