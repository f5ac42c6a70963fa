//! The scrubber: reads sealed segments again, so that damage is found while peers still have what is
//! damaged.
//!
//! Invariant: reads no faster than the rate it is given, and never keeps a segment from being given
//! up. Damaged entries are noted as faulty; marks that are in memory are written again; a footer is
//! made again from the blocks. What is damaged and does not count is left alone.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::carry;
use super::pace::Pace;
use super::scan::{Block, Next, Scanner};
use super::segment::Header;
use super::state::Stage;

/// Before the first pass, and between two.
const PASS_EVERY: Duration = Duration::from_secs(3600);

/// Works until the node stops.
pub(super) async fn run(shared: Arc<Shared>) {
    if shared.config.scrub_bytes_per_second == 0 {
        return;
    }
    loop {
        tokio::time::sleep(PASS_EVERY).await;
        pass(&shared).await;
    }
}

/// Reads all sealed segments once.
pub(super) async fn pass(shared: &Arc<Shared>) {
    let mut pace = Pace::new(shared.config.scrub_bytes_per_second);
    let sealed: Vec<u64> = {
        let state = shared.state.lock();
        let order = state.in_order().into_iter();
        let is_sealed = |sequence: &u64| {
            state
                .segments
                .get(sequence)
                .is_some_and(|known| matches!(known.stage, Stage::Sealed(_)))
        };
        order.filter(is_sealed).collect()
    };
    for sequence in sealed {
        if let Err(error) = segment(shared, sequence, &mut pace).await {
            if shared.state.lock().stop.is_some() {
                return;
            }
            tracing::warn!(segment = sequence, %error, "log segment not scrubbed to its end");
        }
    }
}

async fn segment(shared: &Arc<Shared>, sequence: u64, pace: &mut Pace) -> io::Result<()> {
    let known: Option<(Header, u64)> = {
        let state = shared.state.lock();
        state.segments.get(&sequence).map(|known| (known.header, known.len))
    };
    let Some((header, len)) = known else { return Ok(()) };
    let Some(file) = shared.file(sequence)? else { return Ok(()) };
    // Also what tells where entries are, before anything hangs on it.
    shared.mend_footer(sequence).await?;
    let mut scanner = Scanner::new(file, header, len);
    while scanner.at < len {
        let before = scanner.at;
        let next = match scanner.next().await {
            Ok(next) => next,
            Err(error) => {
                // It cannot be read: each entry by itself may tell which of them.
                shared.check_entries(sequence, 0, u64::MAX).await?;
                carry_marks(shared, sequence).await?;
                return Err(error);
            }
        };
        match next {
            Next::Block(block) => check(shared, sequence, &block).await?,
            Next::Nothing | Next::Torn => {
                let behind = scanner.skip_damage().await?;
                let end = if behind { scanner.at } else { len };
                shared.check_entries(sequence, before, end).await?;
                carry_marks(shared, sequence).await?;
            }
        }
        let bytes = scanner.at.min(len) - before;
        shared.metrics.observe_scrubbed(bytes);
        pace.spend(bytes).await;
    }
    Ok(())
}

/// Looks after what is damaged in a block.
async fn check(shared: &Arc<Shared>, sequence: u64, block: &Block) -> io::Result<()> {
    let mut marks = false;
    for found in block.frames.iter().filter(|found| found.payload.is_none()) {
        match found.head.entry() {
            // Read as anybody would: that notes the damage, if the entry still lies there.
            Some(_) => {
                let from = found.offset;
                shared.check_entries(sequence, from, from + 1).await?;
            }
            None => marks = true,
        }
    }
    if marks {
        carry_marks(shared, sequence).await?;
    }
    Ok(())
}

async fn carry_marks(shared: &Arc<Shared>, sequence: u64) -> io::Result<()> {
    let tombstones = {
        let state = shared.state.lock();
        let here = |group: &super::group::Group| {
            group.tombstone.is_some_and(|place| place.segment == sequence)
        };
        state.groups.iter().filter(|(_, group)| here(group)).map(|(id, _)| *id).collect()
    };
    carry::carry(shared, &BTreeSet::from([sequence]), &tombstones).await
}
