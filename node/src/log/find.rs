//! Finding entries by their stamps.
//!
//! Invariant: if the stamps of a group do not fall, all entries before what is found are older, and
//! the first one from there on that has a stamp is as young as asked for: entries without a stamp may
//! lie between. Must not change the log.

use std::io;

use tristream_proto::domain::GroupId;

use super::Shared;
use super::fetch::fetch_head;
use super::group::Run;
use super::segment::footer::{Trailer, offset_of};
use super::state::{State, Stop, removed};

/// How often the index is looked at again when a segment was given up meanwhile.
const TRIES_MAX: usize = 16;

/// Where the entry may be.
enum Candidate {
    Nowhere,
    /// A slot in memory.
    Index(u64),
    Run {
        run: Run,
        trailer: Trailer,
        salt: u32,
    },
}

impl Shared {
    pub(super) async fn find_stamp(
        &self,
        group: GroupId,
        stamp_ms: u64,
    ) -> io::Result<Option<u64>> {
        let (mut from, mut tries) = (0, 0);
        loop {
            let candidate = candidate(&self.state.lock(), group, stamp_ms, from)?;
            let (run, trailer, salt) = match candidate {
                Candidate::Nowhere => return Ok(None),
                Candidate::Index(index) => return Ok(Some(index)),
                Candidate::Run { run, trailer, salt } => (run, trailer, salt),
            };
            match self.search(&run, &trailer, salt, stamp_ms).await? {
                Some(Some(index)) => return Ok(Some(index)),
                // Its bounds were those of entries that are gone.
                Some(None) => from = run.end(),
                None => tries += 1,
            }
            if tries > TRIES_MAX {
                return Err(io::Error::other(format!(
                    "group {group}: its segments move faster than they can be read: try again"
                )));
            }
        }
    }

    /// Looks for the stamp in a run: a binary search that reads heads. `None`: the segment was given
    /// up.
    async fn search(
        &self,
        run: &Run,
        trailer: &Trailer,
        salt: u32,
        stamp_ms: u64,
    ) -> io::Result<Option<Option<u64>>> {
        let Some(file) = self.file(run.segment)? else { return Ok(None) };
        let (mut low, mut high) = (0, run.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut at = middle;
            // The next one that has a stamp; one that is damaged has none to tell.
            let stamp = loop {
                if at == high {
                    break None;
                }
                let position = trailer.read_positions(&*file, run.table_at + at, 1).await?;
                let head = match position.first() {
                    Some(&position) => fetch_head(&*file, salt, offset_of(position)).await,
                    None => None,
                };
                match head.map_or(0, |head| head.stamp_ms) {
                    0 => at += 1,
                    stamp => break Some(stamp),
                }
            };
            match stamp {
                Some(stamp) if stamp < stamp_ms => low = at + 1,
                _ => high = middle,
            }
        }
        Ok(Some((low < run.count).then_some(run.first + low)))
    }
}

fn candidate(state: &State, group: GroupId, stamp_ms: u64, from: u64) -> io::Result<Candidate> {
    if let Some(stop @ Stop::Failed(_)) = &state.stop {
        return Err(stop.error());
    }
    let Some(known) = state.groups.get(&group) else { return Ok(Candidate::Nowhere) };
    if known.removed {
        return Err(removed(group));
    }
    let mut runs = known.runs().filter(|run| run.first >= from);
    if let Some(run) = runs.find(|run| run.stamp_max >= stamp_ms.max(1))
        && let Some(account) = state.segments.get(&run.segment)
        && let Some(trailer) = account.trailer()
    {
        return Ok(Candidate::Run { run: *run, trailer, salt: account.header.salt });
    }
    let mut unstamped = None;
    for (index, slot) in known.young_slots() {
        match slot.stamp_ms {
            0 => unstamped = unstamped.or(Some(index)),
            stamp if stamp >= stamp_ms => return Ok(Candidate::Index(unstamped.unwrap_or(index))),
            _ => unstamped = None,
        }
    }
    Ok(Candidate::Nowhere)
}
