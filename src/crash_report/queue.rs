//! The reports of one directory that wait to be written, and the thread that writes them.
//!
//! The thread is there while there is something to write. First it asks for the contents of all reports
//! that wait, so that a slow disk does not keep the memory of channels that are over. Then it writes them.
//! Workers that end while it writes do keep theirs until it has written.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::exit;
use super::file::{self, Name};
use super::json::Json;
use crate::error::ReportPlace;
use crate::process::service::start_thread;
use crate::sync::plain::{Condvar, Mutex, MutexGuard};
use crate::sys::clock::Deadline;
use crate::sys::fork;
use crate::trace::event;

/// The most reports that wait: a disk that does not answer must not take all memory.
const MOST_WAITING: usize = 128;

/// What a report has only if the host asks for it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wants {
    pub(crate) arguments: bool,
    /// The most bytes of each payload.
    pub(crate) payload: usize,
}

/// A report that is to be written.
pub(super) struct Job {
    pub(super) name: Name,
    pub(super) place: ReportPlace,
    /// Asks for the contents. May block for some seconds.
    pub(super) collect: Box<dyn FnOnce(Wants) -> Json + Send>,
}

/// Where the reports go.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) directory: PathBuf,
    pub(super) keep: usize,
    pub(super) wants: Wants,
}

/// The reports of one directory.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// Reports that are to be written, with those that are about to be added. Changes under the lock.
    open: AtomicUsize,
}

#[derive(Default)]
struct State {
    jobs: Vec<(Job, Target)>,
    is_running: bool,
    written: u64,
    lost: u64,
    last_failure: Option<String>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("written", &self.written).finish_non_exhaustive()
    }
}

impl Queue {
    /// Says that a report will be added, so that waits wait for it.
    pub(super) fn announce(&self) {
        let _state = self.state.lock();
        self.open.fetch_add(1, Ordering::Relaxed);
        exit::note_open();
    }

    /// Nothing comes of a report that was announced.
    pub(super) fn withdraw(&self) {
        self.note_end(self.state.lock());
    }

    /// Adds a report that was announced. Never blocks.
    pub(super) fn add(self: &Arc<Self>, job: Job, target: Target) {
        let mut state = self.state.lock();
        if state.jobs.len() >= MOST_WAITING {
            let why = format!("{MOST_WAITING} others wait to be written");
            self.note_lost(state, &job.place, why);
            return;
        }
        state.jobs.push((job, target));
        if std::mem::replace(&mut state.is_running, true) {
            return;
        }
        drop(state);
        let theirs = Arc::clone(self);
        if let Err(error) = start_thread("slipring-crash", move || theirs.run()) {
            self.give_up(&format!("no thread can be started: {error}"));
        }
    }

    /// Blocks until all reports that were announced are written or lost. Returns whether they are.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let is_done = || self.open.load(Ordering::Relaxed) == 0;
        if fork::is_forked_child() {
            return is_done();
        }
        let deadline = Deadline::after(timeout);
        let mut state = self.state.lock();
        while !is_done() && !deadline.has_passed() {
            state = self.changed.wait_timeout(state, deadline.remaining());
        }
        is_done()
    }

    pub(super) fn counts(&self) -> (u64, u64) {
        if fork::is_forked_child() {
            return (0, 0);
        }
        let state = self.state.lock();
        (state.written, state.lost)
    }

    pub(super) fn last_failure(&self) -> Option<String> {
        if fork::is_forked_child() { None } else { self.state.lock().last_failure.clone() }
    }

    fn run(&self) {
        loop {
            let mut state = self.state.lock();
            let jobs = std::mem::take(&mut state.jobs);
            if jobs.is_empty() {
                state.is_running = false;
                return;
            }
            drop(state);
            let collected: Vec<_> = jobs
                .into_iter()
                .map(|(Job { name, place, collect }, target)| {
                    // It ends with drops of the host's code, such as wakers, which may panic.
                    let contents =
                        catch_unwind(AssertUnwindSafe(|| collect(target.wants).to_text()));
                    (name, place, contents.ok(), target)
                })
                .collect();
            for (name, place, contents, target) in collected {
                self.write(&name, &place, contents, &target);
            }
        }
    }

    fn write(&self, name: &Name, place: &ReportPlace, contents: Option<String>, target: &Target) {
        let Target { directory, keep, .. } = target;
        let written = match contents {
            Some(contents) => file::write(directory, name, &contents)
                .map_err(|error| format!("cannot write to {}: {error}", directory.display())),
            None => Err("code of the host's has panicked".to_owned()),
        };
        match written {
            Ok(path) => {
                place.set(Ok(path.clone()));
                file::prune(&path, *keep);
                let mut state = self.state.lock();
                state.written += 1;
                self.note_end(state);
                // The subscriber is the host's code.
                let _ = catch_unwind(|| {
                    event!(INFO, role = name.role.as_str(), path = %path.display(), "crash report");
                });
                let _ = path;
            }
            Err(why) => {
                if self.note_lost(self.state.lock(), place, why.clone()) {
                    let _ = catch_unwind(|| {
                        let directory = directory.display();
                        event!(WARN, %directory, why = why.as_str(), "no crash report");
                        let _ = directory;
                    });
                }
            }
        }
    }

    /// Nothing can be written.
    #[cold]
    fn give_up(&self, why: &str) {
        let mut state = self.state.lock();
        state.is_running = false;
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        for (job, _) in jobs {
            self.note_lost(self.state.lock(), &job.place, why.to_owned());
        }
    }

    /// Notes that a report cannot be written. Returns whether it is the first one.
    fn note_lost(
        &self,
        mut state: MutexGuard<'_, State>,
        place: &ReportPlace,
        why: String,
    ) -> bool {
        state.lost += 1;
        let is_first = state.last_failure.replace(why.clone()).is_none();
        place.set(Err(why));
        self.note_end(state);
        is_first
    }

    fn note_end(&self, state: MutexGuard<'_, State>) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        drop(state);
        exit::note_end();
        self.changed.notify_all();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::SystemTime;

    use super::*;
    use crate::crash_report::json::object;
    use crate::process::testing::TempDir;

    const LONG: Duration = Duration::from_secs(60);

    /// Adds a report whose contents are asked for by `collect`.
    fn add(
        (queue, dir): (&Arc<Queue>, &TempDir),
        pid: u32,
        collect: impl FnOnce() + Send + 'static,
    ) -> ReportPlace {
        let place = ReportPlace::default();
        let name = Name { role: "r".to_owned(), pid, time: SystemTime::now() };
        let collect = Box::new(move |_| {
            collect();
            object! { "pid": pid }
        });
        let directory = dir.path().to_owned();
        let target = Target { directory, keep: 1000, wants: Wants::default() };
        queue.announce();
        queue.add(Job { name, place: place.clone(), collect }, target);
        place
    }

    #[test]
    fn a_report_that_hangs_holds_nothing_but_so_many_others() {
        let (queue, dir) = (Arc::new(Queue::default()), TempDir::new());
        let ((tell, told), (go, gone)) = (channel(), channel::<()>());
        let hung = add((&queue, &dir), 0, move || {
            tell.send(()).unwrap();
            gone.recv().unwrap();
        });
        told.recv_timeout(LONG).unwrap();
        let most = u32::try_from(MOST_WAITING).unwrap();
        let waiting: Vec<_> = (1..=most).map(|pid| add((&queue, &dir), pid, || ())).collect();
        let surplus = add((&queue, &dir), most + 1, || ());
        assert!(!queue.wait(Duration::from_millis(1)));
        assert_eq!((queue.counts(), hung.path(), surplus.path()), ((0, 1), None, None));
        assert_eq!(queue.last_failure().unwrap(), "128 others wait to be written");
        go.send(()).unwrap();
        assert!(queue.wait(LONG));
        assert_eq!(queue.counts(), (u64::from(most) + 1, 1));
        assert!(waiting.iter().chain([&hung]).all(|place| place.path().unwrap().exists()));
        assert_eq!(surplus.path(), None);
    }

    #[test]
    fn a_report_that_panics_is_lost_and_the_next_one_written() {
        let (queue, dir) = (Arc::new(Queue::default()), TempDir::new());
        let lost = add((&queue, &dir), 1, || std::panic::resume_unwind(Box::new("on purpose")));
        let written = add((&queue, &dir), 2, || ());
        assert!(queue.wait(LONG));
        assert_eq!((queue.counts(), lost.path()), ((1, 1), None));
        assert!(written.path().unwrap().exists());
    }
}
