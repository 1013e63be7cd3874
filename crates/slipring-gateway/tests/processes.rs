//! Worker processes behind a gateway: their deaths. The program is its own worker, so that it has
//! its own `main` in place of the test harness.

use std::sync::Arc;
use std::time::Duration;

use slipring::backend::BackendRequest;
use slipring::pool::{Pool, Role};
use slipring::worker::{self, Worker};
use slipring::{ErrorKind, ExitCause, Kind, Spawner};
use slipring_gateway::Limits;
use slipring_gateway::client::Connection;
use slipring_gateway::server::Gateway;
use tokio::net::TcpListener;

const ECHO: Kind = Kind::named("echo");
const CRASH: Kind = Kind::named("crash");
const LONG: Duration = Duration::from_secs(60);

fn main() {
    if worker::is_worker() {
        let worker = Worker::new(|_| Ok(()))
            .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?))
            .on(CRASH, |(), _, _| {
                eprintln!("out of luck");
                std::process::abort()
            });
        return worker.serve().unwrap();
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all();
    runtime.build().unwrap().block_on(a_death_arrives_whole());
    println!("a_death_arrives_whole ... ok");
}

async fn a_death_arrives_whole() {
    let logs = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("gateway-logs-{}", std::process::id()));
    let role = Role::new({
        let logs = logs.clone();
        move |slot| Ok(Spawner::current_exe()?.role(slot.role.as_str()).log_dir(&logs))
    });
    let pool = Pool::builder().role("echo", role).build().unwrap();
    let gateway = Gateway::builder().host("gpu-1");
    let gateway = gateway.role(Arc::new(pool.role("echo").unwrap().to_async())).build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move { gateway.serve(listener).await });
    let connection = Connection::connect(address, Limits::default(), LONG).await.unwrap();

    let request = BackendRequest::new(CRASH, "");
    let error = connection.call("echo", request, LONG).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::PeerDied, Some(true)), "{error}");
    let death = error.death().unwrap();
    assert_eq!((death.role(), death.host()), ("echo", Some("gpu-1")));
    assert_eq!(death.cause(), Some(ExitCause::Signaled(6)));
    assert!(death.log_tail().unwrap().contains("out of luck"), "{death:#}");
    assert!(death.log_path().unwrap().starts_with(&logs));
    assert_eq!(death.begun_requests(), [death.request().unwrap()]);
    assert_eq!(death.begun_alone(), Some(true));
    // The pool starts another one.
    let reply = connection.call("echo", BackendRequest::new(ECHO, "hello"), LONG).await.unwrap();
    assert_eq!(reply.to_vec(), b"hello");

    served.abort();
    pool.close(LONG).unwrap();
    std::fs::remove_dir_all(logs).unwrap();
}
