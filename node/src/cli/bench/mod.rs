//! `tristream bench`: what a running cluster does under load, measured from outside.
//!
//! Each bench makes a stream of its own and deletes it. Must not know more of the cluster than its clients
//! do.

mod latency;
mod load;
mod report;
mod reshard;
mod tally;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Splits and merges shards under load: how long puts wait, and how long a step takes.
    Reshard(reshard::Args),
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.bench {
        Bench::Reshard(args) => reshard::run(args).await,
    }
}
