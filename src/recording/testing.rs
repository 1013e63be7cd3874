//! Files in memory, for tests.

use std::io;
use std::sync::Arc;

use super::info::RecordingInfo;
use super::options::Payloads;
use super::writer::Store;
use crate::shm::layout::as_usize;
use crate::sync::plain::Mutex;

/// A file in memory. Writes beyond a limit fail after a part, as on a disk that is full; while it is held,
/// they wait.
#[derive(Debug, Clone)]
pub(super) struct Memory(Arc<State>);

#[derive(Debug)]
struct State {
    bytes: Mutex<Vec<u8>>,
    limit: Mutex<usize>,
    hold: Mutex<()>,
}

impl Memory {
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.bytes.lock().clone()
    }

    pub(super) fn set_limit(&self, limit: usize) {
        *self.0.limit.lock() = limit;
    }

    /// Lets no write end while `run` runs.
    pub(super) fn while_held<T>(&self, run: impl FnOnce() -> T) -> T {
        let held = self.0.hold.lock();
        let result = run();
        drop(held);
        result
    }
}

impl Store for Memory {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        drop(self.0.hold.lock());
        let (start, limit) = (as_usize(offset), *self.0.limit.lock());
        let count = bytes.len().min(limit.saturating_sub(start));
        let mut file = self.0.bytes.lock();
        let end = start + count;
        if file.len() < end {
            file.resize(end, 0);
        }
        file[start..end].copy_from_slice(&bytes[..count]);
        let is_full = count < bytes.len();
        if is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

/// A file with the header of a recording.
pub(super) fn begin(max_bytes: u64, payloads: (Payloads, Payloads)) -> (Memory, RecordingInfo) {
    let fields = vec![("role".to_owned(), "test".to_owned())];
    let (info, header) = RecordingInfo::begin(fields, payloads, (5, [7; 16]), max_bytes);
    let state =
        State { bytes: Mutex::new(header), limit: Mutex::new(usize::MAX), hold: Mutex::new(()) };
    (Memory(Arc::new(state)), info)
}
