//! The `tristream` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    tristream_node::cli::main()
}
