//! Every operation and every kind of refusal, through the AWS SDK against three real nodes.
//!
//! One cluster serves the whole file: starting one costs more than all of these calls.

use std::time::Duration;

use anyhow::{Context, ensure};
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::{Blob, DateTime};
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, ShardIteratorType};
use serde_json::json;
use tristream_cluster_tests::processes::{Cluster, Options, ZONES};
use tristream_cluster_tests::{raw_http, sdk};

/// One raw request.
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn every_operation_answers_as_aws_does() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(Options::default()).await?;
    let tested = all(&cluster).await.with_context(|| cluster.last_words());
    cluster.stop().await?;
    tested
}

async fn all(cluster: &Cluster) -> anyhow::Result<()> {
    let clients = ZONES
        .iter()
        .map(|zone| Ok(sdk::client(&cluster.kinesis(zone)?, 3)))
        .collect::<anyhow::Result<Vec<Client>>>()?;
    streams_are_created_and_described(&clients).await.context("create, describe, list")?;
    shards_are_listed_in_pages(&clients[1]).await.context("ListShards")?;
    records_are_put_and_read_at_any_node(&clients).await.context("put and get")?;
    iterators_start_where_they_say(&clients[2]).await.context("GetShardIterator")?;
    a_stream_created_again_is_empty(&clients).await.context("delete and create again")?;
    bad_calls_are_refused(&clients[0]).await.context("refusals")?;
    bad_requests_are_refused(&cluster.kinesis("az-b")?).await.context("raw refusals")
}

async fn streams_are_created_and_described(clients: &[Client]) -> anyhow::Result<()> {
    sdk::create_stream(&clients[0], "orders", 3).await?;
    for client in clients {
        let described = client.describe_stream().stream_name("orders").send().await?;
        let described = described.stream_description().context("no description")?;
        ensure!(described.stream_arn() == "arn:aws:kinesis:us-east-1:000000000000:stream/orders");
        ensure!(described.retention_period_hours() == 24);
        let mut next = 0_u128;
        for (number, shard) in described.shards().iter().enumerate() {
            ensure!(shard.shard_id() == format!("shardId-{number:012}"));
            let range = shard.hash_key_range().context("no range")?;
            ensure!(range.starting_hash_key().parse::<u128>()? == next, "ranges leave a gap");
            next = range.ending_hash_key().parse::<u128>()?.wrapping_add(1);
            let numbers = shard.sequence_number_range().context("no numbers")?;
            ensure!(numbers.starting_sequence_number().len() == 56);
            ensure!(numbers.ending_sequence_number().is_none(), "an open shard has no end");
        }
        ensure!(described.shards().len() == 3 && next == 0, "ranges do not tile the key space");

        let summary = client.describe_stream_summary().stream_name("orders").send().await?;
        let summary = summary.stream_description_summary().context("no summary")?;
        ensure!(summary.open_shard_count() == 3 && summary.stream_name() == "orders");
    }
    for name in ["a-first", "z.last_1"] {
        sdk::create_stream(&clients[1], name, 1).await?;
    }
    let listed = clients[2].list_streams().send().await?;
    ensure!(listed.stream_names() == ["a-first", "orders", "z.last_1"]);
    ensure!(!listed.has_more_streams());
    let first = clients[2].list_streams().limit(1).send().await?;
    ensure!(first.stream_names() == ["a-first"] && first.has_more_streams());
    let rest = clients[2].list_streams().exclusive_start_stream_name("a-first").send().await?;
    ensure!(rest.stream_names() == ["orders", "z.last_1"]);
    Ok(())
}

async fn shards_are_listed_in_pages(client: &Client) -> anyhow::Result<()> {
    let mut ids = Vec::new();
    let mut page = client.list_shards().stream_name("orders").max_results(2).send().await?;
    loop {
        ids.extend(page.shards().iter().map(|shard| shard.shard_id().to_owned()));
        let Some(token) = page.next_token() else { break };
        page = client.list_shards().next_token(token).send().await?;
    }
    ensure!(ids == [0, 1, 2].map(|number| format!("shardId-{number:012}")), "{ids:?}");
    let after = client.list_shards().stream_name("orders").exclusive_start_shard_id(&ids[0]);
    ensure!(after.send().await?.shards().len() == 2);
    Ok(())
}

async fn records_are_put_and_read_at_any_node(clients: &[Client]) -> anyhow::Result<()> {
    // The MD5 of these keys falls on these of three shards, at AWS as well.
    for (key, shard) in [("a", 0), ("b", 1), ("f", 1), ("e", 2)] {
        let client = &clients[shard];
        let data = Blob::new(key.as_bytes());
        let put = client.put_record().stream_name("orders").partition_key(key).data(data);
        let put = put.send().await?;
        ensure!(put.shard_id() == format!("shardId-{shard:012}"), "{key} is in {}", put.shard_id());
    }
    let entry = |key: &str, hash: Option<&str>, data: &[u8]| {
        PutRecordsRequestEntry::builder()
            .partition_key(key)
            .set_explicit_hash_key(hash.map(str::to_owned))
            .data(Blob::new(data))
            .build()
    };
    let last = "340282366920938463463374607431768211455";
    let put = clients[1]
        .put_records()
        .stream_name("orders")
        .records(entry("a", None, b"many 1")?)
        .records(entry("a", Some(last), &[0, 255, 10])?)
        .records(entry("a", None, b"many 2")?)
        .send()
        .await?;
    ensure!(put.failed_record_count() == Some(0));
    let shards: Vec<_> = put.records().iter().filter_map(|record| record.shard_id()).collect();
    ensure!(shards == [0, 2, 0].map(|number| format!("shardId-{number:012}")), "{shards:?}");
    for client in clients {
        let mut all = Vec::new();
        for shard in sdk::shards(client, "orders").await? {
            let oldest = sdk::oldest(client, "orders", &shard).await?;
            all.push(sdk::read_on(client, &shard, oldest).await?);
        }
        let data: Vec<Vec<&[u8]>> =
            all.iter().map(|shard| shard.iter().map(|stored| &*stored.data).collect()).collect();
        ensure!(data[0] == [b"a".as_slice(), b"many 1", b"many 2"], "{data:?}");
        ensure!(data[1] == [b"b", b"f"], "{data:?}");
        ensure!(data[2] == [b"e".as_slice(), &[0, 255, 10]], "{data:?}");
        ensure!(all[2][1].key == "a", "the explicit hash key changes the shard, not the key");
        for pair in all.iter().flat_map(|shard| shard.windows(2)) {
            ensure!(pair[0].position < pair[1].position);
        }
    }
    Ok(())
}

async fn iterators_start_where_they_say(client: &Client) -> anyhow::Result<()> {
    let shard = "shardId-000000000000";
    let of = |kind: ShardIteratorType| {
        client.get_shard_iterator().stream_name("orders").shard_id(shard).shard_iterator_type(kind)
    };
    let oldest = sdk::oldest(client, "orders", shard).await?;
    let first = client.get_records().shard_iterator(&oldest).limit(1).send().await?;
    ensure!(first.records().len() == 1, "a limit of 1 gives 1");
    let again = client.get_records().shard_iterator(&oldest).limit(1).send().await?;
    ensure!(first.records() == again.records(), "an iterator used again gives the same");
    let next = first.next_shard_iterator().context("no next iterator")?;
    let second = client.get_records().shard_iterator(next).limit(1).send().await?;
    ensure!(second.records()[0].data().as_ref() == b"many 1");
    let number = second.records()[0].sequence_number();
    let arrived = *second.records()[0].approximate_arrival_timestamp().context("no time")?;

    let latest = of(ShardIteratorType::Latest).send().await?;
    for (what, made, expected) in [
        ("at", of(ShardIteratorType::AtSequenceNumber).starting_sequence_number(number), 2),
        ("after", of(ShardIteratorType::AfterSequenceNumber).starting_sequence_number(number), 1),
        ("time", of(ShardIteratorType::AtTimestamp).timestamp(DateTime::from_secs(0)), 3),
        ("time of 2nd", of(ShardIteratorType::AtTimestamp).timestamp(arrived), 2),
        ("later", of(ShardIteratorType::AtTimestamp).timestamp(DateTime::from_secs(4e9 as i64)), 0),
    ] {
        let made = match made.send().await {
            Ok(made) => made,
            // AWS refuses a time in the future.
            Err(error) if what == "later" => {
                ensure!(sdk::code(&error) == Some("InvalidArgumentException"), "{error:?}");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let iterator = made.shard_iterator().context("no iterator")?.to_owned();
        let read = sdk::read_on(client, shard, iterator).await?;
        ensure!(read.len() == expected, "{what}: {} records", read.len());
    }
    // Pinned when it was made, not when it is first used.
    let put = client.put_record().stream_name("orders").partition_key("a");
    put.data(Blob::new(b"after latest")).send().await?;
    let iterator = latest.shard_iterator().context("no iterator")?.to_owned();
    let read = sdk::read_on(client, shard, iterator).await?;
    ensure!(read.len() == 1 && read[0].data == "after latest", "{read:?}");
    Ok(())
}

async fn a_stream_created_again_is_empty(clients: &[Client]) -> anyhow::Result<()> {
    sdk::delete_stream(&clients[0], "orders").await?;
    sdk::create_stream(&clients[1], "orders", 2).await?;
    let shards = sdk::shards(&clients[2], "orders").await?;
    ensure!(shards.len() == 2);
    for shard in shards {
        let oldest = sdk::oldest(&clients[2], "orders", &shard).await?;
        ensure!(sdk::read_on(&clients[2], &shard, oldest).await?.is_empty());
    }
    Ok(())
}

/// The call fails with this exception.
macro_rules! refused {
    ($call:expr, $code:literal) => {{
        match $call.send().await {
            Ok(answer) => anyhow::bail!("{} gave {answer:?}", stringify!($call)),
            Err(error) => ensure!(
                sdk::code(&error) == Some($code),
                "{}: {error:?} is no {}",
                stringify!($call),
                $code
            ),
        }
    }};
}

async fn bad_calls_are_refused(client: &Client) -> anyhow::Result<()> {
    let none = "no-such-stream";
    refused!(client.create_stream().stream_name("orders").shard_count(1), "ResourceInUseException");
    refused!(client.create_stream().stream_name("a b").shard_count(1), "ValidationException");
    refused!(client.create_stream().stream_name("").shard_count(1), "ValidationException");
    refused!(client.create_stream().stream_name("ok").shard_count(0), "ValidationException");
    refused!(client.describe_stream().stream_name(none), "ResourceNotFoundException");
    refused!(client.describe_stream_summary().stream_name(none), "ResourceNotFoundException");
    refused!(client.delete_stream().stream_name(none), "ResourceNotFoundException");
    refused!(client.list_shards().stream_name(none), "ResourceNotFoundException");
    let data = Blob::new("x");
    let put = || client.put_record().partition_key("k").data(data.clone());
    refused!(put().stream_name(none), "ResourceNotFoundException");
    refused!(put().stream_name("orders").partition_key(""), "ValidationException");
    refused!(put().stream_name("orders").partition_key("k".repeat(257)), "ValidationException");
    let beyond = "340282366920938463463374607431768211456";
    refused!(put().stream_name("orders").explicit_hash_key(beyond), "InvalidArgumentException");
    let entry = PutRecordsRequestEntry::builder().partition_key("k").data(data.clone()).build()?;
    let many = client.put_records().stream_name("orders").set_records(Some(vec![entry; 501]));
    refused!(many, "ValidationException");
    let iterator = || client.get_shard_iterator().shard_iterator_type(ShardIteratorType::Latest);
    let missing = iterator().stream_name("orders").shard_id("shardId-000000000009");
    refused!(missing, "ResourceNotFoundException");
    refused!(iterator().stream_name(none).shard_id("shardId-0"), "ResourceNotFoundException");
    refused!(client.get_records().shard_iterator("bogus"), "InvalidArgumentException");
    let large = put().stream_name("orders").data(Blob::new(vec![0_u8; (1 << 20) + 1]));
    match large.send().await {
        Ok(_) => anyhow::bail!("a record above 1 MiB was taken"),
        Err(error) => ensure!(sdk::code(&error).is_some(), "no clear refusal: {error:?}"),
    }
    let largest = put().stream_name("orders").data(Blob::new(vec![0_u8; (1 << 20) - 1]));
    largest.send().await.context("a record of exactly 1 MiB with its key")?;
    Ok(())
}

async fn bad_requests_are_refused(address: &str) -> anyhow::Result<()> {
    let headers = [
        ("content-type", "application/x-amz-json-1.1"),
        ("x-amz-target", "Kinesis_20131202.ListStreams"),
    ];
    for bad in [&b"{"[..], b"true", b"\xff\xfe", b"[1, 2"] {
        let answer = raw_http::send(address, "POST", "/", &headers, bad, LIMIT).await?;
        ensure!(answer.status == 400, "{bad:?}: {answer:?}");
        ensure!(answer.json()?["__type"] == "SerializationException", "{bad:?}: {answer:?}");
    }
    let record = json!({"StreamName": "orders", "PartitionKey": "k", "Data": "23456"});
    let answer = raw_http::kinesis(address, "PutRecord", &record, LIMIT).await?;
    ensure!(answer.status == 400 && answer.json()?["__type"] == "SerializationException");
    let answer = raw_http::kinesis(address, "NoSuchOperation", &json!({}), LIMIT).await?;
    ensure!(answer.status == 400 && answer.json()?["__type"] == "UnknownOperationException");
    let answer = raw_http::kinesis(address, "ListStreams", &json!({}), LIMIT).await?;
    ensure!(answer.status == 200 && answer.header("x-amzn-requestid").is_some());
    let answer = raw_http::get(address, "/healthz", LIMIT).await?;
    ensure!(answer.status == 200);
    let metrics = raw_http::get(address, "/metrics", LIMIT).await?;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    ensure!(metrics.lines().any(|line| line.contains("fsync")), "{metrics}");
    Ok(())
}
