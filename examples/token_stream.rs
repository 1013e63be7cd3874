//! A chat-like worker that streams tokens, and a host that cancels it half-way.
//!
//!     cargo run --example token_stream

use std::time::Duration;

use slipring::{Kind, Spawner, worker};

const TIMEOUT: Duration = Duration::from_secs(10);
const STORY: &str = "a slip ring carries signals between a part that stands still and a part \
                     that turns and turns and turns and turns and turns and turns";

fn main() -> slipring::Result<()> {
    if worker::is_worker() {
        return worker::Worker::new(|_role| Ok(()))
            .on(Kind::CHAT, |(), request, responder| {
                let mut tokens = responder.stream();
                for token in STORY.split_whitespace() {
                    // A real model would compute here, and look at this as often as it can.
                    std::thread::sleep(Duration::from_millis(5));
                    request.check_cancelled()?;
                    tokens.send(token)?;
                }
                Ok(tokens.end()?)
            })
            .serve();
    }
    let channel = Spawner::current_exe()?.role("chat").spawn()?;

    print!("whole:");
    for token in channel.stream(Kind::CHAT, "tell me a story", TIMEOUT)? {
        print!(" {}", String::from_utf8_lossy(&token?.to_vec()));
    }

    print!("\ncancelled after five:");
    let mut tokens = channel.stream(Kind::CHAT, "tell me a story", TIMEOUT)?;
    for token in tokens.by_ref().take(5) {
        print!(" {}", String::from_utf8_lossy(&token?.to_vec()));
    }
    tokens.cancel();
    // Tokens that were on their way still come, then the stream says that it was cancelled.
    let rest: Vec<_> = tokens.collect();
    match rest.last() {
        Some(Err(error)) if error.is_cancelled() => println!("\nthe stream: {error}"),
        other => println!("\nthe stream was faster than the cancel: {other:?}"),
    }

    // The channel is as good as new.
    let tokens = channel.stream(Kind::CHAT, "again", TIMEOUT)?.count();
    println!("{tokens} tokens in the next stream");
    channel.close(TIMEOUT)?;
    Ok(())
}
