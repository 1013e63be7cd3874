//! A gateway with workers.

use std::sync::Arc;
use std::time::Duration;

use slipring::Spawner;
use slipring::pool::{Pool, Role};
use slipring_gateway::server::Gateway;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

pub const ROLE: &str = "counter";
pub const WORKERS: usize = 4;

/// Serves until its standard input ends, or until it is told to end and has.
pub fn run(host: &str, address: &str) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    // Not ended before the process: it would wait for the read of the standard input.
    let runtime = runtime.unwrap();
    let recipe = |_: &_| Spawner::current_exe();
    let role = Role::new(recipe).min_idle(WORKERS).max_size(WORKERS);
    let pool = Pool::builder().role(ROLE, role).build().unwrap();
    runtime.block_on(async {
        let backend = pool.role(ROLE).unwrap().to_async();
        let gateway = Gateway::builder().host(host).role(Arc::new(backend)).plain_text_anywhere();
        let gateway = gateway.build();
        let listener = TcpListener::bind(address).await.unwrap();
        let mut term = signal(SignalKind::terminate()).unwrap();
        let drain = {
            let gateway = gateway.clone();
            async move {
                term.recv().await;
                gateway.drain();
                std::future::pending::<()>().await;
            }
        };
        println!("listens");
        let mut ignored = Vec::new();
        let mut input = tokio::io::stdin();
        tokio::select! {
            served = gateway.serve(listener) => served.unwrap(),
            () = drain => {}
            _ = input.read_to_end(&mut ignored) => {}
        }
    });
    pool.close(Duration::from_secs(10)).unwrap();
    std::process::exit(0);
}
