//! How much of a disk is kept free, and when that begins to be missed. Pure.
//!
//! Invariant: once the room is low it stays so until there is clearly more than the reserve, so that a
//! disk at the edge does not flap.

use crate::disk::Space;

/// Part of the disk that is kept free unless the settings say otherwise.
const PART: u64 = 20;
/// But this much on disks that have it ...
const BYTES_MIN: u64 = 1 << 30;
/// ... and no more than this part of one that is small ...
const PART_MAX: u64 = 4;
/// ... nor more than this of one that is large: what must go on without puts does not grow with the disk.
/// It is votes, metadata and trims, which are small, records on their way, which are bounded, and the
/// copies of a few segments that are being rewritten.
const BYTES_MAX: u64 = 2 << 30;
/// Segments that must always find room: one that is being written, and the next.
const SEGMENTS_MIN: u64 = 2;
/// Half of a tiny disk is for records, however large its segments are.
const PART_EVER: u64 = 2;
/// So much more than the reserve, as a part of it, must be free before puts are taken again.
const MARGIN_PART: u64 = 8;

/// What is kept free for votes, metadata, trims and deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// As the settings have it, in bytes; 0 keeps nothing.
    pub configured: Option<u64>,
    /// Size of a segment of the log.
    pub segment_bytes: u64,
}

impl Reserve {
    /// Bytes of this disk that are kept free.
    pub(super) fn bytes(&self, space: Space) -> u64 {
        let total = space.total_bytes;
        let default = || {
            let wanted = (total / PART).clamp(BYTES_MIN, BYTES_MAX).min(total / PART_MAX);
            wanted.max(SEGMENTS_MIN * self.segment_bytes).min(total / PART_EVER)
        };
        self.configured.unwrap_or_else(default)
    }

    /// Whether the room is low now, after it was or was not.
    pub(super) fn is_low(&self, was_low: bool, space: Space) -> bool {
        let reserve = self.bytes(space);
        let margin = if was_low { reserve / MARGIN_PART } else { 0 };
        space.free_bytes < reserve.saturating_add(margin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn reserve(configured: Option<u64>) -> Reserve {
        Reserve { configured, segment_bytes: 256 * MIB }
    }

    fn space(free_bytes: u64, total_bytes: u64) -> Space {
        Space { free_bytes, total_bytes }
    }

    #[test]
    fn the_reserve_fits_disks_of_every_size() {
        let of = |total| reserve(None).bytes(space(0, total));
        assert_eq!(of(1000 * GIB), 2 * GIB, "a disk's last tenths may be many GiB");
        assert_eq!(of(30 * GIB), 30 * GIB / 20, "5 %");
        assert_eq!(of(10 * GIB), GIB, "a GiB where 5 % are less");
        assert_eq!(of(3 * GIB), 768 * MIB, "no more than a quarter");
        assert_eq!(of(GIB), 512 * MIB, "room for two segments");
        assert_eq!(of(100 * MIB), 50 * MIB, "half is for records");
        assert_eq!(reserve(Some(0)).bytes(space(0, GIB)), 0);
        assert_eq!(reserve(Some(7)).bytes(space(0, GIB)), 7);
    }

    #[test]
    fn it_does_not_flap_at_the_edge() {
        let reserve = reserve(Some(800));
        let steps = [(800, false), (799, true), (800, true), (899, true), (900, false)];
        let mut low = false;
        for (free, expected) in steps.into_iter().chain([(801, false), (0, true)]) {
            low = reserve.is_low(low, space(free, 10_000));
            assert_eq!(low, expected, "{free} bytes free");
        }
    }

    #[test]
    fn without_a_reserve_room_is_never_low() {
        assert!(!reserve(Some(0)).is_low(false, space(0, GIB)));
        assert!(!reserve(Some(0)).is_low(true, space(0, GIB)));
    }
}
