//! Requests and payloads as messages.

use std::time::Duration;

use bytes::{Buf as _, Bytes};
use prost::encoding::decode_varint;
use prost::{DecodeError, Message as _};
use slipring::backend::BackendRequest;
use slipring::pool::Priority;
use slipring::{ErrorKind, Kind, PeerBytes, Result, StreamTimeouts};

use super::error::refused;
use super::frame::{Batch, Frame, PREFIX};
use super::limits::PIECE;
use crate::proto::{self, request};

/// The tag of the payload of a request.
const OF_REQUEST: u32 = 9;
/// The tag of the payload of a reply and of a chunk, which are the same on the wire.
const OF_REPLY: u32 = 2;
/// What stands before the length of that.
const PAYLOAD_OF_REPLY: u8 = 2 << 3 | 2;

/// A payload that is sent in pieces, or whole.
#[derive(Debug)]
pub(crate) struct Pieces {
    rest: Bytes,
    longest: usize,
    /// The fields beside the payload of a request, until its first message is made.
    head: Option<proto::Request>,
    /// The only message.
    only: Option<Frame>,
    tag: u32,
    is_over: bool,
}

impl Pieces {
    /// A request, in pieces.
    pub(crate) fn of_request(head: proto::Request, payload: Bytes) -> Self {
        Self {
            rest: payload,
            longest: PIECE,
            head: Some(head),
            only: None,
            tag: OF_REQUEST,
            is_over: false,
        }
    }

    /// A message without a payload.
    pub(crate) fn of_message(message: &impl prost::Message) -> Self {
        let only = Some(Frame::whole(message));
        Self { rest: Bytes::new(), longest: PIECE, head: None, only, tag: 0, is_over: false }
    }

    /// A reply or a chunk. It is whole for callers that know no pieces.
    pub(crate) fn of_reply(payload: Bytes, in_pieces: bool) -> Self {
        let longest = if in_pieces { PIECE } else { usize::MAX };
        Self { rest: payload, longest, head: None, only: None, tag: OF_REPLY, is_over: false }
    }

    /// How many bytes of the payload are left.
    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    /// Whether no message is left.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }
}

impl Iterator for Pieces {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        if self.is_over {
            return None;
        }
        if let Some(only) = self.only.take() {
            self.is_over = true;
            return Some(only);
        }
        let payload = self.rest.split_to(self.rest.len().min(self.longest));
        let more = !self.rest.is_empty();
        self.is_over = !more;
        Some(if self.tag == OF_REQUEST {
            let head = proto::Request { more, ..self.head.take().unwrap_or_default() };
            Frame::new(&head, self.tag, payload)
        } else {
            Frame::new(&proto::Reply { more, payload: Bytes::new() }, self.tag, payload)
        })
    }
}

/// Takes a reply or a chunk out of its message. Most have nothing but their payload: of these, no field is
/// looked for.
pub(crate) fn reply_of(mut message: Bytes) -> std::result::Result<proto::Reply, DecodeError> {
    if let [PAYLOAD_OF_REPLY, rest @ ..] = &*message {
        let mut payload = rest;
        let len = decode_varint(&mut payload).ok().and_then(|len| usize::try_from(len).ok());
        if len == Some(payload.len()) {
            message.advance(message.len() - payload.len());
            return Ok(proto::Reply { more: false, payload: message });
        }
    }
    proto::Reply::decode(message)
}

/// Returns the payload of the next message, and how long the message is with its prefix: only if it is a
/// reply or a chunk that has come whole, with nothing but a payload, and that of fewer than 128 bytes.
pub(crate) fn short_payload(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let [0, 0, 0, 0, all, PAYLOAD_OF_REPLY, len @ 1..128, rest @ ..] = bytes else { return None };
    let payload = rest.get(..usize::from(*len)).filter(|_| *all == *len + 2)?;
    Some((payload, PREFIX + 2 + payload.len()))
}

/// Adds a chunk to a batch, if it is short. Returns whether it was.
pub(crate) fn add_short(batch: &mut Batch, chunk: PeerBytes<'_>) -> bool {
    batch.add(PAYLOAD_OF_REPLY, chunk)
}

/// Returns the first message of a request without its payload.
pub(crate) fn head_of(
    role: &str,
    request: &BackendRequest,
    timeouts: Option<StreamTimeouts>,
) -> proto::Request {
    proto::Request {
        role: role.to_owned(),
        kind: Some(request::Kind::Code(request.kind().code().into())),
        priority: match request.chosen_priority() {
            Priority::High => proto::Priority::High,
            Priority::Low => proto::Priority::Low,
            _ => proto::Priority::Normal,
        }
        .into(),
        key: request.chosen_key(),
        idempotent: request.is_idempotent(),
        timeouts: timeouts.map(|timeouts| proto::StreamTimeouts {
            queue_ns: nanos(timeouts.queue_timeout()),
            first_chunk_ns: timeouts.first_chunk_timeout().and_then(nanos),
            chunk_ns: nanos(timeouts.chunk_timeout()),
        }),
        more: false,
        payload: Bytes::new(),
        hops: request.hop_count(),
    }
}

/// Makes the request that a message describes, with a payload that was put together.
///
/// # Errors
///
/// `InvalidInput`, not begun, if it is of no kind.
pub(crate) fn request_of(head: &proto::Request, payload: Bytes) -> Result<BackendRequest> {
    let request = BackendRequest::new(kind_of(head)?, payload).priority(match head.priority() {
        proto::Priority::High => Priority::High,
        proto::Priority::Normal => Priority::Normal,
        proto::Priority::Low => Priority::Low,
    });
    // It has come from another machine.
    let request = request.hops(head.hops.saturating_add(1));
    let request = head.key.into_iter().fold(request, BackendRequest::key);
    Ok(head.idempotent.into_iter().fold(request, BackendRequest::idempotent))
}

fn kind_of(head: &proto::Request) -> Result<Kind> {
    let no_kind = |message| refused(ErrorKind::InvalidInput, message);
    match &head.kind {
        Some(request::Kind::Name(name)) => Ok(Kind::named(name)),
        Some(request::Kind::Code(code)) => u16::try_from(*code)
            .ok()
            .and_then(Kind::from_request_code)
            .ok_or_else(|| no_kind(format!("{code} is no kind of request"))),
        None => Err(no_kind("the request has no kind: set `code` or `name`".to_owned())),
    }
}

/// Returns the timeouts of a stream, the total being the deadline of the call.
pub(crate) fn timeouts_of(head: &proto::Request, total: Duration) -> StreamTimeouts {
    let mut timeouts = StreamTimeouts::new().total(total);
    let Some(given) = &head.timeouts else { return timeouts };
    if let Some(chunk) = given.chunk_ns {
        timeouts = timeouts.chunk(Duration::from_nanos(chunk));
    }
    if let Some(first) = given.first_chunk_ns {
        timeouts = timeouts.first_chunk(Duration::from_nanos(first));
    }
    if let Some(queue) = given.queue_ns {
        timeouts = timeouts.queue(Duration::from_nanos(queue));
    }
    timeouts
}

/// For ever, if it is more than 584 years.
fn nanos(timeout: Duration) -> Option<u64> {
    Some(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_what_prost_finds_in_the_message() {
        let mut messages = vec![Vec::new()];
        for len in [0, 1, 127, 128, 40_000] {
            for more in [false, true] {
                let payload = Bytes::from(vec![7; len]);
                messages.push(proto::Reply { more, payload }.encode_to_vec());
            }
        }
        // Cut, with more behind it, and with its payload twice.
        for message in messages.clone() {
            messages.push(message[..message.len().saturating_sub(1)].to_vec());
            messages.push([&message[..], &[8, 1]].concat());
            messages.push([&message[..], &message[..]].concat());
        }
        messages.extend([
            vec![18],
            vec![18, 128],
            vec![18, 255, 255],
            [18; 12].to_vec(),
            vec![26, 0],
        ]);
        let mut short = 0;
        for message in messages {
            let expected = proto::Reply::decode(&*message).ok();
            assert_eq!(reply_of(message.clone().into()).ok(), expected, "{message:?}");
            let len = u32::try_from(message.len()).unwrap().to_be_bytes();
            let framed = [&[0], &len[..], &message, b"next"].concat();
            if let Some((payload, len)) = short_payload(&framed) {
                let expected = expected.unwrap();
                assert_eq!((payload, false), (&expected.payload[..], expected.more));
                assert_eq!(len, PREFIX + message.len());
                short += 1;
            }
            for cut in 0..framed.len().min(150) {
                let is_whole = cut >= PREFIX + message.len();
                assert!(
                    is_whole || short_payload(&framed[..cut]).is_none(),
                    "{cut} of {message:?}"
                );
            }
        }
        assert_eq!(short, 2, "those of 1 and of 127 bytes");
    }
}
