//! A gateway over a pool of worker threads, and a connection to it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use slipring::pool::{Pool, Role};
use slipring::worker::Worker;
use slipring::{Config, Kind, RoleConfig, testing};
use slipring_gateway::Limits;
use slipring_gateway::client::Connection;
use slipring_gateway::server::{Gateway, GatewayBuilder};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Answers with its payload.
pub const ECHO: Kind = Kind::named("echo");
/// Streams chunks of the payload until it is cancelled.
pub const FLOOD: Kind = Kind::named("flood");
/// Streams the payload in chunks of 1,000 bytes.
pub const CHUNKS: Kind = Kind::named("chunks");
/// Streams chunks that begin with the payload: of 0, 1, 2 ... bytes, up to all of it, and then of all.
pub const STAIRS: Kind = Kind::named("stairs");
/// How many chunks of all its payload follow.
pub const LANDING: usize = 5_000;
/// Waits until it is cancelled.
pub const HANG: Kind = Kind::named("hang");
/// Fails.
pub const FAIL: Kind = Kind::named("fail");

/// Passes only if something hangs.
pub const LONG: Duration = Duration::from_secs(60);

/// What the worker threads tell.
#[derive(Debug, Default)]
pub struct Told {
    pub chunks_sent: AtomicU64,
    pub hangs_begun: AtomicU64,
    pub was_cancelled: AtomicBool,
}

pub struct Rig {
    pub gateway: Gateway,
    pub address: SocketAddr,
    pub told: Arc<Told>,
    pub served: JoinHandle<std::io::Result<()>>,
    pub calm: Calm,
    _pool: Pool,
}

impl Rig {
    /// Starts a gateway that serves the roles `echo`, with two workers, and `other`, with one.
    pub async fn start(describe: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> Self {
        let told = Arc::<Told>::default();
        let builder =
            Pool::builder().role("echo", role(&told).max_size(2)).role("other", role(&told));
        let pool = builder.build().unwrap();
        let mut gateway = Gateway::builder().host("here");
        for name in ["echo", "other"] {
            gateway = gateway.role(Arc::new(pool.role(name).unwrap().to_async()));
        }
        let gateway = describe(gateway).build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn({
            let gateway = gateway.clone();
            async move { gateway.serve(listener).await }
        });
        let calm = Calm { gateway: gateway.clone(), is_flooded: false };
        Self { gateway, address, told, served, calm, _pool: pool }
    }

    pub async fn connect(&self) -> Connection {
        Connection::connect(self.address, Limits::default(), LONG).await.unwrap()
    }
}

/// Fails if connections were slowed down at the end of a test, and none floods; or the other way round.
pub struct Calm {
    gateway: Gateway,
    pub is_flooded: bool,
}

impl Drop for Calm {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.gateway.metrics().paced_connections > 0, self.is_flooded);
        }
    }
}

/// A file with addresses of gateways.
pub struct Addresses(pub PathBuf);

impl Addresses {
    pub fn new(name: &str, gateways: &[&Rig]) -> Self {
        let name = format!("slipring-gateways-{name}-{}", std::process::id());
        let addresses = Self(std::env::temp_dir().join(name));
        addresses.set(gateways);
        addresses
    }

    pub fn set(&self, gateways: &[&Rig]) {
        let lines: Vec<_> = gateways.iter().map(|rig| rig.address.to_string()).collect();
        self.set_lines(&lines);
    }

    pub fn set_lines(&self, lines: &[String]) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, lines.join("\n")).unwrap();
        std::fs::rename(&new, &self.0).unwrap();
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.0);
    }
}

/// A role whose workers are threads of this process.
pub fn role(told: &Arc<Told>) -> Role {
    let told = Arc::clone(told);
    let config = Config::builder().max_message(256 << 20).build().unwrap();
    Role::with_channels(move |_| {
        let told = Arc::clone(&told);
        testing::spawn_thread(&config, RoleConfig::default(), move || worker(told))
    })
}

/// Waits until something is so.
pub async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("it never is so");
}

fn worker(told: Arc<Told>) -> Worker<Arc<Told>> {
    Worker::new(move |_| Ok(told))
        .on(ECHO, |_, request, responder| Ok(responder.send(&request.to_vec())?))
        .on(FLOOD, |told, request, responder| {
            let (chunk, mut stream) = (request.to_vec(), responder.stream());
            loop {
                if let Err(error) = stream.send(&chunk) {
                    told.was_cancelled.store(true, Ordering::SeqCst);
                    return Err(error.into());
                }
                told.chunks_sent.fetch_add(1, Ordering::SeqCst);
            }
        })
        .on(CHUNKS, |_, request, responder| {
            let mut stream = responder.stream();
            for chunk in request.to_vec().chunks(1_000) {
                stream.send(chunk)?;
            }
            Ok(stream.end()?)
        })
        .on(STAIRS, |_, request, responder| {
            let (payload, mut stream) = (request.to_vec(), responder.stream());
            for len in (0..payload.len()).chain(std::iter::repeat_n(payload.len(), LANDING)) {
                stream.send(&payload[..len])?;
            }
            Ok(stream.end()?)
        })
        .on(HANG, |told, request, _| {
            told.hangs_begun.fetch_add(1, Ordering::SeqCst);
            loop {
                if let Err(error) = request.check_cancelled() {
                    told.was_cancelled.store(true, Ordering::SeqCst);
                    return Err(error.into());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        })
        .on(FAIL, |_, _, _| Err(std::io::Error::other("out of luck").into()))
}
