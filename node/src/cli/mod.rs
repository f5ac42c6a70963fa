//! The command line: arguments in, an exit code out.
//!
//! One file per command. Invariant: what a program may want to read goes to standard output, everything
//! else to standard error; a failure is one sentence that says what to do next, and a non-zero exit.
//! The commands that talk to a cluster know it only through the `tristream_client` library.

mod bench;
mod endpoints;
mod fault;
mod node;
mod pid_file;
mod put;
mod recording;
mod screen;
mod status;
mod stream;
mod table;
mod tail;
mod tuning;
mod up;
mod when;

use std::io;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

pub use tuning::seconds;

/// Standard error's first word, so that the line is known among those of other programs.
const NAME: &str = "tristream";

/// An open, replicated Kinesis Data Streams.
#[derive(Debug, Parser)]
#[command(name = NAME, version, about, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a cluster of three nodes on this machine.
    Up(up::Args),
    /// Run one node.
    Node(node::Args),
    /// Create, list, describe and delete streams.
    Stream(stream::Args),
    /// Store records.
    Put(put::Args),
    /// Read records, as they come.
    Tail(tail::Args),
    /// Show nodes, leaders and lag.
    Status(status::Args),
    /// Cut, slow, pause or kill nodes by hand, and heal them.
    Fault(fault::Args),
    /// Measure a running cluster under load.
    Bench(bench::Args),
}

impl Command {
    /// Nodes tell what they do; the person's tools speak only of trouble.
    fn log_level(&self) -> &'static str {
        match self {
            Command::Up(_) | Command::Node(_) => "info",
            _ => "warn",
        }
    }

    async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Command::Up(args) => up::run(args).await,
            Command::Node(args) => node::run(args).await,
            Command::Stream(args) => stream::run(args).await,
            Command::Put(args) => put::run(args).await,
            Command::Tail(args) => tail::run(args).await,
            Command::Status(args) => status::run(args).await,
            Command::Fault(args) => fault::run(args).await,
            Command::Bench(args) => bench::run(args).await,
        }
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    match run(command) {
        Ok(code) => code,
        // Who reads our output has enough: `tristream tail | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            screen::say(format!("{NAME}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    crate::telemetry::init(command.log_level())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let code = runtime.block_on(Box::pin(command.run()));
    // A thread that reads standard input cannot be told to stop.
    runtime.shutdown_background();
    code
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(is)
}

/// Whether the user wants no colours anywhere (<https://no-color.org>).
pub(crate) fn colours_refused() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    set("NO_COLOR") || std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

#[cfg(test)]
mod tests;
