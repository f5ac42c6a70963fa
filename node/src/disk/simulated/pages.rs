//! Bytes in pages: what was never written is zero and takes no memory, and copies share what neither has changed.
//!
//! Behaves like a vector of bytes. Must not know what is durable.

use std::ops::Range;
use std::sync::Arc;

const PAGE_BYTES: usize = 4096;

/// A length, and the bytes up to it.
#[derive(Clone, Default)]
pub(super) struct Pages {
    len: usize,
    /// None: all zero. Bytes behind `len` are zero, too.
    pages: Vec<Option<Arc<[u8; PAGE_BYTES]>>>,
}

/// The pages that these bytes touch, each with the bytes within it.
fn pieces(bytes: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut at = bytes.start;
    std::iter::from_fn(move || {
        let (page, from) = (at / PAGE_BYTES, at % PAGE_BYTES);
        let count = (bytes.end.checked_sub(at)?).min(PAGE_BYTES - from);
        at += count;
        (count > 0).then_some((page, from..from + count))
    })
}

impl Pages {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Cut off, or longer by zeros.
    pub(super) fn resize(&mut self, len: usize) {
        if let Some(Some(last)) = self.pages.get_mut(len / PAGE_BYTES).filter(|_| len < self.len) {
            Arc::make_mut(last)[len % PAGE_BYTES..].fill(0);
        }
        self.pages.resize(len.div_ceil(PAGE_BYTES), None);
        self.len = len;
    }

    /// Overwrites bytes, or adds some at the end, and zeros before them.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if self.len < end {
            self.resize(end);
        }
        let mut rest = bytes;
        for (page, within) in pieces(offset..end) {
            let (piece, behind) = rest.split_at(within.len());
            self.page(page)[within].copy_from_slice(piece);
            rest = behind;
        }
    }

    /// None if they are not all there.
    pub(super) fn read(&self, bytes: Range<usize>) -> Option<Vec<u8>> {
        if bytes.start > bytes.end || bytes.end > self.len {
            return None;
        }
        let mut read = Vec::with_capacity(bytes.len());
        for (page, within) in pieces(bytes) {
            match &self.pages[page] {
                Some(page) => read.extend_from_slice(&page[within]),
                None => read.resize(read.len() + within.len(), 0),
            }
        }
        Some(read)
    }

    pub(super) fn byte_mut(&mut self, at: usize) -> Option<&mut u8> {
        let is_there = at < self.len;
        is_there.then(|| &mut self.page(at / PAGE_BYTES)[at % PAGE_BYTES])
    }

    fn page(&mut self, page: usize) -> &mut [u8; PAGE_BYTES] {
        Arc::make_mut(self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE_BYTES])))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize, Vec<u8>),
        Resize(usize),
        Flip(usize),
        /// The copy is what it is from now on.
        Copy,
    }

    fn step() -> impl Strategy<Value = Step> {
        let place = || {
            (0..4usize, 0..20usize)
                .prop_map(|(page, at)| (page * PAGE_BYTES + at).saturating_sub(10))
        };
        let len = prop_oneof![0..40usize, Just(PAGE_BYTES), Just(2 * PAGE_BYTES + 3)];
        prop_oneof![
            (place(), len, 1u8..).prop_map(|(at, len, byte)| Step::Write(at, vec![byte; len])),
            place().prop_map(Step::Resize),
            place().prop_map(Step::Flip),
            Just(Step::Copy),
        ]
    }

    /// The same on a vector.
    fn apply(vector: &mut Vec<u8>, step: &Step) {
        match step {
            Step::Write(_, bytes) if bytes.is_empty() => {}
            Step::Write(at, bytes) => {
                vector.resize(vector.len().max(at + bytes.len()), 0);
                vector[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Step::Resize(len) => vector.resize(*len, 0),
            Step::Flip(at) => {
                if let Some(byte) = vector.get_mut(*at) {
                    *byte ^= 1;
                }
            }
            Step::Copy => {}
        }
    }

    proptest! {
        #[test]
        fn pages_are_a_vector_and_copies_stay_apart(
            steps in proptest::collection::vec(step(), 1..30), from in 0..9000usize, len in 0..9000usize,
        ) {
            let (mut pages, mut vector) = (Pages::default(), Vec::new());
            let (mut copy, mut copied) = (pages.clone(), vector.clone());
            for step in steps {
                apply(&mut vector, &step);
                match step {
                    Step::Write(at, bytes) => pages.write(at, &bytes),
                    Step::Resize(len) => pages.resize(len),
                    Step::Flip(at) => {
                        let byte = pages.byte_mut(at);
                        prop_assert_eq!(byte.is_some(), at < vector.len());
                        byte.into_iter().for_each(|byte| *byte ^= 1);
                    }
                    Step::Copy => (copy, copied) = (pages.clone(), vector.clone()),
                }
                prop_assert_eq!(pages.len(), vector.len());
                prop_assert!(pages.read(0..vector.len()).as_ref() == Some(&vector));
                prop_assert!(copy.read(0..copied.len()).as_ref() == Some(&copied));
            }
            let some = pages.read(from..from + len);
            prop_assert!(some.as_deref() == vector.get(from..from + len));
        }
    }
}
