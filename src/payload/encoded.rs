//! A payload's encoding, made before any lock is taken: a host's own encoder may take long,
//! panic, or call the channel that it encodes for.

use std::cell::Cell;

use super::{Payload, invalid};
use crate::error::Result;

/// Says that [`Payload::encode`] runs no code but this library's, and may so run in a slot
/// of the ring while no other thread can send. Hosts cannot name this type, and so cannot
/// say that of their own encoders.
#[derive(Debug)]
pub struct InPlace(());

/// Whether the payload may be encoded while the sender's lock is held.
#[inline]
pub(crate) fn is_encoded_in_place<P: Payload + ?Sized>(payload: &P) -> bool {
    payload.is_encoded_in_place(InPlace(()))
}

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
    Borrowed(&'a [u8]),
    Buffer(Buffer),
}

/// A buffer that goes back to the thread which drops it.
#[derive(Debug)]
pub(crate) struct Buffer(Vec<u8>);

impl<'a> Encoded<'a> {
    /// Encodes a payload that has announced `len` bytes.
    pub(crate) fn of<P: Payload + ?Sized>(payload: &'a P, len: usize) -> Result<Self> {
        if let Some(bytes) = payload.as_encoded() {
            let actual = bytes.len();
            return match actual == len {
                true => Ok(Self::Borrowed(bytes)),
                false => {
                    Err(invalid(format!("an encoding of {actual} bytes, {len} were announced")))
                }
            };
        }
        // While a thread ends its buffer is gone already.
        let mut buffer = Buffer(SCRATCH.try_with(Cell::take).unwrap_or_default());
        // Nothing of an earlier payload, which may have been another channel's, must reach the
        // worker if the encoder leaves bytes out.
        buffer.0.clear();
        buffer.0.resize(len, 0);
        payload.encode(&mut buffer.0)?;
        Ok(Self::Buffer(buffer))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Buffer(buffer) => &buffer.0,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes another one of its kind while it is encoded.
    struct Nested(u8);

    impl Payload for Nested {
        fn encoded_len(&self) -> usize {
            usize::from(self.0)
        }

        fn encode(&self, out: &mut [u8]) -> Result<()> {
            if let Some(less) = self.0.checked_sub(1) {
                let inner = Nested(less);
                assert_eq!(
                    Encoded::of(&inner, inner.encoded_len())?.bytes(),
                    vec![less; less.into()]
                );
            }
            out.fill(self.0);
            Ok(())
        }
    }

    #[test]
    fn an_encoder_may_encode_another_payload_while_it_runs() {
        for _ in 0..2 {
            assert_eq!(Encoded::of(&Nested(9), 9).unwrap().bytes(), [9; 9]);
        }
        assert_eq!(Encoded::of(&Nested(2), 2).unwrap().bytes(), [2; 2], "no longer than announced");
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
        assert_eq!(Encoded::of(&Lazy(5), 5).unwrap().bytes(), [0; 5]);
    }

    #[test]
    fn only_the_librarys_own_encoders_run_in_place() {
        let texts = ["a", "b"];
        let batch = super::super::TextBatch::new(&texts).unwrap();
        assert!(is_encoded_in_place("text") && is_encoded_in_place(&b"bytes".to_vec()));
        assert!(!is_encoded_in_place(&Nested(1)) && !is_encoded_in_place(&&Nested(1)));
        assert!(!is_encoded_in_place(&batch), "`as_ref` is the host's own");
        assert!(!is_encoded_in_place::<dyn Payload>(&Nested(1)));
        assert!(is_encoded_in_place::<dyn Payload>(&"text"));
    }
}
