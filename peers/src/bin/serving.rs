//! What a worker gains that serves many requests at once, beside a worker of tokio's on a Unix
//! socket with length-prefixed frames:
//!
//! * token streams: 1, 10 and 100 at a time, over one and two workers. Both workers run the same
//!   model loop: a step takes 5 ms and gives one token to each open stream.
//! * small requests: 64 callers with one text each. A pass of the model takes 1 ms and 0.05 ms a
//!   text. One at a time, and in batches.
//! * threads: 1 to 8 of the parent's, against 1 to 8 of the worker's, 64 B and 96 KiB echoed.
//!
//! The rounds of both are interleaved; every answer is checked.
//!
//! `cargo run --release --bin serving -- [ROUNDS] [tokens | texts | threads]`

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use slipring::tasks::AsyncChannel;
use slipring::worker::{Batches, ChunkMerger, HandlerError, Incoming, StepEngine, Threads, Worker};
use slipring::{Channel, Kind, Spawner, StreamTimeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

const STEP: Duration = Duration::from_millis(5);
/// Tokens of a stream. Enough for the start of the streams not to count.
const TOKENS: u32 = 200;
const LONG: Duration = Duration::from_secs(60);

const TOKEN_STREAM: Kind = Kind::named("tokens");
const TEXT: Kind = Kind::named("text");
const ECHO: Kind = Kind::named("echo");

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [role, rest @ ..] = args.as_slice() {
        match role.as_str() {
            "tokens" => return Worker::new(|_| Ok(Model::default())).steps().serve().unwrap(),
            "serial-texts" => return serial_texts().serve().unwrap(),
            "batched-texts" => return batched_texts().serve().unwrap(),
            "threads" => return echo_threads(rest[0].parse().unwrap()).serve().unwrap(),
            "socket-tokens" => return socket_tokens(rest[0].as_ref()),
            "socket-echo" => return socket_echo(rest[0].as_ref(), rest[1].parse().unwrap()),
            _ => {}
        }
    }
    let rounds = args.first().map_or(5, |rounds| rounds.parse().expect("a number of rounds"));
    let only = args.get(1).map(String::as_str);
    let parts: [(&str, fn(usize)); 3] =
        [("tokens", token_streams), ("texts", texts), ("threads", threads)];
    for (_, part) in parts.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        part(rounds);
    }
}

// The model loop of token streams.

#[derive(Default)]
struct Model {
    open: Vec<(u32, ChunkMerger)>,
}

impl StepEngine for Model {
    fn add_request(&mut self, incoming: Incoming) -> Result<(), HandlerError> {
        self.open.push((0, ChunkMerger::new(incoming.responder, 64)));
        Ok(())
    }

    fn step(&mut self) -> Result<(), HandlerError> {
        std::thread::sleep(STEP);
        for (next, chunks) in &mut self.open {
            if *next == TOKENS {
                chunks.finish();
            } else if chunks.push(&next.to_le_bytes()) {
                *next += 1;
            }
        }
        self.open.retain(|(_, chunks)| !chunks.is_over());
        Ok(())
    }

    fn has_capacity(&self) -> bool {
        self.open.len() < 1000
    }

    fn has_finished(&self) -> bool {
        self.open.is_empty()
    }
}

/// A frame on the socket: its length, the stream, a token; `TOKENS` ends the stream.
fn frame(stream: u32, token: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&8_u32.to_le_bytes());
    bytes[4..8].copy_from_slice(&stream.to_le_bytes());
    bytes[8..].copy_from_slice(&token.to_le_bytes());
    bytes
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().unwrap())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn socket_tokens(path: &std::path::Path) {
    runtime().block_on(async {
        let listener = UnixListener::bind(path).unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let (mut reader, mut writer) = socket.into_split();
        let (give, given) = std::sync::mpsc::channel();
        let (say, mut said) = mpsc::unbounded_channel();
        std::thread::spawn(move || socket_model(&given, &say));
        tokio::spawn(async move {
            let mut bytes = [0; 12];
            while reader.read_exact(&mut bytes).await.is_ok() {
                if give.send(number(&bytes[4..])).is_err() {
                    return;
                }
            }
        });
        while let Some(bytes) = said.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
}

/// The same model loop as [`Model`], on a thread of its own, as it blocks.
fn socket_model(given: &std::sync::mpsc::Receiver<u32>, say: &mpsc::UnboundedSender<Vec<u8>>) {
    let mut open: Vec<(u32, u32)> = Vec::new();
    loop {
        if open.is_empty() {
            let Ok(stream) = given.recv() else { return };
            open.push((stream, 0));
        }
        open.extend(given.try_iter().map(|stream| (stream, 0)));
        std::thread::sleep(STEP);
        let mut bytes = Vec::new();
        for (stream, next) in &mut open {
            bytes.extend(frame(*stream, *next));
            *next += 1;
        }
        open.retain(|(_, next)| *next <= TOKENS);
        if say.send(bytes).is_err() {
            return;
        }
    }
}

/// What one round of token streams took.
#[derive(Default)]
struct Tokens {
    first: Vec<f64>,
    seconds: f64,
    processor: f64,
    tokens: u64,
}

fn token_streams(rounds: usize) {
    println!(
        "| streams, workers | | first token p50, p99 (ms) | tokens/s | processor time a token (us) |"
    );
    println!("|---|---|---|---|---|");
    for workers in [1, 2] {
        for streams in [1, 10, 100] {
            let (mut ours, mut socket) = (Tokens::default(), Tokens::default());
            for _ in 0..rounds {
                slipring_tokens(streams, workers, &mut ours);
                socket_round(streams, workers, &mut socket);
            }
            ours.print(streams, workers, "slipring");
            socket.print(streams, workers, "tokio, Unix socket");
        }
    }
}

impl Tokens {
    /// Waits for the streams of a round, each of which returns how long its first token took.
    async fn add(&mut self, pids: &[u32], streams: Vec<tokio::task::JoinHandle<f64>>) {
        let (before, begun) = (processor_time(pids), Instant::now());
        self.tokens += streams.len() as u64 * u64::from(TOKENS);
        for stream in streams {
            self.first.push(stream.await.unwrap());
        }
        self.seconds += begun.elapsed().as_secs_f64();
        self.processor += processor_time(pids) - before;
    }

    fn print(&mut self, streams: usize, workers: usize, name: &str) {
        self.first.sort_by(f64::total_cmp);
        let at = |q: f64| self.first[((self.first.len() - 1) as f64 * q) as usize] * 1e3;
        println!(
            "| {streams}, {workers} | {name} | {:.2}, {:.2} | {:.0} | {:.1} |",
            at(0.5),
            at(0.99),
            self.tokens as f64 / self.seconds,
            self.processor * 1e6 / self.tokens as f64,
        );
    }
}

/// Processor time of this process and another, in seconds.
fn processor_time(pids: &[u32]) -> f64 {
    let of = |path: String| {
        let stat = std::fs::read_to_string(path).unwrap_or_default();
        // Nanoseconds on the processor are the first number of `schedstat` of each thread.
        stat.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
    };
    let mut sum = 0.0;
    for pid in pids.iter().copied().chain([std::process::id()]) {
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            sum += of(format!("{}/schedstat", task.path().display()));
        }
    }
    sum
}

fn own(args: &[&str]) -> Spawner {
    Spawner::current_exe().unwrap().args(args.iter().copied())
}

fn slipring_tokens(streams: usize, workers: usize, sum: &mut Tokens) {
    runtime().block_on(async {
        let mut channels = Vec::new();
        for _ in 0..workers {
            let channel = AsyncChannel::spawn_on_tokio(own(&["tokens"])).await.unwrap();
            channel.wait_ready(LONG).await.unwrap();
            channels.push(channel);
        }
        let pids: Vec<u32> = channels.iter().map(|channel| channel.blocking().pid()).collect();
        let tasks: Vec<_> = (0..streams)
            .map(|n| {
                let channel = channels[n % workers].clone();
                tokio::spawn(async move {
                    let asked = Instant::now();
                    let mut stream =
                        channel.stream(TOKEN_STREAM, "", StreamTimeouts::default()).await.unwrap();
                    let (mut first, mut next) = (None, 0);
                    while let Some(chunk) = stream.next_chunk().await.unwrap() {
                        first.get_or_insert(asked.elapsed());
                        for token in chunk.to_vec().chunks_exact(4) {
                            assert_eq!(number(token), next);
                            next += 1;
                        }
                    }
                    assert_eq!(next, TOKENS);
                    first.unwrap().as_secs_f64()
                })
            })
            .collect();
        sum.add(&pids, tasks).await;
    });
}

fn socket_path() -> PathBuf {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    std::env::temp_dir().join(format!("serving-{}-{n}", std::process::id()))
}

fn start(args: &[&str]) -> Child {
    Command::new(std::env::current_exe().unwrap()).args(args).spawn().unwrap()
}

fn connect(path: &std::path::Path) -> StdStream {
    let until = Instant::now() + LONG;
    loop {
        match StdStream::connect(path) {
            Ok(socket) => return socket,
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => panic!("{error}"),
        }
    }
}

fn socket_round(streams: usize, workers: usize, sum: &mut Tokens) {
    let paths: Vec<PathBuf> = (0..workers).map(|_| socket_path()).collect();
    let mut children: Vec<Child> =
        paths.iter().map(|path| start(&["socket-tokens", path.to_str().unwrap()])).collect();
    let sockets: Vec<StdStream> = paths.iter().map(|path| connect(path)).collect();
    let pids: Vec<u32> = children.iter().map(Child::id).collect();
    runtime().block_on(async {
        let mut writers = Vec::new();
        type Routes = Arc<Mutex<HashMap<u32, mpsc::UnboundedSender<u32>>>>;
        let mut routes: Vec<Routes> = Vec::new();
        for socket in sockets {
            socket.set_nonblocking(true).unwrap();
            let (mut reader, writer) = UnixStream::from_std(socket).unwrap().into_split();
            let to = Routes::default();
            let routes_of_reader = Arc::clone(&to);
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 << 10];
                let mut filled = 0;
                while let Ok(count) = reader.read(&mut buffer[filled..]).await {
                    if count == 0 {
                        return;
                    }
                    filled += count;
                    let whole = filled / 12 * 12;
                    for bytes in buffer[..whole].chunks_exact(12) {
                        let (stream, token) = (number(&bytes[4..]), number(&bytes[8..]));
                        let routes = routes_of_reader.lock().unwrap();
                        let _ = routes.get(&stream).map(|route| route.send(token));
                    }
                    buffer.copy_within(whole..filled, 0);
                    filled -= whole;
                }
            });
            writers.push(Arc::new(tokio::sync::Mutex::new(writer)));
            routes.push(to);
        }
        let tasks: Vec<_> = (0..streams)
            .map(|n| {
                let (writer, routes) =
                    (Arc::clone(&writers[n % workers]), Arc::clone(&routes[n % workers]));
                tokio::spawn(async move {
                    let asked = Instant::now();
                    let (give, mut given) = mpsc::unbounded_channel();
                    routes.lock().unwrap().insert(n as u32, give);
                    writer.lock().await.write_all(&frame(n as u32, 0)).await.unwrap();
                    let (mut first, mut next) = (None, 0);
                    while let Some(token) = given.recv().await {
                        if token == TOKENS {
                            break;
                        }
                        first.get_or_insert(asked.elapsed());
                        assert_eq!(token, next);
                        next += 1;
                    }
                    assert_eq!(next, TOKENS);
                    first.unwrap().as_secs_f64()
                })
            })
            .collect();
        sum.add(&pids, tasks).await;
    });
    for (child, path) in children.iter_mut().zip(paths) {
        child.kill().unwrap();
        child.wait().unwrap();
        let _ = std::fs::remove_file(path);
    }
}

// Small requests.

/// What a pass of the model takes.
fn pass(texts: usize) {
    let until =
        Instant::now() + Duration::from_millis(1) + Duration::from_micros(50) * texts as u32;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

fn embedding(text: &[u8]) -> Vec<u8> {
    text.iter().rev().copied().collect()
}

fn serial_texts() -> Worker<()> {
    Worker::new(|_| Ok(())).on(TEXT, |(), request, responder| {
        pass(1);
        Ok(responder.send(&embedding(&request.to_vec()))?)
    })
}

fn batched_texts() -> Worker<()> {
    Worker::new(|_| Ok(())).batches(Batches::new().max_batch_size(64).on(TEXT, |(), batch| {
        pass(batch.len());
        let answers: Vec<Vec<u8>> =
            batch.iter().map(|request| embedding(&request.to_vec())).collect();
        batch.reply_each(answers.into_iter().map(Ok::<_, HandlerError>));
        Ok(())
    }))
}

const CALLERS: usize = 64;

fn texts_per_second(role: &str) -> f64 {
    let channel = own(&[role]).spawn().unwrap();
    channel.wait_ready(LONG).unwrap();
    let time = Duration::from_secs(2);
    let begun = Instant::now();
    let answered: usize = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|n| {
                let channel = &channel;
                scope.spawn(move || {
                    let mut count = 0;
                    while begun.elapsed() < time {
                        let text = format!("caller {n}, text {count}");
                        let reply = channel.call(TEXT, &text, LONG).unwrap();
                        assert_eq!(reply.to_vec(), embedding(text.as_bytes()));
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).sum()
    });
    answered as f64 / begun.elapsed().as_secs_f64()
}

fn texts(rounds: usize) {
    println!("\n| 64 callers, a text each | texts/s | ratio |");
    println!("|---|---|---|");
    let (mut one, mut batched) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        one.push(texts_per_second("serial-texts"));
        batched.push(texts_per_second("batched-texts"));
    }
    let (one, batched) = (median(&mut one), median(&mut batched));
    println!("| one at a time | {one:.0} | |");
    println!("| in batches of at most 64 | {batched:.0} | {:.1} |", batched / one);
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

// Threads on both sides.

fn echo_threads(count: usize) -> Worker<()> {
    Worker::new(|_| Ok(())).threads(
        Threads::new(count)
            .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?)),
    )
}

fn socket_echo(path: &std::path::Path, threads: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = UnixListener::bind(path).unwrap();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                loop {
                    let Ok(len) = socket.read_u32_le().await else { return };
                    bytes.resize(4 + len as usize, 0);
                    bytes[..4].copy_from_slice(&len.to_le_bytes());
                    if socket.read_exact(&mut bytes[4..]).await.is_err() {
                        return;
                    }
                    if socket.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Calls a second of so many threads, each of which calls `call` with its number and a count.
fn calls_per_second(
    threads: usize,
    call: impl Fn(usize) -> Box<dyn FnMut(&[u8]) + Send> + Sync,
    len: usize,
) -> f64 {
    let time = Duration::from_millis(500);
    let begun = Instant::now();
    let calls: usize = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..threads)
            .map(|n| {
                let mut call = call(n);
                scope.spawn(move || {
                    let mut count = 0_usize;
                    let mut payload = vec![n as u8; len];
                    while begun.elapsed() < time {
                        payload[0] = count as u8;
                        call(&payload);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).sum()
    });
    calls as f64 / begun.elapsed().as_secs_f64()
}

fn threads(rounds: usize) {
    println!(
        "\n| bytes | parent's threads, worker's | slipring, calls/s | tokio, a Unix socket for each thread |"
    );
    println!("|---|---|---|---|");
    for len in [64, 96 << 10] {
        for parents in [1, 2, 4, 8] {
            for workers in [1, 2, 4, 8] {
                let (mut ours, mut socket) = (Vec::new(), Vec::new());
                for _ in 0..rounds {
                    let channel = own(&["threads", &workers.to_string()]).spawn().unwrap();
                    channel.wait_ready(LONG).unwrap();
                    let channel: Arc<Channel> = Arc::new(channel);
                    ours.push(calls_per_second(
                        parents,
                        |_| {
                            let channel = Arc::clone(&channel);
                            Box::new(move |bytes| {
                                let reply = channel.call(ECHO, bytes, LONG).unwrap();
                                assert!(reply.to_vec() == bytes);
                            })
                        },
                        len,
                    ));
                    drop(channel);
                    socket.push(socket_calls(parents, workers, len));
                }
                println!(
                    "| {len} | {parents}, {workers} | {:.0} | {:.0} |",
                    median(&mut ours),
                    median(&mut socket)
                );
            }
        }
    }
}

fn socket_calls(parents: usize, workers: usize, len: usize) -> f64 {
    let path = socket_path();
    let mut child = start(&["socket-echo", path.to_str().unwrap(), &workers.to_string()]);
    drop(connect(&path));
    let calls = calls_per_second(
        parents,
        |_| {
            let mut socket = connect(&path);
            let (mut sent, mut reply) = (Vec::new(), Vec::new());
            Box::new(move |bytes| {
                sent.clear();
                sent.extend((bytes.len() as u32).to_le_bytes());
                sent.extend_from_slice(bytes);
                socket.write_all(&sent).unwrap();
                reply.resize(sent.len(), 0);
                socket.read_exact(&mut reply).unwrap();
                assert!(reply == sent);
            })
        },
        len,
    );
    child.kill().unwrap();
    child.wait().unwrap();
    let _ = std::fs::remove_file(path);
    calls
}
