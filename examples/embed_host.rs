//! A host that embeds batches of texts: several batches in flight, vectors read where they
//! lie in the ring, a summary at the end.
//!
//!     cargo run --release --example embed_host
//!
//! A command behind `--` is another worker, such as one in Python: `-- python worker.py`.
//!
//! The "model" is a toy, a histogram of letters; what matters is the traffic.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use slipring::payload::{ElementType, MatrixReader, MatrixShape, MatrixWriter, TextBatch, Texts};
use slipring::{Channel, Kind, Pending, Spawner, worker};

const DIM: usize = 26;
const BATCH: usize = 64;
const IN_FLIGHT: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> slipring::Result<()> {
    if worker::is_worker() {
        return embedder().serve();
    }
    let texts: Vec<&str> = include_str!("glosses.txt").lines().collect();
    let mut command = std::env::args_os().skip(1);
    let spawner = match command.next() {
        Some(program) => Spawner::program(program).args(command),
        None => Spawner::current_exe()?,
    };
    let channel = spawner.role("embed").spawn()?;
    channel.wait_ready(TIMEOUT)?;

    let start = Instant::now();
    let (mut rows, mut total) = (0, 0.0_f64);
    let mut pending = VecDeque::new();
    for batch in texts.chunks(BATCH) {
        if pending.len() == IN_FLIGHT {
            add_up(pending.pop_front(), &mut rows, &mut total)?;
        }
        pending.push_back(submit(&channel, batch)?);
    }
    while !pending.is_empty() {
        add_up(pending.pop_front(), &mut rows, &mut total)?;
    }
    let took = start.elapsed();

    let health = channel.ping(TIMEOUT)?;
    println!("{rows} texts in {took:.1?}, {:.0} a second", f64::from(rows) / took.as_secs_f64());
    println!("{} bytes there, {} back", health.bytes_received, health.bytes_sent);
    println!("letters counted: {total}");
    channel.close(TIMEOUT)?;
    Ok(())
}

fn submit(channel: &Channel, batch: &[&str]) -> slipring::Result<Pending> {
    // Encoded straight into the ring.
    channel.submit(Kind::EMBED, &TextBatch::new(batch)?, TIMEOUT)
}

fn add_up(pending: Option<Pending>, rows: &mut u32, total: &mut f64) -> slipring::Result<()> {
    let Some(pending) = pending else { return Ok(()) };
    // The reply is a lease: it lies in the ring until it is dropped, at the end of this
    // function. Rows are copied out one by one.
    let reply = pending.wait()?;
    let matrix = MatrixReader::new(&reply)?;
    let mut row = [0.0; DIM];
    for index in 0..matrix.rows() {
        matrix.copy_row(index, &mut row)?;
        *total += row.iter().map(|count| f64::from(*count)).sum::<f64>();
        *rows += 1;
    }
    Ok(())
}

/// The worker: the session is a buffer for texts, so that a warm worker allocates nothing.
fn embedder() -> worker::Worker<Texts> {
    worker::Worker::new(|_role| Ok(Texts::new())).on(Kind::EMBED, |texts, request, responder| {
        texts.decode_from(request)?;
        let shape = MatrixShape::new(texts.len(), DIM, ElementType::F32)?;
        let mut slot = responder.claim(shape.encoded_len())?;
        let mut matrix = MatrixWriter::new(slot.payload(), shape)?;
        for (index, text) in texts.iter().enumerate() {
            let row = matrix.row_f32_mut(index)?;
            row.fill(0.0);
            for byte in text.bytes().map(|b| b.to_ascii_lowercase()) {
                if let Some(count) = row.get_mut(usize::from(byte.wrapping_sub(b'a'))) {
                    *count += 1.0;
                }
            }
        }
        Ok(slot.send())
    })
}
