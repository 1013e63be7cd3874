//! Streams of one worker whose readers leave or stop, beside 31 others, for each way to serve many
//! at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use crate::common::*;
use slipring::worker::{
    ChunkMerger, HandlerError, Incoming, OwnedResponder, StepEngine, Threads, Worker,
};
use slipring::{Channel, Config, Kind, RoleConfig, Stream, StreamTimeouts, WorkerState, testing};

/// Streams bytes: a request has the seed of the bytes, and how many are asked for.
const WORK: Kind = Kind::named("work");
const CHUNK: usize = 1000;
/// The most bytes that a stream of the step loop keeps.
const MAX_UNSENT: usize = 5000;

/// The bytes of a stream from an offset on, at most to the end of a chunk.
fn part(seed: u64, from: usize, end: usize) -> Vec<u8> {
    let number = from / CHUNK;
    let end = end.min((number + 1) * CHUNK);
    vec![(seed as usize * 31 + number * 7) as u8; end - from]
}

fn asked(bytes: &[u8]) -> (u64, usize) {
    let [seed, len] = numbers(bytes)[..] else { panic!("two numbers") };
    (seed, len as usize)
}

/// A way to serve 32 streams at once.
#[derive(Debug, Clone, Copy)]
enum Way {
    Threads,
    #[cfg(feature = "tokio")]
    Tasks,
    Steps,
}

const WAYS: &[Way] = &[
    Way::Threads,
    #[cfg(feature = "tokio")]
    Way::Tasks,
    Way::Steps,
];

/// A channel to such a worker, and the most bytes that a stream of its kept.
fn serve(way: Way) -> (Channel, Arc<AtomicUsize>) {
    let most_unsent = Arc::<AtomicUsize>::default();
    let (config, role) = (Config::small(), RoleConfig::default());
    let channel = match way {
        Way::Threads => testing::spawn_thread(&config, role, || {
            Worker::new(|_| Ok(())).threads(Threads::new(32).on(WORK, |(), request, reply| {
                let mut reply: OwnedResponder = reply;
                let (seed, len) = asked(&request.to_vec());
                for from in (0..len).step_by(CHUNK) {
                    reply.send_chunk(&part(seed, from, len))?;
                }
                Ok(reply.end()?)
            }))
        }),
        #[cfg(feature = "tokio")]
        Way::Tasks => {
            use slipring::worker::Tasks;
            let runtime = crate::executors::multi_thread();
            testing::spawn_thread(&config, role, move || {
                let tasks = Tasks::on_tokio(runtime.handle().clone());
                let tasks = tasks.on(WORK, |_, request, mut reply: OwnedResponder| async move {
                    let (seed, len) = asked(&request.get().to_vec());
                    for from in (0..len).step_by(CHUNK) {
                        reply.send_chunk_async(&part(seed, from, len)).await?;
                    }
                    Ok(reply.end()?)
                });
                Worker::new(move |_| Ok(runtime)).tasks(tasks)
            })
        }
        Way::Steps => {
            let engine = Engine { open: Vec::new(), most_unsent: Arc::clone(&most_unsent) };
            testing::spawn_thread(&config, role, move || Worker::new(|_| Ok(engine)).steps())
        }
    };
    (channel.unwrap(), most_unsent)
}

/// Adds a chunk to each of its streams in each step.
struct Engine {
    open: Vec<Open>,
    most_unsent: Arc<AtomicUsize>,
}

struct Open {
    seed: u64,
    from: usize,
    len: usize,
    chunks: ChunkMerger,
}

impl StepEngine for Engine {
    fn add_request(&mut self, incoming: Incoming) -> Result<(), HandlerError> {
        let (seed, len) = asked(&incoming.request.get().to_vec());
        let chunks = ChunkMerger::new(incoming.responder, MAX_UNSENT);
        self.open.push(Open { seed, from: 0, len, chunks });
        Ok(())
    }

    fn step(&mut self) -> Result<(), HandlerError> {
        for Open { seed, from, len, chunks } in &mut self.open {
            if from == len {
                chunks.finish();
            } else {
                let part = part(*seed, *from, *len);
                if chunks.push(&part) {
                    *from += part.len();
                }
            }
            self.most_unsent.fetch_max(chunks.unsent(), Ordering::Relaxed);
        }
        self.open.retain(|open| !open.chunks.is_over());
        Ok(())
    }

    fn has_capacity(&self) -> bool {
        self.open.len() < 32
    }

    fn has_finished(&self) -> bool {
        self.open.is_empty()
    }
}

/// A stream, and what has come of it.
struct Read {
    seed: u64,
    stream: Stream,
    len: usize,
}

impl Read {
    fn start(channel: &Channel, seed: u64, len: usize) -> Self {
        let request = encode(&[seed, len as u64]);
        let stream = channel.stream(WORK, &request, StreamTimeouts::from(LONG)).unwrap();
        Self { seed, stream, len: 0 }
    }

    /// Reads one chunk and compares it with what was asked for. Returns false at the end.
    fn next(&mut self) -> bool {
        let Some(chunk) = self.stream.next_chunk().unwrap() else { return false };
        let mut chunk = &chunk.to_vec()[..];
        while !chunk.is_empty() {
            let expected = part(self.seed, self.len, self.len + chunk.len());
            let (found, rest) = chunk.split_at(expected.len());
            assert!(found == expected, "stream {} at byte {}", self.seed, self.len);
            (self.len, chunk) = (self.len + found.len(), rest);
        }
        true
    }
}

/// Reads streams in turns to their ends, and calls `look` after each round.
fn read_all(mut streams: Vec<Read>, len: usize, mut look: impl FnMut()) {
    while !streams.is_empty() {
        streams.retain_mut(|stream| stream.next() || (assert_eq!(stream.len, len), false).1);
        look();
    }
}

fn is_as_new(channel: &Channel) -> bool {
    let health = channel.health();
    health.state == WorkerState::Idle
        && (health.taken, health.begun, channel.in_flight()) == (0, 0, 0)
}

#[test]
fn a_reader_that_leaves_in_the_middle_changes_nothing_for_31_others() {
    const LEN: usize = 50 * CHUNK + 1;
    for way in WAYS {
        let (channel, _) = serve(*way);
        let mut streams: Vec<_> = (0..32).map(|seed| Read::start(&channel, seed, LEN)).collect();
        assert!(streams.iter_mut().all(Read::next), "all are under way");
        assert_eq!(channel.health().begun, 32, "{way:?}");
        drop(streams.remove(13));
        streams.remove(20).stream.cancel();
        read_all(streams, LEN, || {});
        eventually("nothing is left", || is_as_new(&channel));
        assert_eq!(channel.stats().unknown_frames, 0);
    }
}

/// With an unread stream without an end, 31 streams come whole, and neither side keeps more of the
/// unread one than its window and what the step loop may keep.
fn one_stops(way: Way) {
    const LEN: usize = 1 << 20;
    /// A tenth of what the others get.
    const MOST_GROWTH_KIB: u64 = 3 << 10;
    let (channel, most_unsent) = serve(way);
    let window = channel.config().stream_window() as u64;
    let start_all = |len| (1..32).map(|seed| Read::start(&channel, seed, len)).collect::<Vec<_>>();
    // Memory that the first streams take once is none that grows.
    read_all(start_all(20 * CHUNK), 20 * CHUNK, || {});
    let sent_before = channel.ping(LONG).unwrap().bytes_sent;
    let mut stuck = Read::start(&channel, 0, usize::MAX / 2);
    eventually("it is begun", || channel.health().begun == 1);
    let (before, mut most) = (resident_kib(), 0);
    read_all(start_all(LEN), LEN, || most = most.max(resident_kib()));
    let sent = channel.ping(LONG).unwrap().bytes_sent - sent_before - 31 * LEN as u64;
    let grown = most.saturating_sub(before);
    println!("{way:?}: {sent} bytes sent unread, {grown} KiB more resident");
    assert!(sent > 0 && sent <= window, "{way:?}: {sent} bytes were sent that nothing reads");
    assert!(grown <= MOST_GROWTH_KIB, "{way:?}: {grown} KiB more than before");
    let unsent = most_unsent.load(Ordering::Relaxed);
    assert!(unsent <= MAX_UNSENT, "{unsent} bytes were kept");
    // It still can be read.
    (0..100).for_each(|_| assert!(stuck.next()));
    drop(stuck);
    eventually("nothing is left", || is_as_new(&channel));
}

#[test]
fn a_reader_that_stops_beside_31_others_costs_one_window() {
    // The memory of a process of its own is measured.
    if in_a_process_of_its_own(name_of(a_reader_that_stops_beside_31_others_costs_one_window)) {
        WAYS.iter().for_each(|way| one_stops(*way));
    }
}

#[test]
fn a_slow_reader_gets_fewer_and_longer_chunks_and_all_bytes() {
    let (give, given) = mpsc::channel();
    let make = move || {
        Worker::new(|_| Ok(())).inbox(move |(), inbox| {
            loop {
                give.send(inbox.recv()?)?;
            }
        })
    };
    let channel = testing::spawn_thread(&Config::small(), RoleConfig::default(), make).unwrap();
    let mut stream = channel.stream(WORK, "", StreamTimeouts::from(LONG)).unwrap();
    let responder = given.recv().unwrap().responder;
    let mut merger = ChunkMerger::new(responder, MAX_UNSENT);
    let (mut pushed, mut read, mut pushes, mut chunks) = (Vec::new(), Vec::new(), 0, 0);
    for round in 0..20_u64 {
        // More than the window and what may be kept; the last one is refused.
        for n in round * 10_000.. {
            if !merger.push(&n.to_le_bytes()) {
                break;
            }
            pushed.push(n);
            pushes += 1;
            assert!(merger.unsent() <= MAX_UNSENT);
        }
        assert!(merger.unsent() > MAX_UNSENT - 8, "the limit is used");
        assert!(!merger.push(&[0; 8]) && !merger.flush(), "nothing was read meanwhile");
        // The reader takes half of what has come.
        while read.len() < pushed.len() * 4 {
            read.extend(stream.next_chunk().unwrap().unwrap().to_vec());
            chunks += 1;
            merger.flush();
        }
    }
    while !merger.finish() {
        read.extend(stream.next_chunk().unwrap().unwrap().to_vec());
        chunks += 1;
    }
    for chunk in stream {
        read.extend(chunk.unwrap().to_vec());
        chunks += 1;
    }
    assert_eq!(numbers(&read), pushed);
    println!("{pushes} pushes came in {chunks} chunks");
    assert!(chunks < pushes / 2, "{pushes} pushes came in {chunks} chunks");
}
