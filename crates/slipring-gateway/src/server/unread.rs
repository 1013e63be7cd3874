//! Gives up answers whose reader does not read them.
//!
//! An answer is asked for its next part when there is room for it. One that is not asked for long keeps
//! its worker, or the gateway from its end, for a reader that is connected and does nothing. Nor does it
//! find out about its deadline.
//!
//! One timer for each connection looks at all of its answers. It is not set anew by each of them, since that
//! wakes the runtime: it runs on when they are over, and a later one is found when it has ended.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::answer::Answer;
use crate::wire::error::not_read;

/// How many looks find that nothing was taken before an answer is given up. So it is given up at most
/// a quarter later than it may be.
pub(super) const LOOKS: u8 = 4;

/// The shortest pause between two looks.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// The answers of one connection.
#[derive(Default)]
pub(super) struct Answers {
    state: Mutex<State>,
    /// There is an answer that is not watched, or not soon enough.
    begun: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    open: BTreeMap<u64, Watched>,
    /// When it is looked next; `None` if there was no answer at the last look.
    look_at: Option<Instant>,
}

struct Watched {
    answer: Weak<Mutex<Answer>>,
    end: Option<End>,
}

/// When an answer is given up in any case, and how long the whole request may take.
pub(super) type End = (Instant, Duration);

/// An answer of the connection, until this is dropped.
pub(super) struct Open {
    answers: Arc<Answers>,
    id: u64,
}

impl Answers {
    pub(super) fn add(self: &Arc<Self>, answer: &Arc<Mutex<Answer>>, end: Option<End>) -> Open {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.open.insert(id, Watched { answer: Arc::downgrade(answer), end });
        let is_late = |look_at| end.is_some_and(|(end, _)| end < look_at);
        let must_look = state.look_at.is_none_or(is_late);
        drop(state);
        if must_look {
            self.begun.notify_one();
        }
        Open { answers: Arc::clone(self), id }
    }

    /// Looks at the answers again and again, as long as there are some. Gives those up whose end has come,
    /// and those of which nothing was taken for so long.
    pub(super) async fn watch(&self, longest: Duration) -> Infallible {
        let pause = (longest / u32::from(LOOKS)).max(SHORTEST_PAUSE);
        loop {
            self.begun.notified().await;
            let mut look_at = Instant::now() + pause;
            while let Some(at) = self.next_look(look_at) {
                if timeout_at(at, self.begun.notified()).await.is_ok() {
                    continue;
                }
                let now = Instant::now();
                self.end(now);
                if now >= look_at {
                    self.look(longest);
                    look_at = now + pause;
                }
            }
        }
    }

    /// When the first answer ends, or else `look_at`; `None` if there are no answers.
    fn next_look(&self, look_at: Instant) -> Option<Instant> {
        let mut state = self.lock();
        let ends = state.open.values().filter_map(|open| open.end.map(|(end, _)| end));
        let first = ends.min().map_or(look_at, |end| end.min(look_at));
        state.look_at = (!state.open.is_empty()).then_some(first);
        state.look_at
    }

    /// Gives those up whose end has come.
    fn end(&self, now: Instant) {
        let mut ended = Vec::new();
        for Watched { answer, end } in self.lock().open.values_mut() {
            if let Some((_, longest)) = end.take_if(|(end, _)| *end <= now) {
                ended.push((answer.clone(), longest));
            }
        }
        for (answer, longest) in ended {
            with(&answer, |answer| answer.give_up(not_read(longest)));
        }
    }

    fn look(&self, longest: Duration) {
        let open: Vec<_> = self.lock().open.values().map(|open| open.answer.clone()).collect();
        for answer in open {
            with(&answer, |answer| answer.look(longest));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that is over meanwhile is left alone.
fn with(answer: &Weak<Mutex<Answer>>, act: impl FnOnce(&mut Answer)) {
    if let Some(answer) = answer.upgrade() {
        act(&mut answer.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.answers.lock().open.remove(&self.id);
    }
}
