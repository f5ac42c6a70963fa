//! Reading frames from one segment when their places are known: few reads for many frames.
//!
//! Invariant: what it gives out as intact matches both checksums; what frame it is, the caller
//! checks. Must not know the index.

use std::io;

use bytes::Bytes;

use super::frame::{HEAD_BYTES, Head};
use crate::disk::File;

/// Pieces this near to each other are read in one go, with what lies between.
const GAP_BYTES_MAX: u64 = 64 << 10;
/// One read is not made longer than this by joining pieces.
const READ_BYTES_MAX: u64 = 4 << 20;
/// Payloads up to this size are read along with their heads, which are often near.
const NEAR_BYTES_MAX: u64 = 16 << 10;

/// A frame to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Where its head begins in the file.
    pub(super) offset: u64,
    /// Length of its payload, as far as is known.
    pub(super) len: u32,
}

/// A frame that was read.
#[derive(Debug)]
pub(super) enum Fetched {
    /// Intact.
    Frame(Head, Bytes),
    /// The head is intact, the payload is damaged or cannot be read.
    Payload(Head),
    /// Not even the head is intact.
    Nothing,
}

/// Reads frames from a segment of this salt, in the order in which they are wanted.
pub(super) async fn fetch(file: &dyn File, salt: u32, wanted: &[Wanted]) -> Vec<Fetched> {
    let head_of = |want: &Wanted| {
        let near = u64::from(want.len).min(NEAR_BYTES_MAX);
        (want.offset, want.offset + HEAD_BYTES as u64 + near)
    };
    let ahead = Buffers::read(file, wanted.iter().map(head_of).collect()).await;
    let mut heads = Vec::with_capacity(wanted.len());
    let mut missing = Vec::new();
    for want in wanted {
        let bytes = match ahead.get(want.offset, HEAD_BYTES as u64) {
            Some(bytes) => Ok(bytes),
            None => file.read_at(want.offset, HEAD_BYTES).await,
        };
        let head = bytes.ok().and_then(|bytes| Head::decode(&bytes, salt).ok());
        if let Some(head) = &head {
            let (from, to) = payload_of(want, head);
            if ahead.get(from, to - from).is_none() {
                missing.push((from, to));
            }
        }
        heads.push(head);
    }
    let more = Buffers::read(file, missing).await;
    let mut fetched = Vec::with_capacity(wanted.len());
    for (want, head) in wanted.iter().zip(heads) {
        let Some(head) = head else {
            fetched.push(Fetched::Nothing);
            continue;
        };
        let (from, to) = payload_of(want, &head);
        let payload = match ahead.get(from, to - from).or_else(|| more.get(from, to - from)) {
            Some(payload) => Ok(payload),
            // Read alone: one that cannot be read may not take its neighbours along.
            None => file.read_at(from, (to - from) as usize).await,
        };
        fetched.push(match payload {
            Ok(payload) if head.fits(&payload) => Fetched::Frame(head, payload),
            _ => Fetched::Payload(head),
        });
    }
    fetched
}

/// Reads the head of one frame; `None` when it is not intact.
pub(super) async fn fetch_head(file: &dyn File, salt: u32, offset: u64) -> Option<Head> {
    let bytes = file.read_at(offset, HEAD_BYTES).await.ok()?;
    Head::decode(&bytes, salt).ok()
}

/// Reads the payload of a frame whose head is known.
pub(super) async fn fetch_payload(
    file: &dyn File,
    offset: u64,
    head: &Head,
) -> io::Result<Option<Bytes>> {
    let bytes = file.read_at(offset + u64::from(head.payload_at), head.len as usize).await?;
    Ok(head.fits(&bytes).then_some(bytes))
}

fn payload_of(want: &Wanted, head: &Head) -> (u64, u64) {
    let from = want.offset + u64::from(head.payload_at);
    (from, from + u64::from(head.len))
}

/// Pieces of a file, without overlaps, rising.
struct Buffers(Vec<(u64, Bytes)>);

impl Buffers {
    /// Reads pieces, joined where they are near. What cannot be read is left out.
    async fn read(file: &dyn File, pieces: Vec<(u64, u64)>) -> Buffers {
        let pieces = join(pieces);
        let ranges = pieces.iter().map(|(from, to)| *from..*to).collect();
        let read = file.read_ranges(ranges).await;
        let read = pieces.iter().zip(read);
        Buffers(read.filter_map(|((from, _), bytes)| Some((*from, bytes.ok()?))).collect())
    }

    fn get(&self, at: u64, len: u64) -> Option<Bytes> {
        let after = self.0.partition_point(|(from, _)| *from <= at);
        let (from, bytes) = self.0.get(after.checked_sub(1)?)?;
        let begins = at - from;
        let inside = begins + len <= bytes.len() as u64;
        inside.then(|| bytes.slice(begins as usize..(begins + len) as usize))
    }
}

/// Joins pieces (from, to) that are near each other; rising, without overlaps.
fn join(mut pieces: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    pieces.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (from, to) in pieces {
        match joined.last_mut() {
            Some(last) if from < last.1 => last.1 = last.1.max(to),
            Some(last) if from - last.1 <= GAP_BYTES_MAX && to - last.0 <= READ_BYTES_MAX => {
                last.1 = to;
            }
            _ => joined.push((from, to)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tristream_proto::domain::GroupId;

    use super::*;
    use crate::disk::{Disk, Open, SimulatedDisk};
    use crate::log::frame::{Frame, What};
    use crate::log::segment::block::{self, Position};

    #[test]
    fn near_pieces_are_joined() {
        let far = GAP_BYTES_MAX + 1;
        let joined = join(vec![(0, 10), (50, 60), (60 + far, 70 + far), (5, 12)]);
        assert_eq!(joined, [(0, 60), (60 + far, 70 + far)]);
        let long = READ_BYTES_MAX;
        assert_eq!(join(vec![(0, long), (long, long + 1)]).len(), 2);
        assert_eq!(join(vec![(0, 2 * long), (5, 9)]), [(0, 2 * long)]);
    }

    #[tokio::test]
    async fn damage_costs_only_what_is_damaged() {
        let payload = |at: u8| Bytes::from(vec![at; 30_000]);
        let frames: Vec<Frame> =
            (0..5).map(|at| Frame::new(GroupId(1), What::Vote, payload(at))).collect();
        let position = Position { salt: 3, sequence: 1, prev_crc: 0, batch: 1, durable_upto: 0 };
        let encoded = block::encode(position, &frames.iter().collect::<Vec<_>>());
        let (disk, dir) = (SimulatedDisk::new(), Path::new("/log"));
        disk.create_dir_all(dir).unwrap();
        let path = dir.join("file");
        let file = disk.open(&path, Open::New).unwrap();
        file.write_at(0, encoded.parts).await.unwrap();
        let wanted: Vec<Wanted> = encoded
            .heads
            .iter()
            .rev()
            .map(|(offset, head)| Wanted { offset: *offset, len: head.len })
            .collect();
        disk.flip_bit(&path, wanted[1].offset + 9, 1).unwrap();
        let (begins, head) = encoded.heads[1];
        disk.flip_bit(&path, begins + u64::from(head.payload_at), 1).unwrap();
        let fetched = fetch(&*file, 3, &wanted).await;
        for (at, fetched) in fetched.iter().rev().enumerate() {
            match fetched {
                Fetched::Frame(_, found) => assert_eq!(*found, payload(at as u8)),
                Fetched::Payload(_) => assert_eq!(at, 1),
                Fetched::Nothing => assert_eq!(at, 3),
            }
        }
        // A place that lies beyond the file takes nobody along.
        let beyond = Wanted { offset: encoded.len + 64, len: 10 };
        let fetched = fetch(&*file, 3, &[wanted[4], beyond]).await;
        assert!(matches!(fetched[..], [Fetched::Frame(..), Fetched::Nothing]));
    }
}
