//! Calls over the loopback interface: this crate, bare tonic, and a bare socket, one after another in
//! each round, with the servers in a process of their own.
//!
//! `cargo bench -p slipring-gateway --bench loopback [ROUNDS]`

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use slipring::backend::BackendRequest;
use slipring::pool::{Pool, Role};
use slipring::worker::{self, Worker};
use slipring::{Config, Kind, Spawner};
use slipring_gateway::Limits;
use slipring_gateway::client::Connection;
use slipring_gateway::proto::{Reply, Request};
use slipring_gateway::server::Gateway;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

const ECHO: Kind = Kind::named("echo");
const LONG: Duration = Duration::from_secs(60);
const LENGTHS: [usize; 3] = [64, 96 << 10, 1 << 20];
const CALLS: [usize; 3] = [400, 200, 60];
const SERVER: &str = "SLIPRING_BENCH_SERVER";

fn main() {
    if worker::is_worker() {
        let worker = Worker::new(|_| Ok(()))
            .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?));
        return worker.serve().unwrap();
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all();
    let runtime = runtime.build().unwrap();
    if std::env::var_os(SERVER).is_some() {
        return runtime.block_on(serve());
    }
    let rounds = std::env::args().filter_map(|it| it.parse().ok()).next().unwrap_or(7);
    let mut server = Command::new(std::env::current_exe().unwrap())
        .env(SERVER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let mut address = || lines.next().unwrap().unwrap().parse::<SocketAddr>().unwrap();
    let addresses = [address(), address(), address()];
    runtime.block_on(measure(addresses, rounds));
    drop(server.stdin.take());
    server.wait().unwrap();
}

async fn serve() {
    let config = Config::builder().max_message(64 << 20).build().unwrap();
    let role = Role::new(move |slot| {
        Ok(Spawner::current_exe()?.role(slot.role.as_str()).config(config.clone()))
    });
    let pool = Pool::builder().role("echo", role).build().unwrap();
    let gateway = Gateway::builder().role(Arc::new(pool.role("echo").unwrap().to_async())).build();
    let listeners = [listener().await, listener().await, listener().await];
    for listener in &listeners {
        println!("{}", listener.local_addr().unwrap());
    }
    let [ours, tonics, bare] = listeners;
    tokio::spawn(async move { gateway.serve(ours).await });
    tokio::spawn(serve_tonic(tonics));
    tokio::spawn(serve_bare(bare));
    // Until the parent ends.
    tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await.unwrap().unwrap();
    pool.close(LONG).unwrap();
    std::process::exit(0);
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

async fn serve_bare(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        tokio::spawn(async move {
            let mut bytes = Vec::new();
            while let Ok(len) = stream.read_u32().await {
                bytes.resize(len as usize, 0);
                stream.read_exact(&mut bytes).await.unwrap();
                stream.write_u32(len).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
            }
        });
    }
}

/// A service of tonic, as its generated code would be.
#[derive(Clone)]
struct Echo;

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl tonic::server::UnaryService<Request> for Echo {
    type Response = Reply;
    type Future = std::future::Ready<Result<tonic::Response<Reply>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<Request>) -> Self::Future {
        let payload = request.into_inner().payload;
        std::future::ready(Ok(tonic::Response::new(Reply { more: false, payload })))
    }
}

impl tonic::codegen::Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = tonic::codegen::BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let codec = ProstCodec::<Reply, Request>::default();
            let mut grpc = tonic::server::Grpc::new(codec);
            Ok(grpc.unary(Echo, request).await)
        })
    }
}

async fn serve_tonic(listener: TcpListener) {
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder().add_service(Echo);
    server.serve_with_incoming(incoming).await.unwrap();
}

async fn measure([ours, tonics, bare]: [SocketAddr; 3], rounds: usize) {
    let ours = Connection::connect(ours, Limits::default(), LONG).await.unwrap();
    let channel = Channel::from_shared(format!("http://{tonics}")).unwrap().tcp_nodelay(true);
    let mut tonics = tonic::client::Grpc::new(channel.connect().await.unwrap());
    let mut bare = TcpStream::connect(bare).await.unwrap();
    bare.set_nodelay(true).unwrap();
    println!("{:>9} {:>12} {:>12} {:>12} {:>7}", "bytes", "slipring", "tonic", "socket", "ratio");
    for (len, calls) in LENGTHS.into_iter().zip(CALLS) {
        let mut medians = [const { Vec::<Duration>::new() }; 3];
        let payload: Arc<[u8]> = vec![7; len].into();
        for round in 0..=rounds {
            let mut times = [const { Vec::new() }; 3];
            for _ in 0..calls {
                let began = Instant::now();
                let request = BackendRequest::new(ECHO, Arc::clone(&payload));
                let reply = ours.call("echo", request, LONG).await.unwrap();
                times[0].push(began.elapsed());
                assert_eq!(reply.len(), len);
            }
            for _ in 0..calls {
                let began = Instant::now();
                let payload = bytes::Bytes::from_owner(Arc::clone(&payload));
                let request = Request { role: "echo".into(), payload, ..Request::default() };
                tonics.ready().await.unwrap();
                let path = http::uri::PathAndQuery::from_static("/bench.Echo/Echo");
                let codec = ProstCodec::<Request, Reply>::default();
                let reply = tonics.unary(tonic::Request::new(request), path, codec).await.unwrap();
                times[1].push(began.elapsed());
                assert_eq!(reply.into_inner().payload.len(), len);
            }
            let mut echoed = vec![0; len];
            for _ in 0..calls {
                let began = Instant::now();
                bare.write_u32(len as u32).await.unwrap();
                bare.write_all(&payload).await.unwrap();
                assert_eq!(bare.read_u32().await.unwrap() as usize, len);
                bare.read_exact(&mut echoed).await.unwrap();
                times[2].push(began.elapsed());
            }
            // The first round warms up.
            for (medians, mut times) in medians.iter_mut().zip(times).filter(|_| round > 0) {
                times.sort_unstable();
                medians.push(times[times.len() / 2]);
            }
        }
        let [ours, tonics, bare] = medians.map(|mut medians| {
            medians.sort_unstable();
            medians[medians.len() / 2].as_secs_f64() * 1e6
        });
        let ratio = ours / tonics;
        println!("{len:>9} {ours:>9.1} µs {tonics:>9.1} µs {bare:>9.1} µs {ratio:>7.2}");
    }
    std::io::stdout().flush().unwrap();
}
