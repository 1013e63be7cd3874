//! A worker's report of itself, in a pong and in the status line of its region.

use std::time::Duration;

use crate::error::{LastServed, Result, StatusLine};
use crate::id::RequestId;
use crate::protocol::codec::{Reader, Writer, cut};
use crate::shm::status::{PeerStatus, Status};
use crate::sync::Ordering;
use crate::sys::clock;

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum WorkerState {
    /// The worker builds its session.
    Starting,
    /// The worker waits for a request.
    Idle,
    /// A handler runs.
    Busy,
    /// A handler runs, and waits until the reader of its stream has taken more.
    AwaitingCredit,
    /// The worker ends.
    Stopping,
    /// The worker wrote a state that this version does not know.
    Unknown,
}

/// The code of the state between a request's last frame and the return of its handler: the
/// request is done, but the worker takes no other one yet. Hosts see it as
/// [`WorkerState::Idle`].
pub(crate) const ANSWERED: u32 = 5;

impl WorkerState {
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Starting => 0,
            Self::Idle => 1,
            Self::Busy => 2,
            Self::AwaitingCredit => 3,
            Self::Stopping => 4,
            Self::Unknown => u32::MAX,
        }
    }

    /// Whether a handler runs.
    pub(crate) fn is_serving(self) -> bool {
        matches!(self, Self::Busy | Self::AwaitingCredit)
    }

    pub(crate) fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Starting,
            1 | ANSWERED => Self::Idle,
            2 => Self::Busy,
            3 => Self::AwaitingCredit,
            4 => Self::Stopping,
            _ => Self::Unknown,
        }
    }
}

/// A worker's health, as the worker itself reports it. Nothing else checks these numbers.
///
/// [`Channel::ping`](crate::Channel::ping) asks the worker for it, and so also tells whether the
/// worker answers. [`Channel::health`](crate::Channel::health) reads what the worker wrote last.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Health {
    /// What the worker does.
    pub state: WorkerState,
    /// The request that a handler works on; `None` if no handler runs.
    pub current_request: Option<RequestId>,
    /// How long the handler has been at it; `None` if no handler runs.
    pub busy_for: Option<Duration>,
    /// The number that a handler gave last to
    /// [`Request::set_progress`](crate::worker::Request::set_progress); 0 before.
    pub progress: u64,
    /// How many requests were finished since the start, failed ones included.
    pub requests_served: u64,
    /// Payload bytes of all requests so far.
    pub bytes_received: u64,
    /// Payload bytes of all replies and chunks so far.
    pub bytes_sent: u64,
    /// The message of the last error that a handler ended with, cut to fit; `None` before the
    /// first, and from [`Channel::health`](crate::Channel::health).
    pub last_error: Option<String>,
}

impl Health {
    /// What this status means now.
    pub(crate) fn of(status: Status, last_error: Option<String>) -> Self {
        let state = WorkerState::from_code(status.state);
        let is_busy = status.current != 0 && state.is_serving();
        let busy_for = clock::now_ns().saturating_sub(status.busy_since);
        Self {
            state,
            current_request: is_busy.then(|| RequestId::new(status.current)),
            busy_for: is_busy.then(|| Duration::from_nanos(busy_for)),
            progress: status.progress,
            requests_served: status.served,
            bytes_received: status.bytes_in,
            bytes_sent: status.bytes_out,
            last_error,
        }
    }
}

/// A pong's payload, of at most `most` bytes, for which the error is cut.
pub(crate) fn encode(status: &Status, last_error: &str, most: usize) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.u32(status.state);
    for number in status.numbers() {
        writer.u64(*number);
    }
    let room = most.saturating_sub(writer.len() + 4);
    writer.bytes(cut(last_error, room).as_bytes());
    writer.finish()
}

impl StatusLine for PeerStatus {
    fn last_served(&self) -> LastServed {
        let state = WorkerState::from_code(self.state.load(Ordering::Relaxed));
        LastServed { begun: self.current.load(Ordering::Relaxed), is_running: state.is_serving() }
    }
}

/// Decodes a copy of a pong's payload, which the peer cannot change.
pub(crate) fn decode(bytes: &[u8]) -> Result<Health> {
    let mut reader = Reader::new(bytes);
    let status = Status::new(reader.u32()?, |_| reader.u64())?;
    let last_error = reader.text()?;
    Ok(Health::of(status, (!last_error.is_empty()).then_some(last_error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_back() {
        let status = Status { state: 2, current: 5, busy_since: 1, served: 4, ..Status::default() };
        let health = decode(&encode(&status, "bad input", 100)).unwrap();
        assert_eq!(health.state, WorkerState::Busy);
        assert_eq!(health.current_request, Some(RequestId::new(5)));
        assert!(health.busy_for.is_some());
        assert_eq!((health.requests_served, health.last_error.as_deref()), (4, Some("bad input")));
        let idle = decode(&encode(&Status { state: 1, ..Status::default() }, "", 100)).unwrap();
        assert_eq!((idle.current_request, idle.busy_for, idle.last_error), (None, None, None));
        assert!(decode(&[1, 2, 3]).is_err());
        for most in 60..80 {
            let pong = encode(&status, "\u{E9}\u{1F980}\u{E9}\u{1F980}\u{E9}\u{1F980}", most);
            assert!(pong.len() <= most, "{most}");
            let error = decode(&pong).unwrap().last_error.unwrap();
            assert!("\u{E9}\u{1F980}\u{E9}\u{1F980}\u{E9}\u{1F980}".starts_with(&error), "{error}");
        }
        assert_eq!(WorkerState::from_code(77), WorkerState::Unknown);
    }
}
