//! The sealer: writes the footers of full segments, in the background.
//!
//! Invariants: a footer is written only when the next segment is durable, so a footer in the newest
//! segment proves that another one is missing; until it is durable, memory has what it says. Never
//! delays a commit.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::segment::{Directory, Header, footer};
use super::state::Stage;
use super::writer;

/// After a failure, for want of room for example.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Works whenever a segment may have become full, until the node stops.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        shared.sealer.notified().await;
        while let Some(sequence) = next(&shared) {
            if let Err(error) = seal(&shared, sequence).await {
                if shared.state.lock().stop.is_some() {
                    return;
                }
                // The segment is as good without: it is scanned at the next open.
                tracing::warn!(segment = sequence, %error, "log segment got no footer yet");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

/// The oldest full segment that has no footer.
fn next(shared: &Shared) -> Option<u64> {
    let state = shared.state.lock();
    let mut full = state.segments.iter().filter(|(_, known)| known.stage == Stage::Full);
    full.find(|(sequence, _)| state.has_successor(**sequence)).map(|(sequence, _)| *sequence)
}

async fn seal(shared: &Shared, sequence: u64) -> io::Result<()> {
    let Some((header, directory, len, last_batch)) = take(shared, sequence) else { return Ok(()) };
    let encoded = footer::encode(&header, &directory, len, last_batch);
    match write(shared, &header, &encoded).await {
        Ok(bytes) => {
            shared.metrics.observe_log_footer(bytes);
            shared.state.lock().sealed(sequence, &directory, encoded.trailer);
            shared.keep.notify_one();
            Ok(())
        }
        Err(error) => {
            if let Some(segment) = shared.state.lock().segments.get_mut(&sequence) {
                segment.directory = directory;
            }
            Err(error)
        }
    }
}

/// What the footer is made of. Nothing is added to a full segment any more.
fn take(shared: &Shared, sequence: u64) -> Option<(Header, Directory, u64, u64)> {
    let mut state = shared.state.lock();
    let segment = state.segments.get_mut(&sequence)?;
    let mut directory = std::mem::take(&mut segment.directory);
    directory.number();
    Some((segment.header, directory, segment.len, segment.last_batch))
}

async fn write(shared: &Shared, header: &Header, encoded: &footer::Encoded) -> io::Result<u64> {
    let file = shared.files.get(header.sequence)?;
    let bytes = writer::write_footer(&*file, encoded).await?;
    file.sync().await?;
    Ok(bytes)
}
