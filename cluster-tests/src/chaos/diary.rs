//! When each fault came and went, in words, beside what clients saw meanwhile.
//!
//! Invariant: a deed stands where it happened in the order of the history's events.

use tokio::time::Instant;

use super::schedule::Fault;
use crate::recording::Deed;
use crate::workload::{Shared, with};

/// What was done to the cluster so far.
pub(super) struct Diary {
    history: Shared,
    begun: Instant,
    deeds: Vec<Deed>,
}

impl Diary {
    /// Of a history that begins by this clock.
    pub(super) fn new(history: &Shared, begun: Instant) -> Diary {
        Diary { history: history.clone(), begun, deeds: Vec::new() }
    }

    pub(super) fn begins(&mut self, fault: &Fault) {
        self.note(format!("begins: {fault}"));
    }

    pub(super) fn over(&mut self, fault: &Fault) {
        self.note(format!("over: {fault}"));
    }

    fn note(&mut self, what: String) {
        let begun = self.begun;
        let place =
            |history: &mut crate::history::History| (history.events().len(), begun.elapsed());
        let (after, at) = with(&self.history, place);
        self.deeds.push(Deed { after, at, what });
    }

    pub(super) fn deeds(&self) -> &[Deed] {
        &self.deeds
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::schedule::Schedule;
    use super::*;
    use crate::history::{Event, History};

    #[test]
    fn deeds_have_their_places_in_the_order() {
        let history: Shared = Arc::new(Mutex::new(History::new()));
        let mut diary = Diary::new(&history, Instant::now());
        let fault = Schedule::new(1).next().fault;
        diary.begins(&fault);
        with(&history, |history| {
            let id = history.intend(None, "a");
            history.push(Event::Sent(id));
        });
        diary.over(&fault);
        let deeds = diary.deeds().iter().map(|deed| (deed.after, deed.what.clone()));
        let expected = [(0, format!("begins: {fault}")), (1, format!("over: {fault}"))];
        assert_eq!(deeds.collect::<Vec<_>>(), expected);
    }
}
