//! The parent's side under the model checker: all but the processes.

mod chunks;
mod core;
mod counters;
mod explain;
#[cfg(feature = "async")]
mod foreign;
mod item;
mod message_parts;
mod message_reader;
mod message_writer;
#[cfg(test)]
mod models;
mod outgoing;
mod pending;
mod pending_reply;
mod reactor_state;
mod reactor_turn;
mod reader;
mod receiver;
mod reply;
mod requests;
mod sender;
mod state;
mod stats;
mod status;
mod stream;
mod stream_buffer;
mod stream_credit;
mod stream_timeouts;
mod stream_waits;
mod tap;
mod task_wait;
#[cfg(test)]
pub(crate) mod testing;
mod timed_mutex;
mod turn;
mod wait;
mod wait_list;
mod waiter;
#[path = "worker_exit_loom.rs"]
mod worker_exit;

pub use chunks::{Chunks, ChunksIter};
pub use message_reader::MessageReader;
pub use message_writer::MessageWriter;
pub use pending_reply::Pending;
pub use reply::Reply;
pub use stats::{ErrorCounts, LatencyHistogram, Stats};
pub use stream::Stream;
pub use stream_timeouts::{DEFAULT_CHUNK_TIMEOUT, DEFAULT_QUEUE_TIMEOUT, StreamTimeouts};
