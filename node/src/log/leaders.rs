//! Who made which entries of a group: turns an index into an id.
//!
//! Pure. Invariant: spans rise by index, and no two neighbours have the same leader. There is one for
//! each change of leader, so it stays small however long the log is. Must not know where entries
//! lie.

use std::collections::VecDeque;

use tristream_proto::domain::NodeId;

use super::EntryId;

/// From an index on, who made the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: u64,
    pub(super) term: u64,
    pub(super) node: NodeId,
}

/// The leaders of consecutive entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Leaders(VecDeque<Span>);

impl Leaders {
    /// The entry `id` was made after all others.
    pub(super) fn push(&mut self, id: EntryId) {
        let EntryId { term, node, index } = id;
        if self.0.back().is_none_or(|last| (last.term, last.node) != (term, node)) {
            self.0.push_back(Span { from: index, term, node });
        }
    }

    /// Who made the entry at `index`, which is there.
    pub(super) fn id(&self, index: u64) -> Option<EntryId> {
        let after = self.0.partition_point(|span| span.from <= index);
        let span = self.0.get(after.checked_sub(1)?)?;
        Some(EntryId { term: span.term, node: span.node, index })
    }

    /// The entries from `index` on are gone.
    pub(super) fn truncate_from(&mut self, index: u64) {
        self.0.truncate(self.0.partition_point(|span| span.from < index));
    }

    /// The entries before `index` are gone.
    pub(super) fn forget_before(&mut self, index: u64) {
        let after = self.0.partition_point(|span| span.from <= index);
        self.0.drain(..after.saturating_sub(1));
    }

    /// No entry is left.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The spans, rising.
    pub(super) fn spans(&self) -> impl ExactSizeIterator<Item = Span> {
        self.0.iter().copied()
    }

    /// Those of the entries of `first..=last`, which are there.
    pub(super) fn slice(&self, first: u64, last: u64) -> Leaders {
        let mut slice = self.clone();
        slice.truncate_from(last.saturating_add(1));
        slice.forget_before(first);
        if let Some(span) = slice.0.front_mut() {
            span.from = span.from.max(first);
        }
        slice
    }

    /// The last entry of each leader among those of `first..=last`, which are there; rising.
    pub(super) fn lasts(&self, first: u64, last: u64) -> Vec<EntryId> {
        let slice = self.slice(first, last);
        let ends = slice.spans().skip(1).map(|next| next.from - 1).chain([last]);
        let made = slice.spans().zip(ends);
        made.map(|(Span { term, node, .. }, index)| EntryId { term, node, index }).collect()
    }

    /// Adds the leaders of entries that follow.
    pub(super) fn extend(&mut self, others: &Leaders) {
        for Span { from, term, node } in others.spans() {
            self.push(EntryId { term, node, index: from });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term, node: NodeId(term % 3), index }
    }

    fn made(terms: &[u64]) -> Leaders {
        let mut leaders = Leaders::default();
        terms.iter().enumerate().for_each(|(at, &term)| leaders.push(id(term, 10 + at as u64)));
        leaders
    }

    #[test]
    fn every_entry_has_the_id_it_was_given() {
        let terms = [1, 1, 2, 2, 2, 5, 1, 1];
        let leaders = made(&terms);
        assert_eq!(leaders.spans().len(), 4);
        for (at, &term) in terms.iter().enumerate() {
            assert_eq!(leaders.id(10 + at as u64), Some(id(term, 10 + at as u64)));
        }
        assert_eq!(leaders.id(9), None);
    }

    #[test]
    fn cutting_either_end_keeps_what_stays() {
        let mut leaders = made(&[1, 1, 2, 2, 2, 5]);
        leaders.truncate_from(15);
        leaders.push(id(7, 15));
        leaders.forget_before(11);
        let found: Vec<_> = (11..16).map(|index| leaders.id(index).unwrap().term).collect();
        assert_eq!(found, [1, 2, 2, 2, 7]);
        leaders.forget_before(14);
        assert_eq!(leaders.spans().len(), 2);
        leaders.truncate_from(0);
        assert_eq!(leaders, Leaders::default());
    }

    #[test]
    fn the_last_of_each_leader_is_told_within_any_bounds() {
        let leaders = made(&[1, 1, 2, 2, 2, 5]);
        assert_eq!(leaders.lasts(10, 15), [id(1, 11), id(2, 14), id(5, 15)]);
        assert_eq!(leaders.lasts(11, 13), [id(1, 11), id(2, 13)]);
        assert_eq!(leaders.lasts(12, 12), [id(2, 12)]);
        assert_eq!(leaders.lasts(14, 15), [id(2, 14), id(5, 15)]);
    }

    #[test]
    fn a_slice_tells_the_same_and_joins_again() {
        let leaders = made(&[1, 1, 2, 2, 2, 5]);
        let (front, back) = (leaders.slice(10, 12), leaders.slice(13, 15));
        assert_eq!(back.spans().next().unwrap().from, 13);
        let mut joined = front.clone();
        joined.extend(&back);
        for index in 10..16 {
            assert_eq!(joined.id(index), leaders.id(index));
        }
        assert_eq!(joined, leaders);
    }
}
