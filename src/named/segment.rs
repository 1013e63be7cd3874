//! Named segments, made and opened through `shared_memory`, and the `raw_sync` events in
//! them that are their doorbells.
//!
//! Both sides map a segment for reading and writing: that only one of them writes to a line is a
//! convention. Nothing is sealed, so any process of the same user can also truncate the file
//! under the map. All that can be checked is checked: the file's type, owner and mode, and that
//! it is this very file that was mapped.
//!
//! # What the events lack, and what is done about it
//!
//! * A timed wait reads the wall clock and adds the timeout's nanoseconds without a carry: a wait
//!   that would cross a second returns at once. So no wait does (`slices.rs`). If the wall clock
//!   is set back, the wait that is going on gets longer; it still ends when the event is set, so
//!   that only a plain timeout comes late.
//! * An event wakes one waiter: see `slices.rs`.
//! * Its mutex is not robust. A ring first tries the mutex for a while, and is abandoned if
//!   another process holds it for longer: the sleeper looks again by itself. When the peer is
//!   known to be dead, this side frees the mutex in its place ([`Segment::rescue`]). One case
//!   remains: a peer that is killed in the few instructions in which it holds a lock inside the C
//!   library's condition variable can leave a thread of this process waiting.
#![allow(unsafe_code, reason = "raw_sync events, and a few system calls")]

use std::fmt;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use raw_sync::Timeout;
use raw_sync::events::{Event as RawEvent, EventImpl, EventInit, EventState};
use raw_sync::locks::{LockImpl, LockInit, Mutex as RawMutex};
use shared_memory::{Shmem, ShmemConf, ShmemError};

use super::layout::{DATA_EVENT, EVENT_LEN, HEALTH_EVENT};
use super::segment_file::{DIRECTORY, FileId, check_mapped, file_of, metadata, mismatch, path};
use super::slices::{Turns, within_second};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::layout::{as_u64, as_usize, control};
use crate::shm::region::{OwnRegion, PeerRegion};
use crate::shm::transport::{Backing, Event, SharedEvent};
use crate::sys as system;
use crate::sys::clock::Deadline;
use crate::sys::descriptor::hold_free_stdio;
use crate::sys::fork::{self, Kept};

/// Enough for two rings of the largest size and the lines beside them.
const LARGEST: u64 = 3 << 30;
/// How long a ring waits for an event's mutex. An honest peer holds it for less than a microsecond,
/// unless it is stopped there.
const PATIENCE: Duration = Duration::from_millis(20);

/// A mapped segment.
#[derive(Debug)]
pub(crate) struct Segment {
    map: Arc<Map>,
    /// The events of the data side and of the health side; set once the segment's memory is known
    /// to be right.
    events: OnceLock<[Arc<NamedEvent>; 2]>,
}

impl Segment {
    /// Makes the segment `id` of `len` bytes of zeros, in which only the first page is reserved and
    /// the events are ready. The name stays when the value is dropped.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] if it is too large; [`ErrorKind::Os`] if the name is
    /// taken or memory runs out, and then no name is left behind.
    pub(crate) fn create(id: &str, len: u64) -> Result<(Self, FileId)> {
        if len > LARGEST {
            return Err(Error::invalid_config(format!(
                "segment of {len} bytes, at most {LARGEST} can be mapped"
            )));
        }
        let _held = hold_free_stdio();
        // Dropping it unlinks the name, as long as it is the owner: any error below does that.
        let mut shmem = ShmemConf::new()
            .os_id(format!("/{id}"))
            .size(as_usize(len))
            .create()
            .map_err(|e| not_made(id, e))?;
        populate(shmem.as_ptr(), control::END)?;
        let file = file_of(&path(id))?
            .ok_or_else(|| mismatch(&path(id), "was removed while it was made"))?;
        let found = check_mapped(&path(id), &file, shmem.as_ptr())?;
        shmem.set_owner(false);
        let segment = Self::over(shmem);
        if let Err(error) = segment.set_events(true) {
            // There may be nothing to remove, and the first error is the one to return.
            let _ = std::fs::remove_file(path(id));
            return Err(error);
        }
        Ok((segment, found))
    }

    /// Opens the segment `id`, which another process has made; `None` if there is none, or if it
    /// has not its full size yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Mismatch`], with both values, if type, owner, mode or size are not as
    /// they must be; [`ErrorKind::Os`].
    pub(crate) fn open(id: &str) -> Result<Option<Self>> {
        let path = path(id);
        let Some(file) = file_of(&path)? else { return Ok(None) };
        let len = metadata(&file)?.len();
        if len == 0 {
            return Ok(None);
        }
        if len < as_u64(control::END) {
            let least = control::END;
            return Err(mismatch(&path, &format!("has {len} bytes, expected at least {least}")));
        }
        let _held = hold_free_stdio();
        let shmem = match ShmemConf::new().os_id(format!("/{id}")).open() {
            Ok(shmem) => shmem,
            // Removed since it was looked at.
            Err(ShmemError::MapOpenFailed(code)) if code == libc::ENOENT.cast_unsigned() => {
                return Ok(None);
            }
            Err(error) => return Err(Error::os(format!("cannot open {id}"), reason(error))),
        };
        check_mapped(&path, &file, shmem.as_ptr())?;
        if as_u64(shmem.len()) != len {
            let found = shmem.len();
            return Err(mismatch(&path, &format!("has {found} bytes, expected {len}")));
        }
        Ok(Some(Self::over(shmem)))
    }

    fn over(shmem: Shmem) -> Self {
        let map = Map { kept: OnceLock::new(), shmem: ManuallyDrop::new(shmem) };
        Self { map: Arc::new(map), events: OnceLock::new() }
    }

    /// Reserves all pages, so that a lack of memory is an error here and no SIGBUS later.
    pub(crate) fn reserve(&self) -> Result<()> {
        populate(self.map.shmem.as_ptr(), self.map.shmem.len())
    }

    /// Gives forked children of this process private memory in the place of the segment. This is
    /// for the segment that this process writes, which a host that forks without exec would
    /// otherwise share with its child. The other one stays readable there: replies that the child
    /// inherited lie in it.
    pub(crate) fn keep_from_forks(&self) {
        // SAFETY: a whole map, which is dropped after the result. Its words are atomics, its
        // payloads bytes, all of which may have any value, and its events are not used in a forked
        // child.
        let kept = || unsafe { fork::keep(self.start(), self.len()) };
        self.map.kept.get_or_init(kept);
    }

    /// Takes over the events that its maker has made.
    pub(crate) fn adopt_events(&self) -> Result<()> {
        self.set_events(false)
    }

    fn set_events(&self, is_new: bool) -> Result<()> {
        let event = |at| NamedEvent::at(&self.map, at, is_new).map(Arc::new);
        let events = [event(DATA_EVENT)?, event(HEALTH_EVENT)?];
        // Once: a segment is made, or adopted, by one thread.
        let _ = self.events.set(events);
        Ok(())
    }

    /// The region in it, for the process that writes it, by convention.
    pub(crate) fn own(self: &Arc<Self>) -> Result<OwnRegion> {
        let segment = Arc::clone(self);
        OwnRegion::over(segment)
    }

    /// The region in it, for the process that does not write it, by convention.
    pub(crate) fn peer(self: &Arc<Self>) -> PeerRegion {
        let segment = Arc::clone(self);
        PeerRegion::over(segment)
    }

    /// Frees the mutexes that a dead peer may have locked, and ends all waits.
    pub(crate) fn rescue(&self) {
        self.events.get().into_iter().flatten().for_each(|event| event.rescue());
    }
}

// SAFETY: `map` is a map of that many bytes, at a page's start, readable and writable, which is
// unmapped when the last segment and event that has it is dropped, and never moved before. That
// the file keeps its length is a convention: see the head of this file.
unsafe impl Backing for Segment {
    fn start(&self) -> NonNull<u8> {
        // Never null: shared_memory returns an error instead.
        NonNull::new(self.map.shmem.as_ptr()).unwrap_or(NonNull::dangling())
    }

    fn len(&self) -> usize {
        self.map.shmem.len()
    }

    /// On both sides.
    fn is_writable(&self) -> bool {
        true
    }

    fn event(&self, bell: usize) -> Option<SharedEvent> {
        const DATA: usize = control::DATA + control::BELL;
        const HEALTH: usize = control::HEALTH + control::BELL;
        let [data, health] = self.events.get()?;
        let event: SharedEvent = match bell {
            DATA => Arc::<NamedEvent>::clone(data),
            HEALTH => Arc::<NamedEvent>::clone(health),
            _ => return None,
        };
        Some(event)
    }
}

/// A map, which is unmapped when the last pointer into it is gone.
struct Map {
    /// Set if forked children get private memory in its place.
    kept: OnceLock<Kept>,
    shmem: ManuallyDrop<Shmem>,
}

// SAFETY: plain memory that any thread may reach, and a descriptor that is not used before the
// drop; all access to the memory goes through atomics, raw copies and events.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Map({}, {} bytes)", self.shmem.get_os_id(), self.shmem.len())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // First: private memory must not be put where there is no map.
        drop(self.kept.take());
        // The file is the parent's, and so is its name.
        if !fork::is_forked_child() {
            // SAFETY: this is the only place that drops it, and it is not used after.
            unsafe { ManuallyDrop::drop(&mut self.shmem) };
        }
    }
}

/// An event in a segment. Only one of the two processes waits on it.
struct NamedEvent {
    event: Box<dyn EventImpl>,
    /// The mutex inside the event.
    mutex: Box<dyn LockImpl>,
    turns: Turns,
    /// Keeps the memory of both mapped.
    _map: Arc<Map>,
}

// SAFETY: both are pointers to process-shared pthread objects, which any thread may use;
// the user data of raw_sync's mutex is never touched.
unsafe impl Send for NamedEvent {}
// SAFETY: as above.
unsafe impl Sync for NamedEvent {}

impl NamedEvent {
    fn at(map: &Arc<Map>, offset: usize, is_new: bool) -> Result<Self> {
        // SAFETY: every map is longer than its control lines, in which the offset lies.
        let memory = unsafe { map.shmem.as_ptr().byte_add(offset) };
        // The size that `new` returns counts the mutex twice.
        let len = RawEvent::size_of(Some(memory));
        if len > EVENT_LEN {
            let message = format!("an event takes {len} bytes, there is room for {EVENT_LEN}");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let made = if is_new {
            // SAFETY: the line is 128 bytes of mapped, writable memory, aligned to 128 and not
            // used yet. Auto-reset: `Turns` has one thread wait at a time.
            unsafe { RawEvent::new(memory, true) }
        } else {
            // SAFETY: the same, made by the peer; nothing in it is read but two flags.
            unsafe { RawEvent::from_existing(memory) }
        };
        let (event, _) = made.map_err(|e| unusable(&*e))?;
        // SAFETY: the event begins with its mutex, which is initialised by now.
        let mutex = unsafe { RawMutex::from_existing(memory, std::ptr::null_mut()) };
        let (mutex, _) = mutex.map_err(|e| unusable(&*e))?;
        Ok(Self { event, mutex, turns: Turns::default(), _map: Arc::clone(map) })
    }

    /// Whether the mutex gets free within about `patience`.
    fn is_free(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // Near the end of a second only a look is safe.
            let slice = within_second(left).unwrap_or_default();
            if self.mutex.try_lock(Timeout::Val(slice)).is_ok() {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            if slice.is_zero() {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }

    fn rescue(&self) {
        // A thread of this process that runs holds it for less than a microsecond.
        if !self.is_free(10 * PATIENCE) {
            // This is not its owner. POSIX does not say what an unlock by another thread does to
            // a plain mutex; in the GNU C library it is free then, and a thread that hangs on it
            // goes on.
            let _ = self.mutex.release();
        }
        self.set();
    }
}

impl Event for NamedEvent {
    fn set(&self) {
        if self.is_free(PATIENCE) {
            // If it cannot be set the sleeper looks again at the end of its slice.
            let _ = self.event.set(EventState::Signaled);
        }
    }

    fn wait(&self, is_still: &dyn Fn() -> bool, deadline: Deadline) {
        self.turns.wait(is_still, deadline, |longest| match within_second(longest) {
            Ok(slice) => {
                let start = Instant::now();
                let result = self.event.wait(Timeout::Val(slice));
                if result.is_err() && start.elapsed() < slice / 2 {
                    // The clock was set, or this thread was kept from running in between. That
                    // must not become a loop without a pause.
                    std::thread::sleep(longest.min(Duration::from_millis(1)));
                }
            }
            Err(left) => std::thread::sleep(longest.min(left)),
        });
    }
}

impl fmt::Debug for NamedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedEvent").field("turns", &self.turns).finish_non_exhaustive()
    }
}

/// How many bytes can still be reserved for segments.
pub(crate) fn free_space() -> Result<u64> {
    let mut found = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: a NUL-terminated path, and room for the answer.
    system::check(unsafe { libc::statvfs(c"/dev/shm".as_ptr(), found.as_mut_ptr()) })
        .map_err(|e| Error::os("cannot see how much is free in /dev/shm", e))?;
    // SAFETY: the call that fills it has succeeded.
    let found = unsafe { found.assume_init() };
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// The C library. Both sides must have the same one, as events are objects of it.
pub(crate) fn c_library() -> [u8; 16] {
    // SAFETY: a call without arguments that returns a static string.
    let version = unsafe { libc::gnu_get_libc_version() };
    // SAFETY: not null, and NUL-terminated.
    let version = unsafe { std::ffi::CStr::from_ptr(version) };
    let name = format!("glibc {}", version.to_string_lossy());
    let mut tag = [0; 16];
    tag.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    tag
}

fn populate(start: *mut u8, len: usize) -> Result<()> {
    // SAFETY: the range is within a live map of this process; its bytes stay what they are.
    match system::check(unsafe { libc::madvise(start.cast(), len, libc::MADV_POPULATE_WRITE) }) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            let message = "reserving the pages of a segment needs Linux 5.14";
            Err(Error::with_source(ErrorKind::Unsupported, message, e))
        }
        other => other
            .map(drop)
            .map_err(|e| Error::os(format!("cannot reserve {len} bytes of {DIRECTORY}"), e)),
    }
}

fn not_made(id: &str, error: ShmemError) -> Error {
    Error::os(format!("cannot make segment {id}"), reason(error))
}

fn reason(error: ShmemError) -> io::Error {
    match error {
        ShmemError::MappingIdExists => io::ErrorKind::AlreadyExists.into(),
        ShmemError::MapCreateFailed(code)
        | ShmemError::MapOpenFailed(code)
        | ShmemError::UnknownOsError(code) => io::Error::from_raw_os_error(code.cast_signed()),
        other => io::Error::other(other.to_string()),
    }
}

fn unusable(error: &dyn std::error::Error) -> Error {
    Error::mismatch(format!("the segment's event is unusable: {error}"))
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
