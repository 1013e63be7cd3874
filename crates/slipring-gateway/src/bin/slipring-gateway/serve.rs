//! From the first worker that is ready to the last request that is answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use slipring_gateway::Limits;
use slipring_gateway::server::Gateway;
use slipring_gateway::tls::ServerTls;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::args::Options;
use crate::certificates;
use crate::error::{Failure, print, say};
use crate::metrics;
use crate::signals::{Ending, Signals};
use crate::workers::Workers;

/// How many connections the system keeps that were not accepted yet.
const BACKLOG: u32 = 1024;
/// How long workers may take to end once nothing is asked of them.
const LONGEST_CLOSE: Duration = Duration::from_secs(5);

type Served = JoinSet<std::io::Result<()>>;

pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let tls = certificates::of(&options)?;
    let sockets = options.listen.iter().map(|address| bind(*address, "--listen"));
    let sockets = sockets.collect::<Result<Vec<_>, _>>()?;
    let page = options.metrics.map(|address| listen(bind(address, "--metrics")?, "--metrics"));
    let page = page.transpose()?;
    let mut workers = Workers::start(&options)?;
    let gateway = gateway(&options, &workers)?;
    if let Some((address, listener)) = page {
        tokio::spawn(metrics::serve(listener, metrics::registry(&gateway, &workers.pool)));
        say(format_args!("metrics at http://{address}/metrics"));
    }
    // Until then connections are refused, so that callers use other gateways.
    let is_told = tokio::select! {
        ready = workers.ready() => { ready?; false }
        _ = signals.next() => true,
    };
    if is_told {
        return close(workers, &mut signals).await;
    }
    let mut served = Served::new();
    if let Some(tls) = &tls {
        tokio::spawn(certificates::tell(tls.clone()));
    }
    for socket in sockets {
        let (address, listener) = listen(socket, "--listen")?;
        serve(&mut served, &gateway, listener, tls.clone());
        print(&format!("listening on {address}\n"));
    }
    let ending = tokio::select! {
        ending = signals.next() => ending,
        ended = served.join_next() => return Err(why_ended(ended)),
        () = workers.tell() => return Err(Failure::other("the pool has ended")),
    };
    drain(&options, &gateway, served, ending, &mut signals, &mut workers).await?;
    close(workers, &mut signals).await
}

/// Takes the address that this option has given.
fn bind(address: SocketAddr, option: &str) -> Result<TcpSocket, Failure> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let bound = socket.and_then(|socket| {
        // A gateway that starts again takes the port at once.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    });
    bound.map_err(|e| cannot_listen(option, Some(address), &e))
}

fn listen(socket: TcpSocket, option: &str) -> Result<(SocketAddr, TcpListener), Failure> {
    let address = socket.local_addr().map_err(|e| cannot_listen(option, None, &e))?;
    // Another program may have bound it at the same time: only one of both can listen.
    let listener = socket.listen(BACKLOG).map_err(|e| cannot_listen(option, Some(address), &e))?;
    Ok((address, listener))
}

fn cannot_listen(option: &str, address: Option<SocketAddr>, error: &std::io::Error) -> Failure {
    let what = match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another program listens there: end it, or give another port"
        }
        std::io::ErrorKind::AddrNotAvailable => "this machine has no such address: see ip address",
        _ => &format!("cannot listen: {error}"),
    };
    let address = address.map(|address| format!(" {address}")).unwrap_or_default();
    Failure::other(format!("{option}{address}: {what}"))
}

fn gateway(options: &Options, workers: &Workers) -> Result<Gateway, Failure> {
    let role = workers.pool.role(&options.role).map_err(|e| Failure::other(e.to_string()))?;
    let mut limits = Limits::default();
    limits.max_message = options.max_message;
    limits.unread_timeout = options.unread_timeout;
    let mut builder = Gateway::builder()
        .role(Arc::new(role.to_async()))
        .limits(limits)
        .max_connections(options.max_connections)
        .max_buffered(options.max_buffered, options.max_buffered_per_connection);
    if options.plain_text_anywhere {
        builder = builder.plain_text_anywhere();
    }
    Ok(builder.build())
}

fn serve(served: &mut Served, gateway: &Gateway, listener: TcpListener, tls: Option<ServerTls>) {
    let gateway = gateway.clone();
    served.spawn(async move {
        match tls {
            Some(tls) => gateway.serve_tls(listener, tls).await,
            None => gateway.serve(listener).await,
        }
    });
}

fn why_ended(ended: Option<Result<std::io::Result<()>, tokio::task::JoinError>>) -> Failure {
    match ended {
        Some(Ok(Err(error))) => cannot_listen("--listen", None, &error),
        Some(Err(error)) => Failure::other(error.to_string()),
        _ => Failure::other("the gateway has ended"),
    }
}

/// Refuses new requests, and waits for those that there are.
async fn drain(
    options: &Options,
    gateway: &Gateway,
    mut served: Served,
    ending: Ending,
    signals: &mut Signals,
    workers: &mut Workers,
) -> Result<(), Failure> {
    gateway.drain();
    let left = gateway.in_flight();
    if left > 0 {
        say(format_args!("{}: finishing requests: {left}", ending.name));
    }
    let over = async { while served.join_next().await.is_some() {} };
    let drained = tokio::select! {
        drained = timeout(options.drain_timeout, over) => drained.is_ok(),
        () = workers.tell() => true,
        ending = signals.next() => return Err(at_once(ending, gateway.in_flight())),
    };
    match drained {
        true => Ok(()),
        false => Err(Failure::other(format!(
            "requests that were not finished within the --drain-timeout: {}",
            gateway.in_flight()
        ))),
    }
}

fn at_once(ending: Ending, left: usize) -> Failure {
    let message = format!("a second {}: requests that were not finished: {left}", ending.name);
    Failure::signal(ending.number, message)
}

/// Ends the workers.
async fn close(workers: Workers, signals: &mut Signals) -> Result<(), Failure> {
    let Workers { pool, .. } = workers;
    let closed = tokio::task::spawn_blocking(move || pool.close(LONGEST_CLOSE));
    tokio::select! {
        closed = closed => match closed {
            Ok(Err(error)) => Err(Failure::other(error.to_string())),
            _ => Ok(()),
        },
        ending = signals.next() => Err(at_once(ending, 0)),
    }
}
