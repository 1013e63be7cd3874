//! Threads of the parent that wait until the kernel marks the robust futex of a worker, which it
//! does when the worker dies: see [`robust_futex`](super::robust_futex).
//!
//! The kernel wakes only one waiter of a futex, and one wait takes at most 128 of them. So the
//! waits belong to threads of the library's own, one for each 127 workers. Each sleeps without
//! a timeout on its private control word and on its workers' words.
//!
//! Ordering: the owner stores to its word with Release, and the kernel's mark is a full barrier.
//! The Acquire loads here pair with both. So a callback of a death sees all that the worker
//! wrote before it died.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::robust_futex::owner_died;
use super::service::{lock, start_thread};
use crate::sys::clock::Deadline;
use crate::sys::fork::is_forked_child;
use crate::sys::futex::{MAX_WORDS, Scope, Word, wait_any, wake_one};

/// The words that one thread watches, beside its control word.
const CAPACITY: usize = MAX_WORDS - 1;

/// How often a word may change or be woken without a meaning before it is no longer watched. A
/// worker could otherwise waste the parent's processor time. Its pidfd still tells of its death.
const MAX_EVENTS: u32 = 1_000;

type OnDeath = Box<dyn FnOnce() + Send>;
type SharedWord = Arc<dyn Deref<Target = AtomicU32> + Send + Sync>;

static WATCHERS: Mutex<Vec<Arc<Watcher>>> = Mutex::new(Vec::new());
static NEXT_ID: AtomicU64 = AtomicU64::new(0);
/// Set when the kernel has refused a wait although it supports waits for many words.
static IS_BROKEN: AtomicBool = AtomicBool::new(false);

/// Calls `on_death` once, on a thread of the library's own, when the kernel marks `word`.
/// `on_death` must not block. The owner may claim the word later. The word is no longer watched
/// when its owner has released it, or when it has changed too often without a meaning.
///
/// Nothing is watched if the kernel cannot wait for many words, or in a forked child. Then the
/// worker's pidfd alone tells of its death.
pub(crate) fn watch<W>(word: W, on_death: OnDeath) -> Watched
where
    W: Deref<Target = AtomicU32> + Send + Sync + 'static,
{
    watch_if(is_supported(), Arc::new(word), on_death)
}

/// Keeps a word watched until it is dropped, which never blocks. An `on_death` that is about to
/// run then still runs. The watching thread drops the word's handle soon after.
#[must_use = "dropping it ends the watch"]
pub(crate) struct Watched(Option<(Arc<Watcher>, u64)>);

impl Drop for Watched {
    fn drop(&mut self) {
        // After a fork, a thread that does not exist in the child can hold the lock.
        if let Some((watcher, id)) = self.0.take().filter(|_| !is_forked_child()) {
            watcher.forget(id);
        }
    }
}

/// Returns whether the kernel lets this process wait for many words.
fn is_supported() -> bool {
    static SUPPORTED: OnceLock<bool> = OnceLock::new();
    let probe = || {
        // Where the call exists, it reports at once that the word has another value.
        let word = AtomicU32::new(0);
        let refused = wait_any(&[Word::new(&word, 1, Scope::Private)], Deadline::NEVER);
        refused.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
    };
    *SUPPORTED.get_or_init(probe) && !IS_BROKEN.load(Ordering::Relaxed)
}

fn watch_if(is_supported: bool, word: SharedWord, on_death: OnDeath) -> Watched {
    if !is_supported || is_forked_child() {
        return Watched(None);
    }
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let seen = word.load(Ordering::Acquire);
    let mut entry = Some(WatchedWord { id, word, on_death, seen, events: 0 });
    let mut watchers = lock(&WATCHERS);
    for watcher in &*watchers {
        if watcher.add(&mut entry) {
            return Watched(Some((Arc::clone(watcher), id)));
        }
    }
    let watcher = Arc::new(Watcher::default());
    let theirs = Arc::clone(&watcher);
    if start_thread("slipring-watch", move || theirs.run()).is_err() || !watcher.add(&mut entry) {
        return Watched(None);
    }
    watchers.push(Arc::clone(&watcher));
    Watched(Some((watcher, id)))
}

/// One word to watch.
struct WatchedWord {
    id: u64,
    word: SharedWord,
    on_death: OnDeath,
    /// The value at the last look; 0 until the word was seen claimed.
    seen: u32,
    /// The number of changes and wakes so far.
    events: u32,
}

enum Verdict {
    Watch,
    Forget,
    Dead,
}

impl WatchedWord {
    /// Loads the word once.
    fn look(&mut self, was_woken: bool) -> Verdict {
        let value = self.word.load(Ordering::Acquire);
        if owner_died(value) {
            return Verdict::Dead;
        }
        let was_released = value == 0 && self.seen != 0;
        if value != self.seen || was_woken {
            self.events += 1;
        }
        self.seen = value;
        if was_released || self.events > MAX_EVENTS { Verdict::Forget } else { Verdict::Watch }
    }
}

/// The id and the word of an entry, and the value that it had when the wait began.
type Wait = (u64, SharedWord, u32);

/// One thread and the words that it watches.
#[derive(Default)]
struct Watcher {
    /// Changes whenever `entries` does, which ends a wait that began before.
    control: AtomicU32,
    entries: Mutex<Vec<WatchedWord>>,
}

impl Watcher {
    /// Takes the entry if there is room, and returns whether there was.
    fn add(&self, entry: &mut Option<WatchedWord>) -> bool {
        let mut entries = lock(&self.entries);
        if entries.len() >= CAPACITY {
            return false;
        }
        entries.extend(entry.take());
        drop(entries);
        self.notify();
        true
    }

    fn forget(&self, id: u64) {
        let mut entries = lock(&self.entries);
        let place = entries.iter().position(|entry| entry.id == id);
        let entry = place.map(|place| entries.swap_remove(place));
        drop(entries);
        if let Some(entry) = entry {
            // Makes the thread, which has the word too while it waits, drop it.
            self.notify();
            drop(entry);
        }
    }

    fn notify(&self) {
        // Release pairs with the Acquire load in `run`.
        self.control.fetch_add(1, Ordering::Release);
        wake_one(&self.control, Scope::Private);
    }

    fn run(&self) {
        let mut woken = None;
        loop {
            // Loaded before the entries: a change after this load ends the wait at once.
            let control = self.control.load(Ordering::Acquire);
            let waits = self.look_at_all(woken.take());
            let mut words = vec![Word::new(&self.control, control, Scope::Private)];
            words.extend(waits.iter().map(|(_, word, seen)| Word::new(word, *seen, Scope::Shared)));
            match wait_any(&words, Deadline::NEVER) {
                // The wake counts as an event of this word. All words are looked at in any case.
                Ok(0) => {}
                Ok(index) => woken = waits.get(index - 1).map(|(id, ..)| *id),
                Err(e) if is_harmless(&e) => {}
                Err(_) => return self.give_up(),
            }
        }
    }

    /// Looks at all words: calls the callbacks of marked ones, drops those that are no longer
    /// watched, and returns the others.
    fn look_at_all(&self, woken: Option<u64>) -> Vec<Wait> {
        let mut dead = Vec::new();
        let mut forgotten = Vec::new();
        let mut entries = lock(&self.entries);
        for mut entry in std::mem::take(&mut *entries) {
            match entry.look(woken == Some(entry.id)) {
                Verdict::Dead => dead.push(entry),
                Verdict::Forget => forgotten.push(entry),
                Verdict::Watch => entries.push(entry),
            }
        }
        let wait = |entry: &WatchedWord| (entry.id, Arc::clone(&entry.word), entry.seen);
        let waits = entries.iter().map(wait).collect();
        // Unlocked, as callbacks and the drops of their captures may call into this module.
        drop(entries);
        for entry in dead {
            let _ = catch_unwind(AssertUnwindSafe(entry.on_death));
        }
        let _ = catch_unwind(AssertUnwindSafe(|| drop(forgotten)));
        waits
    }

    /// Ends this thread's watches. The pidfds alone tell of deaths then.
    fn give_up(&self) {
        IS_BROKEN.store(true, Ordering::Relaxed);
        lock(&WATCHERS).retain(|other| !std::ptr::eq(&**other, self));
        let entries = std::mem::take(&mut *lock(&self.entries));
        let _ = catch_unwind(AssertUnwindSafe(|| drop(entries)));
    }
}

fn is_harmless(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as K;
    matches!(error.kind(), K::WouldBlock | K::Interrupted)
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
