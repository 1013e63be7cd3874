//! A channel within this process whose worker does what the input of a fuzz target says.

use std::sync::{Arc, OnceLock};

use super::forge::Forge;
use crate::channel::{Channel, ChannelState};
use crate::config::{Config, RingConfig, WaitStrategy};
use crate::error::ExitCause;
use crate::link::{ParentLink, WorkerLink};
use crate::process::external::ExternalWorker;
use crate::shm::memfd;
use crate::sys::wake_fd::WakeFd;

/// Takes numbers from the input. Beyond its end they are zero.
#[derive(Debug, Clone)]
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl Input<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.u8()))
    }

    /// A length of at most `most`.
    pub(super) fn len(&mut self, most: usize) -> usize {
        usize::from(self.u16()) % (most + 1)
    }

    /// Chooses an index below `len`; `None` if `len` is zero.
    pub(super) fn index(&mut self, len: usize) -> Option<usize> {
        usize::from(self.u8()).checked_rem(len)
    }
}

/// Makes the smallest rings, so that little input fills them and goes around.
pub(super) fn tiny(origin: u64, max_in_flight: usize) -> Config {
    let ring = RingConfig { capacity: 4096, max_frame: 1000 };
    Config {
        down: ring,
        up: ring,
        max_in_flight,
        stream_window: 1024,
        max_message: 3000,
        wait: WaitStrategy::Park,
        origin,
        ..Config::small()
    }
}

/// Chooses where positions start: at zero, or shortly before 32 or 64 bits overflow.
pub(super) fn origin(choice: u8) -> u64 {
    match choice % 4 {
        0 | 1 => 0,
        2 => u64::from(u32::MAX) - 1023,
        _ => u64::MAX - 1023,
    }
}

/// A channel and both of its ends.
pub(super) struct Rig {
    pub(super) channel: Channel,
    /// The worker's end, as an honest worker has it.
    pub(super) worker: WorkerLink,
    pub(super) wake_fd: Option<Arc<WakeFd>>,
    /// The same memory, for what is not honest.
    pub(super) forge: Forge,
    state: Arc<ChannelState>,
    /// Stands for the worker's thread. Its own callback has only a weak reference to it.
    thread: Arc<OnceLock<ExternalWorker>>,
}

impl Rig {
    pub(super) fn new(config: &Config, is_pollable: bool) -> Self {
        let pair = is_pollable.then(|| WakeFd::pair().unwrap());
        let (ours, theirs) = pair.unzip();
        let (ours, theirs) = (ours.map(Arc::new), theirs.map(|fds| Arc::new(WakeFd::of(fds))));
        let (regions, files) = memfd::create(config).unwrap();
        let parent = ParentLink::over(regions, config.tuning(), ours.as_ref()).unwrap();
        let forge = Forge::new(&files.up);
        let (down, up) = (files.down.into(), files.up.into());
        let regions = memfd::attach(down, up).unwrap();
        let worker = WorkerLink::over(regions, config.tuning(), theirs.as_ref()).unwrap();
        worker.words.tell_what_is_understood();
        parent.answer.check_attached().unwrap();

        let thread = Arc::<OnceLock<ExternalWorker>>::default();
        let state = Arc::<ChannelState>::default();
        let stop = {
            let (thread, state) = (Arc::downgrade(&thread), Arc::downgrade(&state));
            Arc::new(move || {
                if let (Some(thread), Some(state)) = (thread.upgrade(), state.upgrade()) {
                    end(&thread, &state);
                }
            })
        };
        let body = thread.get_or_init(|| ExternalWorker::new(std::process::id(), stop)).clone();
        let role = "hostile".to_owned();
        let channel =
            Channel::over_thread(parent, config, role, body, Arc::clone(&state), ours, None);
        Self { channel, worker, wake_fd: theirs, forge, state, thread }
    }

    /// Ends the worker, as if by itself.
    pub(super) fn die(&self) {
        end(&self.thread, &self.state);
    }
}

fn end(thread: &OnceLock<ExternalWorker>, state: &ChannelState) {
    if let Some(thread) = thread.get() {
        thread.record_exit(ExitCause::Exited(1));
    }
    state.note_exit();
}
