//! The parent's side under the model checker: all but the processes.

#[path = "death_loom.rs"]
mod ahead;
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
#[cfg(test)]
mod testing;
mod timed;
mod wakers;

pub use reply::{Pending, Reply, Stream};
