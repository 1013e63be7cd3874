//! Tests of [`super`].

use super::*;

fn open(table: &mut Table<u32>) -> u64 {
    table.open(false).unwrap()
}

#[test]
fn a_request_takes_its_items_in_order_and_its_slot_is_free_after_both_ends_are_done() {
    let mut table = Table::new(2, 100);
    let request = open(&mut table);
    assert_eq!(table.owner(request), Owner::Open { is_stream: false });
    table.push(request, 1);
    table.push(request, 2);
    table.finish(request);
    assert_eq!(table.take(request), Some(1));
    assert_eq!(table.take(request), Some(2));
    assert_eq!(table.take(request), None);
    assert!(!table.is_running(request));
    assert_eq!(table.in_flight(), 1);
    assert!(!table.let_go(request), "the worker is done with it");
    assert_eq!((table.in_flight(), table.owner(request)), (0, Owner::Unknown));
}

#[test]
fn a_call_that_has_its_result_is_ended_in_one_look_unless_there_is_more_to_it() {
    let mut table = Table::new(8, 100);
    let plain = open(&mut table);
    assert!(table.complete(plain));
    assert_eq!((table.in_flight(), table.owner(plain)), (0, Owner::Unknown));
    assert!(!table.complete(plain), "once");

    let stream = table.open(true).unwrap();
    let unread = open(&mut table);
    table.push(unread, 1);
    let in_pieces = open(&mut table);
    assert!(table.put_pieces(in_pieces, vec![1]));
    let awaited = open(&mut table);
    assert!(table.wait(awaited, Waiter::Thread(crate::sync::current())));
    let given_up = open(&mut table);
    assert!(table.let_go(given_up), "the worker has to be told");
    let finished = open(&mut table);
    table.finish(finished);
    for other in [stream, unread, in_pieces, awaited, given_up, finished, 0, 1000] {
        let before = (table.in_flight(), table.owner(other));
        assert!(!table.complete(other), "{other}");
        assert_eq!((table.in_flight(), table.owner(other)), before);
    }
}

#[test]
fn who_left_without_being_picked_is_forgotten_in_time() {
    let mut table = Table::new(2, 100);
    for _ in 0..1000 {
        let request = open(&mut table);
        assert!(table.wait(request, Waiter::Thread(crate::sync::current())));
        table.stop_waiting(request);
        table.finish(request);
        table.let_go(request);
        assert!(table.parked.len() <= 4, "{}", table.parked.len());
    }
    let request = open(&mut table);
    assert!(table.wait(request, Waiter::Thread(crate::sync::current())));
    assert!(table.pick_thread().is_some(), "who still waits is not");
}

#[test]
fn frames_of_a_request_that_was_given_up_reach_nobody() {
    let mut table = Table::new(2, 100);
    let late = open(&mut table);
    assert!(table.let_go(late), "the worker has to be told");
    assert!(!table.let_go(late), "once");
    let others: Vec<u64> = std::iter::from_fn(|| table.open(false).ok()).collect();
    assert_eq!(others.len(), 1, "the slot is taken until the worker is done with it");
    assert_eq!(table.owner(late), Owner::Retired);
    table.finish(late);
    assert_eq!(table.owner(late), Owner::Unknown);
    let next = open(&mut table);
    assert!(next != late && next % 2 == late % 2);
    assert_eq!(table.take(next), None);
}

#[test]
fn a_full_table_says_so() {
    let mut table = Table::<u32>::new(3, 100);
    (0..3).for_each(|_| {
        open(&mut table);
    });
    assert_eq!(table.open(false).unwrap_err().kind(), ErrorKind::TooManyInFlight);
    assert_eq!(table.in_flight(), 3);
    table.unsent(2);
    assert_eq!(table.in_flight(), 2);
    assert_eq!(table.open(false).unwrap() % 3, 2);
}

#[test]
fn id_zero_belongs_to_nobody() {
    let mut table = Table::<u32>::new(4, 100);
    assert_eq!(table.owner(0), Owner::Unknown);
    assert!(table.push(0, 1).is_none());
    table.finish(0);
    assert!(!table.let_go(0));
}

#[test]
fn credit_is_told_at_every_quarter_of_the_window_and_before_a_wait() {
    let mut table = Table::<u32>::new(1, 100);
    let stream = table.open(true).unwrap();
    assert_eq!(table.consume(stream, 20, false), None);
    assert_eq!(table.consume(stream, 5, false), Some(25));
    assert_eq!(table.consume(stream, 24, false), None);
    assert_eq!(table.consume(stream, 0, true), Some(49));
    assert_eq!(table.consume(stream, 0, true), None);
}

#[test]
fn a_stream_has_credit_for_one_window_or_for_one_chunk_that_is_longer() {
    let mut table = Table::<u32>::new(1, 100);
    let stream = table.open(true).unwrap();
    assert!(table.spend_credit(stream, 64) && table.spend_credit(stream, 36));
    assert_eq!(table.consume(stream, 64, true), Some(64));
    assert!(table.spend_credit(stream, 64));
    assert_eq!(table.consume(stream, 100, true), Some(164));
    assert!(table.spend_credit(stream, 128), "nothing is outstanding");
    assert!(!table.spend_credit(stream, 64), "a window and more is");
    assert!(!table.spend_credit(stream + 1, 0), "a request that is unknown");
}

#[test]
fn waiters_are_handed_out_once_and_not_registered_when_something_is_there() {
    let mut table = Table::new(2, 100);
    let me = || Waiter::Thread(crate::sync::current());
    let (one, two) = (open(&mut table), open(&mut table));
    assert!(table.wait(one, me()) && table.wait(two, me()) && table.wait(two, me()));
    assert!(table.pick_thread().is_some() && table.pick_thread().is_some());
    assert!(table.pick_thread().is_none());
    table.push(one, 1);
    assert!(!table.wait(one, me()));
    assert!(table.wait(two, me()));
    assert!(table.push(two, 1).is_some());
    assert!(table.take_waiters().is_empty());
}
