//! The unmodified AWS CLI, pointed at nodes of ours.
//!
//! Owns finding it (on the path, else installed with pip into a folder of its own below `target/`) and reading its
//! answers. Invariant: one call is one attempt (`AWS_MAX_ATTEMPTS=1`), so that whoever counts attempts counts all.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::history::{Position, SequenceNumber, Stored};
use crate::{binary, command};

/// One call: starting the CLI costs a second or more on a busy machine.
pub const CALL_LIMIT: Duration = Duration::from_secs(60);
/// `pip install awscli`.
const INSTALL_LIMIT: Duration = Duration::from_secs(300);

/// The CLI, found.
#[derive(Clone, Debug)]
pub struct AwsCli {
    program: PathBuf,
    /// `aws --version`, for example `aws-cli/1.45.11`.
    pub version: String,
    /// The file that profiles are read from; empty by default, so that nobody's own settings matter.
    pub config_file: PathBuf,
}

/// What became of one record of a PutRecords.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored.
    Acked(Position),
    /// Certainly not stored; the answer's words.
    Refused(String),
    /// Stored or not; the answer's words.
    Unknown(String),
}

impl AwsCli {
    /// The CLI on the path, or one installed with pip. The error says why there is none.
    pub async fn find() -> anyhow::Result<AwsCli> {
        static FOUND: OnceCell<Result<AwsCli, String>> = OnceCell::const_new();
        let found =
            FOUND.get_or_init(|| async { find().await.map_err(|e| format!("{e:#}")) }).await;
        found.clone().map_err(|reason| anyhow::anyhow!("no AWS CLI: {reason}"))
    }

    /// The folder to add to a path on which `aws` is not found by itself.
    pub fn folder(&self) -> Option<PathBuf> {
        self.program.parent().filter(|folder| folder.is_absolute()).map(Path::to_path_buf)
    }

    /// `aws --endpoint-url http://ADDRESS ARGUMENTS`, one attempt, JSON out.
    pub fn command(&self, address: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--endpoint-url", &format!("http://{address}"), "--output", "json"])
            .args(["--cli-connect-timeout", "3", "--cli-read-timeout", "30"])
            .args(arguments)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_MAX_ATTEMPTS", "1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_PAGER", "")
            .env("AWS_CONFIG_FILE", &self.config_file)
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env_remove("AWS_PROFILE")
            .env_remove("AWS_ENDPOINT_URL");
        command
    }

    /// Runs `aws kinesis ARGUMENTS` and hands back its JSON; null where it prints none.
    pub async fn kinesis(&self, address: &str, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut all = vec!["kinesis"];
        all.extend(arguments);
        let text = command::stdout(&mut self.command(address, &all), CALL_LIMIT).await?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("the AWS CLI printed no JSON: {text}"))
    }

    /// The arguments that make a text in `--data` or `--records` mean itself: version 1 knows nothing else.
    pub fn raw_data(&self) -> &'static [&'static str] {
        let version_1 = self.version.starts_with("aws-cli/1.");
        if version_1 { &[] } else { &["--cli-binary-format", "raw-in-base64-out"] }
    }

    /// One PutRecords of `(key, data)`, through a file at `path`. One outcome per record, in their order.
    pub async fn put_records(
        &self,
        address: &str,
        stream: &str,
        records: &[(&str, &str)],
        path: &Path,
    ) -> anyhow::Result<Vec<Outcome>> {
        let entries: Vec<Value> = records
            .iter()
            .map(|(key, data)| serde_json::json!({"PartitionKey": key, "Data": data}))
            .collect();
        tokio::fs::write(path, serde_json::to_vec(&entries)?).await?;
        let file = format!("file://{}", path.display());
        let mut arguments = vec!["kinesis", "put-records", "--stream-name", stream];
        arguments.extend(["--records", &file]);
        arguments.extend(self.raw_data());
        let output = command::output(&mut self.command(address, &arguments), CALL_LIMIT).await?;
        if output.status.success() {
            return outcomes(&serde_json::from_slice(&output.stdout)?, records.len());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let words = command::tail(&words, 2);
        Ok(vec![failed_call(&words); records.len()])
    }

    /// Reads a shard from its oldest record until an answer says that nothing is behind it.
    pub async fn read_shard(
        &self,
        address: &str,
        stream: &str,
        shard: &str,
    ) -> anyhow::Result<Vec<Stored>> {
        let mut arguments = vec!["get-shard-iterator", "--stream-name", stream];
        arguments.extend(["--shard-id", shard, "--shard-iterator-type", "TRIM_HORIZON"]);
        let answer = self.kinesis(address, &arguments).await?;
        let mut iterator = text(&answer, "ShardIterator")?.to_owned();
        let mut records = Vec::new();
        loop {
            let arguments = ["get-records", "--shard-iterator", &iterator, "--limit", "10000"];
            let answer = self.kinesis(address, &arguments).await?;
            let page = answer["Records"].as_array().context("no Records")?;
            for record in page {
                records.push(stored(shard, record)?);
            }
            let behind = answer["MillisBehindLatest"].as_u64().context("no MillisBehindLatest")?;
            if page.is_empty() && behind == 0 {
                return Ok(records);
            }
            iterator = text(&answer, "NextShardIterator")?.to_owned();
        }
    }
}

/// A record as GetRecords gives it.
pub fn stored(shard: &str, record: &Value) -> anyhow::Result<Stored> {
    let data = STANDARD.decode(text(record, "Data")?).context("Data is no base64")?;
    Ok(Stored {
        position: position(shard, text(record, "SequenceNumber")?)?,
        key: text(record, "PartitionKey")?.to_owned(),
        data: Bytes::from(data),
    })
}

/// A place from the two texts that name it.
pub fn position(shard: &str, number: &str) -> anyhow::Result<Position> {
    let number = SequenceNumber::parse(number)
        .with_context(|| format!("{number:?} is no sequence number"))?;
    Ok(Position { shard: shard.to_owned(), number })
}

fn outcomes(answer: &Value, count: usize) -> anyhow::Result<Vec<Outcome>> {
    let entries = answer["Records"].as_array().context("PutRecords answers no Records")?;
    if entries.len() != count {
        bail!("PutRecords answers {} of {count} records", entries.len());
    }
    let failed = entries.iter().filter(|entry| entry.get("ErrorCode").is_some()).count();
    if answer["FailedRecordCount"].as_u64() != Some(failed as u64) {
        bail!("FailedRecordCount is {}, failed are {failed}", answer["FailedRecordCount"]);
    }
    entries.iter().map(outcome).collect()
}

fn outcome(entry: &Value) -> anyhow::Result<Outcome> {
    let Some(code) = entry.get("ErrorCode").and_then(Value::as_str) else {
        let number = text(entry, "SequenceNumber")?;
        return Ok(Outcome::Acked(position(text(entry, "ShardId")?, number)?));
    };
    let words = format!("{code}: {}", entry["ErrorMessage"].as_str().unwrap_or_default());
    Ok(match code {
        "ProvisionedThroughputExceededException" => Outcome::Refused(words),
        _ => Outcome::Unknown(words),
    })
}

/// A call that could not connect, or that was throttled as a whole, stored nothing; of any other nobody knows.
fn failed_call(words: &str) -> Outcome {
    let nothing_stored = words.contains("Could not connect to the endpoint URL")
        || words.contains("(ProvisionedThroughputExceededException)");
    if nothing_stored {
        Outcome::Refused(words.to_owned())
    } else {
        Outcome::Unknown(words.to_owned())
    }
}

fn text<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    value[name].as_str().with_context(|| format!("no {name} in {value}"))
}

async fn find() -> anyhow::Result<AwsCli> {
    let folder = binary::workspace_root().join("target/aws-cli");
    let own = folder.join("bin/aws");
    let program = if command::is_installed("aws") {
        PathBuf::from("aws")
    } else {
        if !own.is_file() {
            install(&folder).await?;
        }
        own
    };
    let mut version = Command::new(&program);
    // Version 1 prints it to stdout since it runs on Python 3.
    let printed = command::stdout(version.arg("--version"), CALL_LIMIT).await?;
    let version = printed.split_whitespace().next().context("no version")?.to_owned();
    Ok(AwsCli { program, version, config_file: PathBuf::from("/dev/null") })
}

async fn install(folder: &Path) -> anyhow::Result<()> {
    if !command::is_installed("python3") {
        bail!("neither `aws` nor `python3` is installed");
    }
    command::stdout(Command::new("python3").args(["-m", "venv"]).arg(folder), INSTALL_LIMIT)
        .await
        .context("`aws` is not installed, and python3 makes no folder for it")?;
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "awscli"]);
    command::stdout(&mut pip, INSTALL_LIMIT).await.context("`pip install awscli`")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_has_its_outcome() {
        let answer = serde_json::json!({"FailedRecordCount": 2, "Records": [
            {"SequenceNumber": "12", "ShardId": "shardId-000000000001"},
            {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow"},
            {"ErrorCode": "InternalFailure", "ErrorMessage": "who knows"},
        ]});
        assert_eq!(
            outcomes(&answer, 3).unwrap(),
            [
                Outcome::Acked(position("shardId-000000000001", "12").unwrap()),
                Outcome::Refused("ProvisionedThroughputExceededException: slow".into()),
                Outcome::Unknown("InternalFailure: who knows".into()),
            ]
        );
    }

    #[test]
    fn an_answer_that_does_not_add_up_is_an_error() {
        let one = serde_json::json!({"SequenceNumber": "12", "ShardId": "s"});
        let answer = serde_json::json!({"FailedRecordCount": 1, "Records": [one]});
        assert!(outcomes(&answer, 1).is_err());
        let answer = serde_json::json!({"FailedRecordCount": 0, "Records": [one]});
        assert!(outcomes(&answer, 2).is_err());
    }

    #[test]
    fn a_call_that_never_connected_stored_nothing() {
        let refused = "Could not connect to the endpoint URL: \"http://127.0.0.1:1/\"";
        assert!(matches!(failed_call(refused), Outcome::Refused(_)));
        assert!(matches!(failed_call("Connection was closed"), Outcome::Unknown(_)));
    }
}
