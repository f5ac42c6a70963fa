//! The hot tail: which durable payloads stay in memory, under one budget for all groups.
//!
//! Invariant: `bytes` is what the index holds of durable payloads, each with an allowance for its
//! slot. Payloads that are not yet durable are bounded by the queue instead. Must not hold payloads
//! itself.

use std::collections::VecDeque;

use tristream_proto::domain::GroupId;

use super::group::Slot;

/// Counted for each entry besides its payload.
const SLOT_BYTES: usize = 128;

/// The order in which payloads became durable.
#[derive(Default)]
pub(super) struct Tail {
    order: VecDeque<(GroupId, u64, u64)>,
    bytes: usize,
    held: usize,
}

impl Tail {
    /// The entry at `index` became durable and is in memory.
    pub(super) fn push(&mut self, group: GroupId, index: u64, slot: &Slot) {
        self.order.push_back((group, index, slot.ticket));
        self.bytes += slot.len as usize + SLOT_BYTES;
        self.held += 1;
    }

    /// The entry leaves the index or its payload leaves memory.
    pub(super) fn forget(&mut self, slot: &Slot) {
        if slot.place.is_some() && slot.payload.is_some() {
            self.bytes -= slot.len as usize + SLOT_BYTES;
            self.held -= 1;
        }
    }

    /// The oldest, by group, index and ticket, while the budget is exceeded. It may be gone
    /// already; of those that are, no more are remembered than there are others.
    pub(super) fn pop_over(&mut self, budget_bytes: usize) -> Option<(GroupId, u64, u64)> {
        let stale = self.order.len() > 2 * self.held + 1024;
        (stale || self.bytes > budget_bytes).then(|| self.order.pop_front()).flatten()
    }
}
