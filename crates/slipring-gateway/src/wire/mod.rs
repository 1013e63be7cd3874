//! What goes over the wire: messages in frames, deadlines, and errors.

pub(crate) mod error;
pub(crate) mod frame;
mod headers;
mod limits;
pub(crate) mod message;
pub(crate) mod pacing;
#[cfg(test)]
mod pacing_tests;
pub(crate) mod presence;
pub(crate) mod reader;
pub(crate) mod report;
mod socket;
pub(crate) mod spare;
pub(crate) mod timeout;

pub use limits::Limits;
pub(crate) use limits::MAX_FRAME;

/// The path of a method is this and its name.
pub(crate) const SERVICE: &str = "/slipring.v1.Workers/";
