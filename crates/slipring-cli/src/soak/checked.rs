//! Frames that can be checked, and the worker that checks and answers them.
//!
//! ```text
//!   0  u64  sender: the driver
//!   8  u64  number: of the driver's request, or of the stream's chunk
//!  16  u64  checksum of everything else
//!  24  …    bytes that follow from sender and number
//! ```

use std::collections::HashMap;
use std::process::ExitCode;

use slipring::Kind;
use slipring::worker::{HandlerError, Worker};

use crate::error::say;

/// The argument that makes this program a worker of `soak`.
pub(super) const WORKER: &str = "soak-worker";
/// Answered with a frame of the same sender and number, of another content.
pub(super) const CALL: Kind = Kind::named("soak call");
/// Answered with as many chunks as the eight bytes after the header say.
pub(super) const STREAM: Kind = Kind::named("soak stream");

const HEADER: usize = 24;
/// Distinguishes the content of replies and chunks from that of requests.
pub(super) const REPLY: u64 = 1 << 63;

/// An error of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Torn,
    /// The frame of another sender.
    Foreign,
    /// Another frame of the same sender, with this number.
    Number(u64),
}

/// Makes a frame of `len` bytes, at least the length of a header.
pub(super) fn frame(sender: u64, number: u64, len: usize) -> Vec<u8> {
    let mut bytes = [sender, number, 0].map(u64::to_le_bytes).concat();
    let mut state = mix(sender ^ number.rotate_left(32));
    while bytes.len() < len {
        state = mix(state);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len.max(HEADER));
    let sum = checksum(&bytes).to_le_bytes();
    if let Some(place) = bytes.get_mut(16..24) {
        place.copy_from_slice(&sum);
    }
    bytes
}

/// Checks that a frame has this sender, this number and intact content.
pub(super) fn check(bytes: &[u8], sender: u64, number: u64) -> Result<(), Fault> {
    let Some((found_sender, found_number, sum)) = header(bytes) else { return Err(Fault::Torn) };
    if checksum(bytes) != sum || bytes != frame(found_sender, found_number, bytes.len()) {
        return Err(Fault::Torn);
    }
    match () {
        () if found_sender != sender => Err(Fault::Foreign),
        () if found_number != number => Err(Fault::Number(found_number)),
        () => Ok(()),
    }
}

pub(super) fn header(bytes: &[u8]) -> Option<(u64, u64, u64)> {
    let word = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    Some((word(0)?, word(8)?, word(16)?))
}

pub(super) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 27)
}

/// Returns the checksum of all bytes but those of the checksum itself.
fn checksum(bytes: &[u8]) -> u64 {
    let (head, rest) = bytes.split_at_checked(16).unwrap_or((bytes, &[]));
    let rest = rest.get(8..).unwrap_or_default();
    let mut sum = mix(u64::try_from(bytes.len()).unwrap_or(0));
    for chunk in head.chunks(8).chain(rest.chunks(8)) {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        sum = mix(sum ^ u64::from_le_bytes(word));
    }
    sum
}

/// If this process is a worker of `soak`, serves its parent.
pub(crate) fn serve_if_worker() -> Option<ExitCode> {
    match std::env::args_os().nth(1)? {
        arg if arg == super::raw::WORKER => return Some(super::raw::serve()),
        arg if arg == super::at_once::WORKER => return Some(super::at_once::serve()),
        arg if arg == WORKER => {}
        _ => return None,
    }
    let worker = Worker::new(|_| Ok(HashMap::<u64, u64>::new()))
        .on(CALL, |seen, request, responder| {
            let bytes = request.to_vec();
            let (sender, number) = accept(seen, &bytes)?;
            Ok(responder.send(&frame(sender | REPLY, number, bytes.len()))?)
        })
        .on(STREAM, |seen, request, responder| {
            let bytes = request.to_vec();
            let (sender, number) = accept(seen, &bytes)?;
            let mut chunks = responder.stream();
            for i in 0..length_of(number) {
                chunks.send(&frame(sender | REPLY, number << 20 | i, chunk_len(number, i)))?;
            }
            Ok(chunks.end()?)
        });
    Some(match worker.serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(error);
            ExitCode::FAILURE
        }
    })
}

/// Returns the number of chunks of the stream with this number.
pub(super) fn length_of(number: u64) -> u64 {
    1 + mix(number) % 400
}

/// Returns the bytes of one of its chunks. Now and then a chunk is longer than a frame.
pub(super) fn chunk_len(number: u64, chunk: u64) -> usize {
    let random = mix(number << 20 | chunk);
    let most = if random.is_multiple_of(97) { 40_000 } else { 1_000 };
    HEADER + usize::try_from(random % most).unwrap_or(0)
}

/// Checks a request, and that none came twice or after a later one.
fn accept(seen: &mut HashMap<u64, u64>, bytes: &[u8]) -> Result<(u64, u64), HandlerError> {
    let (sender, number, _) = header(bytes).ok_or_else(|| fault("torn", "without a header"))?;
    if let Err(error) = check(bytes, sender, number) {
        return Err(fault("torn", format!("{error:?}, {} bytes", bytes.len())));
    }
    let last = seen.entry(sender).or_default();
    if number <= *last {
        return Err(fault("duplicated", format!("{number} of {sender} after {last}")));
    }
    *last = number;
    Ok((sender, number))
}

pub(super) fn fault(name: &str, message: impl Into<String>) -> HandlerError {
    HandlerError::new(format!("soak::{name}"), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_right_only_for_its_sender_and_number_and_whole() {
        for len in [0, 24, 25, 100, 5000] {
            let bytes = frame(3, 7, len);
            assert_eq!(bytes.len(), len.max(HEADER));
            assert_eq!(check(&bytes, 3, 7), Ok(()));
            assert_eq!(check(&bytes, 4, 7), Err(Fault::Foreign));
            assert_eq!(check(&bytes, 3, 8), Err(Fault::Number(7)));
            for at in 0..bytes.len() {
                let mut torn = bytes.clone();
                torn[at] ^= 4;
                assert_eq!(check(&torn, 3, 7), Err(Fault::Torn), "{at} of {len}");
            }
            assert_eq!(check(&bytes[..23], 3, 7), Err(Fault::Torn));
        }
    }

    #[test]
    fn a_request_that_comes_twice_or_late_is_found() {
        let mut seen = HashMap::new();
        assert!(accept(&mut seen, &frame(1, 1, 50)).is_ok());
        assert!(accept(&mut seen, &frame(2, 1, 50)).is_ok());
        assert!(accept(&mut seen, &frame(1, 3, 50)).is_ok());
        for number in [1, 2, 3] {
            assert!(accept(&mut seen, &frame(1, number, 50)).is_err());
        }
    }
}
