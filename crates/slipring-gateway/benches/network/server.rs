//! All servers that are measured, in one process.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use slipring::pool::{Pool, Role};
use slipring::{Config, Spawner};
use slipring_gateway::server::Gateway;
use slipring_gateway::tls::{PemFiles, ServerTls};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use crate::echo::{AT_ONCE, InProcess, THREADS, WORKER};
use crate::rival::Settings;
use crate::{rival, socket};

/// The name in the servers' certificate.
pub const NAME: &str = "server";

/// Where the servers of one kind listen, with or without TLS.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    pub socket: SocketAddr,
    pub tonic: SocketAddr,
    /// Tonic that is set as the gateway is.
    pub alike: SocketAddr,
    pub gateway: SocketAddr,
}

impl Addresses {
    /// From what [`run`] has printed: those without TLS, and those with.
    pub fn parse(line: &str, ip: IpAddr) -> [Self; 2] {
        let ports: Vec<u16> = line.split(' ').map(|port| port.parse().unwrap()).collect();
        let address = |at: usize| SocketAddr::from((ip, ports[at]));
        [0, 4].map(|at| Self {
            socket: address(at),
            tonic: address(at + 1),
            alike: address(at + 2),
            gateway: address(at + 3),
        })
    }
}

/// The files of one side, as [`slipring_gateway::tls::MakeCerts`] names them.
pub fn files(directory: &Path, side: &str) -> PemFiles {
    PemFiles {
        chain: directory.join(format!("{side}.pem")),
        key: directory.join(format!("{side}-key.pem")),
        authorities: directory.join("ca.pem"),
    }
}

/// The role of a worker as it is by default.
const ONE_PLACE: (&str, usize, usize) = (WORKER, 1, 1);

/// A pool with one worker for each role: how many requests it serves at the same time, and how many more
/// lie ready for it.
fn pool<const N: usize>(roles: [(&str, usize, usize); N]) -> Pool {
    let config = Config::builder().max_message(64 << 20).build().unwrap();
    let mut pool = Pool::builder();
    for (name, at_once, ready) in roles {
        let config = config.clone();
        let recipe = move |_: &_| {
            Ok(Spawner::current_exe()?.config(config.clone()).env(AT_ONCE, at_once.to_string()))
        };
        let role = Role::new(recipe).min_idle(1).max_size(1).on_tokio(Handle::current());
        pool = pool.role(name, role.concurrency(at_once).prefetch(ready));
    }
    pool.build().unwrap()
}

/// Serves until the standard input ends.
pub async fn run(ip: IpAddr, certificates: &Path) {
    let pool = pool([ONE_PLACE, (THREADS, 4, 16)]);
    let [worker, threads] = [WORKER, THREADS].map(|role| pool.role(role).unwrap().to_async());
    let gateway = Gateway::builder().role(Arc::new(worker)).role(Arc::new(threads));
    let gateway = gateway.role(Arc::new(InProcess)).plain_text_anywhere().build();
    let mut ports = Vec::new();
    for tls in [None, Some(files(certificates, "server"))] {
        let mut listeners = Vec::new();
        for _ in 0..4 {
            let listener = TcpListener::bind((ip, 0)).await.unwrap();
            ports.push(listener.local_addr().unwrap().port().to_string());
            listeners.push(listener);
        }
        let [socket, tonic, alike, ours]: [_; 4] = listeners.try_into().unwrap();
        tokio::spawn(socket::serve(socket, tls.clone()));
        tokio::spawn(rival::serve(tonic, tls.clone(), Settings::Own));
        tokio::spawn(rival::serve(alike, tls.clone(), Settings::OfGateway));
        let gateway = gateway.clone();
        tokio::spawn(async move {
            match tls {
                None => gateway.serve(ours).await,
                Some(files) => {
                    gateway.serve_tls(ours, ServerTls::new(files, Vec::new()).unwrap()).await
                }
            }
        });
    }
    println!("{}", ports.join(" "));
    end(pool).await;
}

/// Serves one worker as a gateway of a fleet, until the standard input ends.
pub async fn run_one(address: SocketAddr) {
    let pool = pool([ONE_PLACE]);
    let gateway = Gateway::builder().role(Arc::new(pool.role(WORKER).unwrap().to_async()));
    let gateway = gateway.plain_text_anywhere().build();
    let listener = TcpListener::bind(address).await.unwrap();
    println!("listens");
    tokio::spawn(async move { gateway.serve(listener).await });
    end(pool).await;
}

async fn end(pool: Pool) {
    tokio::io::stdin().read_to_end(&mut Vec::new()).await.unwrap();
    tokio::task::spawn_blocking(move || pool.close(Duration::from_secs(10)).unwrap())
        .await
        .unwrap();
    std::process::exit(0);
}
