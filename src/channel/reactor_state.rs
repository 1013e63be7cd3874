//! The words of a channel that is read by its descriptor: for tasks, or by a reactor of the
//! host's.

use std::sync::{Arc, OnceLock};

use crate::channel::wait_list::WaitList;
use crate::error::{Error, Result};
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::sys::wake_fd::WakeFd;

/// Turns in a row that the descriptor asked for and that found nothing, after which the worker
/// counts as corrupt.
const MOST_IDLE_TURNS: u32 = 10_000;

/// What is kept between two turns.
#[derive(Debug)]
pub(crate) struct ReactorState {
    /// The descriptor, if the channel was made for reactors.
    wake_fd: Option<Arc<WakeFd>>,
    /// Tasks that wait for something of this channel's.
    tasks: AtomicUsize,
    /// The request of a waiting task that reads the ring for itself; zero if there is none. One of
    /// them, if there are several.
    task_that_reads: AtomicU64,
    /// Tasks that wait on the health rings, which share the descriptor. They are woken whenever it
    /// was readable.
    pub(crate) health_waiters: WaitList,
    /// Tasks to be woken at the end of the channel, which wait for something else.
    pub(crate) end_waiters: WaitList,
    /// Set for good once a reactor of the host's reads this channel.
    has_host_reactor: AtomicU32,
    /// Set while an item lies in the pending table that this reactor was not told of.
    is_unreported: AtomicU32,
    /// How often in a row the descriptor was readable for nothing.
    idle_turns: AtomicU32,
    /// The position of the reply ring at the last turn.
    position: AtomicU64,
    /// Makes sure that the descriptor is polled for the tasks of the calling thread.
    before_wait: OnceLock<BeforeWait>,
}

/// See [`ReactorState::set_before_wait`].
struct BeforeWait(Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for BeforeWait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BeforeWait")
    }
}

impl ReactorState {
    pub(super) fn new(wake_fd: Option<Arc<WakeFd>>) -> Self {
        Self {
            wake_fd,
            tasks: AtomicUsize::new(0),
            task_that_reads: AtomicU64::new(0),
            health_waiters: WaitList::default(),
            end_waiters: WaitList::default(),
            has_host_reactor: AtomicU32::new(0),
            is_unreported: AtomicU32::new(0),
            idle_turns: AtomicU32::new(0),
            position: AtomicU64::new(0),
            before_wait: OnceLock::new(),
        }
    }

    pub(crate) fn wake_fd(&self) -> Option<&Arc<WakeFd>> {
        self.wake_fd.as_ref()
    }

    /// Makes the descriptor readable, if there is one.
    pub(super) fn wake_self(&self) {
        if let Some(wake_fd) = &self.wake_fd {
            wake_fd.wake_self();
        }
    }

    /// Counts one more task that waits: a reader that leaves must arm the descriptor.
    pub(crate) fn add_task(&self) {
        self.tasks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_task(&self) {
        self.tasks.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn tasks(&self) -> usize {
        self.tasks.load(Ordering::Relaxed)
    }

    /// Whether no more than one task waits, and no reactor of the host's reads: a task that waits
    /// can leave the frames of others in the ring.
    pub(super) fn has_one_task(&self) -> bool {
        self.tasks() <= 1 && !self.has_host_reactor()
    }

    /// Notes that the task which waits for this request reads the ring for itself.
    pub(super) fn set_task_that_reads(&self, request: u64) {
        self.task_that_reads.store(request, Ordering::Relaxed);
    }

    /// Notes that the task of this request does not wait any more.
    pub(super) fn clear_task_that_reads(&self, request: u64) {
        let (zero, relaxed) = (0, Ordering::Relaxed);
        let _ = self.task_that_reads.compare_exchange(request, zero, relaxed, relaxed);
    }

    /// Returns the request of the only task that waits, if that reads the ring for itself. That holds
    /// only if the waiter of the request can be taken afterwards: a task that ends its wait gives up
    /// its waiter before it counts as gone.
    pub(super) fn only_task_that_reads(&self) -> Option<u64> {
        let request = self.task_that_reads.load(Ordering::Relaxed);
        (request != 0 && self.has_one_task()).then_some(request)
    }

    /// Notes that a reactor of the host's reads this channel from now on.
    pub(super) fn set_host_reactor(&self) {
        self.has_host_reactor.store(1, Ordering::Relaxed);
    }

    pub(super) fn has_host_reactor(&self) -> bool {
        self.has_host_reactor.load(Ordering::Relaxed) != 0
    }

    /// Notes, under the receiver's turn, that an item without a waiter was put into the
    /// pending table. A reactor of the host's is told by its descriptor.
    pub(super) fn note_unreported(&self) {
        if self.has_host_reactor() && self.is_unreported.swap(1, Ordering::Relaxed) == 0 {
            self.wake_self();
        }
    }

    pub(super) fn clear_unreported(&self) {
        self.is_unreported.store(0, Ordering::Relaxed);
    }

    pub(super) fn has_unreported(&self) -> bool {
        self.is_unreported.load(Ordering::Relaxed) != 0
    }

    /// Notes where the reply ring was read to. Returns whether that is further than before,
    /// whichever reader read it.
    pub(super) fn note_position(&self, position: u64) -> bool {
        self.position.swap(position, Ordering::Relaxed) != position
    }

    /// Counts a turn. Tells a worker that makes the descriptor readable without end from one
    /// that is busy.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PeerCorrupt`](crate::ErrorKind::PeerCorrupt) after 10,000 turns in a row
    /// that had no reason.
    pub(super) fn count_turn(&self, has_drained: bool, has_reason: bool) -> Result<()> {
        if has_reason {
            self.idle_turns.store(0, Ordering::Relaxed);
        } else if has_drained && self.idle_turns.fetch_add(1, Ordering::Relaxed) >= MOST_IDLE_TURNS
        {
            let message = "the peer made the descriptor for reactors readable without end";
            return Err(Error::corrupt(message));
        }
        Ok(())
    }

    /// Notes that the worker has been given a reason to make the descriptor readable.
    pub(crate) fn reset_idle_turns(&self) {
        self.idle_turns.store(0, Ordering::Relaxed);
    }

    /// Tells all that poll the descriptor, and all tasks, that the channel is over.
    pub(super) fn wake_at_end(&self) {
        self.wake_self();
        self.health_waiters.wake_all_elsewhere();
        self.end_waiters.wake_all_elsewhere();
    }

    /// Sets what is called before each look of a task that may then wait: a reactor that polls
    /// the descriptor for its own tasks need not run while another executor's wait. Once: a
    /// channel gets one async view.
    pub(crate) fn set_before_wait(&self, before_wait: impl Fn() + Send + Sync + 'static) {
        let _ = self.before_wait.set(BeforeWait(Box::new(before_wait)));
    }

    /// Must be called before a task waits for the descriptor to be polled.
    pub(crate) fn before_wait(&self) {
        if let Some(BeforeWait(before_wait)) = self.before_wait.get() {
            before_wait();
        }
    }
}
