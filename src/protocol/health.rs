//! A worker's report of itself, in a pong and in the status line of its region.

use std::time::Duration;

use crate::error::{Mark, RequestStage, Result, Stage};
use crate::id::RequestId;
use crate::protocol::codec::{FieldReader, FieldWriter, cut};
use crate::shm::layout::{as_u32, as_usize};
use crate::shm::status::Status;
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
    /// The worker waits for a request, and has none in its hands.
    Idle,
    /// The worker has begun a request, or has taken one that waits for its thread, batch or step.
    Busy,
    /// The worker has begun requests, and all of them wait until the readers of their streams have
    /// taken more.
    AwaitingCredit,
    /// The worker ends.
    Stopping,
    /// The worker wrote a state that this version does not know.
    Unknown,
}

/// What the state word of a worker says. Whether it is idle or busy is told by its marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Starting,
    Serving,
    Stopping,
}

impl Phase {
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Starting => 0,
            Self::Serving => 1,
            Self::Stopping => 2,
        }
    }

    pub(crate) fn from_code(code: u32) -> Option<Self> {
        [Self::Starting, Self::Serving, Self::Stopping].into_iter().find(|p| p.code() == code)
    }
}

/// A worker's health, as the worker itself reports it. Nothing else checks these numbers.
///
/// [`Channel::ping`](crate::Channel::ping) asks the worker for it, and so also tells whether the
/// worker answers. [`Channel::health`](crate::Channel::health) reads what the worker wrote last. In
/// both, the numbers are read one after another while the worker goes on: they need not belong to
/// the same moment.
///
/// ```
/// # fn main() -> slipring::Result<()> {
/// # use slipring::{Config, Kind, RoleConfig, testing, worker::Worker};
/// # use std::time::Duration;
/// # let make = || Worker::new(|_role| Ok(())).inbox(|(), inbox| {
/// #     let mut first = inbox.recv()?;
/// #     first.responder.begin();
/// #     let second = inbox.recv()?;
/// #     while !first.responder.is_cancelled() { std::thread::yield_now(); }
/// #     drop(second);
/// #     Ok(())
/// # });
/// # let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
/// # let timeout = Duration::from_secs(10);
/// # let pending = [0, 1].map(|_| channel.submit(Kind::CHAT, "", timeout));
/// # while channel.health().taken + channel.health().begun < 2 { std::thread::yield_now(); }
/// let health = channel.health();
/// println!("{:?}: {} begun, {} waiting", health.state, health.begun, health.taken);
/// for request in &health.requests {
///     println!("request {}: {:?} for {:?}", request.id, request.stage, request.since);
/// }
/// # assert_eq!((health.begun, health.taken, health.requests.len()), (1, 1, 2));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Health {
    /// What the worker does.
    pub state: WorkerState,
    /// The request that the worker has begun and not answered; of several, the one that was begun
    /// first. `None` if there is none.
    pub current_request: Option<RequestId>,
    /// How long ago that request was begun; `None` if there is none.
    pub busy_for: Option<Duration>,
    /// The number that was last given for that request to
    /// [`Request::set_progress`](crate::worker::Request::set_progress) or
    /// [`OwnedResponder::set_progress`](crate::worker::OwnedResponder::set_progress); 0 before.
    pub progress: u64,
    /// How many requests the worker has taken and not begun. Always 0 if it serves one request
    /// at a time. Requests that still wait in shared memory are not counted.
    pub taken: usize,
    /// How many requests the worker has begun and not answered.
    pub begun: usize,
    /// The requests that the worker has taken or begun, oldest first: at most
    /// [`Health::MOST_REQUESTS`]. If there are more, those that are taken are left out before those
    /// that are begun. From [`Channel::ping`](crate::Channel::ping) as many as its answer has room
    /// for.
    pub requests: Vec<RequestHealth>,
    /// How many requests were finished since the start, failed ones included, and so is the one
    /// that [`Channel::wait_ready`](crate::Channel::wait_ready) sends. A pool waits so for each worker.
    pub requests_served: u64,
    /// Payload bytes of all requests so far.
    pub bytes_received: u64,
    /// Payload bytes of all replies and chunks so far.
    pub bytes_sent: u64,
    /// The message of the last error that a handler ended with, cut to fit; `None` before the
    /// first, and from [`Channel::health`](crate::Channel::health).
    pub last_error: Option<String>,
}

/// How far a worker is with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct RequestHealth {
    /// The request.
    pub id: RequestId,
    /// [`Taken`](RequestStage::Taken) or [`Begun`](RequestStage::Begun).
    pub stage: RequestStage,
    /// How long ago it was taken, or if it is begun, how long ago that was.
    pub since: Duration,
    /// The number that its handler gave last to
    /// [`Request::set_progress`](crate::worker::Request::set_progress); 0 before.
    pub progress: u64,
}

/// What a worker says of itself, as it was read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) status: Status,
    /// How many requests are taken and not begun, and how many are begun and not answered.
    taken: usize,
    begun: usize,
    /// How many of the latter wait for the readers of their streams.
    awaiting_credit: usize,
    /// The oldest of both, oldest first.
    oldest: Vec<Mark>,
}

impl Snapshot {
    pub(crate) fn new(status: Status, mut marks: Vec<Mark>) -> Self {
        marks.retain(|mark| mark.is_taken() || mark.is_begun());
        let count = |is_it: fn(&Mark) -> bool| marks.iter().filter(|mark| is_it(mark)).count();
        let (taken, begun) = (count(Mark::is_taken), count(Mark::is_begun));
        let awaiting_credit = count(|mark| mark.is_begun() && mark.awaits_credit);
        // Those that are begun first: a queue of taken requests must not hide them.
        marks.sort_by_key(|mark| (mark.is_taken(), mark.since, mark.request));
        marks.truncate(Health::MOST_REQUESTS);
        marks.sort_by_key(|mark| (mark.since, mark.request));
        Self { status, taken, begun, awaiting_credit, oldest: marks }
    }

    fn state(&self) -> WorkerState {
        state_of(self.status.state, self.taken, self.begun, self.awaiting_credit)
    }
}

/// What a worker does that says so, and has so many requests.
fn state_of(code: u32, taken: usize, begun: usize, awaiting_credit: usize) -> WorkerState {
    match Phase::from_code(code) {
        Some(Phase::Starting) => WorkerState::Starting,
        Some(Phase::Stopping) => WorkerState::Stopping,
        Some(Phase::Serving) if begun == 0 && taken == 0 => WorkerState::Idle,
        Some(Phase::Serving) if begun > 0 && begun == awaiting_credit => {
            WorkerState::AwaitingCredit
        }
        Some(Phase::Serving) => WorkerState::Busy,
        None => WorkerState::Unknown,
    }
}

/// What a worker says of itself, without its requests one by one.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(loom, allow(dead_code, reason = "for the status page"))]
pub(crate) struct Summary {
    pub(crate) status: Status,
    pub(crate) state: WorkerState,
    /// How many requests are taken and not begun, and how many are begun and not answered.
    pub(crate) taken: usize,
    pub(crate) begun: usize,
    /// The request that was begun first of these.
    pub(crate) first: Option<Mark>,
}

#[cfg_attr(loom, allow(dead_code, reason = "for the status page"))]
impl Summary {
    pub(crate) fn new(status: Status, marks: impl Iterator<Item = Mark>) -> Self {
        let (mut taken, mut begun, mut awaiting_credit) = (0, 0, 0);
        let mut first: Option<Mark> = None;
        for mark in marks {
            taken += usize::from(mark.is_taken());
            if mark.is_begun() {
                begun += 1;
                awaiting_credit += usize::from(mark.awaits_credit);
                let key = |mark: &Mark| (mark.since, mark.request);
                if first.as_ref().is_none_or(|first| key(&mark) < key(first)) {
                    first = Some(mark);
                }
            }
        }
        let state = state_of(status.state, taken, begun, awaiting_credit);
        Self { status, state, taken, begun, first }
    }
}

impl Health {
    /// The most requests that a report lists.
    pub const MOST_REQUESTS: usize = 16;

    /// Makes the report of a worker of which nothing else is known: for implementations of
    /// `backend::Backend` (feature `async`), whose workers are elsewhere.
    ///
    /// ```
    /// let health = slipring::Health::new(slipring::WorkerState::Idle);
    /// assert_eq!((health.begun, health.current_request), (0, None));
    /// ```
    #[must_use]
    pub fn new(state: WorkerState) -> Self {
        Self {
            state,
            current_request: None,
            busy_for: None,
            progress: 0,
            taken: 0,
            begun: 0,
            requests: Vec::new(),
            requests_served: 0,
            bytes_received: 0,
            bytes_sent: 0,
            last_error: None,
        }
    }

    /// What this report means now.
    pub(crate) fn of(report: Snapshot, last_error: Option<String>) -> Self {
        let (state, now) = (report.state(), clock::now_ns());
        let since = |mark: &Mark| Duration::from_nanos(now.saturating_sub(mark.since));
        let first = report.oldest.iter().find(|mark| mark.is_begun());
        let requests = report.oldest.iter().map(|mark| RequestHealth {
            id: RequestId::new(mark.request),
            stage: if mark.is_begun() { RequestStage::Begun } else { RequestStage::Taken },
            since: since(mark),
            progress: mark.progress,
        });
        Self {
            state,
            current_request: first.map(|mark| RequestId::new(mark.request)),
            busy_for: first.map(since),
            progress: first.map_or(0, |mark| mark.progress),
            taken: report.taken,
            begun: report.begun,
            requests: requests.collect(),
            requests_served: report.status.served,
            bytes_received: report.status.bytes_in,
            bytes_sent: report.status.bytes_out,
            last_error,
        }
    }
}

/// Bytes of a request in a pong.
const REQUEST_LEN: usize = 28;
/// Bytes that requests leave to the last error where a pong is short.
const ERROR_ROOM: usize = 64;

/// A pong's payload, of at most `most` bytes, for which the requests and the error are cut.
pub(crate) fn encode(report: &Snapshot, last_error: &str, most: usize) -> Vec<u8> {
    let mut writer = FieldWriter::default();
    let Snapshot { status, taken, begun, awaiting_credit, oldest } = report;
    writer.u32(status.state);
    for number in status.numbers() {
        writer.u64(*number);
    }
    for count in [taken, begun, awaiting_credit] {
        writer.u32(as_u32(*count));
    }
    let room = most.saturating_sub(writer.len() + 4 + ERROR_ROOM) / REQUEST_LEN;
    let listed = oldest.get(..room.min(oldest.len())).unwrap_or_default();
    writer.u32(as_u32(listed.len()));
    for mark in listed {
        writer.u32(as_u32(as_usize(mark.stage.code())));
        for number in [mark.request, mark.since, mark.progress] {
            writer.u64(number);
        }
    }
    let room = most.saturating_sub(writer.len() + 4);
    writer.bytes(cut(last_error, room).as_bytes());
    writer.finish()
}

/// Decodes a copy of a pong's payload, which the peer cannot change.
pub(crate) fn decode(bytes: &[u8]) -> Result<Health> {
    let mut reader = FieldReader::new(bytes);
    let status = Status::new(reader.u32()?, |_| reader.u64())?;
    let mut count = || reader.u32().map(|count| as_usize(u64::from(count)));
    let (taken, begun, awaiting_credit, listed) = (count()?, count()?, count()?, count()?);
    let mut oldest = Vec::new();
    for _ in 0..listed.min(Health::MOST_REQUESTS) {
        let stage = Stage::from_code(u64::from(reader.u32()?));
        let (request, since, progress) = (reader.u64()?, reader.u64()?, reader.u64()?);
        if let Some(stage) = stage {
            oldest.push(Mark { request, stage, since, progress, awaits_credit: false });
        }
    }
    let last_error = reader.text()?;
    let report = Snapshot { status, taken, begun, awaiting_credit, oldest };
    Ok(Health::of(report, (!last_error.is_empty()).then_some(last_error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(request: u64, stage: Stage, since: u64) -> Mark {
        Mark { request, stage, since, progress: request * 10, awaits_credit: false }
    }

    fn serving(served: u64) -> Status {
        Status { state: Phase::Serving.code(), served, ..Status::default() }
    }

    #[test]
    fn a_report_reads_back() {
        let marks = vec![
            mark(9, Stage::Done, 1),
            mark(5, Stage::Begun, 3),
            mark(6, Stage::Taken, 2),
            mark(7, Stage::Begun, 4),
            mark(8, Stage::Answered, 1),
        ];
        let health = decode(&encode(&Snapshot::new(serving(4), marks), "bad input", 300)).unwrap();
        assert_eq!(health.state, WorkerState::Busy);
        assert_eq!((health.current_request, health.progress), (Some(RequestId::new(5)), 50));
        assert!(health.busy_for.is_some());
        assert_eq!((health.taken, health.begun), (1, 2));
        let listed: Vec<_> = health.requests.iter().map(|r| (r.id.get(), r.stage)).collect();
        let (taken, begun) = (RequestStage::Taken, RequestStage::Begun);
        assert_eq!(listed, [(6, taken), (5, begun), (7, begun)]);
        assert_eq!((health.requests_served, health.last_error.as_deref()), (4, Some("bad input")));
        let idle = Snapshot::new(serving(4), vec![mark(9, Stage::Done, 1)]);
        let idle = decode(&encode(&idle, "", 100)).unwrap();
        assert_eq!(idle.state, WorkerState::Idle);
        assert_eq!((idle.current_request, idle.busy_for, idle.last_error), (None, None, None));
        assert!(decode(&[1, 2, 3]).is_err());
    }

    #[test]
    fn a_pong_that_is_short_is_cut_to_fit() {
        let marks: Vec<Mark> = (1..40).map(|n| mark(n, Stage::Begun, n)).collect();
        let report = Snapshot::new(serving(0), marks);
        for most in 128..600 {
            let error = "\u{E9}\u{1F980}".repeat(40);
            let pong = encode(&report, &error, most);
            assert!(pong.len() <= most, "{most}");
            let health = decode(&pong).unwrap();
            assert!(error.starts_with(&health.last_error.unwrap()), "{most}");
            assert_eq!(health.begun, 39);
            assert!(health.requests.len() <= Health::MOST_REQUESTS);
        }
    }

    #[test]
    fn a_queue_of_taken_requests_does_not_hide_those_that_are_begun() {
        let mut marks: Vec<Mark> = (1..100).map(|n| mark(n, Stage::Taken, n)).collect();
        marks.push(mark(200, Stage::Begun, 200));
        let health = Health::of(Snapshot::new(serving(0), marks), None);
        assert_eq!((health.taken, health.begun), (99, 1));
        assert_eq!(health.current_request, Some(RequestId::new(200)));
        assert_eq!(health.requests.len(), Health::MOST_REQUESTS);
        assert_eq!(health.requests[0].id, RequestId::new(1));
    }

    #[test]
    fn a_worker_awaits_credit_if_all_that_it_has_begun_do() {
        let waiting = |n| Mark { awaits_credit: true, ..mark(n, Stage::Begun, n) };
        let of = |marks| Health::of(Snapshot::new(serving(0), marks), None).state;
        assert_eq!(of(vec![waiting(1), waiting(2)]), WorkerState::AwaitingCredit);
        assert_eq!(of(vec![waiting(1), mark(2, Stage::Begun, 2)]), WorkerState::Busy);
        let odd = Status { state: 77, ..Status::default() };
        assert_eq!(Health::of(Snapshot::new(odd, vec![]), None).state, WorkerState::Unknown);
    }
}
