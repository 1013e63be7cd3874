//! Gives up answers whose reader does not read them.
//!
//! An answer is asked for its next part when there is room for it. One that is not asked for long keeps
//! its worker, or the gateway from its end, for a reader that is connected and does nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::answer::Answer;

/// How many looks find that nothing was taken before an answer is given up. So it is given up at most
/// a quarter later than it may be.
pub(super) const LOOKS: u8 = 4;

/// The shortest pause between two looks.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// The answers of one connection.
#[derive(Default)]
pub(super) struct Answers {
    state: Mutex<State>,
    /// There is an answer, and they are not watched.
    begun: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    open: BTreeMap<u64, Weak<Mutex<Answer>>>,
    is_watched: bool,
}

/// An answer of the connection, until this is dropped.
pub(super) struct Open {
    answers: Arc<Answers>,
    id: u64,
}

impl Answers {
    pub(super) fn add(self: &Arc<Self>, answer: &Arc<Mutex<Answer>>) -> Open {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.open.insert(id, Arc::downgrade(answer));
        let was_watched = std::mem::replace(&mut state.is_watched, true);
        drop(state);
        if !was_watched {
            self.begun.notify_one();
        }
        Open { answers: Arc::clone(self), id }
    }

    /// Looks at the answers again and again, as long as there are some. Gives those up of which
    /// nothing was taken for so long.
    pub(super) async fn watch(&self, longest: Duration) -> Infallible {
        loop {
            self.begun.notified().await;
            loop {
                sleep((longest / u32::from(LOOKS)).max(SHORTEST_PAUSE)).await;
                let Some(open) = self.open() else { break };
                for answer in open.iter().filter_map(Weak::upgrade) {
                    let mut answer = answer.lock().unwrap_or_else(PoisonError::into_inner);
                    answer.look(longest);
                }
            }
        }
    }

    /// The answers; `None` if there are none, which are not watched then.
    fn open(&self) -> Option<Vec<Weak<Mutex<Answer>>>> {
        let mut state = self.lock();
        state.is_watched = !state.open.is_empty();
        state.is_watched.then(|| state.open.values().cloned().collect())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.answers.lock().open.remove(&self.id);
    }
}
