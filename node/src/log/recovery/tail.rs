//! The newest segment: where it ends, what of it is proven, and whether its end is torn or rotten.
//!
//! Invariant: changes nothing. A block that cannot be read is torn only if nothing proves that it was
//! durable; for that the whole rest of the file is looked through.

use std::io;
use std::sync::Arc;

use super::found::{Extent, note, unreadable};
use super::full;
use super::replay::Replay;
use crate::disk::File;
use crate::log::scan::{Block, Next, Scanner};
use crate::log::segment::{Header, damaged};
use crate::log::state::Segment;

/// What was found at the log's end.
pub(super) struct Tail {
    pub(super) extent: Extent,
    pub(super) unproven: Vec<Block>,
    pub(super) torn: bool,
}

/// Reads the newest segment, and takes in what is proven of it.
pub(super) async fn read(
    file: Arc<dyn File>,
    header: &Header,
    replay: &mut Replay,
) -> io::Result<Tail> {
    let mut account = Segment::new(*header);
    let mut proven = header.follows.max(header.whole_upto);
    let mut scanner = Scanner::new(Arc::clone(&file), *header, file.len()?);
    let (mut held, mut last) = (Vec::<Block>::new(), header.follows);
    let torn_header = loop {
        let block = match scanner.next().await? {
            Next::Block(block) => block,
            Next::Nothing => break false,
            Next::Torn => break true,
        };
        last = block.batch;
        proven = proven.max(block.durable_upto);
        held.push(block);
        take_in(&mut account, replay, &mut held, proven);
    };
    // The blocks that are held may be proven by what lies behind the damage, too.
    let behind = scanner.proof_behind(last).await?;
    proven = proven.max(behind.unwrap_or(0));
    if last < proven {
        return Err(damaged(unreadable(header.sequence, scanner.at, last + 1)));
    }
    take_in(&mut account, replay, &mut held, proven);
    let whole = held.iter().take_while(|block| block.is_whole()).count();
    let torn = torn_header || whole < held.len();
    held.truncate(whole);
    let extent = Extent {
        sequence: header.sequence,
        follows: header.follows,
        upto: proven,
        damaged_at: None,
    };
    replay.segments.insert(header.sequence, full(account));
    Ok(Tail { extent, unproven: held, torn })
}

/// Takes in the blocks up to `proven`.
fn take_in(account: &mut Segment, replay: &mut Replay, held: &mut Vec<Block>, proven: u64) {
    let known = held.iter().take_while(|block| block.batch <= proven).count();
    for block in held.drain(..known) {
        for found in &block.frames {
            note(&mut account.directory, &mut Default::default(), found);
            account.frames += 1;
            replay.found(account.header.sequence, found);
        }
        (account.len, account.last_batch) = (block.end, block.batch);
    }
}
