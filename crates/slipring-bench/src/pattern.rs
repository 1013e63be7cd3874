//! Bytes that both processes know, so that each can check the messages of the other.

use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::bytes;

/// A source of messages: bytes, cut in pieces of one length.
#[derive(Debug)]
pub struct Pattern {
    bytes: Vec<u8>,
    piece: usize,
    /// The sum of each piece without its first word.
    sums: Vec<u64>,
}

impl Pattern {
    /// Makes `len` bytes in pieces of `piece` bytes.
    #[must_use]
    pub fn new(len: usize, piece: usize) -> Self {
        let piece = piece.max(8);
        let len = len.max(piece).next_multiple_of(piece);
        let mut bytes = vec![0; len];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for word in bytes.as_chunks_mut::<8>().0 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *word = state.rotate_left(29).to_le_bytes();
        }
        let sums = bytes
            .chunks_exact(piece)
            .map(|piece| bytes::sum(piece).wrapping_sub(crate::end::stamp(piece)))
            .collect();
        Self { bytes, piece, sums }
    }

    /// Returns the pattern that [`Pattern::new`] makes, and keeps it, because making a pattern
    /// takes long.
    #[must_use]
    pub fn shared(len: usize, piece: usize) -> Arc<Self> {
        static KEPT: Mutex<Vec<(usize, usize, Arc<Pattern>)>> = Mutex::new(Vec::new());
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, found)) = kept.iter().find(|(l, p, _)| (*l, *p) == (len, piece)) {
            return Arc::clone(found);
        }
        let made = Arc::new(Self::new(len, piece));
        kept.push((len, piece, Arc::clone(&made)));
        made
    }

    /// Yields the pieces in turn, without end, each with the sum of all but its first word.
    pub fn pieces(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.bytes.chunks_exact(self.piece).zip(self.sums.iter().copied()).cycle()
    }

    /// Whether a message is exactly this piece with this stamp.
    #[inline]
    #[must_use]
    pub fn is_piece(&self, message: &[u8], sum: u64, stamp: u64) -> bool {
        message.len() == self.piece && bytes::sum(message) == sum.wrapping_add(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::end::put_stamp;

    #[test]
    fn a_changed_byte_a_wrong_stamp_and_a_wrong_length_show() {
        let pattern = Pattern::new(4096, 1024);
        let (piece, sum) = pattern.pieces().nth(5).unwrap();
        let mut message = piece.to_vec();
        put_stamp(&mut message, 77);
        assert!(pattern.is_piece(&message, sum, 77));
        assert!(!pattern.is_piece(&message, sum, 78));
        assert!(!pattern.is_piece(&message[..1016], sum, 77));
        message[1000] ^= 1;
        assert!(!pattern.is_piece(&message, sum, 77));
    }
}
