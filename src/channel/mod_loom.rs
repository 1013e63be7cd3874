//! The parent's side under the model checker: all but the processes.

mod ahead;
#[path = "death_loom.rs"]
mod death;
mod dispatch;
mod engine;
mod follow;
mod life;
#[cfg(test)]
mod models;
#[cfg(test)]
mod mutants;
mod pump;
mod receive;
mod reply;
mod send;
mod stream_timeouts;
#[cfg(test)]
mod testing;
mod timed;
mod wake_list;
mod wakers;

pub use reply::{Pending, Reply, Stream};
pub use stream_timeouts::{DEFAULT_CHUNK_TIMEOUT, DEFAULT_QUEUE_TIMEOUT, StreamTimeouts};
