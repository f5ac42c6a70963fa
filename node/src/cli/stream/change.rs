//! `tristream stream split`, `merge`, `scale` and `mode`: begin a change, and wait for its end.
//!
//! Must not decide whether a change may be: the cluster says so.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::anyhow;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep};
use tristream_client::{Client, Error, StreamDescription, StreamStatus};
use tristream_proto::domain::{HashKey, ShardId, ShardMap, StreamName};

use super::word;
use crate::cli::{colours_refused, screen};

/// How long a change may take before the command gives up waiting. The change itself goes on.
const WAIT_MAX: Duration = Duration::from_secs(300);
const WAIT_STEP: Duration = Duration::from_millis(100);

/// Whether to wait for the end of a change.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Patience {
    /// Wait until the stream is ACTIVE again; so it is by default.
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Return as soon as the change has begun.
    #[arg(long)]
    no_wait: bool,
}

/// Who decides on the number of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// The load does.
    OnDemand,
    /// The user does.
    Provisioned,
}

/// Reads a shard's id: `3`, or `shardId-000000000003`.
pub(super) fn shard_id(text: &str) -> Result<ShardId, String> {
    ShardId::parse_lenient(text).ok_or_else(|| "a shard is a number, or shardId-000…".to_owned())
}

/// Reads a hash key: decimal, or hexadecimal after `0x`.
pub(super) fn hash_key(text: &str) -> Result<HashKey, String> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let key = match hex {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u128::from_str_radix(digits, 16).ok().map(HashKey)
        }
        Some(_) => None,
        None => text.parse().ok(),
    };
    key.ok_or_else(|| "a hash key is below 2^128, decimal or as 0x and hex digits".to_owned())
}

pub(super) async fn split(
    client: &Client,
    stream: &StreamName,
    shard: ShardId,
    at: Option<HashKey>,
    patience: Patience,
) -> anyhow::Result<()> {
    begun(client.split_shard(stream, shard, at).await, stream)?;
    let what = format!("splitting {shard} of {stream}");
    let done = |now: &StreamDescription| is_closed(&now.map, shard);
    let Some(now) = wait(client, stream, &what, patience, done).await? else { return Ok(()) };
    let children = children(&now.map, shard);
    screen::say(format!("{shard} of stream {stream} is split into {}", join(&children)));
    Ok(())
}

pub(super) async fn merge(
    client: &Client,
    stream: &StreamName,
    shard: ShardId,
    adjacent: ShardId,
    patience: Patience,
) -> anyhow::Result<()> {
    // A person need not know which of two neighbours has the lower keys.
    let map = client.describe_stream(stream).await?;
    let [shard, adjacent] = in_order(&map.map, [shard, adjacent]);
    begun(client.merge_shards(stream, shard, adjacent).await, stream)?;
    let what = format!("merging {shard} and {adjacent} of {stream}");
    let done =
        |now: &StreamDescription| is_closed(&now.map, shard) && is_closed(&now.map, adjacent);
    let Some(now) = wait(client, stream, &what, patience, done).await? else { return Ok(()) };
    let child = join(&children(&now.map, shard));
    screen::say(format!("{shard} and {adjacent} of stream {stream} are merged into {child}"));
    Ok(())
}

pub(super) async fn scale(
    client: &Client,
    stream: &StreamName,
    target: u32,
    patience: Patience,
) -> anyhow::Result<()> {
    let before = client.describe_stream(stream).await?.map.open().count();
    begun(client.update_shard_count(stream, target).await, stream)?;
    let what = format!("scaling {stream} from {before} to {target} shards");
    let done = |now: &StreamDescription| now.map.open().count() == target as usize;
    if wait(client, stream, &what, patience, done).await?.is_some() {
        let shards = if target == 1 { "shard" } else { "shards" };
        screen::say(format!("stream {stream} has {target} open {shards}"));
    }
    Ok(())
}

pub(super) async fn mode(
    client: &Client,
    stream: &StreamName,
    mode: Mode,
    patience: Patience,
) -> anyhow::Result<()> {
    begun(client.update_stream_mode(stream, mode == Mode::OnDemand).await, stream)?;
    let word = match mode {
        Mode::OnDemand => "on demand",
        Mode::Provisioned => "provisioned",
    };
    let what = format!("making {stream} {word}");
    if wait(client, stream, &what, patience, |_| true).await?.is_some() {
        screen::say(format!("stream {stream} is {word}"));
    }
    Ok(())
}

/// A refusal with what to do about it, where changes have their own answer.
fn begun(answer: Result<(), Error>, stream: &StreamName) -> anyhow::Result<()> {
    let Err(error) = answer else { return Ok(()) };
    let advice = match &error {
        Error::Invalid(why) if why.contains("on demand") => format!(
            "its shards follow the load; take over with `tristream stream mode {stream} provisioned`"
        ),
        Error::Invalid(_) => format!("see `tristream stream shards {stream}`"),
        Error::NotActive(_) => {
            "one change at a time: wait until it is ACTIVE, see `tristream stream list`".to_owned()
        }
        Error::LimitExceeded(why) if why.contains("the limit is") => {
            "use fewer shards, or delete a stream".to_owned()
        }
        Error::LimitExceeded(_) => {
            "this is AWS's limit; nodes that run with `--quotas off` have none".to_owned()
        }
        _ => return Err(error.into()),
    };
    let why = error.to_string();
    Err(anyhow!("{} ({advice})", why.trim_end_matches('.')))
}

/// Waits until the stream is ACTIVE and `done`, and gives the stream; nothing when nobody waits.
async fn wait(
    client: &Client,
    stream: &StreamName,
    what: &str,
    patience: Patience,
    done: impl Fn(&StreamDescription) -> bool,
) -> anyhow::Result<Option<std::sync::Arc<StreamDescription>>> {
    if patience.no_wait {
        screen::say(format!("{what}: begun, see `tristream stream shards {stream}`"));
        return Ok(None);
    }
    let spinner = spinner();
    let until = Instant::now() + WAIT_MAX;
    let outcome = loop {
        let now = match client.describe_stream(stream).await {
            Ok(now) => now,
            Err(error) => break Err(error.into()),
        };
        // A node that has not heard of the change yet still says ACTIVE.
        if now.status == StreamStatus::Active && done(&now) {
            break Ok(Some(now));
        }
        let open = now.map.open().count();
        spinner.set_message(format!("{what}: {}, {open} open shards", word(now.status)));
        if Instant::now() >= until {
            break Err(anyhow!(
                "{what} is not done after {} s, and goes on: see `tristream stream shards {stream}` \
                 and `tristream status`",
                WAIT_MAX.as_secs()
            ));
        }
        sleep(WAIT_STEP).await;
    };
    spinner.finish_and_clear();
    outcome
}

/// Shown on a terminal only.
fn spinner() -> ProgressBar {
    if !std::io::stderr().is_terminal() || colours_refused() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner();
    spinner.enable_steady_tick(Duration::from_millis(100));
    match ProgressStyle::with_template("{spinner} {msg}, {elapsed}") {
        Ok(style) => spinner.with_style(style),
        Err(_) => spinner,
    }
}

/// Closed, or closed so long ago that it is gone.
fn is_closed(map: &ShardMap, shard: ShardId) -> bool {
    map.get(shard).is_none_or(|shard| !shard.is_open())
}

fn children(map: &ShardMap, parent: ShardId) -> Vec<ShardId> {
    let children = map.shards().iter().filter(|shard| shard.parents.contains(&parent));
    children.map(|child| child.id).collect()
}

/// By their ranges, as far as both are known.
fn in_order(map: &ShardMap, [a, b]: [ShardId; 2]) -> [ShardId; 2] {
    match (map.get(a), map.get(b)) {
        (Some(first), Some(second)) if second.range.first < first.range.first => [b, a],
        _ => [a, b],
    }
}

fn join(shards: &[ShardId]) -> String {
    shards.iter().map(ShardId::to_string).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::stream::lineage::sample;

    #[test]
    fn hash_keys_are_decimal_or_hexadecimal() {
        assert_eq!(hash_key("0"), Ok(HashKey(0)));
        assert_eq!(hash_key("170141183460469231731687303715884105728"), Ok(HashKey(1 << 127)));
        assert_eq!(hash_key("0x80000000000000000000000000000000"), Ok(HashKey(1 << 127)));
        assert_eq!(hash_key("0xFf"), Ok(HashKey(255)));
        for bad in
            ["", "0x", "-1", "+1", "0x+1", "ff", "1e3", "0x100000000000000000000000000000000"]
        {
            assert!(hash_key(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn neighbours_are_put_in_order() {
        let stream = sample::stream();
        let ids = |a: u32, b: u32| [ShardId::from(a), ShardId::from(b)];
        assert_eq!(in_order(&stream.map, ids(5, 2)), ids(2, 5));
        assert_eq!(in_order(&stream.map, ids(2, 5)), ids(2, 5));
        assert_eq!(in_order(&stream.map, ids(99, 2)), ids(99, 2));
    }

    #[test]
    fn refusals_say_what_to_do() {
        let stream: StreamName = "orders".parse().expect("a name");
        for (error, advice) in [
            (Error::Invalid("stream orders is on demand".into()), "stream mode orders provisioned"),
            (Error::Invalid("no such shard: 9".into()), "stream shards orders"),
            (Error::NotActive("orders".into()), "one change at a time"),
            (Error::LimitExceeded("200 shards are open and the limit is 200".into()), "delete"),
            (Error::LimitExceeded("over double".into()), "--quotas off"),
        ] {
            let text = begun(Err(error), &stream).expect_err("refused").to_string();
            assert!(text.contains(advice), "{text}");
        }
    }
}
