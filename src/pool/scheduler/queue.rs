//! The requests that wait for a worker.

use std::collections::BTreeMap;

use crate::priority::Priority;

/// After so many requests of other classes that passed it, a class goes first.
const MOST_PASSED: u32 = 16;

/// A request that waits: with `W`, what tells its owner.
#[derive(Debug)]
pub(crate) struct Waiting<W> {
    pub(crate) owner: W,
    pub(super) since: u64,
    pub(super) is_alone: bool,
    /// Workers that are not the role's own may get it.
    pub(super) may_leave: bool,
    pub(super) is_open_ended: bool,
}

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket {
    class: Class,
    /// The request's number: a request that was sent before keeps its age.
    request: u64,
}

#[cfg(test)]
impl Ticket {
    /// Whether the request waits for a worker of its own.
    pub(super) fn is_alone(self) -> bool {
        self.class == Class::Alone
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Class {
    /// Requests that are tried alone on a worker.
    Alone,
    Priority(Priority),
}

/// The requests that wait, by class and age.
#[derive(Debug)]
pub(super) struct Queue<W> {
    waiting: BTreeMap<Ticket, Waiting<W>>,
    /// The moments since which they wait, each with how many: the oldest is looked for often.
    since: BTreeMap<u64, usize>,
    passed: [u32; Priority::ALL.len()],
    /// How many may leave.
    leavers: usize,
    is_watched: bool,
    /// How many wait, and one more if it is watched: for one look where a request ends.
    attention: usize,
}

impl<W> Queue<W> {
    pub(super) fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            since: BTreeMap::new(),
            passed: [0; Priority::ALL.len()],
            leavers: 0,
            is_watched: false,
            attention: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether nothing waits, and no place that becomes free is watched for.
    pub(super) fn is_quiet(&self) -> bool {
        self.attention == 0
    }

    /// Whether a place that becomes free is watched for.
    pub(super) fn is_watched(&self) -> bool {
        self.is_watched
    }

    pub(super) fn set_watched(&mut self, is_watched: bool) {
        self.is_watched = is_watched;
        self.note_change();
    }

    /// How many may go to workers that are not the role's own.
    pub(super) fn leavers(&self) -> usize {
        self.leavers
    }

    fn note_change(&mut self) {
        self.attention = self.waiting.len() + usize::from(self.is_watched);
    }

    /// Since when the oldest waits.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.since.keys().next().copied()
    }

    pub(super) fn push(&mut self, request: u64, priority: Priority, waiting: Waiting<W>) -> Ticket {
        let class = if waiting.is_alone { Class::Alone } else { Class::Priority(priority) };
        let ticket = Ticket { class, request };
        *self.since.entry(waiting.since).or_default() += 1;
        self.leavers += usize::from(waiting.may_leave);
        self.waiting.insert(ticket, waiting);
        self.note_change();
        ticket
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiting<W>> {
        let waiting = self.waiting.remove(&ticket)?;
        self.leavers -= usize::from(waiting.may_leave);
        self.note_change();
        if let Some(count) = self.since.get_mut(&waiting.since) {
            *count -= 1;
            if *count == 0 {
                self.since.remove(&waiting.since);
            }
        }
        Some(waiting)
    }

    /// How many wait for a worker of their own.
    pub(super) fn count_alone(&self) -> usize {
        self.range(Class::Alone).count()
    }

    /// Takes the first that waits for a worker of its own.
    pub(super) fn pop_alone(&mut self) -> Option<Waiting<W>> {
        let first = self.range(Class::Alone).next()?;
        self.remove(first)
    }

    /// Takes the one that goes next to a worker that it shares.
    pub(super) fn pop(&mut self) -> Option<Waiting<W>> {
        self.pop_of(false)
    }

    /// Takes the one that goes next to workers that are not the role's own.
    #[cfg_attr(not(feature = "async"), allow(dead_code, reason = "backends need `async`"))]
    pub(super) fn pop_leaver(&mut self) -> Option<Waiting<W>> {
        if self.leavers == 0 { None } else { self.pop_of(true) }
    }

    fn pop_of(&mut self, only_leavers: bool) -> Option<Waiting<W>> {
        let first_of = |priority| {
            let mut all = self.in_class(Class::Priority(priority));
            all.find(|(_, waiting)| !only_leavers || waiting.may_leave).map(|(ticket, _)| *ticket)
        };
        let mut firsts = [None; Priority::ALL.len()];
        for (first, priority) in firsts.iter_mut().zip(Priority::ALL) {
            *first = first_of(priority);
        }
        let mut is_empty = firsts.map(|first| first.is_none());
        if only_leavers {
            is_empty = Priority::ALL.map(|it| self.range(Class::Priority(it)).next().is_none());
        }
        let candidates = || firsts.iter().zip(self.passed).enumerate();
        let passed_over = candidates()
            .find_map(|(at, (first, passed))| first.filter(|_| passed >= MOST_PASSED).map(|_| at));
        let chosen = passed_over.or_else(|| firsts.iter().position(Option::is_some))?;
        for (at, (passed, is_empty)) in self.passed.iter_mut().zip(is_empty).enumerate() {
            // Only those count that wait below the chosen one, and only while they wait.
            *passed = if !is_empty && at > chosen { *passed + 1 } else { *passed };
            if at == chosen || is_empty {
                *passed = 0;
            }
        }
        self.remove(firsts.get(chosen).copied().flatten()?)
    }

    /// Takes all, the most important and oldest first.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Waiting<W>> + use<W> {
        self.since.clear();
        (self.leavers, self.attention) = (0, usize::from(self.is_watched));
        std::mem::take(&mut self.waiting).into_values()
    }

    fn range(&self, class: Class) -> impl Iterator<Item = Ticket> {
        self.in_class(class).map(|(ticket, _)| *ticket)
    }

    fn in_class(&self, class: Class) -> impl Iterator<Item = (&Ticket, &Waiting<W>)> {
        let bounds = Ticket { class, request: 0 }..=Ticket { class, request: u64::MAX };
        self.waiting.range(bounds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(owner: u64) -> Waiting<u64> {
        let may_leave = owner % 2 == 1;
        Waiting { owner, since: owner, is_alone: false, may_leave, is_open_ended: false }
    }

    fn queue(requests: &[(u64, Priority)]) -> Queue<u64> {
        let mut queue = Queue::new();
        for (request, priority) in requests {
            queue.push(*request, *priority, waiting(*request));
        }
        queue
    }

    fn order(queue: &mut Queue<u64>) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop()).map(|waiting| waiting.owner).collect()
    }

    #[test]
    fn the_highest_class_goes_first_and_in_it_the_oldest() {
        let (high, normal, low) = (Priority::High, Priority::Normal, Priority::Low);
        let mut queue = queue(&[(5, normal), (1, low), (4, normal), (7, high), (6, high)]);
        assert_eq!(queue.oldest(), Some(1));
        assert_eq!(order(&mut queue), [6, 7, 4, 5, 1]);
        assert_eq!((queue.oldest(), queue.len()), (None, 0));
    }

    #[test]
    fn a_class_that_was_passed_sixteen_times_goes_first_once() {
        let mut requests: Vec<_> = (100..200).map(|request| (request, Priority::High)).collect();
        requests.extend([(1, Priority::Low), (2, Priority::Low), (3, Priority::Normal)]);
        let mut queue = queue(&requests);
        let order = order(&mut queue);
        let place = |request| order.iter().position(|at| *at == request).unwrap();
        assert_eq!((place(3), place(1), place(2)), (16, 17, 34), "{order:?}");
    }

    #[test]
    fn those_that_may_leave_do_so_in_their_order_and_others_stay() {
        let (high, low) = (Priority::High, Priority::Low);
        let mut queue = queue(&[(1, low), (2, high), (5, high), (3, high), (4, low)]);
        let leave = |queue: &mut Queue<u64>| queue.pop_leaver().map(|waiting| waiting.owner);
        assert_eq!(queue.leavers(), 3);
        assert_eq!([leave(&mut queue), leave(&mut queue), leave(&mut queue)], [3, 5, 1].map(Some));
        assert_eq!((leave(&mut queue), queue.leavers()), (None, 0));
        assert_eq!(order(&mut queue), [2, 4]);
        assert!(queue.is_quiet());
    }

    #[test]
    fn one_that_leaves_is_not_handed_out_and_one_alone_waits_apart() {
        let mut queue = queue(&[(1, Priority::Normal), (2, Priority::Normal)]);
        let alone = Waiting { is_alone: true, ..waiting(3) };
        let ticket = queue.push(3, Priority::High, alone);
        let gone = queue.push(4, Priority::High, waiting(4));
        assert!(queue.remove(gone).is_some() && queue.remove(gone).is_none());
        assert_eq!(queue.count_alone(), 1);
        assert_eq!(order(&mut queue), [1, 2]);
        assert_eq!(queue.pop_alone().unwrap().owner, 3);
        assert!(queue.remove(ticket).is_none() && queue.is_empty());
    }
}
