//! Where log lines go: standard error, filtered by `TRISTREAM_LOG`.
//!
//! Must be set up once, by the command line. Must not know what is logged.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// The variable that holds the filter, such as `debug` or `tristream_node::raft=trace,info`.
pub const FILTER_VARIABLE: &str = "TRISTREAM_LOG";

/// Libraries that say much at `info`. A filter that names them wins over this.
const QUIET_LIBRARIES: &str = "sled=warn,h2=warn,hyper=warn,tonic=warn,tower=warn";

/// Sends the log to standard error. `level_default` holds where `TRISTREAM_LOG` is not set. Fails on a
/// filter that cannot be read, and when called twice.
pub fn init(level_default: &str) -> anyhow::Result<()> {
    let wanted = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    let filter = filter(&wanted, level_default)
        .with_context(|| format!("cannot read the log filter {FILTER_VARIABLE}={wanted:?}"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !crate::cli::colours_refused())
        .finish()
        .try_init()
        .context("cannot set up the log")
}

fn filter(wanted: &str, level_default: &str) -> anyhow::Result<EnvFilter> {
    let wanted = if wanted.trim().is_empty() { level_default } else { wanted };
    let consensus = crate::raft::LOG_TARGET;
    // It reports every group that closes as an error; `raft` says itself when one stops that should not.
    let quiet = format!("{consensus}=off,{QUIET_LIBRARIES}");
    Ok(EnvFilter::builder().parse(format!("{quiet},{wanted}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        let text = |wanted| filter(wanted, "info").expect("valid").to_string();
        for wanted in ["", " ", "debug"] {
            let filter = text(wanted);
            let consensus = format!("{}=off", crate::raft::LOG_TARGET);
            assert!(filter.contains(&consensus) && filter.contains("sled=warn"), "{filter}");
        }
        assert!(text("").contains("info"));
        assert!(text("debug").contains("debug") && !text("debug").contains("info"));
        let named = text("sled=trace,info");
        assert!(named.contains("sled=trace") && !named.contains("sled=warn"), "{named}");
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_an_error() {
        assert!(filter("tristream=loud", "info").is_err());
    }
}
