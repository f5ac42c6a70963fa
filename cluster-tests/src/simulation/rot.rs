//! Which bits of a node's log may rot: those of entries, in segments that have a whole footer, and footers.
//!
//! | what | drawn | because |
//! |---|---|---|
//! | payload or head of an entry | yes | it is fetched from the replicas that hold it |
//! | a footer | yes, but not in a run in which heads rot | it is made again from the blocks |
//! | header of a segment or block, a vote, a list of retired batches, a checkpoint | no | the node refuses to start, and there is no way to replace it |
//! | anything in a segment without a footer | no | the same; and what lies last of all is cut like a torn tail |
//! | the same where the power failed while the footer was written, so that part of it is there | no | it is made again from the blocks, heads and all |
//!
//! Reads footers by what `log/segment/footer.rs` of the node says of them. Pure. Must not know which node rots, or when.

use std::ops::Range;

use super::blocks::{self, ALIGN, HEAD, u32_at, u64_at};

const TRAILER_MAGIC: &[u8] = b"TSLOGEND";
/// What a group, a mark, a span of leaders and an entry take in a footer.
const GROUP: usize = 72;
const MARK: usize = 72;
const SPAN: usize = 24;
const ENTRY: usize = 8;

/// Ranges of bytes of one segment, by what lies there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rottable {
    pub(super) payloads: Vec<Range<u64>>,
    pub(super) heads: Vec<Range<u64>>,
    pub(super) footer: Vec<Range<u64>>,
}

/// What may rot in the segment of this number; nothing if it has no footer, or is not whole.
pub(super) fn rottable(number: u64, segment: &[u8]) -> Rottable {
    rottable_of(number, segment).unwrap_or_default()
}

fn rottable_of(number: u64, segment: &[u8]) -> Option<Rottable> {
    let trailer = segment.len().checked_sub(ALIGN)?;
    let is_footed = segment.get(trailer..)?.starts_with(TRAILER_MAGIC);
    // A file that was used before may still hold the footer of then.
    if !is_footed || u64_at(segment, trailer + 8)? != number {
        return None;
    }
    let blocks_end = usize::try_from(u64_at(segment, trailer + 24)?).ok()?;
    if !is_whole(segment, trailer, blocks_end)? {
        return None;
    }
    let mut found = Rottable::default();
    let mut at = ALIGN;
    while at < blocks_end {
        let block = blocks::block(segment, at).filter(|block| block.segment == number)?;
        for entry in block.entries.iter().filter(|entry| !entry.is_repair) {
            found.heads.push(range(&entry.head));
            found.payloads.extend((!entry.payload.is_empty()).then(|| range(&entry.payload)));
        }
        at = block.end;
    }
    found.footer.push(range(&(trailer..trailer + HEAD)));
    Some(found)
}

/// Whether the footer that the trailer tells of is there, to the last byte.
fn is_whole(segment: &[u8], trailer: usize, footer: usize) -> Option<bool> {
    let salt = u32_at(segment, 12)?;
    let entries = usize::try_from(u64_at(segment, trailer + 32)?).ok()?;
    let of = |at: usize, bytes: usize| Some(u32_at(segment, trailer + at)? as usize * bytes);
    let directory = of(40, GROUP)? + of(44, MARK)? + of(48, SPAN)?;
    let parts = [(52, footer, directory), (56, footer + directory, entries.checked_mul(ENTRY)?)];
    let whole = |(crc, from, len): (usize, usize, usize)| {
        let bytes = segment.get(from..from.checked_add(len)?)?;
        Some(crc32c::crc32c_append(salt, bytes) == u32_at(segment, trailer + crc)?)
    };
    Some(parts.into_iter().all(|part| whole(part) == Some(true)))
}

fn range(within: &Range<usize>) -> Range<u64> {
    within.start as u64..within.end as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u32 = 9;

    /// One block of an entry of 5,000 bytes and a vote, and a footer of a group, a mark and an entry.
    fn segment() -> Vec<u8> {
        let mut bytes = vec![0; 6 * ALIGN];
        let block = ALIGN;
        let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
        put(block, b"TSLB");
        put(block + 4, &2_u32.to_le_bytes());
        put(block + 24, &5_020_u64.to_le_bytes());
        put(block + 32, &7_u64.to_le_bytes());
        put(block + 64, &[1]);
        put(block + 64 + 4, &5_000_u32.to_le_bytes());
        put(block + 64 + 48, &128_u32.to_le_bytes());
        put(block + 128, &[4]);
        put(block + 128 + 4, &20_u32.to_le_bytes());
        put(5 * ALIGN, TRAILER_MAGIC);
        put(5 * ALIGN + 8, &7_u64.to_le_bytes());
        put(5 * ALIGN + 24, &(3 * ALIGN as u64).to_le_bytes());
        put(12, &SALT.to_le_bytes());
        put(3 * ALIGN, &[5; GROUP + MARK]);
        put(3 * ALIGN + GROUP + MARK, &[6; ENTRY]);
        put(5 * ALIGN + 32, &1_u64.to_le_bytes());
        put(5 * ALIGN + 40, &1_u32.to_le_bytes());
        put(5 * ALIGN + 44, &1_u32.to_le_bytes());
        put(5 * ALIGN + 52, &crc32c::crc32c_append(SALT, &[5; GROUP + MARK]).to_le_bytes());
        put(5 * ALIGN + 56, &crc32c::crc32c_append(SALT, &[6; ENTRY]).to_le_bytes());
        bytes
    }

    #[test]
    // One range is meant, not its numbers.
    #[allow(clippy::single_range_in_vec_init)]
    fn entries_and_footers_rot_and_votes_do_not() {
        let block = ALIGN as u64;
        let expected = Rottable {
            payloads: vec![block + 192..block + 5_192],
            heads: vec![block + 64..block + 128],
            footer: vec![5 * block..5 * block + 64],
        };
        assert_eq!(rottable(7, &segment()), expected);
    }

    #[test]
    fn nothing_rots_in_a_segment_without_a_footer_of_its_own() {
        assert_eq!(rottable(8, &segment()), Rottable::default(), "the footer of an older one");
        assert_eq!(rottable(7, &segment()[..5 * ALIGN]), Rottable::default());
        assert_eq!(rottable(7, &[]), Rottable::default());
        let mut broken = segment();
        broken[ALIGN] = 0;
        assert_eq!(rottable(7, &broken), Rottable::default(), "no block there");
        for torn in [3 * ALIGN, 3 * ALIGN + GROUP + MARK] {
            let mut broken = segment();
            broken[torn] = 0;
            assert_eq!(
                rottable(7, &broken),
                Rottable::default(),
                "a part of the footer is not there"
            );
        }
    }
}
