//! A role of a pool, called as a backend: through the trait object.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::common::*;
use crate::executors::{Probe, poll};
use crate::pools::{self, close, is_begun, kill_one_that_serves, role};
use slipring::backend::{
    Backend, BackendLoad, BackendRequest, BoxBatchChunks, BoxChunks, Progress,
};
use slipring::payload::Payload;
use slipring::pool::{Pool, Priority, Role, RoleHandle};
use slipring::worker::{Incoming, Worker};
use slipring::{
    Config, Error, ErrorKind, Kind, PeerBytes, Reply, RequestStage, Result, RoleConfig,
    StreamTimeouts, testing,
};

fn pool_of(role: Role) -> (Pool, RoleHandle, Arc<dyn Backend>) {
    let (pool, handle) = pools::pool_of(role);
    let backend: Arc<dyn Backend> = Arc::new(handle.to_async());
    (pool, handle, backend)
}

fn block_on<T: Send>(future: impl Future<Output = T> + Send) -> T {
    within_long("a future", || pollster::block_on(future))
}

async fn next(chunks: &mut BoxChunks) -> Option<Result<Reply>> {
    poll_fn(|context| chunks.as_mut().poll_next(context)).await
}

async fn next_in_batch(chunks: &mut BoxBatchChunks) -> Option<Result<Reply>> {
    poll_fn(|context| chunks.as_mut().poll_next(context)).await
}

fn assert_all_free(backend: &Arc<dyn Backend>) {
    let is_free = || (backend.load().in_flight, backend.load().queued) == (0, 0);
    eventually("all places are free", is_free);
}

/// Waits until the request is at this stage.
fn until(stage: RequestStage, request: &BackendRequest) {
    let progress: Progress = request.progress();
    eventually("the request goes on", || progress.stage() == Some(stage));
}

fn until_begun(request: &BackendRequest) {
    until(RequestStage::Begun, request);
}

/// A role whose one worker, a thread, hands its requests over to the test, one by one: the
/// others wait in its ring.
fn handing_over() -> (Role, mpsc::Receiver<Incoming>) {
    let (give, given) = mpsc::channel();
    let role = Role::with_channels(move |_| {
        let give = give.clone();
        let make = move || {
            Worker::new(|_| Ok(())).max_taken(1).inbox(move |(), inbox| {
                loop {
                    give.send(inbox.recv()?)?;
                }
            })
        };
        testing::spawn_thread(&Config::small(), RoleConfig::default(), make)
    });
    (role.max_size(1).concurrency(4).prefetch(0), given)
}

#[test]
fn a_call_is_sent_when_it_is_polled_and_a_submit_at_once() {
    let (pool, handle, backend) = pool_of(role());
    let begun = || numbers(&handle.call(NAPS, "", LONG).unwrap().to_vec())[0];
    let request = BackendRequest::new(NAP, encode(&[1, 1]));
    let call = backend.call(request.renewed(), LONG);
    let stream = backend.stream(request.renewed(), StreamTimeouts::new());
    assert_eq!((begun(), backend.load().in_flight), (0, 0));
    let submitted = backend.submit(request.clone(), LONG);
    until_begun(&request);
    assert_eq!(block_on(call).unwrap().to_vec(), encode(&[1, 1]));
    assert_eq!(block_on(submitted).unwrap().to_vec(), encode(&[1, 1]));
    drop(stream);
    assert_eq!(begun(), 2);
    close(&pool);
}

#[test]
fn what_is_known_at_once_fails_a_submit_at_its_first_poll() {
    let (pool, _, backend) = pool_of(role().max_waiting(1).prefetch(0));
    let stay = Stay::new();
    let first = BackendRequest::new(STAY, stay.path());
    let begun = backend.submit(first.clone(), LONG);
    until_begun(&first);
    let waits = backend.submit(first.renewed(), LONG);
    let third = first.renewed();
    let error = block_on(backend.submit(third.clone(), LONG)).unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Overloaded, Some(false)));
    assert_eq!(third.progress().stage(), Some(RequestStage::Queued));
    drop(stay);
    block_on(begun).unwrap();
    block_on(waits).unwrap();
    close(&pool);
}

#[test]
fn dropping_a_future_or_a_stream_cancels_what_the_worker_does() {
    let (pool, handle, backend) = pool_of(role());
    // Its handler ends only if it is cancelled.
    let endless = || BackendRequest::new(UNTIL_CANCELLED, "");
    let request = endless();
    let mut call = backend.call(request.clone(), LONG);
    assert!(poll(&Probe::new(), call.as_mut()).is_pending());
    until_begun(&request);
    drop(call);
    assert_all_free(&backend);
    assert_eq!(request.progress().stage(), Some(RequestStage::Begun));

    let request = endless();
    let submitted = backend.submit(request.clone(), LONG);
    until_begun(&request);
    drop(submitted);
    assert_all_free(&backend);

    let request = BackendRequest::new(CHUNK_AND_STAY, "");
    let stream = backend.stream(request.clone(), StreamTimeouts::new());
    let mut chunks = block_on(stream).unwrap();
    assert_eq!(block_on(next(&mut chunks)).unwrap().unwrap().len(), 8);
    assert!(is_begun(&handle));
    drop(chunks);
    assert_all_free(&backend);
    assert_eq!(request.progress().stage(), Some(RequestStage::Begun));
    close(&pool);
}

#[test]
fn a_stream_delivers_its_chunks_and_its_error_in_order() {
    let (pool, _, backend) = pool_of(role());
    let numbers = encode(&[20, 500]);
    for (kind, fails) in [(COUNT, false), (COUNT_AND_FAIL, true)] {
        let request = BackendRequest::new(kind, numbers.clone());
        let stream = backend.stream(request, StreamTimeouts::from(LONG));
        let mut chunks = block_on(stream).unwrap();
        for number in 0..20 {
            let chunk = block_on(next(&mut chunks)).unwrap().unwrap();
            assert_eq!(chunk.to_vec(), pattern(number, 500));
        }
        if fails {
            let error = block_on(next(&mut chunks)).unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::HandlerFailed);
        }
        assert!(block_on(next(&mut chunks)).is_none());
    }
    assert_all_free(&backend);
    close(&pool);
}

#[cfg(feature = "bytes")]
#[test]
fn bytes_that_a_reply_is_made_of_come_out_of_it_as_they_are() {
    let bytes = bytes::Bytes::from(pattern(7, 5_000));
    let place = bytes.as_ptr();
    let reply = Reply::from_owner(7.into(), bytes);
    assert_eq!(reply.payload().as_ptr(), place);
    let bytes = bytes::Bytes::from(reply);
    assert_eq!((bytes.as_ptr(), &bytes[..]), (place, &pattern(7, 5_000)[..]));
    // Of other owners, too.
    let owner = pattern(8, 5_000);
    let place = owner.as_ptr();
    let bytes = bytes::Bytes::from(Reply::from_owner(8.into(), owner));
    assert_eq!((bytes.as_ptr(), &bytes[..]), (place, &pattern(8, 5_000)[..]));
}

#[test]
fn a_reply_that_was_copied_has_bytes_of_its_own() {
    for len in [0, 1, 96, 97, 5_000] {
        let mut bytes = pattern(7, len);
        let replies = [(); 2].map(|()| Reply::copy_of(7.into(), &bytes));
        bytes.fill(0);
        for reply in replies {
            assert_eq!((reply.request().get(), reply.into_vec()), (7, pattern(7, len)));
        }
    }
}

#[test]
fn chunks_that_lie_ready_are_taken_together_each_once_and_in_order() {
    let (pool, _, backend) = pool_of(role());
    // More than a window; longer ones than are copied out of the ring together; empty ones.
    for (count, len) in [(50_000, 64), (300, 5_000), (2_000, 0), (500, 700)] {
        let request = BackendRequest::new(COUNT, encode(&[count, len]));
        let stream = backend.stream_in_batches(request, StreamTimeouts::from(LONG));
        let mut number = 0;
        block_on(async {
            let mut chunks = stream.await.unwrap();
            let mut check = |chunk: PeerBytes<'_>| {
                assert!(chunk.to_vec() == pattern(number, len as usize), "{number} of {len} bytes");
                number += 1;
            };
            while let Some(chunk) = next_in_batch(&mut chunks).await {
                check(chunk.unwrap().payload());
                let mut left = 50;
                chunks.as_mut().take_ready(&mut |chunk| {
                    let takes = left > 0;
                    left -= 1;
                    if takes {
                        check(chunk);
                    }
                    takes
                });
            }
        });
        assert_eq!(number, count);
    }
    assert_all_free(&backend);
    close(&pool);
}

#[test]
fn chunks_that_came_with_the_first_are_ready_once_that_was_polled() {
    const ALL: Kind = Kind::named("all");
    let are_sent = Arc::new(AtomicBool::new(false));
    let role = Role::with_channels({
        let are_sent = are_sent.clone();
        move |_| {
            let are_sent = are_sent.clone();
            let make = move || {
                Worker::new(|_| Ok(())).on(ALL, move |(), request, responder| {
                    let mut stream = responder.stream();
                    for number in 0..numbers(&request.to_vec())[0] {
                        stream.send(&pattern(number, 64))?;
                    }
                    are_sent.store(true, Ordering::SeqCst);
                    Ok(stream.end()?)
                })
            };
            testing::spawn_thread(&Config::default(), RoleConfig::default(), make)
        }
    });
    let pool = Pool::builder().role("all", role).build().unwrap();
    let backend = pool.role("all").unwrap().to_async();
    let request = BackendRequest::new(ALL, encode(&[100]));
    let stream = backend.stream_in_batches(request, StreamTimeouts::from(LONG));
    let mut chunks = block_on(stream).unwrap();
    eventually("all are sent", || are_sent.load(Ordering::SeqCst));
    // The ring is read by the poll for the first one.
    chunks.as_mut().take_ready(&mut |_| unreachable!());
    assert!(block_on(next_in_batch(&mut chunks)).unwrap().unwrap().to_vec() == pattern(0, 64));
    let mut number = 1;
    let mut take = |most| {
        chunks.as_mut().take_ready(&mut |chunk| {
            assert!(number <= most, "one was not taken");
            let takes = number < most;
            if takes {
                assert!(chunk.to_vec() == pattern(number, 64));
                number += 1;
            }
            takes
        });
    };
    take(10);
    take(50);
    assert!(block_on(next_in_batch(&mut chunks)).unwrap().unwrap().to_vec() == pattern(50, 64));
    let mut left = 0;
    chunks.as_mut().take_ready(&mut |_| {
        left += 1;
        true
    });
    assert_eq!(left, 49);
    assert!(block_on(next_in_batch(&mut chunks)).is_none());
    close(&pool);
}

#[test]
fn the_stage_goes_from_queued_over_taken_to_begun() {
    use RequestStage::{Begun, Queued, Taken};
    let (role, given) = handing_over();
    let pool = Pool::builder().role("one", role).build().unwrap();
    let backend: Arc<dyn Backend> = Arc::new(pool.role("one").unwrap().to_async());
    let requests = [0, 1].map(|number: u64| BackendRequest::new(ECHO, encode(&[number])));
    let stages = || requests.each_ref().map(|request| request.progress().stage());
    assert_eq!(stages(), [Some(Queued), Some(Queued)]);
    let [first, second] = requests.each_ref().map(|it| backend.submit(it.clone(), LONG));
    let Incoming { request, mut responder } = given.recv().unwrap();
    assert_eq!(request.get().to_vec(), encode(&[0]));
    until(Taken, &requests[0]);
    assert_eq!(stages(), [Some(Taken), Some(Queued)]);
    responder.begin();
    assert_eq!(stages(), [Some(Begun), Some(Queued)]);
    responder.send("").unwrap();
    let other = given.recv().unwrap();
    until(Taken, &requests[1]);
    assert_eq!(stages(), [Some(Begun), Some(Taken)]);
    block_on(first).unwrap();
    // Not begun, but it can still be.
    drop(second);
    eventually("it is given up", || stages() == [Some(Begun), None]);
    drop(other);
    close(&pool);
}

#[test]
fn the_stage_of_a_stream_is_known_before_its_first_chunk() {
    let (role, given) = handing_over();
    let pool = Pool::builder().role("one", role).build().unwrap();
    let backend: Arc<dyn Backend> = Arc::new(pool.role("one").unwrap().to_async());
    let request = BackendRequest::new(ECHO, "");
    let progress = request.progress();
    let stream = backend.stream(request.clone(), StreamTimeouts::new());
    let mut chunks = block_on(stream).unwrap();
    let Incoming { mut responder, .. } = given.recv().unwrap();
    until(RequestStage::Taken, &request);
    responder.begin();
    assert_eq!(progress.stage(), Some(RequestStage::Begun));
    responder.end().unwrap();
    assert!(block_on(next(&mut chunks)).is_none());
    assert_eq!(progress.stage(), Some(RequestStage::Begun));
    close(&pool);
}

#[test]
fn a_stage_is_that_of_all_attempts_and_final_once_the_request_has_ended() {
    let (pool, handle, backend) = pool_of(role().prefetch(1));
    let stay = Stay::new();
    let busy = BackendRequest::new(STAY, stay.path());
    let served = backend.submit(busy.clone(), LONG);
    until_begun(&busy);
    // In the ring of the worker, which dies.
    let next = BackendRequest::new(ECHO, "again");
    let reply = backend.submit(next.clone(), LONG);
    assert_eq!(next.progress().stage(), Some(RequestStage::Queued));
    kill_one_that_serves(&handle);
    // So it is sent again, to the next one.
    assert_eq!(block_on(reply).unwrap().to_vec(), b"again");
    assert_eq!(next.progress().stage(), Some(RequestStage::Begun));
    let error = block_on(served).unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::PeerDied, Some(true)));
    assert_eq!(busy.progress().stage(), Some(RequestStage::Begun));

    // It is too long to be sent.
    let long = BackendRequest::new(ECHO, vec![0; 1 << 27]);
    let error = block_on(backend.call(long.clone(), LONG)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(long.progress().stage(), Some(RequestStage::Queued));
    close(&pool);
}

/// A payload that is made when it is sent.
#[derive(Debug)]
struct Made(u8);

impl Payload for Made {
    fn encoded_len(&self) -> usize {
        3
    }

    fn encode(&self, out: &mut [u8]) -> Result<()> {
        if self.0 == 0 {
            return Err(Error::invalid_payload("nothing is made of 0"));
        }
        out.fill(self.0);
        Ok(())
    }
}

#[test]
fn payloads_that_are_encoded_are_sent_in_each_way() {
    let (pool, _, backend) = pool_of(role());
    let request = BackendRequest::new(ECHO, Made(5)).priority(Priority::High).key(9);
    assert_eq!((request.chosen_priority(), request.chosen_key()), (Priority::High, Some(9)));
    assert_eq!(block_on(backend.call(request.clone(), LONG)).unwrap().to_vec(), [5; 3]);
    assert_eq!(block_on(backend.submit(request, LONG)).unwrap().to_vec(), [5; 3]);
    let failing = || BackendRequest::new(ECHO, Made(0));
    let streamed = block_on(backend.stream(failing(), StreamTimeouts::new())).map(drop);
    for outcome in [
        block_on(backend.call(failing(), LONG)).map(drop),
        block_on(backend.submit(failing(), LONG)).map(drop),
        streamed,
    ] {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::InvalidPayload);
    }
    assert_all_free(&backend);
    close(&pool);
}

#[test]
fn the_load_counts_places_and_what_is_in_them_or_waits() {
    let (role, given) = handing_over();
    let pool = Pool::builder().role("one", role).build().unwrap();
    let backend: Arc<dyn Backend> = Arc::new(pool.role("one").unwrap().to_async());
    let reply = backend.submit(BackendRequest::new(ECHO, ""), LONG);
    given.recv().unwrap().responder.send("").unwrap();
    block_on(reply).unwrap();
    let load = || {
        let BackendLoad { places, in_flight, queued, is_ready, is_draining, .. } = backend.load();
        ((places, in_flight, queued), is_ready, is_draining)
    };
    assert_eq!(load(), ((4, 0, 0), true, false));
    let replies: Vec<_> =
        (0..6).map(|_| backend.submit(BackendRequest::new(ECHO, ""), LONG)).collect();
    assert_eq!(load(), ((4, 4, 2), true, false));
    let mut closing = backend.close(LONG);
    assert!(poll(&Probe::new(), closing.as_mut()).is_pending());
    // What it has is served, and nothing else.
    assert_eq!(load(), ((4, 4, 2), false, true));
    let late = block_on(backend.call(BackendRequest::new(ECHO, "late"), LONG)).unwrap_err();
    assert_eq!((late.kind(), late.was_begun()), (ErrorKind::Closed, Some(false)));
    for _ in 0..6 {
        given.recv().unwrap().responder.send("").unwrap();
    }
    for reply in replies {
        block_on(reply).unwrap();
    }
    block_on(closing).unwrap();
    assert_eq!(load(), ((4, 0, 0), false, true));
    block_on(backend.close(LONG)).unwrap();
    close(&pool);
}

#[test]
fn a_close_ends_one_role_of_its_pool_and_no_other() {
    let pool = Pool::builder().role("one", role()).role("two", role()).build().unwrap();
    let roles = ["one", "two"].map(|name| pool.role(name).unwrap());
    let [one, two] = roles.each_ref().map(|role| -> Arc<dyn Backend> { Arc::new(role.to_async()) });
    for backend in [&one, &two] {
        block_on(backend.call(BackendRequest::new(ECHO, ""), LONG)).unwrap();
    }
    assert_eq!((one.role(), two.role()), ("one", "two"));
    let pids = pools::pids(&roles[0]);
    // One that never returns is ended when the time is over.
    let request = BackendRequest::new(FOR_EVER, "");
    let endless = one.submit(request.clone(), LONG);
    until_begun(&request);
    block_on(one.close(Duration::from_millis(20))).unwrap();
    assert!(block_on(endless).is_err());
    assert!(pids.iter().all(|pid| !is_running(*pid)), "{pids:?}");
    assert!(pools::pids(&roles[0]).is_empty());
    assert_eq!(block_on(two.call(BackendRequest::new(ECHO, "2"), LONG)).unwrap().to_vec(), b"2");
    close(&pool);
}

#[test]
fn pings_and_the_abort_flag_reach_each_worker() {
    let (pool, handle, backend) = pool_of(role().min_idle(2).max_size(2));
    eventually("both serve", || pools::alive(&handle) == 2);
    let reports = block_on(backend.ping(LONG));
    assert_eq!(reports.iter().filter(|report| report.is_ok()).count(), 2, "{reports:?}");
    // Its handler ends only if the flag is set.
    let request = BackendRequest::new(UNTIL_ABORTED, "");
    let reply = backend.submit(request.clone(), LONG);
    until_begun(&request);
    backend.abort();
    block_on(reply).unwrap();
    backend.clear_abort();
    let request = request.renewed();
    let mut reply = backend.submit(request.clone(), LONG);
    until_begun(&request);
    block_on(backend.call(BackendRequest::new(ECHO, ""), LONG)).unwrap();
    assert!(poll(&Probe::new(), reply.as_mut()).is_pending());
    drop(reply);
    close(&pool);
}

#[test]
fn the_error_of_a_dead_worker_is_the_same_after_it_was_a_report() {
    let dir = temp_dir("report");
    let logs = dir.clone();
    let role = Role::new(move |_| Ok(pools::patient().role("embed").log_dir(&logs)));
    let (pool, _, backend) = pool_of(role);
    block_on(backend.call(BackendRequest::new(PRINT, "last words"), LONG)).unwrap();
    let request = BackendRequest::new(RAISE, [u8::try_from(libc::SIGSEGV).unwrap()]);
    let error = block_on(backend.call(request, LONG)).unwrap_err();
    let mut report = error.report();
    let copy = Error::from_report(report.clone());
    for (one, other) in [(&error, &copy), (&copy, &error)] {
        assert_eq!(format!("{one}|{one:#}|{one:?}"), format!("{other}|{other:#}|{other:?}"));
        assert_eq!(one.log_tail(), other.log_tail());
    }
    assert_eq!((copy.kind(), copy.was_begun()), (ErrorKind::PeerDied, Some(true)));
    let (death, before) = (copy.death().unwrap(), error.death().unwrap());
    assert_eq!(death.cause(), Some(slipring::ExitCause::Signaled(libc::SIGSEGV)));
    assert_eq!((death.role(), death.pid(), death.host()), ("embed", before.pid(), None));
    assert_eq!((death.request(), death.serving()), (before.request(), before.request()));
    assert_eq!((death.log_path(), death.begun_alone()), (before.log_path(), Some(true)));
    assert!(death.log_path().unwrap().starts_with(&dir));
    assert!(death.log_tail().unwrap().contains("err: last words"));
    // As the host that sends it on does.
    report.death.as_mut().unwrap().host = Some("gpu-2".to_owned());
    let copy = Error::from_report(report);
    assert_eq!(copy.death().unwrap().host(), Some("gpu-2"));
    let named = format!("worker embed (pid {} on gpu-2) died: ", before.pid());
    assert!(copy.to_string().starts_with(&named), "{copy}");
    close(&pool);
    std::fs::remove_dir_all(dir).unwrap();
}
