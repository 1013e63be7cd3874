//! Models of a worker that serves many requests: threads that answer, threads and tasks that wait,
//! the thread that takes requests, and the marks.
//!
//! The inbox, the responders and all beneath them are what ships. As in the models of the ring, no
//! thread wakes without a reason and no backstop wakes a thread that was forgotten: that is a
//! deadlock. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p slipring --release --lib worker::models`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;

use loom::thread;

use super::owned::{Incoming, OwnedResponder};
use super::testing::{Rig, Worker, rig};
use crate::error::{ErrorKind, Stage};
use crate::protocol::Kind;
use crate::ring::models::model_up_to;
use crate::sync::Ordering;

mod marks;
mod room;
mod taking;
mod tasks;

/// As in the models of the ring.
const PREEMPTIONS: usize = 3;
/// The limit for three threads.
const FEWER: usize = 2;
/// The limit for three threads that all wait.
const ONE: usize = 1;

/// The only byte of the replies and chunks of a request.
fn byte(request: u64) -> [u8; 1] {
    [request.to_le_bytes()[0]]
}

/// Answers with one byte.
fn answer(responder: OwnedResponder) {
    let request = responder.request().get();
    responder.send(&byte(request)).unwrap();
}

#[test]
fn two_threads_answer_and_a_parent_that_sleeps_gets_both() {
    model_up_to(FEWER, || {
        let Rig { mut parent, worker } = rig(2, 2);
        let [first, second] = [1, 2].map(|request| worker.take(request));
        let other = thread::spawn(move || answer(second));
        let answering = thread::spawn(move || answer(first));
        let mut found = [parent.receive(), parent.receive()];
        found.sort_by_key(|(_, request)| *request);
        assert_eq!(found, [(Kind::RESULT, 1), (Kind::RESULT, 2)]);
        other.join().unwrap();
        answering.join().unwrap();
        assert!(parent.is_done(), "each reply comes once");
    });
}

#[test]
fn a_chunk_that_another_thread_sends_is_read_before_the_end_of_its_stream() {
    model_up_to(PREEMPTIONS, || {
        let Rig { mut parent, worker } = rig(1, 1);
        let mut responder = worker.take(1);
        let mut chunk = responder.claim_chunk(1).unwrap();
        let sending = thread::spawn(move || {
            chunk.payload().copy_from_slice(&byte(1));
            chunk.send().unwrap();
        });
        responder.end().unwrap();
        assert_eq!(parent.receive(), (Kind::CHUNK, 1));
        assert_eq!(parent.receive(), (Kind::END, 1));
        sending.join().unwrap();
        assert!(parent.is_done(), "each frame comes once");
    });
}

#[test]
fn a_parent_that_sleeps_gets_chunks_that_are_sent_together() {
    model_up_to(FEWER, || {
        let Rig { mut parent, worker } = rig(2, 2);
        let [mut first, mut second] = [1, 2].map(|request| worker.take(request));
        let mut chunk = second.claim_chunk(1).unwrap();
        let sending = thread::spawn(move || {
            chunk.payload().copy_from_slice(&byte(2));
            chunk.send().unwrap();
        });
        // Its slot lies behind the one that may be open still.
        let together = thread::spawn(move || {
            first.send_all([byte(1)]).unwrap();
            first
        });
        assert_eq!(parent.receive(), (Kind::CHUNK, 2));
        assert_eq!(parent.receive(), (Kind::CHUNK, 1));
        sending.join().unwrap();
        drop((together.join().unwrap(), second));
    });
}

#[test]
fn a_drop_and_an_answer_end_their_requests_once_each() {
    model_up_to(FEWER, || {
        let Rig { mut parent, worker } = rig(2, 2);
        let [first, second] = [1, 2].map(|request| worker.take(request));
        let dropping = thread::spawn(move || drop(first));
        let answering = thread::spawn(move || answer(second));
        let mut found = [parent.receive(), parent.receive()];
        found.sort_by_key(|(_, request)| *request);
        assert_eq!(found, [(Kind::ERROR, 1), (Kind::RESULT, 2)]);
        dropping.join().unwrap();
        answering.join().unwrap();
        assert!(parent.is_done(), "each end comes once");
    });
}

#[test]
fn a_cancel_and_an_answer_end_a_request_once() {
    model_up_to(PREEMPTIONS, || {
        let Rig { mut parent, worker } = rig(1, 1);
        let responder = worker.take(1);
        let answering = thread::spawn(move || match responder.is_cancelled() {
            true => drop(responder),
            false => answer(responder),
        });
        parent.cancel(1);
        let (kind, request) = parent.receive();
        assert!(request == 1 && [Kind::RESULT, Kind::CANCEL].contains(&kind), "{kind:?}");
        answering.join().unwrap();
        assert!(parent.is_done(), "the end comes once");
    });
}
