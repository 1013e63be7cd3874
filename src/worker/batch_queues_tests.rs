use super::*;
use proptest::prelude::*;

/// A request of the tests: its place in the order of arrival.
type Number = usize;

#[derive(Debug, Clone)]
enum Action {
    /// A request comes: its kind, its length, and how long it may be waited for.
    Push(usize, usize, u64),
    /// Of all requests that wait, every so many-th is cancelled.
    Cancel(usize),
    /// The next batch is asked for, so much later.
    Batch(u64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (0..3_usize, prop_oneof![0..20_usize, Just(usize::MAX)], 0..10_u64)
            .prop_map(|(kind, length, wait)| Action::Push(kind, length, wait)),
        1 => (1..5_usize).prop_map(Action::Cancel),
        3 => (0..8_u64).prop_map(Action::Batch),
    ]
}

/// What the queues should do, one request at a time and with no thought of cost.
#[derive(Debug)]
struct Reference {
    max_size: usize,
    max_cost: usize,
    /// Number, kind, length, due.
    waiting: Vec<(Number, usize, usize, u64)>,
}

impl Reference {
    fn cost(requests: &[(Number, usize, usize, u64)]) -> usize {
        let longest = requests.iter().map(|request| request.2).max().unwrap_or(0);
        longest.saturating_mul(requests.len())
    }

    fn fits(&self, requests: &[(Number, usize, usize, u64)]) -> bool {
        requests.len() <= self.max_size && Self::cost(requests) <= self.max_cost
    }

    /// The next batch of one kind, and whether nothing can be added to it.
    fn of_kind(&self, kind: usize) -> (Vec<(Number, usize, usize, u64)>, bool) {
        let of_kind: Vec<_> = self.waiting.iter().filter(|w| w.1 == kind).copied().collect();
        let mut batch = of_kind[..of_kind.len().min(1)].to_vec();
        for next in of_kind.iter().skip(1) {
            let mut longer = batch.clone();
            longer.push(*next);
            if !self.fits(&longer) {
                return (batch, true);
            }
            batch = longer;
        }
        let mut longer = batch.clone();
        longer.push((0, kind, 0, 0));
        let is_full = !self.fits(&longer);
        (batch, is_full)
    }

    fn next_batch(&mut self, now: u64) -> Option<(usize, Vec<Number>)> {
        let ready = (0..3).filter_map(|kind| {
            let (batch, is_full) = self.of_kind(kind);
            let oldest = *batch.first()?;
            (is_full || oldest.3 <= now).then_some((oldest.0, kind, batch))
        });
        let (_, kind, batch) = ready.min()?;
        let numbers: Vec<Number> = batch.iter().map(|request| request.0).collect();
        self.waiting.retain(|request| !numbers.contains(&request.0));
        Some((kind, numbers))
    }
}

proptest! {
    #[test]
    fn batches_are_formed_as_the_reference_forms_them(
        max_size in 1..6_usize,
        max_cost in prop_oneof![0..100_usize, Just(usize::MAX)],
        actions in prop::collection::vec(action(), 0..80),
    ) {
        let mut queues = BatchQueues::new(3, Limits { max_size, max_cost });
        let mut reference = Reference { max_size, max_cost, waiting: Vec::new() };
        let (mut now, mut count, mut left) = (0, 0, Vec::new());
        let mut latest = [0; 3];
        for action in actions {
            match action {
                Action::Push(kind, length, wait) => {
                    latest[kind] = latest[kind].max(now + wait);
                    queues.push(kind, count, length, latest[kind]);
                    reference.waiting.push((count, kind, length, latest[kind]));
                    count += 1;
                }
                Action::Cancel(every) => {
                    let is_wanted = |number: Number| !number.is_multiple_of(every + 1);
                    queues.retain(|number| is_wanted(*number));
                    let gone = reference.waiting.iter().filter(|request| !is_wanted(request.0));
                    left.extend(gone.map(|request| request.0));
                    reference.waiting.retain(|request| is_wanted(request.0));
                }
                Action::Batch(later) => {
                    now += later;
                    let batch = queues.next_batch(now);
                    prop_assert_eq!(&batch, &reference.next_batch(now));
                    left.extend(batch.into_iter().flat_map(|(_, batch)| batch));
                }
            }
            prop_assert_eq!(queues.len(), reference.waiting.len());
            let due = reference.waiting.iter().map(|request| request.3).min();
            prop_assert_eq!(queues.next_due(), due);
        }
        while let Some((kind, batch)) = queues.next_batch(u64::MAX) {
            prop_assert_eq!(&Some((kind, batch.clone())), &reference.next_batch(u64::MAX));
            prop_assert!(batch.is_sorted());
            left.extend(batch);
        }
        // None is lost, and none comes twice.
        left.sort_unstable();
        prop_assert_eq!(left, (0..count).collect::<Vec<_>>());
    }
}

#[test]
fn no_kind_starves_while_another_is_always_full() {
    let mut queues = BatchQueues::new(2, Limits { max_size: 2, max_cost: usize::MAX });
    queues.push(0, 0, 1, 0);
    queues.push(0, 1, 1, 0);
    queues.push(1, 2, 1, 5);
    for round in 0..5 {
        // Kind 0 fills up again at once.
        queues.push(0, 3 + 2 * round, 1, 0);
        queues.push(0, 4 + 2 * round, 1, 0);
    }
    assert_eq!(queues.next_batch(0), Some((0, vec![0, 1])));
    // The second kind is neither full nor due, so that it does not hold up the first.
    assert_eq!(queues.next_batch(0), Some((0, vec![3, 4])));
    assert_eq!(queues.next_batch(5), Some((1, vec![2])));
    assert_eq!(queues.next_batch(5), Some((0, vec![5, 6])));
}
