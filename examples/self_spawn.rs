//! One program that is both parent and worker, as short as possible.
//!
//!     cargo run --example self_spawn

use std::time::Duration;

use slipring::{Kind, Spawner, worker};

const SHOUT: Kind = Kind::named("shout");

fn main() -> slipring::Result<()> {
    if worker::is_worker() {
        return worker::Worker::new(|_role| Ok(()))
            .on(
                SHOUT,
                |(), request, responder| Ok(responder.send(&request.text()?.to_uppercase())?),
            )
            .serve();
    }
    let channel = Spawner::current_exe()?.role("shout").spawn()?;
    let reply = channel.call(SHOUT, "hello from another process", Duration::from_secs(5))?;
    println!("worker {} says: {}", channel.pid(), String::from_utf8_lossy(&reply.to_vec()));
    channel.close(Duration::from_secs(5))?;
    Ok(())
}
