//! Runs a command to its end within a bound.
//!
//! Invariant: a command that outlives its bound is killed and reported, so no test hangs on one.

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;

/// Runs to the end and hands back status, stdout and stderr. Fails if the command cannot start or outlives
/// `limit`; a non-zero exit is not a failure here.
pub async fn output(command: &mut Command, limit: Duration) -> anyhow::Result<Output> {
    let shown = show(command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(limit, command.output()).await {
        Ok(output) => output.with_context(|| format!("cannot run {shown}")),
        Err(_) => bail!("{shown} did not end within {} s", limit.as_secs()),
    }
}

/// Runs to the end and hands back stdout. A non-zero exit is a failure that carries stderr.
pub async fn stdout(command: &mut Command, limit: Duration) -> anyhow::Result<String> {
    let shown = show(command);
    let output = output(command, limit).await?;
    if !output.status.success() {
        bail!(
            "{shown} ended with {}: {}",
            output.status,
            tail(&String::from_utf8_lossy(&output.stderr), 20)
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("{shown} printed no UTF-8"))
}

/// Whether a program of this name is on the path.
pub fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    })
}

/// The last `lines` lines.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn show(command: &Command) -> String {
    let command = command.as_std();
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    let mut shown = words.join(" ");
    if shown.len() > 200 {
        shown = shown.chars().take(200).collect::<String>() + " ...";
    }
    format!("`{shown}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_that_hangs_is_ended() {
        let refused = output(Command::new("sleep").arg("600"), Duration::from_millis(50)).await;
        assert!(refused.unwrap_err().to_string().contains("did not end within"));
    }

    #[tokio::test]
    async fn a_failing_command_tells_why() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo the reason >&2; exit 3"]);
        let refused = stdout(&mut command, Duration::from_secs(30)).await.unwrap_err().to_string();
        assert!(refused.contains("the reason"), "{refused}");
    }
}
