//! What a look at a process returns, as plain data.

use crate::status_page::Host;

/// How much of the memory is returned.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Options {
    /// Frames of each ring, and requests of each worker, the oldest first. 16 by default; all are counted.
    pub frames: usize,
    /// Bytes of each frame's payload. None by default.
    pub payload_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { frames: 16, payload_bytes: 0 }
    }
}

/// What was found of a process.
#[derive(Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Inspection {
    /// Its process id.
    pub pid: u32,
    /// What its status page says; `None` if it has none.
    pub host: Option<Host>,
    /// The memory of those of its channels that may be looked at.
    pub channels: Vec<ChannelMemory>,
    /// What was there and is not read.
    pub refused: Vec<Refusal>,
    /// Whether the process ended while it was looked at.
    pub has_ended: bool,
}

/// What is not read, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Refusal {
    /// `status page`, or the name of a channel's file.
    pub what: String,
    /// The reason.
    pub why: String,
}

/// The memory of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ChannelMemory {
    /// The start of the channel's id, as in
    /// [`ChannelNumbers::channel_id`](crate::status_page::ChannelNumbers::channel_id).
    pub id: u64,
    /// What was checked, in that order.
    pub checks: Vec<Check>,
    /// What the headers say; `None` if that of the host cannot be.
    pub layout: Option<Layout>,
    /// The rings: requests, replies, and those for pings and for their answers. None without a layout.
    pub rings: Vec<RingMemory>,
    /// What the worker has stored of itself.
    pub worker: Option<WorkerLines>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Check {
    /// What was checked, such as `requests: frames`.
    pub name: String,
    /// What came of it.
    pub verdict: Verdict,
    /// What is wrong, or why it is not known; empty if all is right.
    pub why: String,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Verdict {
    /// All is right.
    Ok,
    /// It was found twice in a row, and no correct program writes it.
    Wrong,
    /// It moved on at each look, so that what was found may be a mix of old and new.
    Moved,
    /// It was not checked: what it needs is missing.
    Skipped,
}

impl Verdict {
    /// Returns its name: `ok`, `wrong`, `moved` or `skipped`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Wrong => "wrong",
            Self::Moved => "moved",
            Self::Skipped => "skipped",
        }
    }
}

/// What the headers of a channel's regions say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Layout {
    /// Version of the layout.
    pub version: u32,
    /// The host's process, as it calls itself.
    pub host_pid: u32,
    /// The worker's process, as it calls itself; 0 if it has not attached.
    pub worker_pid: u32,
    /// The library of the host, with its version.
    pub host_library: String,
    /// The same of the worker.
    pub worker_library: String,
    /// Bytes of the region that the host writes.
    pub host_region: u64,
    /// Bytes of the region that the worker writes.
    pub worker_region: u64,
    /// How many requests may be in flight.
    pub max_in_flight: u32,
    /// How many bytes a stream may be ahead of its reader.
    pub stream_window: u64,
    /// The longest message, in bytes.
    pub max_message: u64,
}

/// One ring. Positions count bytes and only grow.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RingMemory {
    /// `requests`, `replies`, `pings` or `answers`.
    pub name: &'static str,
    /// Where it begins in its region.
    pub offset: u64,
    /// Its bytes.
    pub capacity: u64,
    /// The longest payload of a frame.
    pub max_frame: u32,
    /// Up to where its reader has given slots back.
    pub head: u64,
    /// Up to where its writer has looked whether the reader is to be woken.
    pub notified: u64,
    /// Up to where frames were found.
    pub end: u64,
    /// Frames between head and end. The reader may have read some of them.
    pub frame_count: u64,
    /// Bytes of padding before the ring's end, between head and end.
    pub padding: u64,
    /// The oldest frames.
    pub frames: Vec<FrameInRing>,
    /// What the reader has last announced to sleep for; `None` if it never has.
    pub reader_waits: Option<WaitWord>,
    /// What the writer has last announced to sleep for: room.
    pub writer_waits: Option<WaitWord>,
    /// The word that the writer counts up to wake the reader.
    pub bell: u32,
    /// The processor that the reader last slept or woke on.
    pub reader_cpu: Option<u32>,
    /// Whether it moved on during each look, so that frames may be missing.
    pub is_moving: bool,
}

/// What one side waits for, or has last waited for: the word stays when it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WaitWord {
    /// A frame's position for a reader, a head for a writer.
    pub position: u64,
    /// Whether it is to be woken by its descriptor, and not by the bell.
    pub by_descriptor: bool,
    /// Whether that is still to come.
    pub is_to_come: bool,
}

/// A frame that lies in a ring.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FrameInRing {
    /// Where it begins.
    pub position: u64,
    /// The code of its kind.
    pub kind: u16,
    /// The name of its kind.
    pub kind_name: String,
    /// Its flags: 1 a stream is wanted, 2 more pieces follow, 4 a further piece, 8 abandoned, 16 the
    /// context of a trace follows the payload.
    pub flags: u16,
    /// Bytes of its payload, without the context of its trace.
    pub len: u32,
    /// The request that it belongs to.
    pub request: u64,
    /// The auxiliary word: a deadline, or other things.
    pub aux: u64,
    /// How far the worker is with it: `waiting`, `taken`, `begun`, `answered` or `done`. Of requests only.
    pub stage: Option<&'static str>,
    /// The trace that it says it is part of, as a `traceparent`. Of requests only.
    pub trace: Option<String>,
    /// The start of its payload, in hexadecimal digits; as long as was asked for.
    pub payload: String,
}

/// What a worker has stored beside the rings.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WorkerLines {
    /// `starting`, `serving`, `stopping`, or `unknown`. A worker of a raw link stays `starting`.
    pub state: &'static str,
    /// Requests that it has finished.
    pub served: u64,
    /// Payload bytes that it has received.
    pub bytes_in: u64,
    /// Payload bytes that it has sent.
    pub bytes_out: u64,
    /// The id of its health thread.
    pub health_thread: u32,
    /// Whether the kernel has noted that this thread has ended, and with it the process.
    pub has_ended: bool,
    /// Whether the host has set the abort flag.
    pub is_abort_set: bool,
    /// How many requests it has taken and not answered.
    pub mark_count: u64,
    /// The oldest of these.
    pub marks: Vec<RequestMark>,
    /// How many requests the host has cancelled whose places were not used again.
    pub cancelled: u64,
}

/// A request that a worker has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RequestMark {
    /// Its number.
    pub request: u64,
    /// `taken` or `begun`.
    pub stage: &'static str,
    /// How long ago that was, in nanoseconds.
    pub age_ns: u64,
    /// What its handler said last of its progress.
    pub progress: u64,
    /// Whether its stream waits for its reader.
    pub awaits_credit: bool,
}
