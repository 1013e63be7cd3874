//! The payload of an error frame: the failure of a handler or of the session's builder.
//!
//! Its fields, in the form of [`codec`](super::codec), are the type name, the message, the
//! backtrace, the number of sources, and each source, outermost first.

use crate::error::{HandlerFailure, Result};
use crate::protocol::codec::{FieldReader, FieldWriter, cut};

/// The most sources that are sent.
const MAX_SOURCES: usize = 32;
/// Bytes of the lengths and the number of sources.
const FIELDS: usize = 4 * 4;

/// Encodes `failure` in at most `cap` bytes. What does not fit is cut: first the backtrace, then
/// the sources, then the message.
pub(crate) fn encode(failure: &HandlerFailure, cap: usize) -> Vec<u8> {
    let mut room = cap.saturating_sub(FIELDS);
    let mut take = |text: &str, most: usize| -> String {
        let text = cut(text, most.min(room));
        room -= text.len();
        text.to_owned()
    };
    let type_name = take(&failure.type_name, 256);
    let message = take(&failure.message, cap / 2);
    let mut sources = Vec::new();
    for source in failure.sources.iter().take(MAX_SOURCES) {
        let text = take(source, cap / 8);
        // Room for the length field. A source that does not fit any more ends the list.
        if take("....", 4).len() < 4 {
            break;
        }
        sources.push(text);
    }
    let backtrace = take(&failure.backtrace, cap);

    let mut writer = FieldWriter::default();
    writer.bytes(type_name.as_bytes()).bytes(message.as_bytes()).bytes(backtrace.as_bytes());
    writer.u32(u32::try_from(sources.len()).unwrap_or(0));
    sources.iter().for_each(|source| {
        writer.bytes(source.as_bytes());
    });
    debug_assert!(writer.len() <= cap || cap < FIELDS);
    writer.finish()
}

/// Decodes a copy of an error frame's payload, which the peer cannot change.
pub(crate) fn decode(bytes: &[u8]) -> Result<HandlerFailure> {
    let mut reader = FieldReader::new(bytes);
    let mut failure = HandlerFailure {
        type_name: reader.text()?,
        message: reader.text()?,
        backtrace: reader.text()?,
        sources: Vec::new(),
    };
    let count = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
    for _ in 0..count.min(MAX_SOURCES) {
        failure.sources.push(reader.text()?);
    }
    Ok(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> HandlerFailure {
        HandlerFailure {
            type_name: "demo::Bad".into(),
            message: "nö".into(),
            sources: vec!["because".into(), "of this".into()],
            backtrace: "0: main\n".repeat(50),
        }
    }

    #[test]
    fn a_failure_reads_back() {
        assert_eq!(decode(&encode(&failure(), 4096)).unwrap(), failure());
    }

    #[test]
    fn a_failure_fits_any_cap_and_loses_its_backtrace_first() {
        for cap in 16..600 {
            let bytes = encode(&failure(), cap);
            assert!(bytes.len() <= cap, "{cap}");
            let read = decode(&bytes).unwrap();
            assert!(failure().message.starts_with(&read.message));
            if cap >= 100 {
                assert_eq!((read.message, read.sources), (failure().message, failure().sources));
            }
        }
    }
}
