//! Calls a gateway of another machine.

mod calls;
mod connection;
mod control;
mod exchange;
mod outcome;

pub use calls::Chunks;
pub use connection::Connection;
pub use control::Watching;
