//! Streams and messages in pieces, whichever thread reads them.

use super::*;
use crate::channel::stream_timeouts::{StreamDeadlines, StreamTimeouts};
use crate::protocol::kind::flags;

const ENOUGH: Duration = Duration::MAX;

/// Those that never pass.
fn deadlines() -> StreamDeadlines {
    StreamTimeouts::from(ENOUGH).queue(ENOUGH).start()
}

/// The bytes of the next chunk; `None` at the end.
fn next(stream: &mut Stream) -> Option<Vec<u8>> {
    stream.next_chunk().unwrap().map(|chunk| chunk.to_vec())
}

#[test]
fn chunks_come_once_and_in_order_whichever_thread_reads_them() {
    model_up_to(FEWER, || {
        let ChannelRig { core, mut worker } = rig(2);
        let request = send_stream(&core);
        let call = submit(&core, ENOUGH);
        assert_eq!([worker.take(), worker.take()], [request, call.request()]);
        // One chunk is there already. The first reader takes it, and may take those that follow.
        worker.send_byte(Kind::CHUNK, 0, request, 10);
        let reading = thread::spawn({
            let core = Arc::clone(&core);
            move || read(&core)
        });
        let serving = thread::spawn(move || {
            worker.send_byte(Kind::CHUNK, 0, request, 11);
            worker.send(Kind::END, 0, request);
            worker
        });
        let mut stream = Stream::new(Arc::clone(&core), request, deadlines());
        assert_eq!(next(&mut stream), Some(vec![10]));
        assert_eq!(next(&mut stream), Some(vec![11]));
        assert_eq!(next(&mut stream), None);
        drop(stream);
        reading.join().unwrap();
        let mut worker = serving.join().unwrap();
        worker.reply(call.request());
        wait(call);
        check_over(&core, 2, 0);
    });
}

#[test]
fn batches_come_once_and_in_order_whichever_thread_reads_them() {
    model_up_to(FEWER, || {
        let ChannelRig { core, mut worker } = rig(1);
        let request = send_stream(&core);
        assert_eq!(worker.take(), request);
        worker.send_byte(Kind::CHUNK, 0, request, 10);
        let reading = thread::spawn({
            let core = Arc::clone(&core);
            move || read(&core)
        });
        let serving = thread::spawn(move || {
            worker.send_byte(Kind::CHUNK, 0, request, 11);
            worker.send(Kind::END, 0, request);
        });
        let mut stream = Stream::new(Arc::clone(&core), request, deadlines());
        let mut bytes = Vec::new();
        while let Some(chunks) = stream.next_chunks().unwrap() {
            chunks.iter().for_each(|chunk| chunk.append_to(&mut bytes));
        }
        assert_eq!(bytes, [10, 11]);
        drop(stream);
        reading.join().unwrap();
        serving.join().unwrap();
        check_over(&core, 1, 0);
    });
}

#[test]
fn a_stream_that_is_dropped_while_another_thread_reads_for_it_ends_once() {
    model_up_to(FEWER, || {
        let ChannelRig { core, mut worker } = rig(1);
        let request = send_stream(&core);
        assert_eq!(worker.take(), request);
        worker.send_byte(Kind::CHUNK, 0, request, 10);
        worker.send(Kind::END, 0, request);
        let reading = thread::spawn({
            let core = Arc::clone(&core);
            move || read(&core)
        });
        drop(Stream::new(Arc::clone(&core), request, deadlines()));
        reading.join().unwrap();
        read(&core);
        let late = core.pending.counters.late_frames.load(Ordering::Relaxed);
        assert!(late <= 2, "{late}");
        // The next request of the entry gets nothing of the stream.
        let next = submit(&core, ENOUGH);
        assert_eq!(worker.take(), next.request());
        worker.reply(next.request());
        wait(next);
        check_over(&core, 1, late);
    });
}

#[test]
fn a_message_in_pieces_is_delivered_whole_or_not_at_all() {
    model_up_to(FEWER, || {
        let mut rig = rig(1);
        let mut pending = rig.submit();
        let request = pending.request();
        let ChannelRig { core, mut worker } = rig;
        worker.send_byte(Kind::RESULT, flags::MORE, request, 10);
        worker.send_byte(Kind::RESULT, flags::CONTINUED, request, 11);
        let reading = thread::spawn({
            let core = Arc::clone(&core);
            move || read(&core)
        });
        // The request may be dropped between two pieces, or while one is added to the other, for
        // which the table is not locked.
        let has_come = pending.try_wait().is_ok_and(|found| found.is_some());
        drop(pending);
        // Fails while the entry is taken.
        let early = send_call(&core, &[]);
        reading.join().unwrap();
        read(&core);
        let late = core.pending.counters.late_frames.load(Ordering::Relaxed);
        assert!(late <= 2 && !(has_come && late > 0), "{late}");
        let sent = early.or_else(|_| send_call(&core, &[])).unwrap();
        let next = super::pending(&core, sent);
        assert_eq!(worker.take(), next.request());
        worker.send_byte(Kind::RESULT, flags::MORE, next.request(), 20);
        worker.send_byte(Kind::RESULT, flags::CONTINUED, next.request(), 21);
        assert_eq!(next.wait().unwrap().to_vec(), [20, 21], "nothing of the one before");
        check_over(&core, 1, late);
    });
}
