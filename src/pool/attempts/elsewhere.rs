//! A request that leaves its role for other workers, and comes back if those do not take it.

use std::sync::Arc;

use super::{Attempts, Destination};
use crate::backend::BackendRequest;
use crate::channel::Progress;
use crate::error::{Error, ErrorKind, Result};
use crate::payload::{Payload, encoded_bytes};
use crate::pool::overflow::CancelElsewhere;
use crate::pool::role::RoleRef;
use crate::pool::scheduler::Elsewhere;

impl<R: RoleRef> Attempts<R> {
    /// Looks whether other workers would take it.
    #[inline]
    pub(super) fn look_elsewhere(&mut self) -> Result<()> {
        let Some(overflow) = &self.role.overflow else { return Ok(()) };
        let elsewhere = match (self.must_stay, self.role.has_workers) {
            (true, true) => Elsewhere::Never,
            (true, false) => return Err(self.cannot_stay()),
            (false, true) => overflow.takes_requests(),
            // It is for them to have it wait.
            (false, false) => Elsewhere::IfFull,
        };
        self.asked.elsewhere = elsewhere;
        Ok(())
    }

    #[cold]
    fn cannot_stay(&mut self) -> Error {
        let message = format!(
            "role {} has no workers of its own, which a message that is written in parts needs",
            self.role.name
        );
        self.failed_with(Error::new(ErrorKind::Unsupported, message).with_begun(false))
    }

    pub(super) fn leave_for_others(&mut self) -> Result<Destination<R>> {
        match self.role.overflow.clone() {
            Some(overflow) => Ok(Destination::Elsewhere(overflow)),
            None => Err(self.no_others()),
        }
    }

    /// What the other workers are asked.
    pub(crate) fn request_elsewhere<P: Payload + ?Sized>(
        &self,
        payload: &P,
        progress: Progress,
    ) -> Result<BackendRequest> {
        let request = BackendRequest::new(self.kind, encoded_bytes(payload)?)
            .priority(self.asked.priority)
            .idempotent(self.history.is_idempotent)
            .with_progress(progress);
        Ok(match self.asked.key {
            Some(key) => request.key(key),
            None => request,
        })
    }

    /// What ends it there, for a stream.
    pub(crate) fn cancel_elsewhere(&self) -> Arc<CancelElsewhere> {
        let elsewhere = Arc::default();
        if let Some(cancel) = &self.cancel
            && !cancel.note_elsewhere(&elsewhere)
        {
            elsewhere.cancel();
        }
        elsewhere
    }

    /// What has become of it elsewhere. `None`: nothing, so that it is to ask for a worker here.
    pub(crate) fn come_back<T>(&mut self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(found) => Ok(Some(found)),
            Err(error) if self.can_come_back(&error) => {
                self.must_stay = true;
                self.earlier.get_or_insert_default().push(&error);
                Ok(None)
            }
            Err(error) => Err(self.failed_with(error)),
        }
    }

    fn can_come_back(&self, error: &Error) -> bool {
        let is_unserved = error.was_begun() == Some(false);
        is_unserved && self.role.has_workers && error.kind() != ErrorKind::Cancelled
    }
}
