use super::*;
use crate::batch::Limits;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

const LIMITS: Limits = Limits { texts: 2, request_bytes: 1000, max_line: 100 };

/// Workers that answer with the length of each text.
struct Fake {
    asked: AtomicUsize,
    callers: usize,
    behaviour: Behaviour,
    stop: Arc<(Mutex<bool>, Condvar)>,
}

#[derive(Clone, Copy)]
enum Behaviour {
    /// Serves each batch after a pause that differs between batches.
    Uneven,
    RefuseFrom(usize),
    /// Leaves all requests after the first ones without an answer.
    HangAfter(usize),
    TooFewRows,
}

impl Fake {
    fn new(behaviour: Behaviour) -> Self {
        Self { asked: AtomicUsize::new(0), callers: 4, behaviour, stop: Arc::default() }
    }
}

impl Embed for Fake {
    fn embed(&self, batch: &mut Batch) -> Result<(), Error> {
        let before = self.asked.fetch_add(1, Ordering::Relaxed);
        batch.vectors = batch.texts().map(|text| text.parse().unwrap()).collect();
        match self.behaviour {
            Behaviour::Uneven if batch.index.is_multiple_of(5) => {
                thread::sleep(Duration::from_millis(2));
            }
            Behaviour::RefuseFrom(n) if before >= n => {
                return Err(Error::worker_died("worker died", "last words"));
            }
            Behaviour::HangAfter(n) if before >= n => {
                let (stop, changed) = &*self.stop;
                let stopped = stop.lock().unwrap();
                drop(changed.wait_while(stopped, |stopped| !*stopped).unwrap());
                return Err(Error::failure("aborted"));
            }
            Behaviour::TooFewRows => drop(batch.vectors.pop()),
            _ => {}
        }
        Ok(())
    }

    fn callers(&self) -> usize {
        self.callers
    }

    fn abort(&self) {
        *self.stop.0.lock().unwrap() = true;
        self.stop.1.notify_all();
    }

    fn traffic(&self) -> Traffic {
        Traffic { request_bytes: 30, reply_bytes: 60 }
    }

    fn recovery(&self) -> Recovery {
        Recovery { restarts: 1, sent_again: 2 }
    }

    fn cpu_time(&self) -> Option<Duration> {
        Some(Duration::from_secs(3))
    }
}

#[derive(Default)]
struct Collected {
    rows: Vec<f32>,
    fail_after: Option<usize>,
}

impl Sink for Collected {
    fn write(&mut self, batch: &Batch, _: &Summary) -> Result<(), Error> {
        if self.fail_after.is_some_and(|n| self.rows.len() >= n) {
            return Err(Error::failure("disk full"));
        }
        self.rows.extend(&batch.vectors);
        Ok(())
    }

    fn idle(&mut self, _: &Summary) {}

    fn interval(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// The texts "0", "1", … as batches of two.
fn numbers(count: usize) -> Fill {
    let mut next = 0;
    Box::new(move |batch| {
        while next < count && batch.try_push(&next.to_string(), &LIMITS) {
            next += 1;
        }
        Ok(batch.rows() > 0)
    })
}

fn run_fake(behaviour: Behaviour, fill: Fill) -> (Result<Summary, Error>, Vec<f32>) {
    let mut sink = Collected::default();
    let done = run(&Fake::new(behaviour), 1, fill, &mut sink, &Events::new());
    (done, sink.rows)
}

const GOOD: Behaviour = Behaviour::RefuseFrom(usize::MAX);

#[test]
fn the_output_keeps_the_order_whichever_batch_is_slow() {
    let (summary, rows) = run_fake(Behaviour::Uneven, numbers(501));
    let summary = summary.unwrap();
    assert_eq!(rows, (0..501_u16).map(f32::from).collect::<Vec<_>>());
    assert_eq!((summary.texts, summary.batches), (501, 251));
    assert_eq!(summary.traffic.request_bytes, 30);
    assert_eq!(summary.traffic.reply_bytes, 60);
    assert_eq!((summary.recovery.restarts, summary.recovery.sent_again), (1, 2));
    assert_eq!(summary.worker_cpu, Some(Duration::from_secs(3)));
    assert!(summary.waited > Duration::ZERO && summary.waited < summary.elapsed);
}

#[test]
fn no_input_is_no_output_and_a_success() {
    let (summary, rows) = run_fake(GOOD, numbers(0));
    assert_eq!(summary.unwrap().texts, 0);
    assert!(rows.is_empty());
}

#[test]
fn a_worker_that_refuses_ends_the_run_with_its_error() {
    let (done, rows) = run_fake(Behaviour::RefuseFrom(3), numbers(10_000));
    let error = done.unwrap_err();
    assert_eq!(error.exit(), Exit::WorkerDied);
    assert_eq!(error.to_string(), "worker died\n    | last words");
    assert!(rows.len() < 10_000);
}

#[test]
fn a_reader_s_error_ends_the_run_while_workers_are_busy() {
    let mut good = numbers(10);
    let fill = Box::new(move |batch: &mut Batch| match good(batch)? {
        true => Ok(true),
        false => Err(Error::failure("invalid UTF-8")),
    });
    let (done, _) = run_fake(Behaviour::HangAfter(2), fill);
    assert_eq!(done.unwrap_err().to_string(), "invalid UTF-8");
}

#[test]
fn a_reply_of_the_wrong_shape_is_an_error() {
    let (done, _) = run_fake(Behaviour::TooFewRows, numbers(2));
    let error = done.unwrap_err().to_string();
    assert_eq!(error, "a worker answered 2 texts with 1 numbers instead of 2");
}

#[test]
fn a_failing_output_ends_the_run() {
    let workers = Fake::new(GOOD);
    let mut sink = Collected { fail_after: Some(10), ..Collected::default() };
    let done = run(&workers, 1, numbers(10_000), &mut sink, &Events::new());
    assert_eq!(done.unwrap_err().to_string(), "disk full");
    assert_eq!(sink.rows.len(), 10);
}

#[test]
fn a_signal_ends_the_run_while_the_reader_is_blocked() {
    let (_never, blocked) = mpsc::channel::<()>();
    let fill = Box::new(move |_: &mut Batch| {
        let _ = blocked.recv();
        Ok(false)
    });
    let events = Events::new();
    events.sender.send(Event::Signal(2)).unwrap();
    let done = run(&Fake::new(GOOD), 1, fill, &mut Collected::default(), &events);
    assert_eq!(done.unwrap_err().exit(), Exit::Signal(2));
}

#[test]
fn a_signal_that_also_killed_the_worker_is_the_reason() {
    let events = Events::new();
    let sender = events.sender.clone();
    let error = Error::worker_died("killed", "");
    sender.send(Event::EndOfInput(3)).unwrap();
    sender.send(Event::Signal(15)).unwrap();
    assert_eq!(prefer_signal(error, &events.receiver).exit(), Exit::Signal(15));
    let error = Error::worker_died("killed", "");
    assert_eq!(prefer_signal(error, &events.receiver).exit(), Exit::WorkerDied);
}

#[test]
fn the_reader_waits_when_all_batches_are_under_way() {
    let filled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&filled);
    let blocked = Arc::new(AtomicBool::new(false));
    let mut endless = numbers(usize::MAX);
    let events = Events::new();
    let sender = events.sender.clone();
    let all = 4 + 4 / 2 + 2;
    let seen = Arc::clone(&blocked);
    let fill = Box::new(move |batch: &mut Batch| {
        if count.fetch_add(1, Ordering::SeqCst) + 1 == all {
            // The last batch there is. A further call would be one too many.
            seen.store(true, Ordering::SeqCst);
            let later = sender.clone();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(50));
                later.send(Event::Signal(2)).is_ok()
            });
        }
        endless(batch)
    });
    let workers = Fake::new(Behaviour::HangAfter(0));
    let done = run(&workers, 1, fill, &mut Collected::default(), &events);
    assert_eq!(done.unwrap_err().exit(), Exit::Signal(2));
    assert!(blocked.load(Ordering::SeqCst));
    assert_eq!(filled.load(Ordering::SeqCst), all);
}

#[test]
fn each_caller_asks_for_a_batch_before_the_first_is_answered() {
    let events = Events::new();
    let sender = events.sender.clone();
    let mut endless = numbers(usize::MAX);
    let mut calls = 0;
    let fill = Box::new(move |batch: &mut Batch| {
        calls += 1;
        if calls == 8 {
            let later = sender.clone();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(50));
                later.send(Event::Signal(2)).is_ok()
            });
        }
        endless(batch)
    });
    let workers = Fake::new(Behaviour::HangAfter(0));
    run(&workers, 1, fill, &mut Collected::default(), &events).unwrap_err();
    assert_eq!(workers.asked.load(Ordering::Relaxed), 4);
}
