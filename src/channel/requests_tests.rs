//! Tests of [`super`].

use super::*;
use crate::protocol::kind::flags;
use crate::ring::Header;
use crate::shm::bytes::PeerBytes;

fn open(requests: &mut Requests<u32>) -> u64 {
    requests.open(false).unwrap().0
}

/// A message of which the first piece has come.
fn begun() -> Assembler {
    let mut assembler = Assembler::default();
    let header = Header { flags: flags::MORE, ..Header::default() };
    assert!(assembler.add(header, PeerBytes::of(b"x"), 10, Vec::new).unwrap().is_none());
    assembler
}

#[test]
fn a_request_takes_its_items_in_order_and_frees_its_slot_after_both_ends() {
    let mut requests = Requests::new(2, 100);
    let request = open(&mut requests);
    assert_eq!(requests.addressee(request), Addressee::Open { is_stream: false });
    requests.push(request, 1).unwrap();
    requests.push(request, 2).unwrap();
    requests.finish(request, true);
    assert_eq!(requests.take(request), Some(1));
    assert_eq!(requests.take(request), Some(2));
    assert_eq!(requests.take(request), None);
    assert!(!requests.is_running(request));
    assert_eq!(requests.in_flight(), 1);
    assert!(!requests.drop_request(request), "the worker is done with it");
    assert_eq!((requests.in_flight(), requests.addressee(request)), (0, Addressee::Unknown));
}

#[test]
fn a_call_with_its_result_is_ended_in_one_look_unless_more_is_queued() {
    let mut requests = Requests::new(8, 100);
    let plain = open(&mut requests);
    assert!(requests.complete(plain, 9));
    assert_eq!((requests.in_flight(), requests.addressee(plain)), (0, Addressee::Unknown));
    assert!(!requests.complete(plain, 9), "once");

    let stream = requests.open(true).unwrap().0;
    let unread = open(&mut requests);
    requests.push(unread, 1).unwrap();
    let in_pieces = open(&mut requests);
    assert!(requests.put_assembler(in_pieces, begun()));
    let awaited = open(&mut requests);
    assert!(requests.register(awaited, Waiter::Thread(crate::sync::current())));
    let dropped = open(&mut requests);
    assert!(requests.drop_request(dropped), "the worker has to be told");
    let finished = open(&mut requests);
    requests.finish(finished, true);
    for other in [stream, unread, in_pieces, awaited, dropped, finished, 0, 1000] {
        let before = (requests.in_flight(), requests.addressee(other));
        assert!(!requests.complete(other, 9), "{other}");
        assert_eq!((requests.in_flight(), requests.addressee(other)), before);
    }
}

#[test]
fn a_thread_that_left_without_being_picked_is_forgotten_in_time() {
    let mut requests = Requests::new(2, 100);
    for _ in 0..1000 {
        let request = open(&mut requests);
        assert!(requests.register(request, Waiter::Thread(crate::sync::current())));
        drop(requests.take_waiter(request));
        requests.finish(request, true);
        requests.drop_request(request);
        assert!(requests.parked.len() <= 4, "{}", requests.parked.len());
    }
    let request = open(&mut requests);
    assert!(requests.register(request, Waiter::Thread(crate::sync::current())));
    assert!(requests.take_thread().is_some(), "a thread that still waits is not");
}

#[test]
fn frames_of_a_dropped_request_are_not_delivered() {
    let mut requests = Requests::new(2, 100);
    let late = open(&mut requests);
    assert!(requests.drop_request(late), "the worker has to be told");
    assert!(!requests.drop_request(late), "once");
    let others = std::iter::from_fn(|| requests.open(false).ok()).count();
    assert_eq!(others, 1, "the slot is taken until the worker is done with it");
    assert_eq!(requests.addressee(late), Addressee::Dropped);
    requests.finish(late, true);
    assert_eq!(requests.addressee(late), Addressee::Unknown);
    let next = open(&mut requests);
    assert!(next != late && next % 2 == late % 2);
    assert_eq!(requests.take(next), None);
}

#[test]
fn a_full_table_says_so() {
    let mut requests = Requests::<u32>::new(3, 100);
    (0..3).for_each(|_| {
        open(&mut requests);
    });
    for _ in 0..5 {
        assert_eq!(requests.open(false).unwrap_err().kind(), ErrorKind::TooManyInFlight);
    }
    assert_eq!(requests.in_flight(), 3);
    requests.discard(2);
    assert_eq!(requests.in_flight(), 2);
    // The refusals have looked at no entry: each look would have used an id up.
    assert_eq!(requests.open(false).unwrap().0, 5);
}

#[test]
fn id_zero_belongs_to_no_request() {
    let mut requests = Requests::<u32>::new(4, 100);
    assert_eq!(requests.addressee(0), Addressee::Unknown);
    assert!(requests.push(0, 1).is_err());
    requests.finish(0, true);
    assert!(!requests.drop_request(0));
}

#[test]
fn credit_is_told_at_every_quarter_of_the_window_and_before_a_wait() {
    let mut requests = Requests::<u32>::new(1, 100);
    let stream = requests.open(true).unwrap().0;
    assert_eq!(requests.add_consumed(stream, 20, false), None);
    assert_eq!(requests.add_consumed(stream, 5, false), Some(25));
    assert_eq!(requests.add_consumed(stream, 24, false), None);
    assert_eq!(requests.add_consumed(stream, 0, true), Some(49));
    assert_eq!(requests.add_consumed(stream, 0, true), None);
    requests.discard(stream);
    assert_eq!(requests.open(false).unwrap().1, 49, "released for the entry's next request");
}

#[test]
fn a_stream_has_credit_for_one_window_or_for_one_chunk_that_is_longer() {
    let mut requests = Requests::<u32>::new(1, 100);
    let stream = requests.open(true).unwrap().0;
    assert!(requests.spend_credit(stream, 64) && requests.spend_credit(stream, 36));
    assert_eq!(requests.add_consumed(stream, 64, true), Some(64));
    assert!(requests.spend_credit(stream, 64));
    assert_eq!(requests.add_consumed(stream, 100, true), Some(164));
    assert!(requests.spend_credit(stream, 128), "nothing is outstanding");
    assert!(!requests.spend_credit(stream, 64), "a window and more is");
    assert!(!requests.spend_credit(stream + 1, 0), "a request that is unknown");
}

#[test]
fn chunks_are_counted_together_only_if_all_have_credit() {
    let mut requests = Requests::<u32>::new(1, 200);
    let stream = requests.open(true).unwrap().0;
    assert!(requests.spend_all(stream, 128));
    assert!(!requests.spend_all(stream, 128), "the last of them is beyond the window");
    assert_eq!(requests.add_consumed(stream, 128, true), Some(128));
    assert!(!requests.spend_all(stream, 256), "one of them may be longer than the window");
    assert!(requests.spend_all(stream, 192), "nothing was counted meanwhile");
    assert!(!requests.spend_all(stream, 64));
    assert_eq!(requests.spend_credits(stream, [64].into_iter()), 0, "one by one it is the same");
    assert!(!requests.spend_all(stream + 1, 0), "a request that is unknown");
}

#[test]
fn chunks_in_a_row_have_credit_up_to_the_first_that_has_none() {
    let mut requests = Requests::<u32>::new(1, 200);
    let stream = requests.open(true).unwrap().0;
    assert_eq!(requests.spend_credits(stream, [64, 64].into_iter()), 2);
    assert_eq!(requests.add_consumed(stream, 128, true), Some(128));
    assert_eq!(requests.spend_credits(stream, [64, 64, 64, 64, 64].into_iter()), 3);
    assert_eq!(requests.spend_credits(stream, [64].into_iter()), 0, "it stays that way");
    assert_eq!(
        requests.spend_credits(stream + 1, [64].into_iter()),
        0,
        "a request that is unknown"
    );
}

#[test]
fn waiters_are_handed_out_once_and_not_registered_when_something_is_there() {
    let mut requests = Requests::new(2, 100);
    let me = || Waiter::Thread(crate::sync::current());
    let (one, two) = (open(&mut requests), open(&mut requests));
    assert!(
        requests.register(one, me())
            && requests.register(two, me())
            && requests.register(two, me())
    );
    assert!(requests.take_thread().is_some() && requests.take_thread().is_some());
    assert!(requests.take_thread().is_none());
    requests.push(one, 1).unwrap();
    assert!(!requests.register(one, me()));
    assert!(requests.register(two, me()));
    assert!(requests.push(two, 1).unwrap().is_some());
    assert!(requests.take_waiters().is_empty());
}

#[test]
fn a_reactor_is_told_once_of_each_request_that_has_got_something() {
    let mut requests = Requests::new(4, 100);
    let [early, twice, awaited, dropped] = [(); 4].map(|()| open(&mut requests));
    requests.push(early, 1).unwrap();
    assert_eq!(requests.take_ready(), [early]);
    assert_eq!(requests.take_ready(), [0_u64; 0]);
    assert!(requests.register(awaited, Waiter::Thread(crate::sync::current())));
    for request in [dropped, twice, twice, awaited] {
        requests.push(request, 1).unwrap();
    }
    requests.drop_request(dropped);
    assert_eq!(requests.take_ready(), [twice]);
    requests.push(twice, 1).unwrap();
    assert_eq!(requests.take_ready(), [twice]);
    // A reactor that never asks costs no more than that.
    for _ in 0..100 {
        requests.finish(twice, true);
        requests.drop_request(twice);
        let next = open(&mut requests);
        requests.push(next, 1).unwrap();
        requests.finish(next, true);
        requests.drop_request(next);
    }
    assert!(requests.ready.as_ref().is_some_and(|ready| ready.len() <= 8));
}

#[test]
fn only_requests_that_were_opened_are_counted_and_each_ends_once() {
    let mut requests = Requests::<u32>::new(2, 100);
    let counts = |requests: &Requests<u32>| {
        let mut stats = Stats::default();
        requests.enter(&mut stats);
        (stats.requests, stats.completed, stats.in_flight)
    };
    let (answered, dropped) = (open(&mut requests), open(&mut requests));
    assert!(requests.open(false).is_err(), "two numbers are passed over");
    assert_eq!(counts(&requests), (2, 0, 2));
    assert!(requests.drop_request(dropped));
    requests.finish(answered, true);
    assert_eq!(counts(&requests), (2, 0, 1), "its owner has not got the answer");
    assert!(!requests.drop_request(answered) && !requests.drop_request(answered));
    assert_eq!(counts(&requests), (2, 1, 0));
    // The late reply of the one, and errors and results of others.
    requests.finish(dropped, true);
    assert_eq!(counts(&requests), (2, 1, 0));
    let failed = open(&mut requests);
    requests.finish(failed, false);
    assert!(!requests.drop_request(failed));
    assert_eq!(counts(&requests), (3, 1, 0));
    let unsent = open(&mut requests);
    requests.discard(unsent);
    assert_eq!(counts(&requests), (4, 1, 0));
    let plain = open(&mut requests);
    assert!(requests.complete(plain, 9));
    assert_eq!(counts(&requests), (5, 2, 0));
}

fn piece(more_flags: u16, request: u64) -> Header {
    Header { kind: 5, flags: flags::MORE | more_flags, request, aux: 9, ..Header::default() }
}

/// Collects a piece, as a reader does that is not the owner.
fn collect(requests: &mut Requests<u32>, header: Header, bytes: &[u8]) {
    let mut assembler = requests.take_assembler(header.request);
    assembler.add(header, PeerBytes::of(bytes), 99, Vec::new).unwrap();
    assert!(requests.put_assembler(header.request, assembler));
}

#[test]
fn a_part_is_taken_once_and_only_by_an_owner_that_reads_in_pieces() {
    let mut requests = Requests::new(1, 1000);
    let request = open(&mut requests);
    assert!(requests.take_part(request).is_none(), "nothing has come");
    collect(&mut requests, piece(0, request), b"ab");
    assert!(requests.take_part(request).is_none(), "it is wanted whole");
    requests.reading(request).unwrap().is_in_pieces = true;
    assert!(requests.take_part(request + 1).is_none(), "a request that is unknown");
    let (part, is_first, cost) = requests.take_part(request).unwrap();
    assert_eq!((part.bytes, part.header.aux, is_first, cost), (b"ab".to_vec(), 9, true, 0));
    assert!(requests.take_part(request).is_none(), "once");
    // What waits in the queue comes before what is collected.
    requests.push(request, 1).unwrap();
    assert!(requests.withhold(request, 64));
    collect(&mut requests, piece(flags::CONTINUED, request), b"c");
    assert!(requests.take_part(request).is_none());
    assert_eq!(requests.take(request), Some(1));
    let (part, is_first, cost) = requests.take_part(request).unwrap();
    assert_eq!((part.bytes, is_first, cost), (b"c".to_vec(), false, 64));
    // The next request of the entry has another owner.
    requests.finish(request, true);
    requests.drop_request(request);
    let next = open(&mut requests);
    collect(&mut requests, piece(0, next), b"d");
    assert!(requests.take_part(next).is_none(), "that was the reading of an earlier request");
}

#[test]
fn a_message_whose_rest_is_skipped_is_not_a_part_any_more() {
    let mut requests = Requests::new(1, 1000);
    let request = open(&mut requests);
    requests.reading(request).unwrap().is_in_pieces = true;
    assert!(requests.skip_rest(request + 1).is_none(), "a request that is unknown");
    collect(&mut requests, piece(0, request), b"ab");
    requests.take_part(request).unwrap();
    collect(&mut requests, piece(flags::CONTINUED, request), b"cd");
    assert_eq!(requests.skip_rest(request).unwrap().bytes, b"cd");
    assert!(requests.reading(request).unwrap().skips_rest);
    assert!(requests.skip_rest(request).is_none(), "nothing more has come");
    collect(&mut requests, piece(flags::CONTINUED, request), b"ef");
    assert!(requests.take_part(request).is_none(), "its owner does not want it");
    // A message that is cut off has no rest.
    assert!(!requests.take_cut_off(request).is_empty());
    assert!(!requests.reading(request).unwrap().skips_rest);
    // Nor does one request skip the message of the next.
    requests.skip_rest(request);
    requests.finish(request, true);
    requests.drop_request(request);
    let next = open(&mut requests);
    assert!(!requests.reading(next).unwrap().skips_rest);
}
