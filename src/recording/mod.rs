//! Recordings of a channel's frames: what a host sent to a worker and what came back, in a file that
//! `slipring replay` sends to another worker, so that a crash becomes a test case.
//!
//! [`Recording`] says what is recorded and is given to a [`Spawner`](crate::Spawner);
//! [`RecordingReader`] reads a file, and [`last`] its last records. `docs/RECORDING.md` has the format.

mod crc32c;
mod files;
mod format;
mod info;
mod options;
mod reader;
mod record;
mod recorder;
mod siphash;
#[cfg(test)]
mod testing;
mod writer;

use std::collections::VecDeque;
use std::path::Path;

pub use info::RecordingInfo;
pub use options::{Payloads, Recording};
pub use reader::{ReadEnd, RecordingReader};
pub use record::{AnswerKind, ChannelEnd, EndKind, Event, Frame, FramePayload, Record};
pub use recorder::RecordingStats;
pub(crate) use recorder::{AskEnd, Ending, Recorder};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::sys::clock::now_ns;

/// Returns the last `count` records of a recording, the oldest first, up to where it can be read. Their
/// payloads are left out unless `with_payloads` asks for them. Reads the whole file.
///
/// ```no_run
/// # fn main() -> slipring::Result<()> {
/// for record in slipring::recording::last("recordings/embed-4711-1.sliprec", 20, false)? {
///     println!("{record:?}");
/// }
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// As for [`RecordingReader::open`].
pub fn last(path: impl AsRef<Path>, count: usize, with_payloads: bool) -> Result<Vec<Record>> {
    last_cut(path.as_ref(), count, if with_payloads { usize::MAX } else { 0 })
}

/// As [`last`], with no more than `most` bytes of each payload: a frame can be half as long as its ring.
pub(crate) fn last_cut(path: &Path, count: usize, most: usize) -> Result<Vec<Record>> {
    let mut kept = VecDeque::new();
    for record in RecordingReader::open(path)? {
        let mut record = record?;
        if let Event::Request(frame) | Event::Reply(frame) = &mut record.event {
            cut(&mut frame.payload, most);
        }
        kept.push_back(record);
        if kept.len() > count {
            kept.pop_front();
        }
    }
    Ok(kept.into())
}

fn cut(payload: &mut FramePayload, most: usize) {
    match payload {
        _ if most == 0 => *payload = FramePayload::LeftOut,
        FramePayload::Whole(bytes) if bytes.len() > most => {
            bytes.truncate(most);
            bytes.shrink_to_fit();
        }
        _ => {}
    }
}

/// Begins the recording of a worker. `fields` say what it is, and `role` is the start of the file's name.
pub(crate) fn begin(
    recording: &Recording,
    role: &str,
    config: &Config,
    mut fields: Vec<(String, String)>,
    ask_end: AskEnd,
) -> Result<Recorder> {
    let library = format!("slipring {}", env!("CARGO_PKG_VERSION"));
    fields.insert(0, ("library".to_owned(), library));
    fields.push(("host_pid".to_owned(), std::process::id().to_string()));
    fields.extend(RecordingInfo::fields_of(config));
    let payloads = (recording.requests, recording.replies);
    let begun = (now_ns(), random_key());
    let (info, header) = RecordingInfo::begin(fields, payloads, begun, recording.max_bytes);
    let (file, path) = files::create(&recording.directory, role, recording.max_files)?;
    std::os::unix::fs::FileExt::write_all_at(&file, &header, 0).map_err(|e| {
        let _ = std::fs::remove_file(&path);
        Error::os(format!("cannot write the recording {}", path.display()), e)
    })?;
    Recorder::start(file, path, &info, recording.queue_bytes, ask_end)
}

/// Random enough that no two recordings share it: it need not be a secret.
fn random_key() -> [u8; 16] {
    use std::hash::{BuildHasher, RandomState};
    let mut key = [0; 16];
    let words = [1_u64, 2].map(|word| RandomState::new().hash_one(word).to_le_bytes());
    key.iter_mut().zip(words.as_flattened()).for_each(|(to, from)| *to = *from);
    key
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn no_more_memory_is_kept_of_a_payload_than_is_wanted() {
        for (most, kept) in
            [(0, None), (1, Some(1)), (5, Some(5)), (1000, Some(1000)), (2000, Some(1000))]
        {
            let mut payload = FramePayload::Whole(vec![7; 1000]);
            cut(&mut payload, most);
            let found = match &payload {
                FramePayload::Whole(bytes) => Some((bytes.len(), bytes.capacity())),
                _ => None,
            };
            assert_eq!(found, kept.map(|kept| (kept, kept)));
        }
    }
}
