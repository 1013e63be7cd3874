//! A payload that came in pieces, and lies where they came: it is copied once, into a worker's ring.

use bytes::{Bytes, BytesMut};
use slipring::payload::Payload;
use slipring::{Error, Result};

use super::budget::Held;

/// Shorter pieces are put together: each that stays as it came has its price, and keeps the memory that
/// came with it.
const SHORT: usize = 16 << 10;

/// The pieces of a payload.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    parts: Vec<Bytes>,
    /// Short ones, behind those.
    end: BytesMut,
    len: usize,
}

impl Pieces {
    pub(super) fn add(&mut self, piece: Bytes) {
        self.len += piece.len();
        if piece.len() < SHORT {
            self.end.extend_from_slice(&piece);
            return;
        }
        self.close_end();
        self.parts.push(piece);
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn close_end(&mut self) {
        if !self.end.is_empty() {
            self.parts.push(std::mem::take(&mut self.end).freeze());
        }
    }

    /// Returns the payload, which counts as memory until it is dropped.
    pub(super) fn into_payload(mut self, held: Held) -> InPieces {
        self.close_end();
        InPieces { parts: self.parts, len: self.len, _held: held }
    }
}

/// A payload in the pieces in which it came.
#[derive(Debug)]
pub(super) struct InPieces {
    parts: Vec<Bytes>,
    len: usize,
    _held: Held,
}

impl Payload for InPieces {
    fn encoded_len(&self) -> usize {
        self.len
    }

    fn encode(&self, out: &mut [u8]) -> Result<()> {
        let mut rest = out;
        for part in &self.parts {
            let split = rest.split_at_mut_checked(part.len());
            let (to, after) = split.ok_or_else(|| Error::invalid_payload("no room for a piece"))?;
            part.encode(to)?;
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::BufferLimits;
    use super::super::budget::{Budget, Memory};
    use super::*;
    use std::sync::Arc;

    #[test]
    fn pieces_of_all_lengths_are_the_payload_in_order() {
        let all = Arc::new(Budget::new(1 << 30, 0));
        let limits = BufferLimits { of_all: 1 << 30, of_connection: 1 << 30 };
        let lens = [1, SHORT - 1, SHORT, 0, 3, SHORT * 8, SHORT, 7];
        let mut pieces = Pieces::default();
        let mut expected = Vec::new();
        for (number, len) in (0..).zip(lens) {
            let piece = vec![number; len];
            expected.extend_from_slice(&piece);
            pieces.add(Bytes::from(piece));
        }
        assert_eq!(pieces.len(), expected.len());
        let payload = pieces.into_payload(Held::nothing(&Memory::new(&all, limits, 0)));
        assert_eq!(payload.parts.len(), 6, "short ones are put together");
        let mut out = vec![0; payload.encoded_len()];
        payload.encode(&mut out).unwrap();
        assert_eq!(out, expected);
        assert!(payload.encode(&mut out[1..]).is_err());
    }
}
