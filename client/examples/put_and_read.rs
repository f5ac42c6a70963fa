//! Stores ten records in a stream and reads them back.
//!
//! ```text
//! tristream up &                       # three nodes on this machine
//! tristream stream create demo --wait
//! cargo run -p tristream-client --example put_and_read -- demo
//! ```

use anyhow::Context;
use tristream_client::domain::{PartitionKey, Record, StreamName};
use tristream_client::{Client, Options, Start};

#[tokio::main]
#[allow(clippy::print_stdout)]
async fn main() -> anyhow::Result<()> {
    let name = std::env::args().nth(1).context("usage: put_and_read STREAM")?;
    let stream: StreamName = name.parse()?;
    let nodes = ["127.0.0.1:5567", "127.0.0.1:5568", "127.0.0.1:5569"];
    let client = Client::connect(nodes, Options::default())?;

    // From here on: what comes after is ours, and perhaps others'.
    let mut consumer = client.consumer(&stream, Start::Latest).await?;
    for _ in 0..consumer.shards().len() {
        consumer.next().await.context("no shard")??;
    }

    for i in 0..10 {
        let key = PartitionKey::new(&format!("customer-{i}")).context("a key")?;
        let data = format!("order {i}").into();
        let record = Record { partition_key: key, explicit_hash_key: None, origin: None, data };
        let number = client.put(&stream, record).await?;
        println!("stored   {} {number}", number.shard);
    }

    let mut read = 0;
    while read < 10 {
        let event = consumer.next().await.context("no shard is left")??;
        for record in &event.records {
            println!("read     {} {}", event.shard, String::from_utf8_lossy(&record.data));
            read += 1;
        }
    }
    Ok(())
}
