//! The figures that the log is held to, where criterion does not fit: ratios against a bare loop
//! that takes turns with it, bytes per user byte, resident memory, one-shot openings.
//!
//! `cargo bench -p tristream-node --bench log_figures -- [--json] [--quick] [FIGURE..]`
//!
//! `--quick` does an eighth of the work and three runs instead of five: for a look, not for the
//! record. The median counts. Data lies below the target folder, at most about 6 GiB, and is
//! removed at the end.

// A program of its own, whose output is its purpose.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod figures;

use figures::{FIGURES, Figure, Size, large};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.first().is_some_and(|arg| arg == large::CHILD) {
        return large::child(&args[1..]);
    }
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let size = if has("--quick") { Size { part: 8, runs: 3 } } else { Size { part: 1, runs: 5 } };
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let mut all = Vec::new();
    for (name, measure) in FIGURES {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            continue;
        }
        eprintln!("{name} ..");
        all.extend(measure(size));
    }
    if has("--json") {
        let all: Vec<_> = all.iter().map(Figure::json).collect();
        println!("{}", serde_json::Value::from(all));
    } else {
        println!("{:<46} {:>9} {:>9}  of", "what", "got", "reach");
        all.iter().for_each(|figure| println!("{}", figure.line()));
    }
}
