//! A payload's encoding, made before any lock is taken.
//!
//! An encoder of the host's may take long, panic, or call the channel that it encodes for.
//! So it writes to a buffer of its thread, and the copy of that buffer or of the parts of
//! [`Payload::as_parts`] is all that runs under a lock.

use std::cell::Cell;

#[cfg(feature = "async")]
use super::SharedPayload;
use super::{Payload, copy_from_slice, invalid};
use crate::error::{Error, Result};

/// The longest buffer that a thread keeps for the next payload, in bytes: more than a frame
/// of the default configuration.
const MOST_KEPT: usize = 1 << 20;

thread_local! {
    /// Taken out while it is in use, so that an encoder may encode another payload.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The whole encoding of a payload: where the caller has it, or in a buffer of this thread's.
#[derive(Debug)]
pub(crate) enum Encoded<'a> {
    Whole(&'a [u8]),
    Parts([&'a [u8]; 3]),
    Buffer(Buffer),
}

/// A buffer that goes back to the thread which drops it.
#[derive(Debug)]
pub(crate) struct Buffer(Vec<u8>);

impl<'a> Encoded<'a> {
    /// Encodes a payload that has announced `len` bytes.
    #[inline]
    pub(crate) fn of<P: Payload + ?Sized>(payload: &'a P, len: usize) -> Result<Self> {
        if let Some(bytes) = one_part(payload, len) {
            return Ok(Self::Whole(bytes));
        }
        let Some(parts) = payload.as_parts() else {
            let mut buffer = Buffer::zeroed(len);
            payload.encode(&mut buffer.0)?;
            return Ok(Self::Buffer(buffer));
        };
        let actual = parts.iter().fold(0, add_len);
        if actual == len { Ok(Self::Parts(parts)) } else { Err(wrong_parts(actual, len)) }
    }

    /// Returns the bytes where they lie: parts that follow each other.
    pub(crate) fn parts(&self) -> [&[u8]; 3] {
        match self {
            Self::Whole(whole) => [whole, &[], &[]],
            Self::Parts(parts) => *parts,
            Self::Buffer(buffer) => [&buffer.0, &[], &[]],
        }
    }

    /// Returns the encoding in memory of its own.
    pub(crate) fn into_vec(mut self) -> Vec<u8> {
        match &mut self {
            Self::Buffer(buffer) => std::mem::take(&mut buffer.0),
            other => other.parts().concat(),
        }
    }

    /// Writes the encoding to a slot of the length that was announced.
    #[inline]
    pub(crate) fn write_to(&self, slot: &mut [u8]) {
        match self {
            Self::Whole(whole) => copy_from_slice(slot, whole),
            Self::Parts(parts) => write_parts(parts, slot),
            Self::Buffer(buffer) => copy_from_slice(slot, &buffer.0),
        }
    }
}

/// Returns the encoding of a payload if it lies in memory as one slice of the `len` bytes that
/// were announced: the usual case, which costs no more than a copy.
#[inline]
pub(crate) fn one_part<P: Payload + ?Sized>(payload: &P, len: usize) -> Option<&[u8]> {
    match payload.as_parts() {
        Some([bytes, [], []]) if bytes.len() == len => Some(bytes),
        _ => None,
    }
}

/// Parts of a host's could be one slice three times: a sum that overflows is no length.
fn add_len(sum: usize, part: &&[u8]) -> usize {
    sum.saturating_add(part.len())
}

/// Writes parts to a slot that is as long as all of them.
fn write_parts(parts: &[&[u8]; 3], mut slot: &mut [u8]) {
    for part in parts {
        let Some((place, rest)) = slot.split_at_mut_checked(part.len()) else { return };
        copy_from_slice(place, part);
        slot = rest;
    }
}

#[cold]
fn wrong_parts(actual: usize, len: usize) -> Error {
    invalid(format!("an encoding of {actual} bytes, {len} were announced"))
}

impl Buffer {
    /// Zeros: nothing of an earlier payload, which may have been another channel's, must reach
    /// the worker if the encoder leaves bytes out.
    fn zeroed(len: usize) -> Self {
        // The buffer is gone already while its thread ends.
        let mut bytes = SCRATCH.try_with(Cell::take).unwrap_or_default();
        bytes.clear();
        bytes.resize(len, 0);
        Self(bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.capacity() <= MOST_KEPT {
            let bytes = std::mem::take(&mut self.0);
            let _ = SCRATCH.try_with(|scratch| scratch.set(bytes));
        }
    }
}

/// A payload whose encoding lies in memory: the same, or a copy of its encoding.
#[cfg(feature = "async")]
pub(crate) fn in_memory(payload: SharedPayload) -> Result<SharedPayload> {
    if payload.as_parts().is_some() {
        return Ok(payload);
    }
    Ok(std::sync::Arc::new(encoded_bytes(&payload)?))
}

/// A copy of a payload's encoding, to be sent when a worker has a place, or again.
pub(crate) fn encoded_bytes<P: Payload + ?Sized>(payload: &P) -> Result<Vec<u8>> {
    let encode = || Ok(Encoded::of(payload, payload.encoded_len())?.into_vec());
    encode().map_err(|error: Error| error.with_begun(false))
}

#[cfg(test)]
mod tests {
    use super::super::{Matrix, TextBatch, Texts};
    use super::*;

    fn bytes_of<P: Payload + ?Sized>(payload: &P) -> Vec<u8> {
        let len = payload.encoded_len();
        let encoded = Encoded::of(payload, len).unwrap();
        let mut slot = vec![0xa5; len];
        encoded.write_to(&mut slot);
        assert_eq!(encoded.parts().concat(), slot, "in parts, and in a slot");
        slot
    }

    /// Encodes another one of its kind while it is encoded.
    struct Nested(u8);

    impl Payload for Nested {
        fn encoded_len(&self) -> usize {
            usize::from(self.0)
        }

        fn encode(&self, out: &mut [u8]) -> Result<()> {
            if let Some(less) = self.0.checked_sub(1) {
                assert_eq!(bytes_of(&Nested(less)), vec![less; less.into()]);
            }
            out.fill(self.0);
            Ok(())
        }
    }

    #[test]
    fn an_encoder_may_encode_another_payload_while_it_runs() {
        for _ in 0..2 {
            assert_eq!(bytes_of(&Nested(9)), [9; 9]);
        }
        assert_eq!(bytes_of(&Nested(2)), [2; 2], "no longer than announced");
    }

    /// Leaves its bytes as they are.
    struct Lazy(usize);

    impl Payload for Lazy {
        fn encoded_len(&self) -> usize {
            self.0
        }

        fn encode(&self, _: &mut [u8]) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_encoder_that_leaves_bytes_out_sends_none_of_another_payload() {
        drop(Encoded::of(&Nested(9), 9).unwrap());
        assert_eq!(bytes_of(&Lazy(5)), [0; 5]);
    }

    fn is_in_place<P: Payload + ?Sized>(payload: &P) -> bool {
        let encoded = Encoded::of(payload, payload.encoded_len()).unwrap();
        !matches!(encoded, Encoded::Buffer(_))
    }

    #[test]
    fn the_librarys_own_payloads_are_sent_from_where_they_lie() {
        let texts = ["a", "b"];
        let batch = TextBatch::new(&texts).unwrap();
        assert!(is_in_place("text") && is_in_place(&b"bytes".to_vec()) && is_in_place(&()));
        assert!(is_in_place(&Matrix::u8(1, 2, &[1, 2]).unwrap()) && is_in_place(&Texts::new()));
        assert!(!is_in_place(&Nested(1)) && !is_in_place(&&Nested(1)));
        assert!(!is_in_place(&batch), "`as_ref` is the host's own");
        assert!(!is_in_place::<dyn Payload>(&Nested(1)));
        assert!(is_in_place::<dyn Payload>(&"text"));
    }

    /// Three parts, of which any may be empty.
    struct Parted<'a>([&'a [u8]; 3], usize);

    impl Payload for Parted<'_> {
        fn encoded_len(&self) -> usize {
            self.1
        }

        fn encode(&self, _: &mut [u8]) -> Result<()> {
            panic!("its parts are there")
        }

        fn as_parts(&self) -> Option<[&[u8]; 3]> {
            Some(self.0)
        }
    }

    #[test]
    fn parts_are_sent_one_after_another_whichever_of_them_are_empty() {
        for parts in [
            [&b"ab"[..], b"cde", b"f"],
            [b"", b"abc", b"def"],
            [b"abc", b"", b"def"],
            [b"abcdef", b"", b""],
            [b"", b"", b"abcdef"],
        ] {
            assert_eq!(bytes_of(&Parted(parts, 6)), b"abcdef");
        }
        assert_eq!(bytes_of(&Parted([b""; 3], 0)), b"");
    }

    #[test]
    fn parts_that_are_not_as_long_as_announced_are_refused() {
        for len in [0, 5, 7] {
            let error = Encoded::of(&Parted([b"ab", b"cde", b"f"], 6), len).unwrap_err();
            assert!(error.to_string().contains("6 bytes"), "{error}");
        }
    }
}
