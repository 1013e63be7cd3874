//! Checks of what a gateway and its callers decode. Compiled into the gateway's library as its module
//! `fuzzing`, only with `--cfg slipring_fuzzing`; `fuzz/src/lib.rs` calls them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a check panics")]

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue};
use prost::Message;
use slipring::Error;

use crate::proto;
use crate::wire::error::{error_of, report_of, status_in};
use crate::wire::message::{Pieces, head_of, request_of, short_payload, timeouts_of};
use crate::wire::reader::MessageReader;
use crate::wire::report::from_proto;
use crate::wire::timeout;

/// The longest message that the checks take.
const LONGEST: usize = 1 << 16;

/// Reads the input as messages of gRPC, in parts whose length its first byte gives. They are those
/// that a plain reading finds, wherever the parts are cut. A message that is a request is sent again
/// in pieces, and arrives as it was.
pub fn gateway_frames(data: &[u8]) {
    let Some((part, data)) = data.split_first() else { return };
    let (expected, is_good) = plain(data);
    let mut reader = MessageReader::new(LONGEST);
    let mut found = Vec::new();
    let mut is_refused = false;
    for part in data.chunks(usize::from(*part) + 1) {
        reader.push(Bytes::copy_from_slice(part));
        loop {
            match reader.next() {
                Ok(Some(message)) => found.push(message),
                Ok(None) => break,
                Err(_) => is_refused = true,
            }
            if is_refused {
                break;
            }
        }
        if is_refused {
            break;
        }
    }
    assert_eq!(found, expected);
    assert_eq!(is_refused, is_good.is_none());
    assert!(is_refused || Some(reader.is_at_end()) == is_good);
    found.into_iter().for_each(check_message);
}

/// The messages in the bytes, and whether these end with one; `None` if one is refused.
fn plain(mut data: &[u8]) -> (Vec<Bytes>, Option<bool>) {
    let mut messages = Vec::new();
    while let Some((&[flag, a, b, c, d], rest)) = data.split_first_chunk() {
        let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap();
        if flag != 0 || len > LONGEST {
            return (messages, None);
        }
        let Some((message, rest)) = rest.split_at_checked(len) else { break };
        messages.push(Bytes::copy_from_slice(message));
        data = rest;
    }
    (messages, Some(data.is_empty()))
}

fn check_message(message: Bytes) {
    _ = proto::GatewayStatus::decode(message.clone());
    _ = proto::PingReply::decode(message.clone());
    let framed =
        [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat();
    if let Some((payload, len)) = short_payload(&framed) {
        let reply = proto::Reply { more: false, payload: Bytes::copy_from_slice(payload) };
        assert_eq!((proto::Reply::decode(message.clone()), len), (Ok(reply), framed.len()));
    }
    if let Ok(reply) = proto::Reply::decode(message.clone()) {
        for in_pieces in [false, true] {
            let again = Pieces::of_reply(reply.payload.clone(), in_pieces);
            let pieces = sent(again).into_iter().map(|it| proto::Reply::decode(it).unwrap());
            let payloads: Vec<u8> = pieces.flat_map(|piece| piece.payload).collect();
            assert_eq!(payloads, reply.payload);
        }
    }
    let Ok(mut head) = proto::Request::decode(message) else { return };
    let payload = std::mem::take(&mut head.payload);
    let Ok(request) = request_of(&head, payload.clone()) else { return };
    let timeouts = timeouts_of(&head, std::time::Duration::MAX);
    let head = head_of(&head.role, &request, Some(timeouts));
    let mut arrived = sent(Pieces::of_request(head.clone(), payload.clone()))
        .into_iter()
        .map(|message| proto::Request::decode(message).unwrap());
    let first = arrived.next().unwrap();
    let mut all = first.payload.to_vec();
    all.extend(arrived.flat_map(|piece| piece.payload));
    assert_eq!(all, payload);
    assert_eq!(proto::Request { more: false, payload: Bytes::new(), ..first }, head);
}

/// The messages of the pieces, as they arrive.
fn sent(pieces: Pieces) -> Vec<Bytes> {
    let mut reader = MessageReader::new(2 * LONGEST);
    pieces
        .map(|mut frame| {
            reader.push(frame.copy_to_bytes(frame.remaining()));
            reader.next().unwrap().unwrap()
        })
        .collect()
}

/// Reads the input as the report of an error and as the headers that have one. The error can be
/// written, and is short enough for headers; sent on, it stays as it is.
pub fn gateway_errors(data: &[u8]) {
    if let Ok(report) = proto::ErrorReport::decode(data) {
        check_error(&Error::from_report(from_proto(report)));
    }
    let Some((code, rest)) = data.split_first() else { return };
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", HeaderValue::from(u16::from(code % 20)));
    let names = ["grpc-message", "grpc-status-details-bin", "slipring-error-bin"];
    for (name, value) in names.into_iter().zip(rest.split(|byte| *byte == 0)) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(name, value);
        }
    }
    let status = status_in(&headers).unwrap();
    check_error(&error_of(&status, "gateway:7000"));
    if let Ok(value) = HeaderValue::from_bytes(data)
        && let Some(limit) = timeout::decode(&value)
    {
        // What is read is never made longer.
        let again = timeout::encode(limit).unwrap();
        assert!(timeout::decode(&again).unwrap() <= limit);
    }
}

fn check_error(error: &Error) {
    _ = (error.to_string(), format!("{error:#}"), format!("{error:?}"));
    _ = (error.was_begun(), error.death().and_then(|death| death.cause()));
    let once = report_of(error, "gpu-1");
    assert!(once.encoded_len() <= 6_000, "{} bytes", once.encoded_len());
    let error = Error::from_report(from_proto(once.clone()));
    assert_eq!(report_of(&error, "gpu-2"), once);
}
