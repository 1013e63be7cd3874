//! The check of the reader of recordings.

use slipring::ErrorKind;
use slipring::recording::{Event, FramePayload, ReadEnd, RecordingReader};

/// Reads the input as a recording. It is one, or the error says that it is none. Its records come in order
/// and end; none has more bytes than the input; a checksum keeps them from changing unseen: what was read
/// is read again if the input goes on with something else.
pub fn recording(data: &[u8]) {
    let mut reader = match RecordingReader::of_bytes(data) {
        Ok(reader) => reader,
        Err(error) => return assert_eq!(error.kind(), ErrorKind::Mismatch),
    };
    let _ = (reader.info().config(), format!("{:?}", reader.info()));
    let mut records = Vec::new();
    for record in reader.by_ref() {
        let record = record.expect("bytes in memory can be read");
        if let Event::Request(frame) | Event::Reply(frame) = &record.event {
            let _ = (frame.answer_kind(), frame.failure());
            if let FramePayload::Whole(bytes) = &frame.payload {
                assert!(bytes.len() == frame.len as usize && bytes.len() <= data.len());
            }
        }
        records.push(record);
        assert!(56 * records.len() <= data.len(), "no byte is of two records");
    }
    assert!(reader.next().is_none(), "the end stays");
    if let ReadEnd::Cut(at) | ReadEnd::Damaged(at) = reader.end() {
        assert!(at <= 2 << 41, "a place in the file");
    }
    let again = RecordingReader::of_bytes(data).expect("as before");
    assert!(again.map(|record| record.expect("as before")).eq(records));
}
