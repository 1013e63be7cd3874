//! The parent's side: a handle on one worker.
//!
//! `docs/ARCHITECTURE.md` draws the files of this folder, says which of them owns which lock,
//! and in which order locks are taken.

mod chunks;
mod core;
mod counters;
mod crash_contents;
mod crash_frames;
mod crash_report;
mod crash_sent;
mod explain;
#[cfg(feature = "async")]
mod foreign;
#[cfg(all(test, feature = "tokio"))]
mod forked_tests;
mod handle;
mod handshake;
mod health;
mod item;
mod message_parts;
mod message_reader;
mod message_writer;
mod outgoing;
mod pending;
mod pending_reply;
#[cfg_attr(
    not(feature = "async"),
    allow(dead_code, unreachable_pub, reason = "backends need `async`")
)]
mod progress;
pub(crate) mod raw_end;
mod reactor_state;
mod reactor_turn;
mod reader;
mod receiver;
mod recording;
mod reply;
mod requests;
mod sender;
mod spawn_checks;
mod spawner;
mod start;
mod state;
mod stats;
mod status;
mod status_row;
mod stream;
mod stream_buffer;
mod stream_credit;
mod stream_timeouts;
mod stream_waits;
mod tap;
mod task_wait;
mod timed_mutex;
mod traced;
mod turn;
mod wait;
mod wait_list;
mod waiter;
mod warm_up;
mod worker_exit;
mod worker_handle;

pub(crate) use self::core::Core;
pub(crate) use chunks::Source;
pub use chunks::{Chunks, ChunksIter};
pub(crate) use crash_contents::PoolRow;
pub(crate) use explain::{no_turn, ring_full};
pub use handle::Channel;
pub(crate) use health::{Question, no_answer, pong};
pub(crate) use item::{Body, Item, Place};
pub(crate) use message_parts::{MessageParts, OwnOrLent, PartSource};
pub use message_reader::MessageReader;
pub use message_writer::MessageWriter;
pub(crate) use outgoing::{Outgoing, RequestSpec, encode};
pub use pending_reply::Pending;
pub(crate) use progress::Observer;
#[cfg(feature = "async")]
pub use progress::Progress;
pub(crate) use reactor_turn::{read_for_task, read_readable};
#[cfg(feature = "named")]
pub(crate) use recording::begin_external;
pub use reply::Reply;
pub use spawner::Spawner;
pub(crate) use state::ChannelState;
pub use stats::{ErrorCounts, LatencyHistogram, Stats};
pub use stream::Stream;
pub(crate) use stream_timeouts::StreamDeadlines;
pub use stream_timeouts::{DEFAULT_CHUNK_TIMEOUT, DEFAULT_QUEUE_TIMEOUT, StreamTimeouts};
pub(crate) use task_wait::{RoomWait, TaskFound, TaskWait, TaskWant};
pub(crate) use timed_mutex::TimedGuard;
pub use traced::TracedChannel;
pub(crate) use turn::{check_open, has_ended, prefault};
pub(crate) use wait_list::{Key as WaitKey, WaitList};
