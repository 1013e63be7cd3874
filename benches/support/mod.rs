//! The worker's side of the benches, and data that both sides can check.
//!
//! A bench binary is its own worker: it starts itself again, and `serve_if_worker` then serves
//! instead of measuring.
#![allow(dead_code, reason = "every bench uses a part of this")]
#![allow(unreachable_pub, missing_docs, reason = "a module of benches")]

use std::time::Duration;

use slipring::payload::{Matrix, MatrixReader, MatrixShape, MatrixWriter, Texts};
use slipring::ring::Header;
use slipring::worker::{Worker, attach_raw, is_worker};
use slipring::{Config, Kind, PeerBytes, RawLink, Spawner};

pub const LONG: Duration = Duration::from_secs(60);
pub const ECHO: Kind = Kind::named("echo");
pub const CHUNKS: Kind = Kind::named("chunks");
pub const DIM: usize = 384;

/// The kinds of a frame of data, and of a frame that asks for the sum of all data so far.
pub const DATA: u16 = 1;
pub const ASK: u16 = 2;

pub fn spawner(mode: &str) -> Spawner {
    let spawner = Spawner::current_exe().unwrap().role("bench");
    if mode.is_empty() { spawner } else { spawner.mode(mode) }
}

pub fn raw(mode: &str, config: Config) -> RawLink {
    spawner(mode).arg("raw").config(config).spawn_raw().unwrap()
}

/// Returns the sum of the bytes as little-endian words. Bytes behind the last word count as bytes.
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    rest.iter().fold(words, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

/// Returns the sum of a payload without copying it.
pub fn sum_in_place(payload: PeerBytes<'_>) -> u64 {
    #[allow(unsafe_code, reason = "the bench reads in place, as a cooperating host may")]
    // SAFETY: the peer is this very program; it does not write to slots that it has
    // published before they are released.
    let bytes = unsafe { payload.as_slice() };
    sum(bytes)
}

pub fn data(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

pub fn header(kind: u16) -> Header {
    Header { kind, ..Header::default() }
}

/// Returns a criterion that measures for two seconds, unless the command line says otherwise.
pub fn criterion() -> criterion::Criterion {
    criterion::Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args()
}

pub fn serve_if_worker() -> bool {
    if !is_worker() {
        return false;
    }
    // A raw loop attaches in another way than handlers do.
    if std::env::args().any(|arg| arg == "raw") {
        let (mut link, role) = attach_raw().unwrap();
        // Ends when the parent closes the link.
        let _ = match role.mode.as_deref() {
            Some("echo") => echo(&mut link),
            _ => sink(&mut link),
        };
    } else {
        channel_worker();
    }
    true
}

fn echo(link: &mut RawLink) -> slipring::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let frame = link.recv(Duration::MAX)?;
        let len = frame.payload().len();
        buffer.resize(len, 0);
        frame.payload().copy_to(&mut buffer)?;
        drop(frame);
        let mut claim = link.claim(len, LONG)?;
        claim.payload().copy_from_slice(&buffer);
        claim.commit(header(DATA));
    }
}

fn sink(link: &mut RawLink) -> slipring::Result<()> {
    let (mut frames, mut total) = (0_u64, 0_u64);
    loop {
        let frame = link.recv(Duration::MAX)?;
        if frame.header().kind == DATA {
            frames += 1;
            total = total.wrapping_add(sum_in_place(frame.payload()));
            continue;
        }
        drop(frame);
        let mut claim = link.claim(16, LONG)?;
        claim.payload()[..8].copy_from_slice(&frames.to_le_bytes());
        claim.payload()[8..].copy_from_slice(&total.to_le_bytes());
        claim.commit(header(ASK));
        (frames, total) = (0, 0);
    }
}

/// Returns the value at a place of a matrix, by which the other side checks it.
pub fn value(row: usize, col: usize, text: usize) -> f32 {
    (row * 7 + col * 3 + text) as f32
}

fn channel_worker() {
    let worker = Worker::new(|_| Ok(Texts::new()))
        .on(ECHO, |_, request, responder| {
            let mut slot = responder.claim(request.len())?;
            request.payload().copy_to(slot.payload())?;
            Ok(slot.send())
        })
        .on(Kind::EMBED, |texts, request, responder| {
            texts.decode_from(request)?;
            let shape = MatrixShape::new(texts.len(), DIM, slipring::payload::ElementType::F32)?;
            let mut slot = responder.claim(shape.encoded_len())?;
            let mut matrix = MatrixWriter::new(slot.payload(), shape)?;
            for (row, text) in texts.iter().enumerate() {
                let out = matrix.row_f32_mut(row)?;
                for (col, out) in out.iter_mut().enumerate() {
                    *out = value(row, col, text.len());
                }
            }
            Ok(slot.send())
        })
        .on(CHUNKS, |_, request, responder| {
            let mut numbers = [0; 16];
            request.payload().read_at(0, &mut numbers)?;
            let (count, rows) = numbers.split_at(8);
            let count = u64::from_le_bytes(count.try_into()?);
            let rows = u64::from_le_bytes(rows.try_into()?) as usize;
            let values: Vec<f32> = (0..rows * DIM).map(|i| value(0, i, 0)).collect();
            let matrix = Matrix::f32(rows, DIM, &values)?;
            let mut chunks = responder.stream();
            for _ in 0..count {
                chunks.send(&matrix)?;
            }
            Ok(chunks.end()?)
        });
    worker.serve().unwrap();
}

pub fn check_matrix(reader: &MatrixReader<&slipring::Reply>, lens: &[usize], out: &mut Vec<f32>) {
    reader.copy_to_vec(out).unwrap();
    for (row, len) in lens.iter().enumerate() {
        assert_eq!(out[row * DIM + 5], value(row, 5, *len));
    }
}

/// Binds the calling thread to a processor, if that is allowed.
#[allow(dead_code, reason = "not every bench binds")]
pub fn bind_thread(processor: usize) {
    // SAFETY: a set of processors is a plain set of bits.
    #[allow(unsafe_code, reason = "cpu_set_t")]
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: a live set, and the number of a processor that it has room for.
    #[allow(unsafe_code, reason = "CPU_SET")]
    unsafe {
        libc::CPU_SET(processor, &mut set)
    };
    // SAFETY: reads a live set.
    #[allow(unsafe_code, reason = "sched_setaffinity")]
    let _ = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
}
