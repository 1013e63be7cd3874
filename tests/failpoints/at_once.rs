//! A worker that serves many requests and dies while they are in different stages.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use slipring::worker::{HandlerError, Inbox, Incoming, OwnedResponder, Worker};
use slipring::{Channel, Error, ErrorKind, Kind, Pending, RequestStage, Spawner};

use super::{Cases, VARIABLE, has_fired};
use crate::common::*;

const WORK: Kind = Kind::named("work");
/// The variable of the environment that says what the worker does.
const SCRIPT: &str = "SLIPRING_TEST_SCRIPT";
/// The file in a directory of logs to which the worker writes what it begins.
const EFFECTS: &str = "effects";
/// The threads of the worker of the last test.
const THREADS: u64 = 4;
const REQUESTS: u64 = 48;

#[test]
fn at_once_entry() {
    if !slipring::worker::is_worker() {
        return;
    }
    let script = std::env::var(SCRIPT).unwrap();
    let worker = Worker::new(|role| Ok(PathBuf::from(role.extra(EFFECTS).unwrap_or_default())));
    let worker = worker.max_taken(if script == "threads" { 16 } else { 4 });
    let served = worker.inbox(move |effects, inbox| match script.as_str() {
        "threads" => answer_by_threads(inbox, effects),
        script => {
            await_requests(effects)?;
            run(script, inbox)
        }
    });
    if let Err(error) = served.serve() {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
}

fn run(script: &str, inbox: &Arc<Inbox>) -> Result<(), HandlerError> {
    match script {
        "begin every other" => begin_every_other(inbox),
        "answer the second" => answer_the_second(inbox),
        "claim in order" => claim_two(inbox, [0, 1]),
        "claim in turn" => claim_two(inbox, [1, 0]),
        _ => Err(HandlerError::new("test::Script", script)),
    }
}

/// Waits until the test has sent all of its requests.
fn await_requests(effects: &Path) -> Result<(), HandlerError> {
    while std::fs::metadata(effects)?.len() == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Takes one request after another, and begins the first, the third and so on.
fn begin_every_other(inbox: &Arc<Inbox>) -> Result<(), HandlerError> {
    let mut held = Vec::new();
    loop {
        let mut next = inbox.recv()?;
        if held.len() % 2 == 0 {
            next.responder.begin();
        }
        held.push(next);
    }
}

/// Takes four requests, begins two of them, and answers the second.
fn answer_the_second(inbox: &Arc<Inbox>) -> Result<(), HandlerError> {
    let mut held = take_four(inbox)?;
    held[0].begin();
    held[1].begin();
    held.remove(1).send("the second")?;
    Err("it should have died".into())
}

/// Takes four requests, and claims slots for the first two, which it sends in this order.
fn claim_two(inbox: &Arc<Inbox>, order: [usize; 2]) -> Result<(), HandlerError> {
    let mut held = take_four(inbox)?.into_iter();
    let mut slots: Vec<_> = held
        .by_ref()
        .take(2)
        .map(|responder| responder.claim(1).map(Some))
        .collect::<Result<_, _>>()?;
    for index in order {
        let mut slot = slots[index].take().unwrap();
        slot.payload().fill(index as u8);
        slot.send()?;
    }
    Err("it should have died".into())
}

fn take_four(inbox: &Arc<Inbox>) -> Result<Vec<OwnedResponder>, HandlerError> {
    (0..4).map(|_| Ok(inbox.recv()?.responder)).collect()
}

/// Threads that take requests and answer them in another order, by what the request says.
fn answer_by_threads(inbox: &Arc<Inbox>, effects: &Path) -> Result<(), HandlerError> {
    let effects = OpenOptions::new().append(true).open(effects)?;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(|| while answer_some(inbox, &effects).is_ok() {}))
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    Ok(())
}

/// Takes up to three requests, and answers the last of them first.
fn answer_some(inbox: &Inbox, mut effects: &File) -> Result<(), HandlerError> {
    let mut taken = vec![inbox.recv()?];
    inbox.try_recv_many(&mut taken, 2)?;
    while let Some(Incoming { request, mut responder }) = taken.pop() {
        let number = numbers(&request.get().to_vec())[0];
        responder.begin();
        effects.write_all(format!("{number}\n").as_bytes())?;
        responder.send(&pattern(number, reply_len(number)))?;
    }
    Ok(())
}

/// Some replies go in pieces.
fn reply_len(number: u64) -> usize {
    if number.is_multiple_of(5) { 9000 } else { 10 + number as usize }
}

fn at(point: &str, nth: u32, script: &str, logs: &Path) -> Spawner {
    let effects = logs.join(EFFECTS);
    File::create(&effects).unwrap();
    spawner_of(at_once_entry)
        .config(tiny(4 << 10).build().unwrap())
        .handshake_timeout(LONG)
        .env(VARIABLE, format!("{point}:kill:{nth}"))
        .env(SCRIPT, script)
        .extra(EFFECTS, effects.to_str().unwrap())
        .log_dir(logs)
        .role("failpoint")
}

/// Sends six requests, of which the worker takes four at most, and lets it begin.
fn submit_six(channel: &Channel, logs: &Path) -> Vec<Pending> {
    let sent = (0..6_u64).map(|n| channel.submit(WORK, &n.to_le_bytes(), LONG).unwrap()).collect();
    std::fs::write(logs.join(EFFECTS), "go").unwrap();
    sent
}

/// How the request ended: its reply, or how far the worker was with it when it died.
fn outcome(pending: Pending) -> Result<Vec<u8>, (RequestStage, Error)> {
    let error = match pending.wait() {
        Ok(reply) => return Ok(reply.to_vec()),
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::PeerDied, "{error}");
    cause_of(&error);
    let stage = error.stage().expect("the worker has ended");
    assert_eq!(error.was_begun(), Some(stage == RequestStage::Begun), "{error}");
    Err((stage, error))
}

/// Runs six requests against a worker that dies at this point. Each ends with the reply or in the
/// stage that is given; `serving` are those that the worker was serving.
fn check_stages(
    cases: &mut Cases,
    (point, nth, script): (&str, u32, &str),
    expected: [Result<&[u8], RequestStage>; 6],
    serving: &[usize],
) {
    let what = format!("{script}, {point}:kill:{nth}");
    cases.run(&what, |logs| {
        let channel = at(point, nth, script, logs).spawn().unwrap();
        let sent = submit_six(&channel, logs);
        let ids: Vec<_> = sent.iter().map(Pending::id).collect();
        let serving: Vec<_> = serving.iter().map(|n| ids[*n]).collect();
        for (n, pending) in sent.into_iter().enumerate() {
            let end = outcome(pending);
            let stage = end.as_ref().map(Vec::as_slice).map_err(|(stage, _)| *stage);
            assert_eq!(stage, expected[n], "{what}: request {n}");
            let Err((stage, error)) = end else { continue };
            let death = error.death().unwrap();
            assert_eq!(death.begun_requests(), serving, "{what}: {error}");
            let is_alone = stage == RequestStage::Begun && serving.iter().all(|id| *id == ids[n]);
            assert_eq!(error.begun_alone(), Some(is_alone), "{what}: {error}");
        }
        channel.close(LONG).unwrap();
        has_fired(logs)
    });
}

#[test]
fn each_request_of_a_worker_that_died_tells_its_own_stage() {
    use RequestStage::{Begun, Queued, Taken};
    let _alone = one_at_a_time();
    let mut cases = Cases::new();
    let every_other = "begin every other";
    let died = [Err(Begun), Err(Taken), Err(Taken), Err(Queued), Err(Queued), Err(Queued)];
    check_stages(&mut cases, ("after take", 3, every_other), died, &[0]);
    let died = [Err(Begun), Err(Taken), Err(Begun), Err(Queued), Err(Queued), Err(Queued)];
    check_stages(&mut cases, ("after begin", 2, every_other), died, &[0, 2]);
    // A request whose answer is on its way was begun, and is not served any more.
    for (point, serving) in
        [("claim", &[0, 1][..]), ("half the header", &[0]), ("before commit", &[0])]
    {
        let died = [Err(Begun), Err(Begun), Err(Taken), Err(Taken), Err(Queued), Err(Queued)];
        check_stages(&mut cases, (point, 1, "answer the second"), died, serving);
    }
    for point in ["after commit", "before notify"] {
        let reply = Ok("the second".as_bytes());
        let died = [Err(Begun), reply, Err(Taken), Err(Taken), Err(Queued), Err(Queued)];
        check_stages(&mut cases, (point, 1, "answer the second"), died, &[0]);
    }
    assert_eq!(cases.fired, cases.times.len());
}

#[test]
fn a_reply_arrives_if_and_only_if_all_before_it_were_committed() {
    use RequestStage::{Begun, Queued, Taken};
    let _alone = one_at_a_time();
    let mut cases = Cases::new();
    let (first_reply, second_reply) = (Ok(&[0][..]), Ok(&[1][..]));
    for (script, point, nth, [first, second], serving) in [
        ("claim in order", "half the header", 1, [Err(Begun), Err(Begun)], &[1][..]),
        ("claim in order", "after commit", 1, [first_reply, Err(Begun)], &[1]),
        ("claim in order", "before commit", 2, [first_reply, Err(Begun)], &[]),
        ("claim in order", "after commit", 2, [first_reply, second_reply], &[]),
        // The second is committed behind the first, which is not.
        ("claim in turn", "after commit", 1, [Err(Begun), Err(Begun)], &[0]),
        ("claim in turn", "before commit", 2, [Err(Begun), Err(Begun)], &[]),
        ("claim in turn", "after commit", 2, [first_reply, second_reply], &[]),
    ] {
        let expected = [first, second, Err(Taken), Err(Taken), Err(Queued), Err(Queued)];
        check_stages(&mut cases, (point, nth, script), expected, serving);
    }
    assert_eq!(cases.fired, cases.times.len());
}

#[test]
fn a_death_amid_concurrent_replies_leaves_each_request_one_true_end() {
    let _alone = one_at_a_time();
    let mut cases = Cases::new();
    for point in [
        "after take",
        "after begin",
        "claim",
        "half the header",
        "before commit",
        "after commit",
        "before notify",
        "before wake",
        "before wait",
        "after wait",
    ] {
        for nth in [1, 2, 9, 30] {
            cases.run(&format!("{point}:kill:{nth}"), |logs| {
                let channel = match at(point, nth, "threads", logs).spawn() {
                    Ok(channel) => channel,
                    // In the health thread, before it was attached.
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Handshake, "{point}: {error}");
                        return has_fired(logs);
                    }
                };
                let ends = Mutex::new(Vec::new());
                thread::scope(|scope| {
                    for first in 0..4 {
                        let (channel, ends) = (&channel, &ends);
                        scope.spawn(move || {
                            let numbers = (first..REQUESTS).step_by(4);
                            let sent: Vec<_> = numbers
                                .map(|n| (n, channel.submit(WORK, &n.to_le_bytes(), LONG)))
                                .collect();
                            for (n, pending) in sent {
                                let end = pending.map(outcome);
                                ends.lock().unwrap().push((n, end));
                            }
                        });
                    }
                });
                check_ends(&ends.into_inner().unwrap(), logs, point);
                channel.close(LONG).unwrap();
                has_fired(logs)
            });
        }
    }
    println!("{} of {} points were passed", cases.fired, cases.times.len());
    assert!(cases.fired > cases.times.len() / 2);
}

type End = (u64, Result<Result<Vec<u8>, (RequestStage, Error)>, Error>);

/// Checks how requests ended against what the worker wrote when it began them.
fn check_ends(ends: &[End], logs: &Path, what: &str) {
    let effects = std::fs::read_to_string(logs.join(EFFECTS)).unwrap();
    let effects: Vec<u64> = effects.lines().map(|line| line.parse().unwrap()).collect();
    let begun: HashSet<_> = effects.iter().copied().collect();
    assert_eq!(begun.len(), effects.len(), "{what}: begun twice");
    assert_eq!(ends.len() as u64, REQUESTS, "{what}");
    for (number, end) in ends {
        let is_begun = begun.contains(number);
        match end {
            Ok(Ok(reply)) => {
                assert_eq!(*reply, pattern(*number, reply_len(*number)), "{what}: {number}");
                assert!(is_begun, "{what}: {number}");
            }
            Ok(Err((stage, error))) => {
                assert!(!is_begun || *stage == RequestStage::Begun, "{what}: {number}: {error}");
            }
            // It was not sent.
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::PeerDied, "{what}: {error}");
                assert!(!is_begun, "{what}: {number}: {error}");
            }
        }
    }
}
