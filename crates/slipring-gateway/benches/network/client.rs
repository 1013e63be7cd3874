//! The ways to call that are measured, one after another in each round.

use std::future::poll_fn;
use std::path::Path;
use std::time::{Duration, Instant};

use slipring::backend::{Backend as _, BackendRequest};
use slipring::{Reply, StreamTimeouts};
use slipring_gateway::tls::{ClientTls, ExpectedName};
use slipring_gateway::{Discovery, RemoteRole};
use tokio::task::JoinSet;

use crate::echo::{CHUNKS, ECHO, IN_PROCESS, Order, THREADS, WORKER, pattern, set_number};
use crate::figures::{Figures, Took, WAYS};
use crate::plan::{Plan, Table, Work};
use crate::rival::Settings;
use crate::server::{Addresses, NAME, files};
use crate::{rival, socket};

/// Passes only if something hangs.
pub const LONG: Duration = Duration::from_secs(60);

enum Client {
    Socket(socket::Client),
    Caller(Caller),
}

/// Its clones share one connection.
#[derive(Clone)]
enum Caller {
    Tonic(rival::Client),
    Gateway(RemoteRole),
}

impl Client {
    fn gateway(role: &str, at: Addresses, certificates: Option<&Path>) -> Self {
        let gateways = Discovery::list([at.gateway.to_string()]);
        let mut builder = RemoteRole::builder(role, gateways);
        if let Some(directory) = certificates {
            let tls = ClientTls::new(files(directory, "client")).unwrap();
            builder = builder.tls(tls).server_name(ExpectedName::new(NAME).unwrap());
        }
        Self::Caller(Caller::Gateway(builder.build().unwrap()))
    }

    async fn measure(&mut self, work: Work) -> Took {
        match work {
            Work::Calls { len, count } => self.calls(len, count).await,
            Work::Stream { len, count } => self.stream(len, count).await,
            Work::Load { len, callers, longest } => match self {
                Self::Socket(_) => unreachable!("it is no way for several callers"),
                Self::Caller(caller) => caller.load(len, callers, longest).await,
            },
        }
    }

    /// Calls a number of times. Returns the median.
    async fn calls(&mut self, len: usize, count: u64) -> Took {
        let mut expected = Expected::new(len);
        let mut times = Vec::new();
        for _ in 0..count {
            times.push(match self {
                Self::Socket(client) => {
                    let payload = expected.next().to_vec();
                    let began = Instant::now();
                    let reply = client.call(&payload).await;
                    let took = began.elapsed();
                    expected.check(reply);
                    took
                }
                Self::Caller(caller) => caller.call(&mut expected).await,
            });
        }
        times.sort_unstable();
        Took { each: times[times.len() / 2], calls: Vec::new() }
    }

    /// Asks for a stream of so many chunks. Returns the time for each.
    async fn stream(&mut self, len: usize, count: u64) -> Took {
        let order = Order { count, len };
        let mut expected = Expected::new(len);
        let began = Instant::now();
        match self {
            Self::Socket(client) => client.stream(order, |chunk| expected.check_next(chunk)).await,
            Self::Caller(Caller::Tonic(client)) => {
                client.stream(order.to_bytes(), |chunk| expected.check_next(chunk)).await
            }
            Self::Caller(Caller::Gateway(client)) => streamed(client, order, &mut expected).await,
        }
        let took = began.elapsed();
        assert_eq!(expected.count, count);
        Took { each: took / count as u32, calls: Vec::new() }
    }
}

async fn streamed(client: &RemoteRole, order: Order, expected: &mut Expected) {
    let request = BackendRequest::new(CHUNKS, order.to_bytes());
    let mut chunks = client.stream(request, StreamTimeouts::new()).await.unwrap();
    while let Some(chunk) = poll_fn(|context| chunks.as_mut().poll_next(context)).await {
        expected.next();
        expected.check_reply(&chunk.unwrap());
    }
}

impl Caller {
    /// Calls once, and compares the reply. Returns how long the call took.
    async fn call(&mut self, expected: &mut Expected) -> Duration {
        let payload = expected.next().to_vec();
        let began = Instant::now();
        match self {
            Self::Tonic(client) => {
                let reply = client.call(payload).await;
                let took = began.elapsed();
                expected.check(&reply);
                took
            }
            Self::Gateway(client) => {
                let request = BackendRequest::new(ECHO, payload);
                let reply = client.call(request, LONG).await.unwrap();
                let took = began.elapsed();
                expected.check_reply(&reply);
                took
            }
        }
    }

    /// Has several callers at once, each at least once.
    async fn load(&self, len: usize, callers: usize, longest: Duration) -> Took {
        // Made before the clock runs.
        let expected: Vec<_> = (0..callers).map(|caller| Expected::of(caller, len)).collect();
        let (began, mut tasks) = (Instant::now(), JoinSet::new());
        for mut expected in expected {
            let mut caller = self.clone();
            tasks.spawn(async move {
                let mut calls = vec![caller.call(&mut expected).await];
                while began.elapsed() < longest {
                    calls.push(caller.call(&mut expected).await);
                }
                calls
            });
        }
        let calls = tasks.join_all().await.concat();
        Took { each: began.elapsed().div_f64(calls.len() as f64), calls }
    }
}

/// The payload that is to come next.
struct Expected {
    payload: Vec<u8>,
    /// How many there were.
    count: u64,
    piece: [u8; PIECE],
}

/// How many bytes of a payload are compared at a time.
const PIECE: usize = 8 << 10;

impl Expected {
    fn new(len: usize) -> Self {
        Self { payload: pattern(len, 0), count: 0, piece: [0; PIECE] }
    }

    /// Of one of several callers, with its number in each payload.
    fn of(caller: usize, len: usize) -> Self {
        let mut expected = Self::new(len);
        set_number(&mut expected.payload, 1, caller as u64);
        expected
    }

    fn next(&mut self) -> &[u8] {
        set_number(&mut self.payload, 0, self.count);
        self.count += 1;
        &self.payload
    }

    fn check(&self, payload: &[u8]) {
        assert!(payload == self.payload, "another payload than was asked for");
    }

    fn check_next(&mut self, chunk: &[u8]) {
        self.next();
        self.check(chunk);
    }

    /// As [`check`](Self::check). Of a payload that may be in memory of others, bytes are copied to be
    /// looked at: few at a time, so that they stay in the cache.
    fn check_reply(&mut self, reply: &Reply) {
        let payload = reply.payload();
        assert_eq!(payload.len(), self.payload.len());
        for (at, expected) in self.payload.chunks(PIECE).enumerate() {
            let piece = &mut self.piece[..expected.len()];
            payload.read_at(at * PIECE, piece).unwrap();
            assert!(piece == expected, "another payload than was asked for");
        }
    }
}

/// Measures the ways of a table, and prints its rows.
pub async fn run(
    table: Table,
    place: &str,
    at: Addresses,
    certificates: Option<&Path>,
    plan: &Plan,
) {
    let tls = certificates.map(|directory| files(directory, "client"));
    let tonic = async |at, settings| {
        Client::Caller(Caller::Tonic(rival::Client::connect(at, tls.as_ref(), settings).await))
    };
    let mut clients: [Client; WAYS] = [
        Client::Socket(socket::Client::connect(at.socket, tls.as_ref()).await),
        tonic(at.tonic, Settings::Own).await,
        tonic(at.alike, Settings::OfGateway).await,
        Client::gateway(IN_PROCESS, at, certificates),
        Client::gateway(WORKER, at, certificates),
        Client::gateway(THREADS, at, certificates),
    ];
    let place = format!("{place}, {}", if tls.is_some() { "TLS" } else { "plain" });
    for work in plan.works(table) {
        let mut figures = Figures::new(work);
        // The first round warms up.
        for round in 0..=plan.rounds {
            let mut took: [Took; WAYS] = Default::default();
            let mut order: Vec<_> = table.ways().collect();
            // The last of one round is the first of the next.
            if round % 2 == 1 {
                order.reverse();
            }
            for way in order {
                took[way] = clients[way].measure(work).await;
            }
            if round > 0 {
                figures.push(took);
            }
        }
        figures.print(&place);
    }
}
