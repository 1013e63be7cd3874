//! A message as gRPC sends it: five bytes that say how long it is, and the message.

use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use slipring::PeerBytes;

/// The flag for compression, and the length.
pub(crate) const PREFIX: usize = 5;

/// Up to this length a payload is copied behind its head, which costs less than a part of its own.
const COPIED: usize = 512;

/// A message that is sent: its head, and its payload from where it lies.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    head: Bytes,
    payload: Bytes,
}

impl Frame {
    /// Makes the frame of a message: `head` has all fields but the payload, which comes last.
    pub(crate) fn new(head: &impl Message, tag: u32, payload: Bytes) -> Self {
        let mut bytes = BytesMut::new();
        if payload.len() <= COPIED {
            put(head, tag, &payload, payload.len(), &mut bytes);
            return Self::from(bytes.freeze());
        }
        put(head, tag, &[], payload.len(), &mut bytes);
        Self { head: bytes.freeze(), payload }
    }

    /// Makes the frame of a message without a payload of its own.
    pub(crate) fn whole(message: &impl Message) -> Self {
        Self::new(message, 1, Bytes::new())
    }
}

/// Writes a message whose payload has `len` bytes, of which those of `payload` are written.
fn put(head: &impl Message, tag: u32, payload: &[u8], len: usize, out: &mut BytesMut) {
    let field = match len {
        0 => 0,
        len => key_len(tag) + encoded_len_varint(as_u64(len)),
    };
    let in_head = head.encoded_len() + field;
    out.reserve(PREFIX + in_head + payload.len());
    out.put_u8(0);
    // A payload is cut or refused long before that.
    out.put_u32(u32::try_from(in_head + len).unwrap_or(u32::MAX));
    head.encode_raw(out);
    if len > 0 {
        encode_key(tag, WireType::LengthDelimited, out);
        encode_varint(as_u64(len), out);
    }
    out.put_slice(payload);
}

/// Short messages that are sent together, because each frame of HTTP/2 has its price.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    messages: Vec<u8>,
    /// How many bytes their payloads have.
    payloads: usize,
}

impl Batch {
    /// From this length on a batch is sent, also if more messages are there.
    const FULL: usize = 32 << 10;
    /// No short message is longer.
    const LONGEST: usize = COPIED + 64;

    /// Adds a message that has nothing but a payload, if that is short. `field` is the payload's, as it
    /// stands before its length. Returns whether it was added.
    #[inline]
    pub(crate) fn add(&mut self, field: u8, payload: PeerBytes<'_>) -> bool {
        let is_short = payload.len() <= COPIED;
        let Some(len) = u16::try_from(payload.len()).ok().filter(|_| is_short) else {
            return false;
        };
        let out = &mut self.messages;
        match len {
            0 => out.extend_from_slice(&[0; PREFIX]),
            // Its length has one byte, or two with seven bits each.
            1..128 => {
                let ([_, all], [_, len]) = ((len + 2).to_be_bytes(), len.to_be_bytes());
                out.extend_from_slice(&[0, 0, 0, 0, all, field, len]);
            }
            _ => {
                let ([high, low], [_, first]) =
                    ((len + 3).to_be_bytes(), (len | 128).to_be_bytes());
                let [_, second] = (len >> 7).to_be_bytes();
                out.extend_from_slice(&[0, 0, 0, high, low, field, first, second]);
            }
        }
        payload.append_to(out);
        self.payloads += payload.len();
        true
    }

    pub(crate) fn is_full(&self) -> bool {
        self.messages.len() >= Self::FULL
    }

    /// Returns the messages, and how many bytes their payloads have; `None` if there are none. Behind a
    /// full batch there is most likely another, whose memory need not grow.
    pub(crate) fn take(&mut self) -> Option<(Frame, usize)> {
        let next = match self.is_full() {
            true => Vec::with_capacity(Self::FULL + Self::LONGEST),
            false => Vec::new(),
        };
        let messages = std::mem::replace(&mut self.messages, next);
        let payloads = std::mem::take(&mut self.payloads);
        (!messages.is_empty()).then(|| (Frame::from(Bytes::from(messages)), payloads))
    }
}

/// Bytes that are framed already.
impl From<Bytes> for Frame {
    fn from(head: Bytes) -> Self {
        Self { head, payload: Bytes::new() }
    }
}

fn as_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

impl Buf for Frame {
    fn remaining(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.head.is_empty() { &self.payload } else { &self.head }
    }

    fn advance(&mut self, count: usize) {
        let of_head = count.min(self.head.len());
        self.head.advance(of_head);
        self.payload.advance(count - of_head);
    }

    fn chunks_vectored<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let mut used = 0;
        let parts = [&self.head, &self.payload];
        for (slot, part) in out.iter_mut().zip(parts.into_iter().filter(|part| !part.is_empty())) {
            *slot = IoSlice::new(part);
            used += 1;
        }
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Reply;

    /// The field of its payload.
    const PAYLOAD: u8 = 2 << 3 | 2;

    fn flat(mut frame: Frame) -> Bytes {
        frame.copy_to_bytes(frame.remaining())
    }

    #[test]
    fn a_frame_is_what_prost_makes_of_the_message() {
        for len in [0, 1, 127, 128, COPIED, COPIED + 1, 70_000] {
            for more in [false, true] {
                let payload = Bytes::from(vec![7; len]);
                let frame = Frame::new(&Reply { more, ..Reply::default() }, 2, payload.clone());
                let mut slices = [IoSlice::new(&[]); 4];
                let used = frame.chunks_vectored(&mut slices);
                let vectored: Vec<u8> = slices[..used].iter().flat_map(|s| s.to_vec()).collect();
                let flat = flat(frame);
                assert_eq!(flat, vectored);
                let expected = Reply { more, payload }.encode_to_vec();
                assert_eq!(flat[0], 0);
                assert_eq!(flat[1..PREFIX], u32::try_from(expected.len()).unwrap().to_be_bytes());
                assert_eq!(flat[PREFIX..], expected);
            }
        }
    }

    #[test]
    fn a_full_batch_is_followed_by_one_that_need_not_grow() {
        let (mut batch, message) = (Batch::default(), [7; COPIED]);
        for round in 0..3 {
            let place = batch.messages.as_ptr();
            while !batch.is_full() {
                assert!(batch.add(PAYLOAD, PeerBytes::of(&message)));
            }
            assert_eq!(round > 0, batch.messages.as_ptr() == place);
            let (frame, payloads) = batch.take().unwrap();
            let frame = flat(frame);
            assert_eq!(frame.len() % (COPIED + PREFIX + 3), 0);
            assert_eq!(payloads, frame.len() / (COPIED + PREFIX + 3) * COPIED);
        }
        assert!(batch.take().is_none() && batch.messages.capacity() == 0, "none follows");
    }

    #[test]
    fn messages_of_a_batch_are_what_prost_makes_of_them() {
        let (mut batch, mut expected) = (Batch::default(), BytesMut::new());
        for len in 0..=COPIED {
            let payload = vec![u8::try_from(len % 251).unwrap(); len];
            assert!(batch.add(PAYLOAD, PeerBytes::of(&payload)));
            put(&Reply::default(), 2, &payload, len, &mut expected);
        }
        assert!(!batch.add(PAYLOAD, PeerBytes::of(&[7; COPIED + 1])), "it is long");
        let (frame, payloads) = batch.take().unwrap();
        assert_eq!((flat(frame), payloads), (expected.freeze(), COPIED * (COPIED + 1) / 2));
    }
}
