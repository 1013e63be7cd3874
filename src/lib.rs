//! Shared-memory ring-buffer IPC between a parent process and the workers it starts.

#[cfg(not(target_os = "linux"))]
compile_error!("slipring runs on Linux only: it needs memfd seals, futexes and pidfds");
#[cfg(not(all(target_pointer_width = "64", target_endian = "little")))]
compile_error!("slipring supports 64-bit little-endian targets only");

mod config;
mod error;
mod link;
pub mod ring;
mod shm;
mod sync;

pub use config::{Config, ConfigBuilder, RingConfig, WaitStrategy};
pub use error::{Error, ErrorKind, ExitCause, Result, WorkerDeath, WorkerFailure};
