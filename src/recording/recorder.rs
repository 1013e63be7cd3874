//! The queue between the threads that send and receive, and the thread that writes the file.
//!
//! The queue has one lock, a leaf lock: it is held while a frame is copied, and while the writer exchanges
//! the queue's memory for its own. Nothing is written under it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::format::{Head, RECORD_HEAD, form, what};
use super::info::RecordingInfo;
use super::options::Payloads;
use super::record::EndKind;
use super::writer::{Lost, Store, Writer};
use crate::error::{Error, Result};
use crate::process::service::start_thread;
use crate::ring::Header;
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::as_usize;
use crate::sync::plain::{Condvar, Mutex};
use crate::sys::clock::now_ns;
use crate::sys::fork;

/// Where a record's header says what is kept of the payload.
const FORM_AT: usize = 13;
/// The writer's pause between two looks while there are frames: the longest time that a frame waits in
/// memory unless a write takes longer.
const PAUSE: Duration = Duration::from_millis(2);
/// How often it looks when nothing happens; it is woken for news.
const IDLE: Duration = Duration::from_secs(600);
/// Between two looks at how the worker has ended, at first and at most.
const LOOK: Duration = Duration::from_millis(1);
const LONGEST_LOOK: Duration = Duration::from_millis(100);
/// How long it waits for that.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a channel has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) how: EndKind,
    /// The kind of exit, and its number: 1 a code, 2 a signal, 0 not known.
    pub(crate) exit: (u32, i32),
    pub(crate) message: String,
}

/// Returns how the channel has ended; `None` while that is not known. `true` asks for what is known now.
pub(crate) type AskEnd = Box<dyn Fn(bool) -> Option<Ending> + Send>;

/// What a recording has done so far.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordingStats {
    /// The file.
    pub path: PathBuf,
    /// Frames that are in the file or about to be, those that were overwritten since included.
    pub frames: u64,
    /// Records that were written, likewise: of frames, cancels, gaps and the end.
    pub records: u64,
    /// Bytes of records that were written, likewise.
    pub bytes: u64,
    /// Frames that were left out because the queue or the file system was full.
    pub lost_frames: u64,
    /// The bytes of their payloads.
    pub lost_bytes: u64,
}

/// What the threads of a channel tell of its frames.
#[derive(Debug)]
pub(crate) struct Recorder {
    shared: Arc<Shared>,
    path: PathBuf,
    /// The most bytes of a payload that is kept.
    longest: usize,
    payloads: (Payloads, Payloads),
    began_ns: u64,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is news for the writer.
    news: Condvar,
    /// The writer has written.
    written: Condvar,
    limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    /// Frames that were added.
    frames: u64,
    /// Frames that found no room since the last record.
    untold: Lost,
    /// All of them.
    lost: Lost,
    /// How often something was added, and how much of that the writer is done with.
    added: u64,
    done: u64,
    is_idle: bool,
    is_urgent: bool,
    /// The channel is over, and its end is to be written.
    has_ended: bool,
    is_end_written: bool,
    /// No frame comes any more.
    is_dropped: bool,
    /// The writer has ended.
    is_over: bool,
    /// What the writer has done.
    records: u64,
    written_bytes: u64,
    unwritten: Lost,
}

impl Recorder {
    /// Starts the thread that writes to `store`, which has its header.
    pub(super) fn start<S: Store + 'static>(
        store: S,
        path: PathBuf,
        info: &RecordingInfo,
        limit: usize,
        ask_end: AskEnd,
    ) -> Result<Self> {
        let layout = info.layout;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::default()),
            news: Condvar::default(),
            written: Condvar::default(),
            limit,
        });
        let theirs = Arc::clone(&shared);
        let writer = Writer::new(store, layout);
        let began_ns = layout.began_ns;
        start_thread("slipring-record", move || theirs.run(writer, began_ns, &ask_end))
            .map_err(|e| Error::os("cannot start the thread of a recording", e))?;
        // A record never takes more than a part of a segment, so that the other frames stay.
        let longest = as_usize(layout.segment_len / 4).min(limit / 2);
        let payloads = (info.requests, info.replies);
        Ok(Self { shared, path, longest, payloads, began_ns })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A frame is about to be published.
    pub(crate) fn sent(&self, header: Header, payload: &[u8]) {
        self.frame(what::REQUEST, header, PeerBytes::of(payload));
    }

    /// A frame was taken out of the ring.
    pub(crate) fn received(&self, header: Header, payload: PeerBytes<'_>) {
        self.frame(what::REPLY, header, payload);
    }

    fn frame(&self, what: u8, header: Header, payload: PeerBytes<'_>) {
        let keeps = if what == what::REQUEST { self.payloads.0 } else { self.payloads.1 };
        let form = match keeps {
            _ if payload.len() > self.longest => form::LEFT_OUT,
            Payloads::Whole => form::WHOLE,
            Payloads::Hashed => form::HASHED,
            Payloads::Omitted => form::LEFT_OUT,
        };
        let Header { kind, flags, request, aux, .. } = header;
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let head = Head { what, form, kind, flags, len, request, aux, at: 0, index: 0 };
        let payload = if form == form::LEFT_OUT { PeerBytes::empty() } else { payload };
        self.shared.add(head, self.began_ns, payload);
    }

    /// The host asks the worker to cancel a request.
    pub(crate) fn cancelled(&self, request: u64) {
        let form = form::LEFT_OUT;
        let head = Head { what: what::CANCEL, form, request, ..Head::default() };
        self.shared.add(head, self.began_ns, PeerBytes::empty());
    }

    /// The channel is over. Its end is written as soon as it is known.
    pub(crate) fn ended(&self) {
        let mut queue = self.shared.queue.lock();
        queue.has_ended = true;
        queue.is_urgent = true;
        drop(queue);
        self.shared.news.notify_one();
    }

    /// Waits until everything so far is in the file, its end included if the channel is over, or until
    /// the deadline.
    pub(crate) fn flush(&self, until: Instant) {
        let mut queue = self.shared.queue.lock();
        let (added, has_ended) = (queue.added, queue.has_ended);
        queue.is_urgent = true;
        self.shared.news.notify_one();
        // The end does not count as added: what is added before the end is known is none.
        let is_written = |queue: &Queue| {
            queue.done >= added && (queue.is_end_written || !has_ended) || queue.is_over
        };
        while !is_written(&queue) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue = self.shared.written.wait_timeout(queue, left);
        }
    }

    /// How many frames are kept, and how many were left out.
    pub(crate) fn counts(&self) -> [u64; 2] {
        self.shared.queue.lock().counts()
    }

    pub(crate) fn stats(&self) -> RecordingStats {
        let queue = self.shared.queue.lock();
        let [frames, _] = queue.counts();
        RecordingStats {
            path: self.path.clone(),
            frames,
            records: queue.records,
            bytes: queue.written_bytes,
            lost_frames: queue.lost.frames + queue.unwritten.frames,
            lost_bytes: queue.lost.bytes + queue.unwritten.bytes,
        }
    }
}

impl Queue {
    /// Frames that are kept, and those that were left out.
    fn counts(&self) -> [u64; 2] {
        let Self { frames, lost, unwritten, .. } = self;
        [frames.saturating_sub(unwritten.frames), lost.frames + unwritten.frames]
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // A forked child may wait for the lock for ever.
        if fork::is_forked_child() {
            return;
        }
        let mut queue = self.shared.queue.lock();
        queue.is_dropped = true;
        queue.has_ended = true;
        queue.is_urgent = true;
        drop(queue);
        self.shared.news.notify_one();
    }
}

impl Shared {
    /// Adds a record, or counts it if there is no room. Blocks no longer than another thread takes to copy
    /// a frame.
    fn add(&self, mut head: Head, began_ns: u64, payload: PeerBytes<'_>) {
        let mut queue = self.queue.lock();
        // Under the lock, so that times rise.
        head.at = now_ns().saturating_sub(began_ns);
        let needed = 2 * RECORD_HEAD + payload.len() + 8;
        let has_room =
            queue.bytes.len() + needed <= self.limit && queue.bytes.try_reserve(needed).is_ok();
        let frames = u64::from(matches!(head.what, what::REQUEST | what::REPLY));
        if !has_room {
            let lost = Lost { frames, bytes: u64::from(head.len) };
            queue.untold.add(lost);
            queue.lost.add(lost);
            return;
        }
        let untold = std::mem::take(&mut queue.untold);
        if untold != Lost::default() {
            let (request, aux) = (untold.bytes, untold.frames);
            let form = form::LEFT_OUT;
            Head { what: what::GAP, form, request, aux, at: head.at, ..Head::default() }
                .enqueue(PeerBytes::empty(), &mut queue.bytes);
        }
        head.enqueue(payload, &mut queue.bytes);
        queue.frames += frames;
        queue.added += 1;
        let is_half_full = queue.bytes.len() > self.limit / 2;
        let wakes = std::mem::take(&mut queue.is_idle) || (is_half_full && !queue.is_urgent);
        queue.is_urgent |= is_half_full;
        drop(queue);
        if wakes {
            self.news.notify_one();
        }
    }

    /// What the thread does.
    fn run<S: Store>(&self, mut writer: Writer<S>, began_ns: u64, ask_end: &AskEnd) {
        let mut bytes = Vec::new();
        // When the channel was found over, and how long to wait until the next look at its end.
        let (mut over_since, mut look) = (None, LOOK);
        let mut is_end_written = false;
        loop {
            let mut queue = self.queue.lock();
            let has_news =
                !queue.bytes.is_empty() || queue.is_dropped || (queue.has_ended && !is_end_written);
            if !has_news {
                queue.is_idle = true;
                queue = self.news.wait_timeout(queue, IDLE);
                queue.is_idle = false;
            }
            queue.is_urgent = false;
            std::mem::swap(&mut queue.bytes, &mut bytes);
            let (added, is_dropped, has_ended) = (queue.added, queue.is_dropped, queue.has_ended);
            drop(queue);
            let had_any = !bytes.is_empty();
            writer.write(&bytes);
            bytes.clear();
            // A burst must not hold memory for good.
            bytes.shrink_to(1 << 20);
            // Not before what came before it.
            if has_ended && !is_end_written && !had_any {
                let since = *over_since.get_or_insert_with(Instant::now);
                if let Some(ending) = ask_end(since.elapsed() > PATIENCE) {
                    end_record(&ending, now_ns().saturating_sub(began_ns), &mut bytes);
                    writer.write(&bytes);
                    bytes.clear();
                    is_end_written = true;
                }
            }
            let mut queue = self.queue.lock();
            queue.done = added;
            queue.is_end_written = is_end_written;
            queue.records = writer.records();
            queue.written_bytes = writer.written_bytes;
            queue.unwritten = writer.lost;
            queue.is_over = is_dropped && is_end_written && queue.bytes.is_empty();
            self.written.notify_all();
            if queue.is_over {
                return;
            }
            if queue.is_urgent || (had_any && has_ended) {
                continue;
            }
            if had_any {
                // Mostly more comes: a write for each frame would cost more than all else.
                drop(self.news.wait_timeout(queue, PAUSE));
            } else if has_ended && !is_end_written {
                drop(self.news.wait_timeout(queue, look));
                look = (2 * look).min(LONGEST_LOOK);
            }
        }
    }
}

impl Head {
    /// Appends a header and a payload as the queue has them.
    fn enqueue(self, payload: PeerBytes<'_>, queue: &mut Vec<u8>) {
        let start = queue.len();
        // The header of a record that keeps it whole, for its length.
        let whole = Self { form: if payload.is_empty() { self.form } else { form::WHOLE }, ..self };
        whole.write_head(0, queue);
        payload.append_to(queue);
        queue.resize(start + as_usize(whole.record_len()), 0);
        if let Some(form) = queue.get_mut(start + FORM_AT) {
            *form = self.form;
        }
    }
}

fn end_record(ending: &Ending, at: u64, out: &mut Vec<u8>) {
    let (exit, number) = ending.exit;
    let kind = match ending.how {
        EndKind::Closed => 1,
        EndKind::Died => 2,
        EndKind::Failed => 3,
    };
    let text = cut(&ending.message, 4096);
    let len = u32::try_from(text.len()).unwrap_or(0);
    let aux = u64::from(exit) << 32 | u64::from(number.cast_unsigned());
    let head = Head { what: what::END, form: form::WHOLE, kind, len, aux, at, ..Head::default() };
    head.enqueue(PeerBytes::of(text.as_bytes()), out);
}

/// The start of a text, in at most so many bytes.
fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
