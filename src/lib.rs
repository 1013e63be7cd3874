//! Shared-memory ring-buffer IPC between a parent process and the workers it starts.

#[cfg(not(target_os = "linux"))]
compile_error!("slipring runs on Linux only: it needs memfd seals, futexes and pidfds");
#[cfg(not(all(target_pointer_width = "64", target_endian = "little")))]
compile_error!("slipring supports 64-bit little-endian targets only");

mod channel;
mod config;
mod error;
mod link;
pub mod payload;
mod process;
mod protocol;
mod raw;
pub mod ring;
mod shm;
mod sync;
#[cfg(feature = "async")]
pub mod tasks;
#[cfg(feature = "testing")]
pub mod testing;
mod trace;
pub mod worker;

pub use channel::{
    Channel, DEFAULT_CHUNK_TIMEOUT, MessageWriter, Pending, Reply, Spawner, Stats, Stream,
};
pub use config::{Config, ConfigBuilder, RingConfig, WaitStrategy};
pub use error::{Error, ErrorKind, ExitCause, Result, WorkerDeath, WorkerFailure};
pub use payload::{Payload, Source};
pub use protocol::hello::RoleConfig;
pub use protocol::{Health, Kind, WorkerState};
pub use raw::RawLink;
pub use shm::region::PeerBytes;

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
