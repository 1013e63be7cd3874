//! A program with a protocol of its own: the rings as they are, without requests and replies.
//! The parent sends samples in batches, the worker adds them up and answers with the sum.
//!
//!     cargo run --release --example raw_link

use std::time::{Duration, Instant};

use slipring::ring::Header;
use slipring::{RawLink, Spawner, worker};

const TIMEOUT: Duration = Duration::from_secs(10);
const SAMPLES: u64 = 100_000;
/// Frames that are published together.
const BATCH: usize = 32;

/// The protocol: what the field `kind` of a frame's header means. The rings do not look at it.
const SAMPLE: u16 = 1;
const END: u16 = 2;
const SUM: u16 = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if worker::is_worker() {
        return add_up();
    }
    let mut link = Spawner::current_exe()?.role("sum").spawn_raw()?;
    link.prefault();

    let start = Instant::now();
    let (mut sent, mut batches) = (0, 0);
    while sent < SAMPLES {
        // One claim, one publication and at most one wake-up for all frames of a batch. Near
        // the end of the ring a batch has fewer frames than were asked for.
        let most = BATCH.min(usize::try_from(SAMPLES - sent)?);
        let mut batch = link.claim_batch(8, most, TIMEOUT)?;
        for index in 0..batch.len() {
            batch.payload(index).copy_from_slice(&sent.to_le_bytes());
            sent += 1;
        }
        batch.commit_lazily(|_| Header { kind: SAMPLE, ..Header::default() });
        batches += 1;
    }
    let end = link.claim(0, TIMEOUT)?;
    end.commit(Header { kind: END, ..Header::default() });

    let answer = link.recv(TIMEOUT)?;
    let header = answer.header();
    drop(answer); // gives its slot back to the worker
    println!("{sent} samples in {batches} batches, {:.1?}", start.elapsed());
    println!("kind {}: the sum is {}", header.kind, header.aux);
    link.close(TIMEOUT)?;
    Ok(())
}

/// The worker. Its operations fail with `Closed` when the parent closes the link or ends.
fn add_up() -> Result<(), Box<dyn std::error::Error>> {
    let (mut link, _role) = worker::attach_raw()?;
    loop {
        let (mut sum, mut has_ended) = (0_u64, false);
        while !has_ended {
            // Waits for a frame, and then takes those that lie behind it as well.
            let taken = link.drain(BATCH, Duration::MAX, |header, payload| {
                let mut sample = [0; 8];
                match header.kind {
                    END => has_ended = true,
                    _ if payload.copy_to(&mut sample).is_ok() => sum += u64::from_le_bytes(sample),
                    _ => {}
                }
            });
            match taken {
                Ok(_) => {}
                Err(error) if error.is_closed() => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        answer(&mut link, sum)?;
    }
}

fn answer(link: &mut RawLink, sum: u64) -> Result<(), Box<dyn std::error::Error>> {
    // A header has 64 bits of the program's own: this frame needs no payload.
    let claim = link.claim(0, TIMEOUT)?;
    claim.commit(Header { kind: SUM, aux: sum, ..Header::default() });
    Ok(())
}
