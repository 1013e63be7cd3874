//! The two sockets of an end, and how the other end learns that they are closed.

use std::sync::OnceLock;

use crate::shm::words::OwnU32;
use crate::sync::Ordering;
use crate::sys::wake_socket::WakeSocket;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// Readable when there are messages for this end.
    Bytes,
    /// Readable when there is room for the messages of this end.
    Room,
}

/// The sockets of one end. The process that holds them lets the other end see that the end is held.
#[derive(Debug)]
pub(super) struct Sockets {
    /// `Some` until the drop.
    bytes: Option<WakeSocket>,
    room: WakeSocket,
    /// What tells the other end. `None` inside: it has nothing that writes.
    closed: OnceLock<Option<OwnU32>>,
}

impl Sockets {
    pub(super) fn new(bytes: WakeSocket, room: WakeSocket) -> Self {
        Self { bytes: Some(bytes), room, closed: OnceLock::new() }
    }

    /// The word that is to change once the sockets are closed.
    pub(super) fn tell_in(&self, closed: OwnU32) {
        let _ = self.closed.set(Some(closed));
    }

    /// The other end need not be told.
    pub(super) fn tell_none(&self) {
        let _ = self.closed.set(None);
    }

    /// Whether the other end will be told, or has nothing that writes.
    pub(super) fn is_told(&self) -> bool {
        self.closed.get().is_some()
    }

    pub(super) fn of(&self, line: Line) -> &WakeSocket {
        match (line, &self.bytes) {
            (Line::Bytes, Some(bytes)) => bytes,
            _ => &self.room,
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.bytes = None;
        if let Some(Some(closed)) = self.closed.get() {
            // It says only that it is time to look at the socket. Pairs with `PipeWriter::check_peer`.
            closed.fetch_add(1, Ordering::Release);
        }
    }
}
