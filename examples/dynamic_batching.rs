//! A toy model that embeds texts. A pass of it costs 1 ms, and 0.05 ms more for each text: so it
//! pays to put the texts of many callers into one pass.
//!
//!     cargo run --release --example dynamic_batching

use std::time::{Duration, Instant};

use slipring::worker::{self, Batches, RequestBatch, Worker};
use slipring::{Channel, Config, Kind, Spawner};

const TIMEOUT: Duration = Duration::from_secs(60);
const CALLERS: usize = 64;
/// How many texts passes had so far, and how many passes there were.
const PASSES: Kind = Kind::named("passes");

#[derive(Default)]
struct Model {
    passes: usize,
    texts: usize,
}

impl Model {
    /// Embeds all texts in one pass.
    fn pass(&mut self, texts: &[String]) -> Vec<Vec<u8>> {
        self.passes += 1;
        self.texts += texts.len();
        std::thread::sleep(Duration::from_micros(1000 + 50 * texts.len() as u64));
        texts.iter().map(|text| embedding(text)).collect()
    }
}

/// Three numbers that stand for a text.
fn embedding(text: &str) -> Vec<u8> {
    let letters: f32 = text.bytes().map(f32::from).sum();
    let numbers = [letters, letters.sqrt(), text.len() as f32];
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn embed(model: &mut Model, batch: &mut RequestBatch) -> Result<(), worker::HandlerError> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let texts: Vec<String> = batch.iter().map(|request| text(request.to_vec())).collect();
    let embeddings = model.pass(&texts);
    batch.reply_each(embeddings.into_iter().map(Ok));
    Ok(())
}

fn passes(model: &mut Model, batch: &mut RequestBatch) -> Result<(), worker::HandlerError> {
    let counts = format!("{} texts in {} passes", model.texts, model.passes);
    (model.texts, model.passes) = (0, 0);
    batch.reply_each(std::iter::once(Ok(counts)));
    Ok(())
}

fn serve() -> slipring::Result<()> {
    let max_batch_size =
        std::env::var("MAX_BATCH_SIZE").map_or(1, |size| size.parse().unwrap_or(1));
    let batches = Batches::new()
        .max_batch_size(max_batch_size)
        // A pass pads its texts to the longest of them.
        .max_batch_cost(64 * 1024, |request| request.len())
        // The callers of one batch send their next texts within this time.
        .max_wait(Duration::from_micros(500))
        .on(Kind::EMBED, embed)
        .on(PASSES, passes);
    Worker::new(|_role| Ok(Model::default())).batches(batches).serve()
}

/// Has all callers embed so many texts, one after the other, and returns the texts per second.
fn measure(channel: &Channel, texts: usize) -> slipring::Result<f64> {
    channel.wait_ready(TIMEOUT)?;
    let start = Instant::now();
    std::thread::scope(|scope| {
        let call = |caller| {
            (0..texts).try_for_each(|n| {
                let text = format!("text {n} of caller {caller}");
                let answer = channel.call(Kind::EMBED, &text, TIMEOUT)?;
                assert_eq!(answer.to_vec(), embedding(&text), "{text}");
                Ok(())
            })
        };
        let callers: Vec<_> = (0..CALLERS).map(|n| scope.spawn(move || call(n))).collect();
        callers.into_iter().try_for_each(|caller| match caller.join() {
            Ok(ended) => ended,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok((CALLERS * texts) as f64 / start.elapsed().as_secs_f64())
}

fn main() -> slipring::Result<()> {
    if worker::is_worker() {
        return serve();
    }
    let mut per_second = Vec::new();
    for (max_batch_size, texts) in [("1", 5), ("64", 50)] {
        let spawner = Spawner::current_exe()?.role("embed").env("MAX_BATCH_SIZE", max_batch_size);
        let channel = spawner.config(Config::default()).spawn()?;
        let speed = measure(&channel, texts)?;
        println!("batches of at most {max_batch_size}: {speed:.0} texts per second");
        let counts = channel.call(PASSES, "", TIMEOUT)?.text()?;
        println!("  {counts}");
        channel.close(TIMEOUT)?;
        per_second.push(speed);
    }
    println!("{:.1} times as many with batches", per_second[1] / per_second[0]);
    Ok(())
}
