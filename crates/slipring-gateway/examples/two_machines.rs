//! A host whose pool has one worker of its own and those of other machines: it uses them when its own
//! is busy. The same program is the worker of both.
//!
//! In one terminal, or on another machine, a gateway with two workers:
//!
//!     cargo build -p slipring-gateway --bins --examples
//!     target/debug/slipring-gateway --role shout --workers 2 -- target/debug/examples/two_machines
//!
//! In another one, the host:
//!
//!     target/debug/examples/two_machines 127.0.0.1:7411
//!
//! With `--certs DIR` before the address it speaks mutual TLS, by the files `client.pem`, `client-key.pem`
//! and `ca.pem` of that directory, as `slipring-gateway --make-certs` writes them.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use slipring::backend::Backend;
use slipring::pool::{Pool, Role};
use slipring::{Kind, Spawner, worker};
use slipring_gateway::tls::{ClientTls, IdentityError, PemFiles};
use slipring_gateway::{Discovery, GatewayState, RemoteRole};

const SHOUT: Kind = Kind::named("shout");
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long no gateway may take requests.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("two_machines: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    if worker::is_worker() {
        return Ok(serve()?);
    }
    let mut gateways: Vec<_> = std::env::args().skip(1).collect();
    let certs = match &gateways[..] {
        [option, directory, ..] if option == "--certs" => Some(client_tls(Path::new(directory))?),
        _ => None,
    };
    gateways.drain(..if certs.is_some() { 2 } else { 0 });
    if gateways.is_empty() {
        return Err("give the address of a gateway at least, such as 127.0.0.1:7411".into());
    }
    // Connections to gateways have tasks on this runtime. The host itself need not be async.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut elsewhere = RemoteRole::builder("shout", Discovery::list(gateways));
    if let Some(tls) = certs {
        elsewhere = elsewhere.tls(tls);
    }
    let elsewhere = elsewhere.runtime(runtime.handle().clone()).build()?;

    let here = Role::new(|slot| Ok(Spawner::current_exe()?.role(slot.role.as_str())));
    let role = here.overflow(Arc::new(elsewhere.clone()));
    let pool = Pool::builder().role("shout", role).build()?;
    runtime.block_on(wait_for_gateways(&elsewhere))?;

    // Twelve threads call the role, and need not know where its workers are.
    let shout = pool.role("shout")?;
    let callers = (0..12).map(|number| {
        let shout = shout.clone();
        std::thread::spawn(move || shout.call(SHOUT, &format!("hello {number}"), TIMEOUT)?.text())
    });
    let mut served = BTreeMap::new();
    for caller in callers.collect::<Vec<_>>() {
        let reply = caller.join().map_err(|_| "a thread has panicked")??;
        let (worker, text) = reply.split_once(": ").ok_or("not a reply")?;
        println!("{text} (worker {worker})");
        *served.entry(worker.to_owned()).or_insert(0) += 1;
    }
    println!("{} workers have served {} requests", served.len(), served.values().sum::<i32>());
    pool.close(TIMEOUT)?;
    Ok(())
}

/// The certificates of a caller.
fn client_tls(directory: &Path) -> Result<ClientTls, IdentityError> {
    ClientTls::new(PemFiles {
        chain: directory.join("client.pem"),
        key: directory.join("client-key.pem"),
        authorities: directory.join("ca.pem"),
    })
}

/// Replies after as long as a small model would take.
fn serve() -> slipring::Result<()> {
    worker::Worker::new(|_role| Ok(std::process::id()))
        .on(SHOUT, |pid, request, responder| {
            let text = request.text()?.to_uppercase();
            sleep(Duration::from_millis(100));
            Ok(responder.send(&format!("{pid}: {text}"))?)
        })
        .serve()
}

/// Waits until a gateway takes requests, so that this short program shows it. A service need not wait:
/// its own workers serve meanwhile.
async fn wait_for_gateways(role: &RemoteRole) -> slipring::Result<()> {
    let begun = Instant::now();
    while !role.gateways().iter().any(|gateway| gateway.state == GatewayState::Ready) {
        if begun.elapsed() > LONGEST_WAIT {
            // Without a connection its error says why there is none.
            role.ping(TIMEOUT).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
