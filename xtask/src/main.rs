//! `cargo x check` looks and never writes; `cargo x fix` is the only one that writes.

#![allow(clippy::print_stdout)]

use std::process::{Command, ExitCode};
use std::time::Duration;

/// A step: its name, cargo's arguments, and a setting of the environment.
type Step = (&'static str, &'static [&'static str], Option<(&'static str, &'static str)>);

const CHECK: [Step; 4] = [
    ("format", &["fmt", "--all", "--check"], None),
    ("lints", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], None),
    ("docs", &["doc", "--workspace", "--no-deps"], Some(("RUSTDOCFLAGS", "-D warnings"))),
    ("house rules", &["test", "--quiet", "--workspace", "--test", "house"], None),
];
const TESTS: Step = ("tests", &["test", "--workspace"], None);
const FIX: [Step; 2] = [
    (
        "lints",
        &["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"],
        None,
    ),
    ("format", &["fmt", "--all"], None),
];

const USAGE: &str = "usage: cargo x check [--tests] | cargo x fix

check   format, lints, docs and house rules; reads only. With --tests all tests as well.
fix     lints that can mend themselves, then format; writes.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let steps: Vec<Step> = match words.as_slice() {
        ["check"] => CHECK.to_vec(),
        ["check", "--tests"] => CHECK.into_iter().chain([TESTS]).collect(),
        ["fix"] => FIX.to_vec(),
        _ => {
            println!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    // All steps run, so that one look shows everything there is to mend.
    let failed: Vec<&str> =
        steps.into_iter().filter(|step| !run(*step)).map(|(name, ..)| name).collect();
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("x: failed: {}", failed.join(", "));
    ExitCode::FAILURE
}

fn run((name, arguments, environment): Step) -> bool {
    println!("x: {name}: cargo {}", arguments.join(" "));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).envs(environment);
    let started = tick();
    let good = match command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            println!("x: cannot run cargo: {error}");
            false
        }
    };
    let word = if good { "ok" } else { "FAILED" };
    println!("x: {name}: {word} ({} s)", (tick() - started).as_secs());
    good
}

/// Seconds since some moment, from the kernel's count: the wall clock may jump.
fn tick() -> Duration {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = uptime.split(' ').next().and_then(|first| first.parse().ok());
    Duration::try_from_secs_f64(seconds.unwrap_or_default()).unwrap_or_default()
}
