//! Every `sh` block of the README is run: here, or by the step of `.ci/run` that the line above it names.
//!
//! A block under `<!-- run by: NAME -->` is that step's. All others run here, one after another in one shell, in an
//! empty folder, against a cluster on the default ports whose data are in `./tristream-data` and that allows faults;
//! `tristream`, `tristream-lab` and `aws` are on the path. So a block may use what an earlier one set or made, and none may run for ever.

#![allow(clippy::print_stdout)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::process::Command;
use tristream_cluster_tests::aws_cli::AwsCli;
use tristream_cluster_tests::processes::{Cluster, Options};
use tristream_cluster_tests::{binary, command};

/// All blocks together.
const BLOCKS_LIMIT: Duration = Duration::from_secs(180);
/// What `tristream up` listens on when nobody says otherwise.
const DEFAULT_PORTS: (u16, u16) = (4567, 5567);

/// A block of shell commands.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// Number of its first line.
    line: usize,
    /// The step of `.ci/run` that runs it; none if it is run here.
    step: Option<String>,
    text: String,
}

fn blocks(readme: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut step = None;
    let mut open: Option<Block> = None;
    for (number, line) in readme.lines().enumerate() {
        match &mut open {
            Some(block) if line.trim_end() != "```" => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            Some(_) => blocks.extend(open.take()),
            None if ["```sh", "```bash", "```shell"].contains(&line.trim_end()) => {
                open = Some(Block { line: number + 2, step: step.take(), text: String::new() });
            }
            None if line.trim().is_empty() => {}
            None => {
                let marked = line.trim().strip_prefix("<!-- run by: ");
                step = marked.and_then(|rest| rest.strip_suffix(" -->")).map(str::to_owned);
            }
        }
    }
    blocks
}

/// One script of all blocks, which says where it is.
fn script(blocks: &[&Block]) -> String {
    // A block may start something in the background: it ends with the script, or nobody would see its output's end.
    let mut script =
        "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n".to_owned();
    for block in blocks {
        script.push_str(&format!("echo '--- README line {}' >&2\n{}\n", block.line, block.text));
    }
    script
}

#[test]
fn marked_blocks_name_a_step_of_ci() {
    let readme = fs::read_to_string(binary::workspace_root().join("README.md")).unwrap();
    let ci = fs::read_to_string(binary::workspace_root().join(".ci/run")).unwrap();
    for block in blocks(&readme) {
        let Some(step) = block.step else { continue };
        let known = ci.lines().any(|line| line.contains(&format!("step {step} ")));
        assert!(known, "README line {}: .ci/run has no step {step}", block.line);
    }
}

#[tokio::test]
async fn the_blocks_run() -> anyhow::Result<()> {
    let readme = fs::read_to_string(binary::workspace_root().join("README.md"))?;
    let blocks = blocks(&readme);
    let ours: Vec<&Block> = blocks.iter().filter(|block| block.step.is_none()).collect();
    if ours.is_empty() {
        println!("SKIPPED: the README has no block to run here");
        return Ok(());
    }
    let cli = match AwsCli::find().await {
        Ok(cli) => cli,
        Err(reason) => {
            println!("SKIPPED: {reason:#}");
            return Ok(());
        }
    };
    let up_arguments = vec!["--enable-faults".to_owned()];
    let options = Options { ports: Some(DEFAULT_PORTS), up_arguments, ..Options::default() };
    let mut cluster = Cluster::start(options).await?;
    let folder = tempfile::tempdir()?;
    symlink(cluster.data_dir(), folder.path().join("tristream-data"))?;
    let ran = run(&ours, &cluster, &cli, folder.path()).await;
    ran.with_context(|| cluster.last_words())?;
    // A block may have killed a node: what is left must still end.
    cluster.kill_all().await
}

async fn run(
    blocks: &[&Block],
    cluster: &Cluster,
    cli: &AwsCli,
    folder: &Path,
) -> anyhow::Result<()> {
    let mut path = vec![cluster.binary().parent().context("no folder")?.to_path_buf()];
    let lab = Path::new(env!("CARGO_BIN_EXE_tristream-lab"));
    path.extend(lab.parent().map(Path::to_path_buf));
    path.extend(cli.folder());
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut shell = Command::new("bash");
    shell
        .args(["-c", &script(blocks)])
        .current_dir(folder)
        .env("PATH", std::env::join_paths(path)?)
        .env("HOME", folder);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"] {
        shell.env_remove(name);
    }
    let output = command::output(&mut shell, BLOCKS_LIMIT).await?;
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}\n{err}");
    ensure!(output.status.success(), "a block failed:\n{}", command::tail(&err, 30));
    Ok(())
}

#[test]
fn blocks_are_found_with_their_marks() {
    let readme = "# A\n\n```sh\none\ntwo\n```\n\n<!-- run by: walk -->\n\n```sh\nthree\n```\ntext\n```json\n{}\n```\n```bash\nfour\n```\n";
    let found = blocks(readme);
    let short: Vec<(usize, Option<&str>, &str)> =
        found.iter().map(|b| (b.line, b.step.as_deref(), b.text.as_str())).collect();
    assert_eq!(
        short,
        [(4, None, "one\ntwo\n"), (11, Some("walk"), "three\n"), (18, None, "four\n")]
    );
}
