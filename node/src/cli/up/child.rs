//! One child process: started, waited for, and killed.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::process::{ExitStatus, Stdio};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use super::layout::Place;

/// Lines of a log that are shown when its node fails, and the bytes that are looked at for them.
const TAIL_LINES: usize = 12;
const TAIL_BYTES: u64 = 16 << 10;

pub(super) struct Child {
    process: tokio::process::Child,
    pub(super) pid: u32,
    /// Length of the log before this start.
    pub(super) log_from: u64,
}

impl Child {
    /// Starts the node of `place` with this same program. Its log goes to its own file.
    pub(super) fn spawn(place: &Place) -> anyhow::Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&place.log)
            .with_context(|| format!("cannot write {}", place.log.display()))?;
        let log_from = log.metadata().map_or(0, |metadata| metadata.len());
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let process = tokio::process::Command::new(&program)
            .arg("node")
            .arg("--config")
            .arg(&place.config)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log")?)
            .stderr(log)
            // A group of its own: a Ctrl-C at the terminal reaches us alone, and we end the nodes in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start node {}", place.az))?;
        let pid = process.id().context("the node ended before it began")?;
        Ok(Child { process, pid, log_from })
    }

    /// Waits for its end. Until then nobody else can get its process id.
    pub(super) async fn wait(mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }
}

/// Signals a child that has not been waited for to its end.
pub(super) fn kill(pid: u32, signal: Signal) {
    // It may have ended at this moment; then there is nobody to signal, which is what was wanted.
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The last lines of a node's log since `from`, indented.
pub(super) fn log_tail(place: &Place, from: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(&place.log)?;
        let end = fs::metadata(&place.log)?.len();
        file.seek(SeekFrom::Start(from.max(end.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = match read() {
        Ok(bytes) => last_lines(&String::from_utf8_lossy(&bytes)),
        Err(error) => format!("  (its log cannot be read: {error})"),
    };
    format!("{text}\n  (from {})", place.log.display())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    match tail {
        [] => "  (it logged nothing)".to_owned(),
        lines => lines.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_of_this_start_are_shown() {
        let dir = tempfile::tempdir().expect("a folder");
        let place = Place {
            az: "az-a".to_owned(),
            dir: dir.path().to_owned(),
            config: dir.path().join("node.toml"),
            log: dir.path().join("node.log"),
            kinesis: String::new(),
            peer: String::new(),
        };
        fs::write(&place.log, "earlier\n").expect("written");
        assert!(log_tail(&place, 8).starts_with("  (it logged nothing)"));
        let lines: String = (0..20).map(|i| format!("line {i}\n")).collect();
        fs::write(&place.log, format!("earlier\n{lines}")).expect("written");
        let tail = log_tail(&place, 8);
        assert!(tail.starts_with("  line 8\n") && tail.contains("\n  line 19\n"), "{tail}");
        assert!(!log_tail(&place, 0).contains("earlier"));
    }
}
