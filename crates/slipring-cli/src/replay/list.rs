//! `--list`: what a recording says of itself, and its records.

use std::fmt::Write as _;
use std::io;
use std::time::UNIX_EPOCH;

use serde_json::json;
use slipring::recording::{
    AnswerKind, EndKind, Event, Frame, FramePayload, ReadEnd, Record, RecordingReader,
};

use super::{Options, failed};
use crate::error::Error;
use crate::shown;
use crate::stdio::Stdout;

/// How much is collected before it is written.
const BATCH: usize = 64 << 10;

pub(super) fn run(mut reader: RecordingReader, options: &Options) -> Result<(), Error> {
    let out = Stdout::open()?;
    let print = |text: &str| {
        out.write_all(text.as_bytes()).map_err(|e| Error::write("standard output", &e))
    };
    let mut text = if options.json { head_json(&reader) } else { head(&reader) };
    // Answers have the kind of what they are, so that their requests decide.
    let mut wanted = std::collections::BTreeSet::new();
    for record in reader.by_ref() {
        let record = record.map_err(|e| failed(&options.file, &e))?;
        let request = match &record.event {
            Event::Request(frame) | Event::Reply(frame) => Some(frame.request),
            Event::Cancel(request) => Some(*request),
            _ => None,
        };
        if let (Some(only), Some(request)) = (options.only, request) {
            if let Event::Request(frame) = &record.event
                && frame.kind == only
            {
                wanted.insert(request);
            }
            if !wanted.contains(&request) {
                continue;
            }
        }
        match options.json {
            true => text.push_str(&shown::json(&json_of(&record))),
            false => text.push_str(&line(&record)),
        }
        if text.len() > BATCH {
            print(&text)?;
            text.clear();
        }
    }
    let end = said_end(reader.end());
    match options.json {
        true => text.push_str(&shown::json(&json!({ "file": end }))),
        false => text.push_str(&format!("# {end}\n")),
    }
    print(&text)?;
    out.finish().map_err(|error: io::Error| Error::write("standard output", &error))
}

/// Why there is no further record.
pub(super) fn said_end(end: ReadEnd) -> String {
    match end {
        ReadEnd::Cut(at) => format!("cut within a record, at byte {at}"),
        ReadEnd::Damaged(at) => format!("damaged at byte {at}"),
        _ => "whole".to_owned(),
    }
}

fn head(reader: &RecordingReader) -> String {
    let info = reader.info();
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "# began: {}", info.began_utc());
    let _ = writeln!(text, "# payloads: requests {:?}, replies {:?}", info.requests, info.replies);
    for (name, value) in &info.fields {
        let _ = writeln!(text, "# {}: {}", name.escape_debug(), value.escape_debug());
    }
    if reader.overwritten() > 0 {
        let _ = writeln!(text, "# {} records were overwritten", reader.overwritten());
    }
    text
}

fn head_json(reader: &RecordingReader) -> String {
    let info = reader.info();
    let began = info.began.duration_since(UNIX_EPOCH).unwrap_or_default();
    let fields: Vec<[&String; 2]> = info.fields.iter().map(|(name, value)| [name, value]).collect();
    shown::json(&json!({
        "began": info.began_utc(),
        "began_s": began.as_secs(),
        "requests": format!("{:?}", info.requests).to_lowercase(),
        "replies": format!("{:?}", info.replies).to_lowercase(),
        "fields": fields,
        "overwritten": reader.overwritten(),
    }))
}

/// What a record is, its request, what it has of a frame, and the rest in words.
fn parts(record: &Record) -> (&'static str, Option<u64>, Option<&Frame>, String) {
    match &record.event {
        Event::Request(frame) => {
            let left = frame.time_left.map(|left| format!("{:.3} s left", left.as_secs_f64()));
            ("request", Some(frame.request.get()), Some(frame), left.unwrap_or_default())
        }
        Event::Reply(frame) => {
            let text = match (frame.answer_kind(), frame.failure()) {
                (Some(AnswerKind::Expired), _) => "expired".to_owned(),
                (_, Ok(Some(failure))) => failure.to_string(),
                _ => String::new(),
            };
            ("reply", Some(frame.request.get()), Some(frame), text)
        }
        Event::Cancel(request) => ("cancel", Some(request.get()), None, String::new()),
        Event::Gap { frames, bytes } => {
            ("gap", None, None, format!("{frames} frames of {bytes} bytes were left out"))
        }
        Event::End(end) => {
            let why = match end.kind {
                EndKind::Closed => "closed",
                EndKind::Died => "died",
                _ => "failed",
            };
            ("end", None, None, format!("{why}: {}", end.message))
        }
        _ => ("unknown", None, None, String::new()),
    }
}

fn marks(frame: &Frame) -> Vec<&'static str> {
    let marks = [
        (frame.is_stream, "stream"),
        (frame.has_more, "more"),
        (frame.is_continued, "continued"),
        (frame.is_abandoned, "abandoned"),
        (matches!(frame.payload, FramePayload::Hash(_)), "hash"),
        (matches!(frame.payload, FramePayload::LeftOut) && frame.len > 0, "left-out"),
    ];
    marks.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name).collect()
}

fn line(record: &Record) -> String {
    let (what, request, frame, words) = parts(record);
    let mut text = String::new();
    if record.missing > 0 {
        let _ = writeln!(text, "# {} records are missing", record.missing);
    }
    let at = record.at.as_secs_f64();
    let request = request.map_or("-".to_owned(), |request| request.to_string());
    let _ = write!(text, "{} {at:.6} {what} {request}", record.index);
    if let Some(frame) = frame {
        let _ = write!(text, " {} {}", frame.kind.to_string().replace(' ', "-"), frame.len);
        for mark in marks(frame) {
            let _ = write!(text, " {mark}");
        }
    }
    if !words.is_empty() {
        let _ = write!(text, "\t{}", words.escape_debug());
    }
    text.push('\n');
    text
}

fn json_of(record: &Record) -> serde_json::Value {
    let (what, request, frame, words) = parts(record);
    json!({
        "index": record.index,
        "missing": record.missing,
        "at_ns": u64::try_from(record.at.as_nanos()).unwrap_or(u64::MAX),
        "what": what,
        "request": request,
        "kind": frame.map(|frame| frame.kind.to_string()),
        "code": frame.map(|frame| frame.kind.code()),
        "len": frame.map(|frame| frame.len),
        "marks": frame.map(marks),
        "text": words,
    })
}
