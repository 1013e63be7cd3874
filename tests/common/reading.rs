//! How the worker of most tests reads long requests, piece by piece.

use std::io::Read;

use slipring::Kind;
use slipring::worker::RequestReader;

use super::{encode, numbers};

/// Kinds whose requests are read while they come. Each reply is [`fingerprint`] of the request.
pub const READ_BY: [(Kind, ReadBy); 4] = [
    (Kind::named("read pieces"), read_pieces),
    (Kind::named("read into a vector"), |reader, out| reader.append_to(out).map(|_| ())),
    (Kind::named("read into a slice"), read_into_slice),
    (Kind::named("read by turns"), read_by_turns),
];
/// Replies with the length of the first piece, and leaves the rest.
pub const READ_FIRST: Kind = Kind::named("read the first piece");
/// Takes the first piece, and ends the process.
pub const READ_AND_EXIT: Kind = Kind::named("read the first piece and exit");
/// Takes the first piece, which begins with a path and a zero, and stays while that file is there.
pub const READ_AND_STAY: Kind = Kind::named("read the first piece and stay");

/// A way to read a request.
pub type ReadBy = fn(&mut RequestReader<'_>, &mut Vec<u8>) -> slipring::Result<()>;

fn read_pieces(reader: &mut RequestReader<'_>, out: &mut Vec<u8>) -> slipring::Result<()> {
    while let Some(piece) = reader.next_piece()? {
        assert!(!piece.is_empty());
        out.extend(piece.to_vec());
    }
    assert!(reader.next_piece()?.is_none(), "an end stays one");
    Ok(())
}

/// Reads a request whose first number is its length, if it has room for that.
fn read_into_slice(reader: &mut RequestReader<'_>, out: &mut Vec<u8>) -> slipring::Result<()> {
    out.resize(8, 0);
    if reader.message_len().is_some_and(|len| len < 8) {
        out.truncate(reader.message_len().unwrap());
        return reader.copy_to(out);
    }
    reader.read_exact(out).unwrap();
    let len = usize::try_from(numbers(out)[0]).unwrap();
    out.resize(len, 0);
    reader.copy_to(&mut out[8..])
}

/// Reads a part by itself, a piece, some parts, and the rest.
fn read_by_turns(reader: &mut RequestReader<'_>, out: &mut Vec<u8>) -> slipring::Result<()> {
    let mut part = [0; 777];
    for turn in 0..20 {
        let count = reader.read(&mut part).unwrap();
        out.extend_from_slice(&part[..count]);
        if turn == 2 {
            out.extend(reader.next_piece()?.map(|piece| piece.to_vec()).unwrap_or_default());
        }
    }
    reader.read_to_end(out).unwrap();
    Ok(())
}

/// The length of bytes, and a number that most others do not have.
pub fn fingerprint(bytes: &[u8]) -> Vec<u8> {
    let mut hash = 7_u64;
    let mut words = bytes.chunks_exact(8);
    for word in words.by_ref() {
        let word = u64::from_le_bytes(word.try_into().unwrap());
        hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    }
    for byte in words.remainder() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    encode(&[bytes.len() as u64, hash])
}
