//! Somebody who creates streams and deletes them while everything happens.
//!
//! Must not know faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;
use tristream_client::domain::{PartitionKey, Record, Retry, StreamName};
use tristream_client::{Client, Error, StreamStatus};

use super::board::{Board, Phase};
use super::clients::native_client;

const PAUSE: Duration = Duration::from_millis(80);
/// Longest pause between two streams.
const PAUSE_MAX_MS: u64 = 3_000;

/// Creates and deletes streams until the audit.
pub(super) async fn operator(seed: u64, board: Arc<Board>) -> turmoil::Result {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x0e7);
    board.reached(Phase::Storm).await;
    let client = native_client()?;
    let mut number = 0;
    let mut asked: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
    while board.phase() < Phase::Audit {
        let began = board.phase();
        // Often a name that was used before: the new stream is not the old one.
        number += u64::from(random.random_bool(0.7));
        let name: StreamName = format!("passing-{number}").parse()?;
        let shards = random.random_range(1..3);
        let asked = asked.entry(number).or_default();
        asked.insert(shards);
        cycle(&client, &name, shards, asked, &board).await?;
        if began == Phase::Calm {
            board.cycled_in_calm();
        }
        board.count("streams_cycled", 1);
        sleep(Duration::from_millis(random.random_range(0..PAUSE_MAX_MS))).await;
    }
    Ok(())
}

/// From nothing, by way of a put, to nothing. `asked` are the numbers of shards that a stream of this name was ever to
/// have: an attempt of an earlier cycle, of which nobody had heard any more, may be carried out in the place of ours, and
/// a node that was cut off from the others for long tells of the stream of an earlier cycle (seed 401444).
async fn cycle(
    client: &Client,
    name: &StreamName,
    shards: u32,
    asked: &BTreeSet<u32>,
    board: &Board,
) -> Result<(), Error> {
    board.operator_waits_for(format!("the creation of {name}"));
    insist(
        || client.create_stream(name, Some(shards)),
        |error| matches!(error, Error::AlreadyExists(_)),
    )
    .await?;
    board.operator_waits_for(format!("{name} to be active"));
    let incarnation = loop {
        let stream = client.describe_stream(name).await;
        match stream {
            Ok(stream) if stream.status == StreamStatus::Active => {
                let open = u32::try_from(stream.map.open().count()).unwrap_or(u32::MAX);
                assert!(asked.contains(&open), "{open} shards of {name}, asked for {asked:?}");
                if open != shards {
                    board.count("streams_of_another_cycle", 1);
                }
                break stream.incarnation;
            }
            _ => sleep(PAUSE).await,
        }
    };
    board.operator_waits_for(format!("a put to {name}"));
    let record = Record {
        partition_key: PartitionKey::new("k").ok_or_else(|| Error::Invalid("key".to_owned()))?,
        explicit_hash_key: None,
        origin: None,
        data: Bytes::from_static(b"passing"),
    };
    insist(|| client.put(name, record.clone()), |_| false).await?;
    board.operator_waits_for(format!("the deletion of {name}"));
    insist(|| client.delete_stream(name), |error| matches!(error, Error::StreamNotFound(_)))
        .await?;
    board.operator_waits_for(format!("{name} to be gone"));
    loop {
        match client.describe_stream(name).await {
            Err(Error::StreamNotFound(_)) => break,
            // An attempt to create it, of which nobody had heard any more, was carried out after all.
            Ok(stream) if stream.incarnation != incarnation => {
                board.count("streams_created_late", 1);
                // Whatever became of it: the next look tells.
                let _ = client.delete_stream(name).await;
            }
            _ => {}
        }
        sleep(PAUSE).await;
    }
    board.operator_waits_for("nothing".to_owned());
    Ok(())
}

/// Again and again until it is done, or was by an earlier attempt.
async fn insist<T, Fut: Future<Output = Result<T, Error>>>(
    attempt: impl Fn() -> Fut,
    done_before: impl Fn(&Error) -> bool,
) -> Result<(), Error> {
    let mut doubtful = false;
    loop {
        let error = match attempt().await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if doubtful && done_before(&error) {
            return Ok(());
        }
        // Also a node that has not heard of the stream yet may be asked again.
        if error.retry() == Retry::Never && !matches!(error, Error::StreamNotFound(_)) {
            return Err(error);
        }
        doubtful |= error.effect() == tristream_client::domain::Effect::Unknown;
        sleep(PAUSE).await;
    }
}
