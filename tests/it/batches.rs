//! Dynamic batching: a worker whose handlers serve many requests by one call.

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::common::*;
use slipring::worker::{Batches, HandlerError, Incoming, RequestBatch, Worker};
use slipring::{
    Channel, Config, Error, ErrorKind, HandlerFailure, Kind, Pending, RoleConfig, StreamTimeouts,
    WorkerState, testing,
};

const WORK: Kind = Kind::named("work");
const OTHER: Kind = Kind::named("other");

/// What each batch held, by the first byte of each request.
type Formed = Arc<Mutex<Vec<Vec<u8>>>>;

/// A channel to a worker thread that serves by what `describe` gives.
fn serve<D>(describe: D) -> Channel
where
    D: FnOnce() -> Batches<()> + Send + 'static,
{
    serve_with(&Config::small(), usize::MAX, describe)
}

fn serve_with<D>(config: &Config, max_taken: usize, describe: D) -> Channel
where
    D: FnOnce() -> Batches<()> + Send + 'static,
{
    let make = move || Worker::new(|_| Ok(())).max_taken(max_taken.min(1024)).batches(describe());
    testing::spawn_thread(config, RoleConfig::default(), make).unwrap()
}

/// Lets one batch after another be served.
struct Gate {
    /// A batch is closed, and its handler waits.
    closed: mpsc::Receiver<()>,
    /// Lets one go on; all, once it is dropped.
    open: mpsc::Sender<()>,
    formed: Formed,
}

/// A channel to a worker whose handlers for `WORK` and `OTHER` wait for the test, then answer each
/// request with its own bytes.
fn gated<D>(max_taken: usize, describe: D) -> (Channel, Gate)
where
    D: FnOnce(Batches<()>) -> Batches<()> + Send + 'static,
{
    let (tell, closed) = mpsc::channel();
    let (open, opened) = mpsc::channel();
    let formed = Formed::default();
    let keep = Arc::clone(&formed);
    let channel = serve_with(&Config::small(), max_taken, move || {
        let opened = Arc::new(Mutex::new(opened));
        [WORK, OTHER].into_iter().fold(describe(Batches::new()), |batches, kind| {
            let (tell, opened, keep) = (tell.clone(), Arc::clone(&opened), Arc::clone(&keep));
            batches.on(kind, move |(), batch| {
                assert_eq!(batch.kind(), kind);
                let firsts = batch.iter().map(|request| request.to_vec()[0]).collect();
                keep.lock().unwrap().push(firsts);
                let _ = tell.send(());
                let _ = opened.lock().unwrap().recv();
                echo(batch);
                Ok(())
            })
        })
    });
    (channel, Gate { closed, open, formed })
}

fn echo(batch: &mut RequestBatch) {
    let answers: Vec<_> = batch.iter().map(|request| Ok(request.to_vec())).collect();
    batch.reply_each(answers);
}

fn submit(channel: &Channel, bytes: &[u8]) -> Pending {
    channel.submit(WORK, bytes, LONG).unwrap()
}

fn failure(error: &Error) -> &HandlerFailure {
    assert_eq!(error.kind(), ErrorKind::HandlerFailed, "{error}");
    error.handler_failure().unwrap()
}

/// Whether nothing is left of all that was asked.
fn is_as_new(channel: &Channel) -> bool {
    let health = channel.health();
    health.state == WorkerState::Idle
        && (health.taken, health.begun, channel.in_flight()) == (0, 0, 0)
}

#[test]
fn what_waits_while_a_batch_is_served_makes_the_next_in_order() {
    let (channel, gate) = gated(usize::MAX, |batches| batches.max_batch_size(4));
    let mut pending = vec![submit(&channel, &[0])];
    gate.closed.recv().unwrap();
    pending.extend((1..10).map(|n| submit(&channel, &[n])));
    drop(gate.open);
    for (n, pending) in (0..10).zip(pending) {
        assert_eq!(pending.wait().unwrap().to_vec(), [n]);
    }
    let formed = gate.formed.lock().unwrap();
    assert_eq!(*formed, [vec![0], vec![1, 2, 3, 4], vec![5, 6, 7, 8], vec![9]]);
}

#[test]
fn a_batch_costs_its_longest_request_times_their_number() {
    let (channel, gate) =
        gated(usize::MAX, |batches| batches.max_batch_cost(100, |request| request.len()));
    let mut pending = vec![submit(&channel, &[0])];
    gate.closed.recv().unwrap();
    // 2 x 40, for 3 x 40 is over it; then one over the budget alone; then all that is left.
    let lengths = [30, 40, 40, 101, 20, 10, 10, 10, 20];
    pending.extend((1..).zip(lengths).map(|(n, len)| submit(&channel, &vec![n; len])));
    drop(gate.open);
    for pending in pending {
        pending.wait().unwrap();
    }
    let formed = gate.formed.lock().unwrap();
    assert_eq!(*formed, [vec![0], vec![1, 2], vec![3], vec![4], vec![5, 6, 7, 8, 9]]);
}

#[test]
fn a_worker_that_was_idle_waits_for_nothing() {
    let (channel, gate) = gated(usize::MAX, |batches| batches.max_wait(Duration::MAX));
    drop(gate.open);
    for n in 0..3 {
        assert_eq!(channel.call(WORK, &[n], LONG).unwrap().to_vec(), [n]);
        eventually("it is idle", || is_as_new(&channel));
    }
}

#[test]
fn a_worker_that_was_busy_waits_for_a_full_batch() {
    let (channel, gate) =
        gated(usize::MAX, |batches| batches.max_wait(Duration::MAX).max_batch_size(3));
    let first = submit(&channel, &[0]);
    gate.closed.recv().unwrap();
    let mut pending = vec![submit(&channel, &[1])];
    drop(gate.open);
    first.wait().unwrap();
    // It waits for more, and not only for the first that comes.
    for n in [2, 3] {
        assert!(gate.closed.recv_timeout(Duration::from_millis(20)).is_err());
        pending.push(submit(&channel, &[n]));
    }
    for pending in pending {
        pending.wait().unwrap();
    }
    assert_eq!(*gate.formed.lock().unwrap(), [vec![0], vec![1, 2, 3]]);
}

#[test]
fn a_batch_that_is_not_full_is_served_when_its_time_has_come() {
    let wait = Duration::from_millis(40);
    let (channel, gate) = gated(usize::MAX, move |batches| batches.max_wait(wait));
    let first = submit(&channel, &[0]);
    gate.closed.recv().unwrap();
    let other = channel.submit(OTHER, &[1], LONG).unwrap();
    let second = submit(&channel, &[2]);
    drop(gate.open);
    for pending in [first, other, second] {
        pending.wait().unwrap();
    }
    assert_eq!(*gate.formed.lock().unwrap(), [[0], [1], [2]]);
}

#[test]
fn a_batch_has_one_kind_and_the_oldest_request_comes_first() {
    let (channel, gate) = gated(usize::MAX, |batches| batches.max_batch_size(3));
    let mut pending = vec![submit(&channel, &[0])];
    gate.closed.recv().unwrap();
    for (n, kind) in [(1, WORK), (2, OTHER), (3, WORK), (4, WORK), (5, WORK), (6, OTHER)] {
        pending.push(channel.submit(kind, &[n], LONG).unwrap());
    }
    drop(gate.open);
    for (n, pending) in (0..).zip(pending) {
        assert_eq!(pending.wait().unwrap().to_vec(), [n]);
    }
    assert_eq!(*gate.formed.lock().unwrap(), [vec![0], vec![1, 3, 4], vec![2, 6], vec![5]]);
}

#[test]
fn expired_and_cancelled_requests_are_in_no_batch() {
    let (channel, gate) = gated(usize::MAX, |batches| batches.max_batch_size(2));
    let mut wanted = vec![submit(&channel, &[0])];
    gate.closed.recv().unwrap();
    wanted.push(submit(&channel, &[1]));
    wanted.push(submit(&channel, &[2]));
    let short = Duration::from_millis(30);
    let in_ring = submit(&channel, &[3]);
    in_ring.cancel();
    let cancelled = submit(&channel, &[4]);
    let expired = channel.submit(WORK, &[5], short).unwrap();
    wanted.push(submit(&channel, &[6]));
    gate.open.send(()).unwrap();
    gate.closed.recv().unwrap();
    // These two were taken, and wait for the second batch to end.
    cancelled.cancel();
    thread::sleep(short);
    drop(gate.open);
    for pending in wanted {
        pending.wait().unwrap();
    }
    assert_eq!(in_ring.wait().unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(cancelled.wait().unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(expired.wait().unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(*gate.formed.lock().unwrap(), [vec![0], vec![1, 2], vec![6]]);
}

#[test]
fn a_deadline_in_the_queue_fires_although_the_model_is_busy() {
    let (channel, gate) = gated(usize::MAX, |batches| batches.max_batch_size(2));
    let busy = submit(&channel, &[0]);
    gate.closed.recv().unwrap();
    let late = channel.call(WORK, &[1], Duration::from_millis(20)).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout, "{late}");
    assert!(late.to_string().contains("had not been taken out of the request ring"), "{late}");
    drop(gate.open);
    busy.wait().unwrap();
    channel.call(WORK, &[2], LONG).unwrap();
    assert_eq!(*gate.formed.lock().unwrap(), [[0], [2]]);
}

#[test]
fn all_of_a_batch_are_begun_before_its_handler_runs() {
    let (channel, gate) = gated(usize::MAX, |batches| batches.max_batch_size(3));
    let mut pending = vec![submit(&channel, &[0])];
    gate.closed.recv().unwrap();
    assert_eq!((channel.health().begun, channel.health().taken), (1, 0));
    pending.extend((1..6).map(|n| submit(&channel, &[n])));
    gate.open.send(()).unwrap();
    gate.closed.recv().unwrap();
    let health = channel.health();
    assert_eq!((health.begun, health.taken), (3, 2), "{health:?}");
    drop(gate.open);
    for pending in pending {
        pending.wait().unwrap();
    }
    eventually("it is idle", || is_as_new(&channel));
}

type Handler = fn(&mut RequestBatch) -> Result<(), HandlerError>;

/// What becomes of one batch of so many requests, which `handler` serves: the first bytes are
/// their numbers. The channel still works after it.
fn batch_of(
    count: u8,
    describe: fn(Batches<()>) -> Batches<()>,
    handler: Handler,
) -> (Channel, Vec<Result<Vec<u8>, Error>>) {
    let (tell, closed) = mpsc::channel();
    let (open, opened) = mpsc::channel::<()>();
    let channel = serve_with(&Config::small(), usize::MAX, move || {
        let gate = move |_: &mut (), batch: &mut RequestBatch| {
            let _ = tell.send(());
            let _ = opened.recv();
            echo(batch);
            Ok(())
        };
        describe(Batches::new()).on(OTHER, gate).on(WORK, move |(), batch| handler(batch))
    });
    let first = channel.submit(OTHER, "", LONG).unwrap();
    closed.recv().unwrap();
    let pending: Vec<_> = (0..count).map(|n| submit(&channel, &[n])).collect();
    drop(open);
    first.wait().unwrap();
    let answers = pending.into_iter().map(|p| p.wait().map(|reply| reply.to_vec())).collect();
    assert_eq!(channel.call(OTHER, "still here", LONG).unwrap().to_vec(), b"still here");
    (channel, answers)
}

/// The type name and the message of each answer's error; the answer itself if there is none.
fn told(answers: &[Result<Vec<u8>, Error>]) -> Vec<(&str, &str)> {
    let told = answers.iter().map(|answer| match answer {
        Ok(bytes) => ("", std::str::from_utf8(bytes).unwrap()),
        Err(error) => (&*failure(error).type_name, &*failure(error).message),
    });
    told.collect()
}

fn last_error(channel: &Channel) -> String {
    channel.ping(LONG).unwrap().last_error.unwrap_or_default()
}

#[test]
fn one_bad_item_ends_itself_alone() {
    let (_, answers) = batch_of(
        4,
        |batches| batches,
        |batch| {
            let too_long = vec![b'x'; Config::small().max_message() + 1];
            batch.reply_each([
                Ok(vec![b'a']),
                Err("a bad text".into()),
                Ok(too_long),
                Ok(vec![b'd']),
            ]);
            Ok(())
        },
    );
    let told = told(&answers);
    assert_eq!((told[0], told[1], told[3]), (("", "a"), ("error", "a bad text"), ("", "d")));
    assert!(told[2].1.contains("raise max_message"), "{told:?}");
}

#[test]
fn too_few_answers_end_only_those_without_one() {
    let (channel, answers) = batch_of(
        4,
        |batches| batches,
        |batch| {
            batch.reply_each([Ok("a"), Ok("b")]);
            assert!(batch.is_empty());
            Ok(())
        },
    );
    let missing = ("slipring::NoReply", "2 answers for a batch of 4 requests");
    assert_eq!(told(&answers), [("", "a"), ("", "b"), missing, missing]);
    assert!(last_error(&channel).contains(missing.1));
}

#[test]
fn superfluous_answers_harm_none_and_are_told() {
    let (channel, answers) = batch_of(
        2,
        |batches| batches,
        |batch| {
            batch.reply_each(std::iter::repeat_with(|| Ok("a")));
            Ok(())
        },
    );
    assert_eq!(told(&answers), [("", "a"), ("", "a")]);
    assert!(last_error(&channel).contains("slipring::TooManyAnswers"), "{}", last_error(&channel));
}

#[test]
fn a_handler_that_forgets_its_batch_ends_its_requests() {
    let (_, answers) = batch_of(2, |batches| batches, |_| Ok(()));
    let forgotten = ("slipring::NoReply", "the responder was dropped without a reply");
    assert_eq!(told(&answers), [forgotten; 2]);
}

#[test]
fn an_error_of_a_handler_ends_those_without_an_answer() {
    let (channel, answers) = batch_of(
        4,
        |batches| batches,
        |batch| {
            // Also those that were taken out, in whatever order they are dropped.
            let mut taken = batch.take_requests().into_iter();
            let Incoming { responder, .. } = taken.nth(2).ok_or("a third")?;
            responder.send("c")?;
            Err("the model failed".into())
        },
    );
    let failed = ("error", "the model failed");
    // Two were dropped by the handler itself.
    assert_eq!(told(&answers), [failed, failed, ("", "c"), failed]);
    assert!(last_error(&channel).contains("the model failed"));
}

#[test]
fn a_panic_of_a_handler_ends_its_batch_and_the_worker_goes_on() {
    let (channel, answers) = batch_of(
        4,
        |batches| batches,
        |batch| {
            batch.reply_each((0..4).map(|n| match n {
                2 => panic!("the model panics"),
                _ => Ok("early"),
            }));
            Ok(())
        },
    );
    let panicked = ("panic", "the model panics");
    assert_eq!(told(&answers), [("", "early"), ("", "early"), panicked, panicked]);
    assert!(last_error(&channel).contains("the model panics"));
}

#[test]
fn a_panic_of_the_cost_function_ends_its_request_alone() {
    let length = |batches: Batches<()>| {
        batches.max_batch_cost(100, |request| match request.to_vec()[..] {
            [2] => panic!("how long is a two?"),
            _ => request.len(),
        })
    };
    let (_, answers) = batch_of(4, length, |batch| {
        assert_eq!(batch.len(), 3);
        batch.reply_each([Ok("a"), Ok("b"), Ok("d")]);
        Ok(())
    });
    let odd = ("panic", "how long is a two?");
    assert_eq!(told(&answers), [("", "a"), ("", "b"), odd, ("", "d")]);
}

#[test]
fn a_request_of_a_kind_without_a_handler_is_refused_and_waits_for_none() {
    let (channel, gate) = gated(usize::MAX, |batches| batches);
    let busy = submit(&channel, &[0]);
    gate.closed.recv().unwrap();
    let odd = channel.submit(Kind::named("odd"), "", LONG).unwrap();
    drop(gate.open);
    busy.wait().unwrap();
    let error = odd.wait().unwrap_err();
    assert_eq!(failure(&error).type_name, "slipring::UnknownKind");
    eventually("nothing is left", || is_as_new(&channel));
}

#[test]
fn a_batch_can_be_answered_in_chunks_after_its_handler_has_returned() {
    let channel = serve(|| {
        Batches::new().on(WORK, |(), batch| {
            let requests = batch.take_requests();
            assert!(batch.is_empty());
            thread::spawn(move || {
                for Incoming { request, mut responder } in requests.into_iter().rev() {
                    for byte in request.get().to_vec() {
                        responder.send_chunk(&[byte]).unwrap();
                    }
                    responder.end().unwrap();
                }
            });
            Ok(())
        })
    });
    let streams: Vec<_> = ["one", "two", "six"]
        .map(|text| channel.stream(WORK, text, StreamTimeouts::from(LONG)).unwrap())
        .into();
    for (stream, text) in streams.into_iter().zip(["one", "two", "six"]) {
        let bytes: Vec<u8> = stream.flat_map(|chunk| chunk.unwrap().to_vec()).collect();
        assert_eq!(bytes, text.as_bytes());
    }
    eventually("nothing is left", || is_as_new(&channel));
}

/// What a model makes of a text, which depends on nothing else.
fn embedding(text: &[u8]) -> Vec<u8> {
    let seed = text.iter().fold(7.5_f32, |sum, byte| sum * 1.01 + f32::from(*byte));
    (0..64).flat_map(|n| (seed / (n as f32 + 0.3)).sin().to_le_bytes()).collect()
}

#[test]
fn a_client_that_leaves_changes_nothing_for_the_31_others_of_its_batch() {
    let (tell, closed) = mpsc::channel();
    let (open, opened) = mpsc::channel::<()>();
    let channel = serve(move || {
        Batches::new().on(WORK, move |(), batch| {
            tell.send(batch.len())?;
            opened.recv()?;
            let mut embeddings = Vec::new();
            for text in batch.iter() {
                if embeddings.len() == 16 {
                    // Half of the work is done when the client leaves.
                    opened.recv()?;
                }
                embeddings.push(Ok(embedding(&text.to_vec())));
            }
            batch.reply_each(embeddings);
            Ok(())
        })
    });
    let warm_up = submit(&channel, b"warm-up");
    assert_eq!(closed.recv().unwrap(), 1);
    let mut pending: Vec<_> = (0..32_u8).map(|n| (n, submit(&channel, &[n; 9]))).collect();
    open.send(()).unwrap();
    assert_eq!(closed.recv().unwrap(), 32);
    open.send(()).unwrap();
    let (_, leaver) = pending.remove(20);
    leaver.cancel();
    drop(leaver);
    open.send(()).unwrap();
    warm_up.wait().unwrap();
    for (n, pending) in pending {
        assert_eq!(pending.wait().unwrap().to_vec(), embedding(&[n; 9]), "{n}");
    }
    eventually("nothing is left", || is_as_new(&channel));
}

#[test]
fn a_limit_below_the_size_of_a_batch_is_not_waited_for() {
    let (channel, gate) = gated(3, |batches| batches.max_wait(Duration::MAX));
    let mut pending = vec![submit(&channel, &[0])];
    gate.closed.recv().unwrap();
    pending.extend((1..7).map(|n| submit(&channel, &[n])));
    drop(gate.open);
    for pending in pending {
        pending.wait().unwrap();
    }
    assert_eq!(*gate.formed.lock().unwrap(), [vec![0], vec![1, 2, 3], vec![4, 5, 6]]);
}

#[test]
fn what_cannot_be_served_is_refused_before_the_worker_attaches() {
    let batches: [fn() -> Batches<()>; 3] = [
        || Batches::new().on(WORK, |(), _| Ok(())).on(WORK, |(), _| Ok(())),
        || Batches::new().on(Kind::READY, |(), _| Ok(())),
        || Batches::new().max_batch_size(0),
    ];
    for batches in batches {
        let error = Worker::new(|_| Ok(())).batches(batches()).serve().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    }
}

#[test]
fn after_a_long_overload_all_is_as_before() {
    let channel = serve(|| {
        Batches::new()
            .max_batch_size(5)
            .max_batch_cost(4000, |request| request.len())
            .max_wait(Duration::from_micros(300))
            .on(WORK, |(), batch| {
                thread::sleep(Duration::from_micros(200));
                echo(batch);
                Ok(())
            })
    });
    thread::scope(|scope| {
        for thread in 0..16_u8 {
            let channel = &channel;
            scope.spawn(move || {
                for round in 0..60_u8 {
                    let asked = vec![thread; 1 + 20 * usize::from(round)];
                    let patience = Duration::from_micros(300 * u64::from(round % 8));
                    match channel.call(WORK, &asked, patience) {
                        Ok(answer) => assert_eq!(answer.to_vec(), asked),
                        // Those that timed out are in flight until the worker has seen it.
                        Err(error) => assert!(
                            error.is_timeout() || error.kind() == ErrorKind::TooManyInFlight,
                            "{error}"
                        ),
                    }
                }
            });
        }
    });
    eventually("nothing is left", || is_as_new(&channel));
    for n in 0..20 {
        assert_eq!(channel.call(WORK, &[n], LONG).unwrap().to_vec(), [n]);
    }
    eventually("nothing is left again", || is_as_new(&channel));
}
