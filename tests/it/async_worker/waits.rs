//! What tasks of a worker wait for: room, credit and cancels.

use super::*;

#[test]
fn a_hundred_streams_sleep_at_once_on_one_thread_and_all_arrive() {
    let runtime = OneThread::start();
    let may_go_on = Arc::new(AtomicBool::new(false));
    let channel = serve(&Config::default(), Arc::clone(&may_go_on), &runtime, |tasks| {
        tasks.on(WORK, |may_go_on: Arc<Arc<AtomicBool>>, request, responder| async move {
            while !may_go_on.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            trickle(request, responder).await
        })
    });
    let streams: Vec<_> = (0..100)
        .map(|_| channel.stream(WORK, &encode(&[30]), StreamTimeouts::default()).unwrap())
        .collect();
    eventually("all are served at once", || channel.health().begun == 100);
    may_go_on.store(true, Ordering::SeqCst);
    for mut stream in streams {
        for n in 0..30 {
            assert_eq!(stream.next_chunk().unwrap().unwrap().to_vec(), encode(&[n]));
        }
        assert!(stream.next_chunk().unwrap().is_none());
    }
    channel.close(LONG).unwrap();
}

#[test]
fn a_stream_whose_reader_does_not_read_holds_up_no_other_task() {
    let runtime = OneThread::start();
    let ends = Arc::new(Mutex::new(Vec::new()));
    let channel = serve(&Config::small(), (), &runtime, {
        let ends = Arc::clone(&ends);
        move |tasks| {
            tasks.on(WORK, move |_, request, mut responder: OwnedResponder| {
                let ends = Arc::clone(&ends);
                async move {
                    for n in 0..numbers(&request.get().to_vec())[0] {
                        let sent = responder.send_chunk_async(&pattern(n, 100)).await;
                        if let Err(error) = sent {
                            ends.lock().unwrap().push(error.kind());
                            return Err(error.into());
                        }
                    }
                    Ok(responder.end()?)
                }
            })
        }
    });
    let start = || channel.stream(WORK, &encode(&[1000]), StreamTimeouts::default()).unwrap();
    let unread: Vec<_> = (0..3).map(|_| start()).collect();
    let mut read = start();
    for n in 0..1000 {
        assert_eq!(read.next_chunk().unwrap().unwrap().to_vec(), pattern(n, 100));
    }
    assert!(read.next_chunk().unwrap().is_none());
    assert_eq!(channel.health().begun, 3);
    // A reader that comes late gets all of its chunks, and one that leaves wakes its task.
    let mut unread = unread.into_iter();
    let mut late = unread.next().unwrap();
    for n in 0..1000 {
        assert_eq!(late.next_chunk().unwrap().unwrap().to_vec(), pattern(n, 100));
    }
    assert!(late.next_chunk().unwrap().is_none());
    drop(unread);
    eventually("the others are cancelled", || {
        *ends.lock().unwrap() == [ErrorKind::Cancelled, ErrorKind::Cancelled]
    });
}

#[test]
fn tasks_that_wait_for_room_get_it_in_turn_and_all_arrive() {
    let runtime = OneThread::start();
    let channel = serve(&Config::small(), (), &runtime, |tasks| {
        tasks.on(WORK, |_, request, responder| async move {
            let n = numbers(&request.get().to_vec())[0];
            // From a few bytes to several pieces.
            Ok(responder.send_async(&pattern(n, n as usize * 500)).await?)
        })
    });
    for (n, pending) in submit(&channel, 64).into_iter().enumerate() {
        assert_eq!(pending.wait().unwrap().to_vec(), pattern(n as u64, n * 500));
    }
}

#[test]
fn slots_are_claimed_by_tasks_and_filled_in_place() {
    let runtime = OneThread::start();
    let channel = serve(&Config::small(), (), &runtime, |tasks| {
        tasks.on(WORK, |_, request, responder| async move {
            let bytes = request.get().to_vec();
            let mut slot = responder.claim_async(1000).await?;
            slot.payload().fill(bytes[0]);
            Ok(slot.send()?)
        })
    });
    for (n, pending) in submit(&channel, 64).into_iter().enumerate() {
        assert_eq!(pending.wait().unwrap().to_vec(), [n as u8; 1000]);
    }
}

#[test]
fn a_cancel_wakes_a_task_whatever_it_waits_for() {
    let runtime = OneThread::start();
    let seen = Arc::new(AtomicUsize::new(0));
    let channel = serve(&Config::small(), (), &runtime, {
        let seen = Arc::clone(&seen);
        move |tasks| {
            tasks.on(WORK, move |_, request, mut responder: OwnedResponder| {
                let seen = Arc::clone(&seen);
                async move {
                    let error = match &request.get().text()?[..] {
                        "cancel" => {
                            responder.cancelled().await;
                            request.get().check_cancelled().unwrap_err()
                        }
                        "credit" => loop {
                            if let Err(error) = responder.send_chunk_async(&[1; 300]).await {
                                break error;
                            }
                        },
                        // Its own chunks take all the room that its window does not.
                        _ => responder.send_async(&[1; 1000]).await.unwrap_err(),
                    };
                    assert_eq!(error.kind(), ErrorKind::Cancelled);
                    seen.fetch_add(1, Ordering::SeqCst);
                    Err(error.into())
                }
            })
        }
    });
    let waits = channel.submit(WORK, "cancel", LONG).unwrap();
    let stream = channel.stream(WORK, "credit", StreamTimeouts::default()).unwrap();
    eventually("both are begun", || channel.health().begun == 2);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(seen.load(Ordering::SeqCst), 0);
    waits.cancel();
    assert_eq!(waits.wait().unwrap_err().kind(), ErrorKind::Cancelled);
    stream.cancel();
    eventually("both have seen it", || seen.load(Ordering::SeqCst) == 2);
    drop(stream);
    // A caller that waits no more, and the abort flag.
    eventually("the third has seen it", || {
        // A busy machine may not begin it before its deadline.
        let late = channel.call(WORK, "cancel", Duration::from_millis(20));
        assert!(late.unwrap_err().is_timeout());
        seen.load(Ordering::SeqCst) > 2
    });
    eventually("none is left", || channel.health().begun == 0);
    let aborted = channel.submit(WORK, "cancel", LONG).unwrap();
    eventually("it is begun", || channel.health().begun == 1);
    channel.abort();
    assert_eq!(aborted.wait().unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(channel.ping(LONG).unwrap().last_error, None);
}

#[test]
fn a_cancel_ends_a_wait_for_room_and_lets_the_next_have_it() {
    let (channel, given) = handing_over(&Config::small());
    let (mut sent, first) = fill(&channel, &given);
    let next = channel.submit(WORK, "", LONG).unwrap();
    let second = given.recv().unwrap().responder;
    let wait = |responder: OwnedResponder| {
        thread::spawn(move || pollster::block_on(responder.send_async(&[8; 1000])))
    };
    let first = wait(first);
    thread::sleep(Duration::from_millis(20));
    let second = wait(second);
    thread::sleep(Duration::from_millis(20));
    let cancelled = sent.pop().unwrap();
    cancelled.cancel();
    assert_eq!(first.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    for pending in sent {
        assert_eq!(pending.wait().unwrap().to_vec(), [7; 1000]);
    }
    assert_eq!(next.wait().unwrap().to_vec(), [8; 1000]);
    second.join().unwrap().unwrap();
    assert_eq!(cancelled.wait().unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn a_wait_for_room_that_is_dropped_leaves_its_place() {
    let (channel, given) = handing_over(&Config::small());
    let (mut sent, first) = fill(&channel, &given);
    let next = channel.submit(WORK, "", LONG).unwrap();
    let second = given.recv().unwrap().responder;
    let patience = Duration::from_millis(1);
    assert!(poll_times(3, patience, first.send_async(&[8; 1000])).is_none());
    let second = thread::spawn(move || pollster::block_on(second.send_async(&[8; 1000])));
    let dropped = sent.pop().unwrap();
    for pending in sent {
        assert_eq!(pending.wait().unwrap().to_vec(), [7; 1000]);
    }
    let error = dropped.wait().unwrap_err();
    assert_eq!(error.handler_failure().unwrap().type_name, "slipring::NoReply");
    assert_eq!(next.wait().unwrap().to_vec(), [8; 1000]);
    second.join().unwrap().unwrap();
}

#[test]
fn threads_and_tasks_wait_in_one_queue_for_room() {
    let (channel, given) = handing_over(&Config::small());
    let pending = submit(&channel, 64);
    let threads: Vec<_> = (0..64)
        .map(|_| {
            let Incoming { request, responder } = given.recv().unwrap();
            let n = numbers(&request.get().to_vec())[0];
            thread::spawn(move || {
                let payload = pattern(n, n as usize * 500);
                match n % 3 {
                    0 => responder.send(&payload).unwrap(),
                    1 => pollster::block_on(responder.send_async(&payload)).unwrap(),
                    // Ends that are owed go out in between.
                    _ => responder.fail("odd"),
                }
            })
        })
        .collect();
    for (n, pending) in pending.into_iter().enumerate() {
        match pending.wait() {
            Ok(reply) => assert_eq!(reply.to_vec(), pattern(n as u64, n * 500)),
            Err(error) => {
                assert_eq!((n % 3, &error.handler_failure().unwrap().message[..]), (2, "odd"))
            }
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn an_error_that_is_owed_comes_though_a_task_waits_for_room() {
    let (channel, given) = handing_over(&Config::small());
    let (mut sent, first) = fill(&channel, &given);
    let also = channel.submit(WORK, "", LONG).unwrap();
    let other = given.recv().unwrap().responder;
    let first = thread::spawn(move || pollster::block_on(first.send_async(&[8; 1000])));
    thread::sleep(Duration::from_millis(20));
    other.fail("no room for this one");
    let last = sent.pop().unwrap();
    for pending in sent {
        assert_eq!(pending.wait().unwrap().to_vec(), [7; 1000]);
    }
    assert_eq!(also.wait().unwrap_err().handler_failure().unwrap().message, "no room for this one");
    assert_eq!(last.wait().unwrap().to_vec(), [8; 1000]);
    first.join().unwrap().unwrap();
}

#[test]
fn an_error_of_the_body_comes_though_a_task_waits_for_room() {
    let (give, given) = mpsc::channel();
    let channel = spawn(&Config::small(), move || {
        Worker::new(|_| Ok(())).inbox(move |(), inbox| {
            loop {
                let incoming = inbox.recv()?;
                if incoming.request.kind() == OTHER {
                    return Err("the model is gone".into());
                }
                give.send(incoming)?;
            }
        })
    });
    let (sent, waits) = fill(&channel, &given);
    let waits = thread::spawn(move || pollster::block_on(waits.send_async(&[8; 1000])));
    thread::sleep(Duration::from_millis(20));
    let last = channel.submit(OTHER, "", LONG).unwrap();
    thread::sleep(Duration::from_millis(20));
    // The last of them is that of the task, which may have got room before the body has ended.
    let last_sent = sent.len() - 1;
    for (n, pending) in sent.into_iter().enumerate() {
        let byte = if n == last_sent { 8 } else { 7 };
        let answer = pending.wait().map(|reply| reply.to_vec());
        let is_session_error = |error: &slipring::Error| error.kind() == ErrorKind::Session;
        let is_right = |bytes: &Vec<u8>| *bytes == [byte; 1000];
        assert!(answer.as_ref().map_or_else(is_session_error, is_right), "{answer:?}");
    }
    last.wait().unwrap_err();
    let error = channel.call(OTHER, "", LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Session, "{error}");
    assert!(error.to_string().contains("the model is gone"), "{error}");
    // It is sent, or has seen the end.
    let _ = waits.join().unwrap();
}

#[test]
fn a_chunk_that_is_given_up_while_it_waits_is_not_sent() {
    let runtime = OneThread::start();
    let (tell, told) = mpsc::channel();
    let channel = serve(&Config::small(), (), &runtime, move |tasks| {
        tasks.on(WORK, move |_, _, mut responder: OwnedResponder| {
            let tell = tell.clone();
            async move {
                let patience = Duration::from_millis(10);
                for n in 0.. {
                    let chunk = pattern(n, 300);
                    let sent = responder.send_chunk_async(&chunk);
                    if tokio::time::timeout(patience, sent).await.is_err() {
                        tell.send(n)?;
                        break;
                    }
                }
                responder.send_chunk_async("last").await?;
                Ok(responder.end()?)
            }
        })
    });
    let mut stream = channel.stream(WORK, "", StreamTimeouts::default()).unwrap();
    let count = told.recv().unwrap();
    for n in 0..count {
        assert_eq!(stream.next_chunk().unwrap().unwrap().to_vec(), pattern(n, 300));
    }
    assert_eq!(stream.next_chunk().unwrap().unwrap().to_vec(), b"last");
    assert!(stream.next_chunk().unwrap().is_none());
}

#[test]
fn a_long_chunk_that_is_given_up_in_the_middle_ends_its_request() {
    let runtime = OneThread::start();
    let (tell, told) = mpsc::channel();
    let channel = serve(&Config::small(), (), &runtime, move |tasks| {
        tasks.on(WORK, move |_, _, mut responder: OwnedResponder| {
            let tell = tell.clone();
            async move {
                let long = vec![1; 60_000];
                let sent = responder.send_chunk_async(&long);
                let patience = Duration::from_millis(20);
                tokio::time::timeout(patience, sent).await.unwrap_err();
                let error = responder.send_chunk_async("more").await.unwrap_err();
                tell.send((error.kind(), responder.end().unwrap_err().kind()))?;
                Ok(())
            }
        })
    });
    let mut stream = channel.stream(WORK, "", StreamTimeouts::default()).unwrap();
    assert_eq!(told.recv().unwrap(), (ErrorKind::Closed, ErrorKind::Closed));
    let error = stream.next_chunk().unwrap_err();
    assert_eq!(error.handler_failure().unwrap().type_name, "slipring::NoReply");
    assert_eq!(channel.stats().unknown_frames, 0);
}

#[test]
fn no_wake_up_is_lost_while_many_wait_for_room_and_credit() {
    let runtime = multi_thread();
    let handle = runtime.handle().clone();
    let config = tiny(4 << 10).build().unwrap();
    let channel = spawn(&config, move || {
        let tasks = Tasks::on_tokio(handle)
            .on(WORK, |_, request, responder| async move {
                let n = numbers(&request.get().to_vec())[0];
                Ok(responder.send_async(&pattern(n, (n as usize * 37) % 1500)).await?)
            })
            .on(OTHER, |_, request, mut responder| async move {
                let request: OwnedRequest = request;
                for n in 0..numbers(&request.get().to_vec())[0] {
                    responder.send_chunk_async(&pattern(n, 200)).await?;
                }
                Ok(responder.end()?)
            });
        Worker::new(|_| Ok(())).tasks(tasks)
    });
    let rounds = repetitions("SLIPRING_TEST_ROUNDS", 60);
    thread::scope(|scope| {
        for caller in 0..3 {
            let channel = &channel;
            scope.spawn(move || {
                for round in 0..rounds {
                    let first = (caller * 1000 + round) * 16;
                    let pending: Vec<_> = (first..first + 16)
                        .map(|n| (n, channel.submit(WORK, &encode(&[n]), LONG).unwrap()))
                        .collect();
                    for (n, pending) in pending {
                        let expected = pattern(n, (n as usize * 37) % 1500);
                        assert_eq!(pending.wait().unwrap().to_vec(), expected);
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..rounds {
                let mut streams = [(); 3].map(|()| {
                    channel.stream(OTHER, &encode(&[20]), StreamTimeouts::default()).unwrap()
                });
                for n in 0..20 {
                    for stream in &mut streams {
                        assert_eq!(stream.next_chunk().unwrap().unwrap().to_vec(), pattern(n, 200));
                    }
                }
                for stream in &mut streams {
                    assert!(stream.next_chunk().unwrap().is_none());
                }
            }
        });
    });
    channel.close(LONG).unwrap();
}
