//! A worker's report of itself, in a pong and in the status line of its region.

use std::time::Duration;

use crate::error::{LastServed, Result, StatusLine};
use crate::id::RequestId;
use crate::link::StatusWords;
use crate::protocol::codec::{Reader, Writer, cut};
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

/// The numbers of a report, as they stand in the status line.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Status {
    pub(crate) state: u32,
    /// The request that was begun last. It is being served only while the state says so.
    pub(crate) current: u64,
    pub(crate) busy_since: u64,
    pub(crate) progress: u64,
    pub(crate) served: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

impl Status {
    /// Encodes a pong's payload in at most `most` bytes, for which the error is cut.
    pub(crate) fn encode(&self, last_error: &str, most: usize) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u32(self.state).u64(self.current).u64(self.busy_since).u64(self.progress);
        writer.u64(self.served).u64(self.bytes_in).u64(self.bytes_out);
        let room = most.saturating_sub(writer.len() + 4);
        writer.bytes(cut(last_error, room).as_bytes());
        writer.finish()
    }

    pub(crate) fn report(self, last_error: Option<String>) -> Health {
        let is_busy = self.current != 0 && WorkerState::from_code(self.state).is_serving();
        let busy_for = clock::now_ns().saturating_sub(self.busy_since);
        Health {
            state: WorkerState::from_code(self.state),
            current_request: is_busy.then(|| RequestId::new(self.current)),
            busy_for: is_busy.then(|| Duration::from_nanos(busy_for)),
            progress: self.progress,
            requests_served: self.served,
            bytes_received: self.bytes_in,
            bytes_sent: self.bytes_out,
            last_error,
        }
    }
}

impl StatusLine for StatusWords {
    fn last_served(&self) -> LastServed {
        let state = WorkerState::from_code(self.state.load(Ordering::Relaxed));
        LastServed { begun: self.current.load(Ordering::Relaxed), is_running: state.is_serving() }
    }
}

/// Decodes a copy of a pong's payload, which the peer cannot change.
pub(crate) fn decode(bytes: &[u8]) -> Result<Health> {
    let mut reader = Reader::new(bytes);
    let status = Status {
        state: reader.u32()?,
        current: reader.u64()?,
        busy_since: reader.u64()?,
        progress: reader.u64()?,
        served: reader.u64()?,
        bytes_in: reader.u64()?,
        bytes_out: reader.u64()?,
    };
    let last_error = reader.text()?;
    Ok(status.report((!last_error.is_empty()).then_some(last_error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_back() {
        let status = Status { state: 2, current: 5, busy_since: 1, served: 4, ..Status::default() };
        let health = decode(&status.encode("bad input", 100)).unwrap();
        assert_eq!(health.state, WorkerState::Busy);
        assert_eq!(health.current_request, Some(RequestId::new(5)));
        assert!(health.busy_for.is_some());
        assert_eq!((health.requests_served, health.last_error.as_deref()), (4, Some("bad input")));
        let idle = decode(&Status { state: 1, ..Status::default() }.encode("", 100)).unwrap();
        assert_eq!((idle.current_request, idle.busy_for, idle.last_error), (None, None, None));
        assert!(decode(&[1, 2, 3]).is_err());
        for most in 60..80 {
            let pong = status.encode("\u{E9}\u{1F980}\u{E9}\u{1F980}\u{E9}\u{1F980}", most);
            assert!(pong.len() <= most, "{most}");
            let error = decode(&pong).unwrap().last_error.unwrap();
            assert!("\u{E9}\u{1F980}\u{E9}\u{1F980}\u{E9}\u{1F980}".starts_with(&error), "{error}");
        }
        assert_eq!(WorkerState::from_code(77), WorkerState::Unknown);
    }
}
