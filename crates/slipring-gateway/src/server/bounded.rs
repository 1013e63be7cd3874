//! Ends a request at its deadline although its reader does not read, or after a time if it has none.
//!
//! The body of an answer is asked for more only when there is room for it. So a request whose reader
//! does not read would find out about its deadline never, and would keep its worker.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::Frame as HttpFrame;

use super::answer::Answer;
use super::request::Deadline;
use super::unread::{Answers, Open};
use crate::wire::frame::Frame;

/// How much later than the deadline a request is given up: one that is read has an error of its own
/// by then, which says more.
const GRACE: Duration = Duration::from_millis(100);

/// An answer that ends at its deadline.
pub(super) struct Bounded {
    answer: Arc<Mutex<Answer>>,
    _open: Open,
}

impl Bounded {
    pub(super) fn new(answer: Answer, deadline: Deadline, answers: &Arc<Answers>) -> Self {
        let end = deadline.at().filter(|_| answer.is_costly());
        let end = end.and_then(|(end, longest)| Some((end.checked_add(GRACE)?, longest)));
        let answer = Arc::new(Mutex::new(answer));
        let open = answers.add(&answer, end);
        Self { answer, _open: open }
    }

    pub(super) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<HttpFrame<Frame>>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).poll_frame(context)
    }
}
