//! A host whose tasks call a worker and read token streams from it at the same time; one
//! stream is cancelled half-way, one call times out, and neither disturbs the others.
//!
//!     cargo run --features tokio --example async_host

use std::time::Duration;

use slipring::tasks::AsyncChannel;
use slipring::{ErrorKind, Kind, Spawner, worker};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Replies with the length of the text, after as long as a model would take.
const COUNT: Kind = Kind::named("count");

fn main() -> Result<()> {
    if worker::is_worker() {
        return Ok(serve()?);
    }
    // Any executor would do, with `AsyncChannel::spawn`; this one's own reactor reads.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(host())
}

fn serve() -> slipring::Result<()> {
    worker::Worker::new(|_role| Ok(()))
        .on(Kind::CHAT, |(), request, responder| {
            let text = request.text()?;
            let mut tokens = responder.stream();
            for token in text.split_whitespace().cycle().take(40) {
                std::thread::sleep(Duration::from_millis(1));
                request.check_cancelled()?;
                tokens.send(token)?;
            }
            Ok(tokens.end()?)
        })
        .on(COUNT, |(), request, responder| {
            let millis = u64::try_from(request.len()).unwrap_or(0).min(100);
            std::thread::sleep(Duration::from_millis(millis));
            Ok(responder.send(&request.len().to_string())?)
        })
        .serve()
}

async fn host() -> Result<()> {
    let channel = AsyncChannel::spawn_on_tokio(Spawner::current_exe()?.role("async")).await?;

    // Ten calls and two streams, all in flight together; the worker serves them in order.
    let calls = (1..=10_usize).map(|len| {
        let channel = channel.clone();
        tokio::spawn(async move { channel.call(COUNT, &"x".repeat(len), TIMEOUT).await })
    });
    let calls: Vec<_> = calls.collect();
    let whole = tokio::spawn(read(channel.clone(), "the whole story", usize::MAX));
    let half = tokio::spawn(read(channel.clone(), "half a story", 15));

    let mut sum = 0;
    for call in calls {
        let reply = call.await??;
        sum += String::from_utf8_lossy(&reply.to_vec()).parse().unwrap_or(0);
    }
    println!("ten calls: {sum} letters");
    println!("the whole stream: {} tokens", whole.await??);
    println!("the stream that was dropped: {} tokens", half.await??);

    // The channel's own deadline, which the worker knows too.
    match channel.call(COUNT, &"x".repeat(80), Duration::from_millis(20)).await {
        Err(error) if error.kind() == ErrorKind::Timeout => println!("a call: {error}"),
        other => println!("a call was faster than its timeout: {other:?}"),
    }
    // A future that `select!` drops: its request is cancelled as well.
    let slow = channel.call(COUNT, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", TIMEOUT);
    tokio::select! {
        reply = slow => println!("a call won: {reply:?}"),
        health = channel.ping(TIMEOUT) => println!("a ping won: {:?}", health?.state),
    }

    let reply = channel.call(COUNT, "as good as new", TIMEOUT).await?;
    println!("then: {} letters", String::from_utf8_lossy(&reply.to_vec()));
    println!("in flight: {}", channel.blocking().in_flight());
    println!("the worker: {}", channel.close(TIMEOUT).await?);
    Ok(())
}

/// Reads at most so many tokens, and drops the stream: that cancels what is left of it.
async fn read(channel: AsyncChannel, text: &str, most: usize) -> slipring::Result<usize> {
    let mut tokens = channel.stream(Kind::CHAT, text, TIMEOUT).await?;
    let mut count = 0;
    while count < most && tokens.next_chunk().await?.is_some() {
        count += 1;
    }
    Ok(count)
}
