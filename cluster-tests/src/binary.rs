//! Finds the `tristream` binary that belongs to the running test, and builds it when it is missing or older than
//! its sources.
//!
//! Invariant: a test never runs against a binary that is older than the sources beside it. Cargo gives one package
//! no path to another's binary, so it is found beside our own executable.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

use anyhow::{Context, anyhow, bail};

/// What the binary is made of, as paths below the workspace root.
const SOURCES: [&str; 5] = ["Cargo.toml", "Cargo.lock", "proto", "client", "node"];

/// Path of an up-to-date `tristream`. The environment variable `TRISTREAM_BIN` names another one, which is then
/// taken as it is. Builds at most once per process.
pub fn tristream() -> anyhow::Result<PathBuf> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND
        .get_or_init(|| find().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|error| anyhow!("no `tristream` to test: {error}"))
}

/// The folder that holds the workspace's `Cargo.toml`.
pub fn workspace_root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

fn find() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("TRISTREAM_BIN") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("TRISTREAM_BIN names {}, which is no file", path.display());
        }
        return std::path::absolute(path).context("TRISTREAM_BIN");
    }
    let folder = profile_folder(&std::env::current_exe()?)?;
    let binary = folder.join("tristream");
    if !is_fresh(&binary, &workspace_root())? {
        build(&folder)?;
        if !binary.is_file() {
            bail!("cargo built no {}", binary.display());
        }
    }
    Ok(binary)
}

/// `target/debug/deps/failover-0123` and `target/debug/walk` both belong to `target/debug`.
fn profile_folder(executable: &Path) -> anyhow::Result<PathBuf> {
    let folder = executable.parent().context("an executable without a folder")?;
    if folder.ends_with("deps") || folder.ends_with("examples") {
        return Ok(folder.parent().context("a folder without a parent")?.to_path_buf());
    }
    Ok(folder.to_path_buf())
}

/// Whether `binary` is there and no source below `root` is newer.
fn is_fresh(binary: &Path, root: &Path) -> anyhow::Result<bool> {
    let Ok(built) = binary.metadata().and_then(|metadata| metadata.modified()) else {
        return Ok(false);
    };
    for source in SOURCES {
        if newest(&root.join(source))? > built {
            return Ok(false);
        }
    }
    Ok(true)
}

fn newest(path: &Path) -> anyhow::Result<SystemTime> {
    let metadata = path.metadata().with_context(|| format!("no {}", path.display()))?;
    let mut newest_seen = metadata.modified()?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            let path = entry?.path();
            let is_source = path.extension().is_some_and(|end| end == "rs" || end == "proto");
            if path.is_dir() || is_source || path.ends_with("Cargo.toml") {
                newest_seen = newest_seen.max(newest(&path)?);
            }
        }
    }
    Ok(newest_seen)
}

/// `--workspace` makes cargo pick the same features of the dependencies as `cargo test --workspace` does, so that
/// nothing is compiled twice.
fn build(folder: &Path) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace_root()).args(["build", "--quiet", "--workspace"]);
    command.args(["--bin", "tristream"]);
    if folder.ends_with("release") {
        command.arg("--release");
    } else if !folder.ends_with("debug") {
        bail!("{} is neither target/debug nor target/release: set TRISTREAM_BIN", folder.display());
    }
    if let Some(target) = folder.parent() {
        command.env("CARGO_TARGET_DIR", target);
    }
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!(
            "`cargo build --bin tristream` failed:\n{}",
            crate::command::tail(&String::from_utf8_lossy(&output.stderr), 60)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::Duration;

    use super::*;

    fn house() -> tempfile::TempDir {
        let house = tempfile::tempdir().unwrap();
        for folder in ["proto", "client", "node/src"] {
            fs::create_dir_all(house.path().join(folder)).unwrap();
        }
        for file in ["Cargo.toml", "Cargo.lock", "node/src/main.rs", "tristream"] {
            fs::write(house.path().join(file), "").unwrap();
        }
        house
    }

    fn touch(path: &Path, seconds: u64) {
        let later = path.metadata().unwrap().modified().unwrap() + Duration::from_secs(seconds);
        File::options().append(true).open(path).unwrap().set_modified(later).unwrap();
    }

    #[test]
    fn a_binary_newer_than_its_sources_is_fresh() {
        let house = house();
        touch(&house.path().join("tristream"), 5);
        assert!(is_fresh(&house.path().join("tristream"), house.path()).unwrap());
    }

    #[test]
    fn an_edited_source_makes_it_stale() {
        let house = house();
        touch(&house.path().join("tristream"), 5);
        touch(&house.path().join("node/src/main.rs"), 10);
        assert!(!is_fresh(&house.path().join("tristream"), house.path()).unwrap());
    }

    #[test]
    fn a_missing_binary_is_stale() {
        let house = house();
        assert!(!is_fresh(&house.path().join("nothing"), house.path()).unwrap());
    }

    #[test]
    fn tests_and_binaries_share_a_profile_folder() {
        let of = |path: &str| profile_folder(Path::new(path)).unwrap();
        assert_eq!(of("/t/debug/deps/failover-0123"), Path::new("/t/debug"));
        assert_eq!(of("/t/release/walk"), Path::new("/t/release"));
    }
}
