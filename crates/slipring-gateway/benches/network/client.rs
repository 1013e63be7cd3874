//! The ways to call that are measured, one after another in each round.

use std::future::poll_fn;
use std::path::Path;
use std::time::{Duration, Instant};

use slipring::backend::{Backend as _, BackendRequest};
use slipring::{Reply, StreamTimeouts};
use slipring_gateway::tls::{ClientTls, ExpectedName};
use slipring_gateway::{Discovery, RemoteRole};

use crate::echo::{CHUNKS, ECHO, IN_PROCESS, Order, WORKER, pattern, set_number};
use crate::figures::{Figures, Plan, Work};
use crate::server::{Addresses, NAME, files};
use crate::{rival, socket};

/// Passes only if something hangs.
pub const LONG: Duration = Duration::from_secs(60);

enum Client {
    Socket(socket::Client),
    Tonic(rival::Client),
    Gateway(RemoteRole),
}

impl Client {
    async fn gateway(role: &str, at: Addresses, certificates: Option<&Path>) -> Self {
        let gateways = Discovery::list([at.gateway.to_string()]);
        let mut builder = RemoteRole::builder(role, gateways);
        if let Some(directory) = certificates {
            let tls = ClientTls::new(files(directory, "client")).unwrap();
            builder = builder.tls(tls).server_name(ExpectedName::new(NAME).unwrap());
        }
        Self::Gateway(builder.build().unwrap())
    }

    /// Calls a number of times. Returns the median.
    async fn calls(&mut self, len: usize, count: u64) -> Duration {
        let mut expected = pattern(len, 0);
        let mut times = Vec::new();
        for number in 0..count {
            set_number(&mut expected, 0, number);
            let payload = expected.clone();
            let began = Instant::now();
            let took = match self {
                Self::Socket(client) => {
                    let reply = client.call(&payload).await;
                    let took = began.elapsed();
                    assert!(reply == expected, "another reply than was asked for");
                    took
                }
                Self::Tonic(client) => {
                    let reply = client.call(payload).await;
                    let took = began.elapsed();
                    assert!(reply == expected, "another reply than was asked for");
                    took
                }
                Self::Gateway(client) => {
                    let request = BackendRequest::new(ECHO, payload);
                    let reply = client.call(request, LONG).await.unwrap();
                    let took = began.elapsed();
                    assert!(reply.to_vec() == expected, "another reply than was asked for");
                    took
                }
            };
            times.push(took);
        }
        times.sort_unstable();
        times[times.len() / 2]
    }

    /// Asks for a stream of so many chunks. Returns the time for each.
    async fn stream(&mut self, len: usize, count: u64) -> Duration {
        let order = Order { count, len };
        let mut expected = Expected { chunk: pattern(len, 0), came: 0, piece: [0; PIECE] };
        let began = Instant::now();
        match self {
            Self::Socket(client) => client.stream(order, |chunk| expected.check(chunk)).await,
            Self::Tonic(client) => {
                client.stream(order.to_bytes(), |chunk| expected.check(chunk)).await
            }
            Self::Gateway(client) => streamed(client, order, &mut expected).await,
        }
        let took = began.elapsed();
        assert_eq!(expected.came, count);
        took / count as u32
    }
}

async fn streamed(client: &RemoteRole, order: Order, expected: &mut Expected) {
    let request = BackendRequest::new(CHUNKS, order.to_bytes());
    let mut chunks = client.stream(request, StreamTimeouts::new()).await.unwrap();
    while let Some(chunk) = poll_fn(|context| chunks.as_mut().poll_next(context)).await {
        expected.check_reply(&chunk.unwrap());
    }
}

/// The chunk that is to come next.
struct Expected {
    chunk: Vec<u8>,
    came: u64,
    piece: [u8; PIECE],
}

/// How many bytes of a chunk are compared at a time.
const PIECE: usize = 8 << 10;

impl Expected {
    fn next(&mut self) -> &[u8] {
        set_number(&mut self.chunk, 0, self.came);
        self.came += 1;
        &self.chunk
    }

    fn check(&mut self, chunk: &[u8]) {
        assert!(chunk == self.next(), "another chunk than was asked for");
    }

    /// The same. Of a payload that may be in memory of others, bytes are copied to be looked at: few
    /// at a time, so that they stay in the cache.
    fn check_reply(&mut self, chunk: &Reply) {
        let payload = chunk.payload();
        self.next();
        assert_eq!(payload.len(), self.chunk.len());
        for (at, expected) in self.chunk.chunks(PIECE).enumerate() {
            let piece = &mut self.piece[..expected.len()];
            payload.read_at(at * PIECE, piece).unwrap();
            assert!(piece == expected, "another chunk than was asked for");
        }
    }
}

/// Measures all ways, and prints a row for each piece of work.
pub async fn run(place: &str, at: Addresses, certificates: Option<&Path>, plan: &Plan) {
    let tls = certificates.map(|directory| files(directory, "client"));
    let mut clients = [
        Client::Socket(socket::Client::connect(at.socket, tls.as_ref()).await),
        Client::Tonic(rival::Client::connect(at.tonic, tls.as_ref()).await),
        Client::gateway(IN_PROCESS, at, certificates).await,
        Client::gateway(WORKER, at, certificates).await,
    ];
    let place = format!("{place}, {}", if tls.is_some() { "TLS" } else { "plain" });
    for work in plan.works() {
        let mut figures = Figures::default();
        // The first round warms up.
        for round in 0..=plan.rounds {
            let mut took = [0.0; 4];
            let mut order = [0, 1, 2, 3];
            // The last of one round is the first of the next.
            if round % 2 == 1 {
                order.reverse();
            }
            for way in order {
                let client = &mut clients[way];
                let each = match work {
                    Work::Calls { len, count } => client.calls(len, count).await,
                    Work::Stream { len, count } => client.stream(len, count).await,
                };
                took[way] = each.as_secs_f64();
            }
            if round > 0 {
                figures.push(took);
            }
        }
        figures.print(&place, work);
    }
}
