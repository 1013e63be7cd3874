//! How far a request is, for those that ask while it is in flight.

use std::fmt;
use std::sync::{Arc, Weak};

use super::handle::Channel;
use crate::error::{Error, Marks, RequestStage};
use crate::id::RequestId;
use crate::sync::plain::Mutex;
use crate::sys::fork;

/// How far a request is, over all its attempts. It can be asked from any thread, as often as liked,
/// while the request is in flight and after its end: from
/// [`BackendRequest::progress`](crate::backend::BackendRequest::progress), which has an example.
///
/// Cheap to clone; all clones tell of the same request. It keeps neither the request nor its worker.
#[derive(Clone)]
pub struct Progress(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    known: Known,
    /// Where the attempt is that a worker of this machine has.
    attempt: Option<Attempt>,
}

/// What was found out so far. Only the first can change.
#[derive(Debug, Clone, Copy)]
enum Known {
    /// No worker has begun it.
    NotBegun(RequestStage),
    /// A worker may have begun it, or may still begin it.
    Unknown,
    Begun,
}

impl Default for Known {
    fn default() -> Self {
        Self::NotBegun(RequestStage::Queued)
    }
}

#[derive(Debug)]
struct Attempt {
    marks: Weak<dyn Marks>,
    request: u64,
}

/// What keeps the memory of a channel.
type Memory = Option<Arc<dyn Marks>>;

impl Progress {
    /// Returns how far the request is. Costs a look at shared memory; blocks no longer than a lock is
    /// held.
    ///
    /// | stage | means |
    /// |---|---|
    /// | `Some(Queued)` | no worker has taken it yet; it may not even be sent |
    /// | `Some(Taken)` | a worker has taken it, and has not begun it yet |
    /// | `Some(Begun)` | a worker has begun it; this never changes again |
    /// | `None` | a worker may have begun it, and this is not known; also in a forked child |
    ///
    /// A stage other than `Begun` is that of the moment. Once the request has ended it is final:
    /// `Some(Queued)` and `Some(Taken)` then mean that no worker has begun the request, and that none
    /// will. For a request that was given up while a worker had it, it is `None` unless the worker
    /// had begun it.
    #[must_use]
    pub fn stage(&self) -> Option<RequestStage> {
        let (stage, _memory) = self.change(|state| {
            let memory = state.look();
            let stage = match state.known {
                Known::NotBegun(stage) => Some(stage),
                Known::Unknown => None,
                Known::Begun => Some(RequestStage::Begun),
            };
            (stage, memory)
        })?;
        stage
    }

    /// Sets how far the request is; `None` if that is not known. For implementations of
    /// [`Backend`](crate::backend::Backend), which learn it from elsewhere.
    ///
    /// Neither `Begun` nor `None` is taken back: after `None` only `Begun` changes anything, as an
    /// earlier attempt may have been begun.
    pub fn set(&self, stage: Option<RequestStage>) {
        self.change(|state| {
            state.attempt = None;
            match stage {
                Some(RequestStage::Begun) => state.known = Known::Begun,
                Some(stage) => state.note_not_begun(stage),
                None => state.note_unknown(),
            }
        });
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> Option<R> {
        // There the lock may be held for ever.
        (!fork::is_forked_child()).then(|| change(&mut self.0.lock()))
    }
}

impl Default for Progress {
    fn default() -> Self {
        if fork::is_forked_child() {
            // Or nothing was set up yet: workers may be on other hosts alone.
            _ = fork::watch();
        }
        Self(Arc::default())
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Progress").field(&self.stage()).finish()
    }
}

impl State {
    /// Looks at what the worker has marked. Returns the channel's memory, of which this may be the
    /// last owner, to be dropped without the lock.
    fn look(&mut self) -> Memory {
        let attempt = self.attempt.as_ref()?;
        let marks = attempt.marks.upgrade()?;
        match marks.of(attempt.request) {
            Some(mark) if mark.was_begun() => self.known = Known::Begun,
            Some(_) => self.note_not_begun(RequestStage::Taken),
            None => {}
        }
        Some(marks)
    }

    fn note_not_begun(&mut self, stage: RequestStage) {
        if let Known::NotBegun(before) = &mut self.known {
            *before = stage;
        }
    }

    fn note_unknown(&mut self) {
        if matches!(self.known, Known::NotBegun(_)) {
            self.known = Known::Unknown;
        }
    }

    /// The attempt is over, by the choice of its caller.
    fn give_up(&mut self) -> Memory {
        let memory = self.look();
        // Until the worker finds it cancelled it can begin it.
        if self.attempt.take().is_some() {
            self.note_unknown();
        }
        memory
    }

    /// The attempt has ended with this error.
    fn fail(&mut self, error: &Error) -> Memory {
        let memory = self.look();
        let was_sent = self.attempt.take().is_some();
        match error.stage() {
            Some(RequestStage::Begun) => self.known = Known::Begun,
            Some(stage) => self.note_not_begun(stage),
            None if was_sent => self.note_unknown(),
            None => {}
        }
        memory
    }
}

/// Tells a progress of one request, if it has one, from its first attempt to its end. Dropped before
/// that, the request is given up.
#[derive(Debug, Default)]
pub(crate) struct Observer(Option<Progress>);

impl Observer {
    pub(crate) fn new(progress: Progress) -> Self {
        Self(Some(progress))
    }

    /// The progress, or one of no use.
    #[cfg(feature = "async")]
    pub(crate) fn progress(&self) -> Progress {
        self.0.clone().unwrap_or_default()
    }

    /// A worker has the request, or a part of it.
    #[inline]
    pub(crate) fn note_sent(&self, channel: Option<&Channel>, request: RequestId) {
        if let (Some(progress), Some(channel)) = (&self.0, channel) {
            note_sent(progress, channel, request);
        }
    }

    /// A worker has answered.
    #[inline]
    pub(crate) fn note_answer(&self) {
        if let Some(progress) = &self.0 {
            progress.set(Some(RequestStage::Begun));
        }
    }

    /// An attempt has failed, whether another one follows or not.
    pub(crate) fn note_failure(&self, error: &Error) {
        if let Some(progress) = &self.0 {
            progress.change(|state| state.fail(error));
        }
    }
}

#[cold]
fn note_sent(progress: &Progress, channel: &Channel, request: RequestId) {
    let marks = channel.core().weak_marks();
    progress.change(|state| {
        state.note_not_begun(RequestStage::Queued);
        state.attempt = Some(Attempt { marks, request: request.get() });
    });
}

impl Drop for Observer {
    fn drop(&mut self) {
        if let Some(progress) = &self.0 {
            progress.change(State::give_up);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorKind, Mark, Stage};
    use RequestStage::{Begun, Queued, Taken};

    #[derive(Debug, Default)]
    struct OneMark(Mutex<Option<Stage>>);

    impl Marks for OneMark {
        fn all(&self) -> Vec<Mark> {
            let stage = *self.0.lock();
            let mark =
                |stage| Mark { request: 3, stage, since: 0, progress: 0, awaits_credit: false };
            stage.map(mark).into_iter().collect()
        }
    }

    /// A progress whose request a worker has, and the worker's mark of it.
    fn sent() -> (Progress, Arc<OneMark>) {
        let marks = Arc::new(OneMark::default());
        let weak: Weak<dyn Marks> = Arc::<OneMark>::downgrade(&marks);
        let progress = Progress::default();
        progress.change(|state| state.attempt = Some(Attempt { marks: weak, request: 3 }));
        (progress, marks)
    }

    #[test]
    fn a_stage_follows_the_marks_and_begun_is_kept_when_they_are_gone() {
        let (progress, marks) = sent();
        assert_eq!(progress.stage(), Some(Queued));
        for (stage, seen) in [(Stage::Taken, Taken), (Stage::Begun, Begun)] {
            *marks.0.lock() = Some(stage);
            assert_eq!(progress.stage(), Some(seen));
        }
        // A later request has its entry.
        *marks.0.lock() = None;
        assert_eq!(progress.stage(), Some(Begun));
        drop(marks);
        assert_eq!(progress.stage(), Some(Begun));
    }

    #[test]
    fn a_request_that_is_given_up_is_unknown_unless_it_was_begun() {
        for (stage, after) in
            [(None, None), (Some(Stage::Taken), None), (Some(Stage::Answered), Some(Begun))]
        {
            let (progress, marks) = sent();
            *marks.0.lock() = stage;
            drop(Observer::new(progress.clone()));
            assert_eq!(progress.stage(), after);
        }
        let waits = Progress::default();
        drop(Observer::new(waits.clone()));
        assert_eq!(waits.stage(), Some(Queued), "no worker has it");
    }

    #[test]
    fn an_error_says_how_far_the_attempt_was_that_it_has_ended() {
        let error = || Error::new(ErrorKind::Timeout, "late");
        for (error, stage) in [
            (error(), None),
            (error().with_begun(false), Some(Queued)),
            (error().with_begun(true), Some(Begun)),
        ] {
            let (progress, _marks) = sent();
            Observer::new(progress.clone()).note_failure(&error);
            assert_eq!(progress.stage(), stage, "{error}");
        }
        let waits = Progress::default();
        Observer::new(waits.clone()).note_failure(&error());
        assert_eq!(waits.stage(), Some(Queued), "it was not sent");
    }

    #[test]
    fn what_may_have_been_begun_stays_so_whatever_another_attempt_is_told() {
        let progress = Progress::default();
        let stages =
            [Some(Taken), Some(Queued), None, Some(Taken), Some(Begun), None, Some(Queued)];
        let seen = stages.map(|stage| {
            progress.set(stage);
            progress.stage()
        });
        let kept = [Some(Taken), Some(Queued), None, None, Some(Begun), Some(Begun), Some(Begun)];
        assert_eq!(seen, kept);
    }
}
