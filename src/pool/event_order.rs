//! The order of a role's events: a death comes before what follows from it.

use std::collections::VecDeque;

use super::scheduler::WorkerId;

/// Puts the events `E` of one role in order.
///
/// A request may find a worker dead before that worker's thread knows how it has ended, and tells so.
/// The start of the next worker is not delayed for that, but its event is.
#[derive(Debug)]
pub(super) struct EventOrder<E> {
    /// Workers that were found dead, and whose end is not told yet.
    dead: Vec<WorkerId>,
    /// What is told later, in this order.
    held: VecDeque<Held<E>>,
}

#[derive(Debug)]
struct Held<E> {
    worker: Option<WorkerId>,
    event: E,
    /// Ends that are told before.
    after: Vec<WorkerId>,
}

impl<E> Default for EventOrder<E> {
    fn default() -> Self {
        Self { dead: Vec::new(), held: VecDeque::new() }
    }
}

impl<E> EventOrder<E> {
    /// A worker was found dead. [`EventOrder::note_end`] must follow.
    pub(super) fn note_dead(&mut self, worker: WorkerId) {
        if !self.dead.contains(&worker) {
            self.dead.push(worker);
        }
    }

    /// Adds an event, of a worker or of the whole role. Returns it if it is to be told now.
    pub(super) fn add(&mut self, worker: Option<WorkerId>, event: E) -> Option<E> {
        if worker.is_some_and(|worker| self.dead.contains(&worker)) {
            // It waits for nothing but the events of the same worker before it.
            let Some(last) = self.held.iter().rposition(|held| held.worker == worker) else {
                return Some(event);
            };
            self.held.insert(last + 1, Held { worker, event, after: Vec::new() });
        } else if self.dead.is_empty() && self.held.is_empty() {
            return Some(event);
        } else {
            self.held.push_back(Held { worker, event, after: self.dead.clone() });
        }
        None
    }

    /// The end of a worker was told. Returns what is to be told now.
    pub(super) fn note_end(&mut self, worker: WorkerId) -> Vec<E> {
        self.dead.retain(|dead| *dead != worker);
        for held in &mut self.held {
            held.after.retain(|dead| *dead != worker);
        }
        let count = self.held.iter().take_while(|held| held.after.is_empty()).count();
        self.held.drain(..count).map(|held| held.event).collect()
    }

    /// Returns all that is held.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = E> + use<E> {
        self.dead.clear();
        std::mem::take(&mut self.held).into_iter().map(|held| held.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(slot: usize) -> WorkerId {
        WorkerId { slot, incarnation: 0 }
    }

    #[test]
    fn what_follows_from_a_death_is_told_after_it() {
        let (first, second) = (worker(0), worker(1));
        let mut order = EventOrder::default();
        assert_eq!(order.add(Some(first), "ready 0"), Some("ready 0"));
        order.note_dead(first);
        order.note_dead(first);
        assert_eq!(order.add(Some(second), "started 1"), None);
        assert_eq!(order.add(None, "degraded"), None);
        assert_eq!(order.add(Some(first), "died 0"), Some("died 0"));
        assert_eq!(order.note_end(first), ["started 1", "degraded"]);
        assert_eq!(order.add(Some(second), "ready 1"), Some("ready 1"));
    }

    #[test]
    fn an_event_waits_only_for_deaths_that_were_found_before_it() {
        let (first, second, third) = (worker(0), worker(1), worker(2));
        let mut order = EventOrder::default();
        order.note_dead(first);
        assert_eq!(order.add(Some(second), "started 1"), None);
        order.note_dead(second);
        assert_eq!(order.add(Some(third), "started 2"), None);
        // Its start is not told yet.
        assert_eq!(order.add(Some(second), "died 1"), None);
        assert_eq!(order.note_end(second), [""; 0]);
        assert_eq!(order.add(Some(first), "died 0"), Some("died 0"));
        assert_eq!(order.note_end(first), ["started 1", "died 1", "started 2"]);
        assert_eq!(order.take_all().count(), 0);
    }
}
