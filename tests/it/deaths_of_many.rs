//! A worker that has many requests dies: each error says how far its request was.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

use crate::common::*;
use slipring::worker::{Incoming, Worker};
use slipring::{Channel, Error, ErrorKind, Kind, RequestId, RequestStage, Spawner};

const WORK: Kind = Kind::named("work");

/// Not a test of its own: a worker that takes five requests, and begins those whose payload is not
/// empty.
#[test]
fn keeping_entry() {
    if !slipring::worker::is_worker() {
        return;
    }
    let worker = Worker::new(|_| Ok(())).max_taken(5).inbox(|(), inbox| {
        let mut kept = Vec::new();
        loop {
            let mut taken = inbox.recv()?;
            if !taken.request.get().is_empty() {
                taken.responder.begin();
            }
            kept.push(taken);
        }
    });
    worker.serve().unwrap();
}

/// The errors of requests with such payloads, once their worker was killed.
fn errors_after_a_kill(payloads: &[&str], taken: usize) -> Vec<(RequestId, Error)> {
    let channel = spawner_of(keeping_entry).exit_status_timeout(LONG).spawn().unwrap();
    let pending: Vec<_> =
        payloads.iter().map(|payload| channel.submit(WORK, *payload, LONG).unwrap()).collect();
    eventually("they are taken", || channel.health().taken + channel.health().begun == taken);
    send_signal(channel.pid(), libc::SIGKILL);
    let errors = pending.into_iter().map(|pending| {
        let (id, error) = (pending.id(), pending.wait().unwrap_err());
        cause_of(&error);
        eventually("its marks are read", || error.stage().is_some());
        (id, error)
    });
    errors.collect()
}

#[test]
fn a_kill_tells_of_each_request_whether_it_was_queued_taken_or_begun() {
    use RequestStage::{Begun, Queued, Taken};
    let errors = errors_after_a_kill(&["", "begin", "", "begin", "", "begin", "", ""], 5);
    let (first, second) = (errors[1].0, errors[3].0);
    let stages = [Taken, Begun, Taken, Begun, Taken, Queued, Queued, Queued];
    for ((id, error), stage) in errors.iter().zip(stages) {
        assert_eq!(error.kind(), ErrorKind::PeerDied);
        assert_eq!(error.stage(), Some(stage), "{error}");
        assert_eq!(error.was_begun(), Some(stage == Begun), "{error}");
        assert_eq!(error.begun_alone(), Some(false), "{error}");
        let death = error.death().unwrap();
        assert_eq!(death.begun_requests(), [first, second]);
        assert_eq!((death.serving(), death.request()), (Some(first), Some(*id)));
        let told = match stage {
            Begun => format!("while it served request {id} and another one;"),
            Taken => format!("request {first} and another one; request {id} had been taken and"),
            _ => format!("request {first} and another one; request {id} had not been begun"),
        };
        assert!(error.to_string().contains(&told), "{error}");
    }
}

#[test]
fn a_request_that_was_begun_alone_is_told_from_those_that_were_not() {
    let errors = errors_after_a_kill(&["", "", "begin"], 3);
    let alone: Vec<_> = errors.iter().map(|(_, error)| error.begun_alone().unwrap()).collect();
    assert_eq!(alone, [false, false, true]);
    let errors = errors_after_a_kill(&["", ""], 2);
    for (_, error) in errors {
        assert_eq!((error.begun_alone(), error.stage()), (Some(false), Some(RequestStage::Taken)));
        assert_eq!(error.death().unwrap().serving(), None);
        assert!(error.to_string().contains("while it served no request"), "{error}");
    }
}

/// Not a test of its own: a worker whose threads note in a file what they begin.
#[test]
fn noting_entry() {
    if !slipring::worker::is_worker() {
        return;
    }
    let worker = Worker::new(|role| {
        let path = role.extra("notes").ok_or("no file for notes")?;
        Ok(OpenOptions::new().append(true).open(path)?)
    });
    let worker = worker.inbox(|notes: &mut File, inbox| {
        let serve = || -> slipring::Result<()> {
            loop {
                let mut taken = vec![inbox.recv()?];
                inbox.try_recv_many(&mut taken, 2)?;
                for Incoming { request, mut responder } in taken {
                    let id = request.id().get();
                    std::thread::sleep(Duration::from_micros(id % 7 * 20));
                    responder.begin();
                    // The side effect.
                    (&*notes).write_all(&id.to_le_bytes()).unwrap();
                    std::thread::sleep(Duration::from_micros(id % 5 * 40));
                    responder.send(&request.get().to_vec())?;
                }
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(serve)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap())
        })?;
        Ok(())
    });
    worker.serve().unwrap();
}

/// Sends requests until the worker has died, and returns the errors of those that were sent.
fn errors_until_the_death(channel: &Channel) -> Vec<(u64, Error)> {
    let mut errors = Vec::new();
    while channel.is_alive() {
        let sent: Vec<_> = (0..6).map_while(|_| channel.submit(WORK, "x", LONG).ok()).collect();
        for pending in sent {
            let id = pending.id().get();
            errors.extend(pending.wait().err().map(|error| (id, error)));
        }
    }
    errors
}

#[test]
fn whatever_a_killed_worker_had_begun_is_told_as_begun() {
    let dir = temp_dir("notes");
    let spawner: Spawner = spawner_of(noting_entry).exit_status_timeout(LONG);
    let mut told = HashSet::new();
    for round in 0..repetitions("SLIPRING_TEST_KILLS", 30) {
        let path = dir.join(format!("{round}"));
        File::create(&path).unwrap();
        let notes = path.to_str().unwrap();
        let channel = spawner.clone().extra("notes", notes).spawn().unwrap();
        channel.call(WORK, "first", LONG).unwrap();
        let errors = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (errors, channel) = (&errors, &channel);
                scope.spawn(move || {
                    let found = errors_until_the_death(channel);
                    errors.lock().unwrap().extend(found);
                });
            }
            std::thread::sleep(Duration::from_micros(round * 731 % 9000));
            send_signal(channel.pid(), libc::SIGKILL);
        });
        let noted: HashSet<u64> = numbers(&std::fs::read(&path).unwrap()).into_iter().collect();
        for (id, error) in errors.into_inner().unwrap() {
            assert_eq!(error.kind(), ErrorKind::PeerDied, "{error}");
            cause_of(&error);
            eventually("its marks are read", || error.stage().is_some());
            let stage = error.stage().unwrap();
            assert!(stage == RequestStage::Begun || !noted.contains(&id), "{error}");
            assert_eq!(error.was_begun(), Some(stage == RequestStage::Begun));
            told.insert(stage);
        }
        assert!(!noted.is_empty(), "the first call was answered");
    }
    println!("told: {told:?}");
    assert!(told.contains(&RequestStage::Begun) && told.len() > 1, "{told:?}");
    std::fs::remove_dir_all(dir).unwrap();
}
