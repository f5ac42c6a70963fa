//! The segments that are there, which of them count, and whether any is missing.
//!
//! Invariant: changes nothing. A segment may be missing only if a rewritten one covers its batches, or
//! if the log said before that it would be given up. One whose file was used again is missing.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use tristream_proto::domain::GroupId;

use crate::disk::File;
use crate::log::files::Files;
use crate::log::frame::{Head, What};
use crate::log::pool;
use crate::log::retired::Retired;
use crate::log::scan::{self, Next, Scanner};
use crate::log::segment::footer::{self, Trailer};
use crate::log::segment::{self, Directory, Header, damaged, name};

/// Which batches of a segment are there.
pub(super) struct Extent {
    pub(super) sequence: u64,
    pub(super) follows: u64,
    /// The last batch that counts.
    pub(super) upto: u64,
    /// Where reading ended because of damage.
    pub(super) damaged_at: Option<u64>,
}

/// A full segment as it was read.
pub(super) struct Loaded {
    pub(super) directory: Directory,
    pub(super) trailer: Trailer,
    pub(super) extent: Extent,
    /// Its footer, when it was lost.
    pub(super) lost: Option<footer::Encoded>,
    pub(super) faulty: Faulty,
}

/// Entries whose payloads are damaged: their heads, and where these lie.
pub(super) type Faulty = BTreeMap<(GroupId, u64), (Head, u64)>;

/// Reads the headers of all segments, in the order of their names, and tells which of the files are none
/// any more: they were used again.
pub(super) async fn headers(
    files: &Files,
    names: &[String],
) -> io::Result<(Vec<Header>, Vec<u64>)> {
    let mut sequences: Vec<u64> =
        names.iter().filter_map(|name| segment::sequence_of(name)).collect();
    sequences.sort_unstable();
    let (mut headers, mut odd) = (Vec::with_capacity(sequences.len()), Vec::new());
    for sequence in sequences {
        match Header::read(&*files.get(sequence)?, sequence).await {
            Ok(header) => headers.push(header),
            Err(error) => odd.push((sequence, error)),
        }
    }
    let mut used_again = Vec::new();
    for (sequence, error) in odd {
        if !is_used_again(&*files.get(sequence)?, sequence, &headers).await? {
            return Err(error);
        }
        used_again.push(sequence);
        // Not kept open: it is going to be removed.
        drop(files.take(sequence)?);
        files.left(sequence);
    }
    Ok((headers, used_again))
}

/// Whether the file of a segment that was given up became a ready one, or a later segment: a folder's sync
/// that failed may have lost that the old name was removed.
///
/// Only where a later segment of the committer is there: then `check_extents` notices if what the file is
/// taken to have held is missing, or the later segment that it became.
async fn is_used_again(file: &dyn File, sequence: u64, headers: &[Header]) -> io::Result<bool> {
    let written = headers.iter().filter(|header| !header.rewritten);
    let Some(newest) = written.max_by_key(|header| header.sequence) else { return Ok(false) };
    if sequence < newest.sequence && pool::is_marked(file).await? {
        return Ok(true);
    }
    Ok(Header::read_any(file).await?.is_some_and(|header| {
        // The pool's files become segments of the committer only.
        let ours = header.log == newest.log && !header.rewritten;
        ours && sequence < header.sequence && header.sequence <= newest.sequence
    }))
}

/// The log that all segments say they belong to.
pub(super) fn same_log(all: &[Header]) -> io::Result<Option<u64>> {
    let Some(first) = all.first() else { return Ok(None) };
    match all.iter().find(|header| header.log != first.log) {
        Some(foreign) => Err(damaged(format!(
            "segments {} and {} belong to different logs",
            name(first.sequence),
            name(foreign.sequence)
        ))),
        None => Ok(Some(first.log)),
    }
}

/// Those that count, in the order of what is in them, and the names of those that others replace.
pub(super) fn split_replaced(all: Vec<Header>) -> (Vec<Header>, Vec<u64>) {
    let rewritten: Vec<Header> = all.iter().filter(|header| header.rewritten).copied().collect();
    let replaces = |new: &Header, old: &Header| {
        let inside = match old.rewritten {
            true => old.whole_upto <= new.whole_upto,
            false => old.follows < new.whole_upto,
        };
        old.sequence < new.sequence && new.follows <= old.follows && inside
    };
    let is_replaced = |old: &Header| rewritten.iter().any(|new| replaces(new, old));
    let (replaced, mut left): (Vec<Header>, Vec<Header>) = all.into_iter().partition(is_replaced);
    left.sort_by_key(|header| (header.follows, header.sequence));
    (left, replaced.iter().map(|header| header.sequence).collect())
}

/// Those that the log said it would give up: all that counted in them was written again before.
pub(super) fn given_up(extents: &[Extent], retired: &Retired) -> Vec<u64> {
    let gone = |extent: &&Extent| {
        extent.follows < extent.upto && retired.covers(extent.follows, extent.upto)
    };
    extents.iter().filter(gone).map(|extent| extent.sequence).collect()
}

/// Whether blocks of batches that were given up were taken for a segment's own: a crash left them behind
/// it, the segment with their copies is gone, and the footer that overwrote them was lost.
pub(super) fn reaches_given_up(headers: &[Header], extents: &[Extent], retired: &Retired) -> bool {
    // A rewritten one may cover batches between its sources that were given up before.
    let written = headers.iter().zip(extents).filter(|(header, _)| !header.rewritten);
    let begins = |extent: &Extent| retired.begins(extent.follows);
    let mut extents = written.map(|(_, extent)| extent);
    extents.any(|extent| begins(extent).is_some_and(|batch| batch < extent.upto))
}

/// Refuses a log that lacks batches, unless they were given up.
pub(super) fn check_extents(extents: &[Extent], retired: &Retired) -> io::Result<()> {
    let (mut reached, mut before) = (0, None::<&Extent>);
    for extent in extents {
        if !retired.covers(reached, extent.follows) {
            let batch = reached + 1;
            let why = match before.and_then(|before| before.damaged_at.map(|at| (before, at))) {
                Some((before, at)) => unreadable(before.sequence, at, batch),
                None => format!(
                    "a segment before {} is missing or damaged: batch {batch} was durable and is \
                     not there. Nothing was changed",
                    name(extent.sequence)
                ),
            };
            return Err(damaged(why));
        }
        reached = reached.max(extent.upto);
        before = Some(extent);
    }
    Ok(())
}

/// Why a segment is refused.
pub(super) fn unreadable(sequence: u64, at: u64, batch: u64) -> String {
    let name = name(sequence);
    format!(
        "segment {name} is damaged at {at}: batch {batch} was durable and is not readable. This is \
         no torn tail; nothing was changed"
    )
}

/// Reads a full segment's footer, or, where that is lost, its blocks. Those above `bound` do not
/// count.
pub(super) async fn load(
    file: &Arc<dyn File>,
    header: &Header,
    bound: Option<u64>,
) -> io::Result<Loaded> {
    if let Some(trailer) = Trailer::read(&**file, header).await?
        && let Some(directory) = trailer.read_directory(&**file, header).await?
    {
        let extent = extent(header, trailer.last_batch, None);
        let faulty = Faulty::new();
        return Ok(Loaded { directory, trailer, extent, lost: None, faulty });
    }
    scan(file, header, bound).await
}

async fn scan(file: &Arc<dyn File>, header: &Header, bound: Option<u64>) -> io::Result<Loaded> {
    let mut scanner = Scanner::new(Arc::clone(file), *header, file.len()?);
    let (mut directory, mut faulty) = (Directory::default(), Faulty::new());
    let (mut upto, mut end) = (header.follows, scanner.at);
    // The last block of a rewritten segment has the last of its batches.
    let bound = if header.rewritten { Some(header.whole_upto) } else { bound };
    let bound = bound.unwrap_or(u64::MAX);
    let mut damaged_at = None;
    while upto < bound {
        let block = match scanner.next().await? {
            Next::Block(block) if block.batch <= bound => block,
            Next::Block(_) => break,
            Next::Nothing | Next::Torn => {
                damaged_at = Some(scanner.at);
                break;
            }
        };
        block.frames.iter().for_each(|found| note(&mut directory, &mut faulty, found));
        (upto, end) = (block.batch, block.end);
    }
    if header.rewritten && upto < header.whole_upto {
        return Err(damaged(unreadable(header.sequence, end, header.whole_upto)));
    }
    let encoded = footer::encode(header, &directory, end, upto);
    directory.number();
    let extent = extent(header, upto, damaged_at);
    Ok(Loaded { directory, trailer: encoded.trailer, extent, lost: Some(encoded), faulty })
}

fn extent(header: &Header, upto: u64, damaged_at: Option<u64>) -> Extent {
    Extent { sequence: header.sequence, follows: header.follows, upto, damaged_at }
}

/// Notes a frame, but not what its damaged payload was to say.
pub(super) fn note(directory: &mut Directory, faulty: &mut Faulty, found: &scan::Found) {
    let head = &found.head;
    let intact = found.payload.is_some();
    match head.what {
        What::Checkpoint { .. } | What::Repair { .. } | What::Retired if !intact => return,
        What::Entry { id, .. } if intact => {
            faulty.remove(&(head.group, id.index));
        }
        What::Entry { id, .. } => {
            faulty.insert((head.group, id.index), (*head, found.offset));
        }
        _ => {}
    }
    directory.note(head, found.offset);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(sequence: u64, follows: u64, upto: u64) -> Extent {
        Extent { sequence, follows, upto, damaged_at: None }
    }

    #[test]
    fn a_gap_is_refused_unless_it_was_announced() {
        let extents = [extent(1, 0, 10), extent(3, 20, 30)];
        let mut retired = Retired::default();
        let error = check_extents(&extents, &retired).unwrap_err();
        assert!(error.to_string().contains("0000000003.seg"), "{error}");
        retired.add(10, 19);
        assert!(check_extents(&extents, &retired).is_err());
        retired.add(19, 20);
        assert!(check_extents(&extents, &retired).is_ok());
        assert!(check_extents(&extents[1..], &retired).is_err());
    }

    #[test]
    fn given_up_is_what_was_announced_as_a_whole() {
        let extents = [extent(1, 0, 10), extent(2, 10, 20), extent(4, 20, 20), extent(3, 20, 30)];
        let mut retired = Retired::default();
        assert!(given_up(&extents, &retired).is_empty());
        retired.add(10, 29);
        assert_eq!(given_up(&extents, &retired), [2], "an empty one is nothing to give up");
    }

    #[test]
    fn damage_names_the_damaged_segment() {
        let hurt = Extent { damaged_at: Some(8192), ..extent(1, 0, 7) };
        let error = check_extents(&[hurt, extent(2, 10, 12)], &Retired::default()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("0000000001.seg") && text.contains("8192"), "{text}");
        assert!(text.contains("batch 8"), "{text}");
    }
}
