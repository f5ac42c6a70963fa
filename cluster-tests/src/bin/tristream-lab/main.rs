//! `tristream-lab`: proof that anyone can run.

mod chaos;
mod expiry;
mod kill_all;
mod reshard_churn;
mod reshard_soak;
mod simulate;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Nothing broke a promise.
const CLEAN: u8 = 0;
/// Something did.
const VIOLATION: u8 = 1;
/// It could not be tried.
const MISUSE: u8 = 2;

/// Proof that anyone can run: 0 clean, 1 a promise was broken, 2 misuse.
#[derive(Parser)]
#[command(name = "tristream-lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Whole clusters in simulation: one seed, one run, the same on every machine.
    Simulate(simulate::Arguments),
    /// Each planted bug over the same random seeds, and how many of them found it.
    Plants(simulate::plants::Arguments),
    /// Producers that never pause, while the number of shards goes up and down and, if told so, nodes die.
    ReshardSoak(reshard_soak::Arguments),
    /// Splits and merges by the hundred, and what the nodes' processes keep of shards that are gone.
    ReshardChurn(reshard_churn::Arguments),
    /// Records that expire under load, for many retention periods, and what the nodes' logs take.
    Expiry(expiry::Arguments),
    /// All three processes die at once, again and again, while producers never pause.
    KillAll(kill_all::Arguments),
    /// Real processes that are killed, paused, cut off and slowed, under clients; then calm, and judgement.
    Chaos(chaos::Arguments),
    /// Judge recordings that `tristream put --history` and `tail --history` made.
    Verify(verify::Arguments),
    /// One seed in this process; prints its report as JSON.
    #[command(hide = true)]
    Seed(simulate::OneSeed),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Simulate(arguments) => simulate::sweep(&arguments),
        Command::Plants(arguments) => simulate::plants::run(&arguments),
        Command::ReshardSoak(arguments) => reshard_soak::run(&arguments),
        Command::ReshardChurn(arguments) => reshard_churn::run(&arguments),
        Command::Expiry(arguments) => expiry::run(&arguments),
        Command::KillAll(arguments) => kill_all::run(&arguments),
        Command::Chaos(arguments) => chaos::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Seed(arguments) => simulate::one_seed(&arguments),
    };
    match outcome {
        Ok(true) => ExitCode::from(CLEAN),
        Ok(false) => ExitCode::from(VIOLATION),
        Err(error) => {
            simulate::complain(&format!("{error:#}"));
            ExitCode::from(MISUSE)
        }
    }
}
