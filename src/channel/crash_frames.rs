//! The last frames of a channel that was recorded, for the crash report of its worker.

use std::path::Path;

use crate::crash_report::json::{Json, hex, object};
use crate::protocol::Kind;
use crate::recording::{self, Event, Frame, FramePayload, Record};

/// The most that a report lists.
const MOST: usize = 32;

/// Reads what was recorded last, with so many bytes of each payload.
pub(super) fn last_frames(path: &Path, payload: usize, name: impl Fn(Kind) -> String) -> Json {
    match recording::last_cut(path, MOST, payload) {
        Ok(records) => records.iter().map(|record| describe(record, payload, &name)).collect(),
        Err(error) => object! { "problem": error.to_string() },
    }
}

fn describe(record: &Record, payload: usize, name: impl Fn(Kind) -> String) -> Json {
    let what = match record.event {
        Event::Request(_) => "request",
        Event::Reply(_) => "reply",
        Event::Cancel(_) => "cancel",
        Event::End(_) => "end",
        Event::Gap { .. } => "gap",
    };
    let mut json = object! { "at_ms": record.at, "what": what };
    match &record.event {
        Event::Request(frame) | Event::Reply(frame) => {
            json.add("request", frame.request.get());
            json.add("kind", name(frame.kind));
            json.add("length", frame.len);
            json.add("is_piece", frame.has_more || frame.is_continued);
            json.add("payload_hex", kept(frame, payload));
        }
        Event::Cancel(request) => json.add("request", request.get()),
        Event::End(end) => json.add("cause", end.message.as_str()),
        Event::Gap { frames, bytes } => {
            json.add("frames", *frames);
            json.add("bytes", *bytes);
        }
    }
    json
}

/// The beginning of a payload, if it was asked for and recorded.
fn kept(frame: &Frame, most: usize) -> Option<String> {
    match &frame.payload {
        FramePayload::Whole(bytes) if most > 0 => Some(hex(bytes.iter().copied().take(most))),
        _ => None,
    }
}
