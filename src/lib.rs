//! Shared-memory ring-buffer IPC between a parent process and the workers it starts.
//!
//! A parent starts worker processes with a [`Spawner`] and exchanges frames with each
//! through a [`Channel`]: lock-free single-producer/single-consumer rings in sealed,
//! mmapped memory, a futex doorbell that costs no system call while the other side is
//! awake, and a separate pair of small rings for health. A worker runs
//! [`worker::Worker`]: a session that is built once, and a handler for each [`Kind`] of
//! request. If it crashes, every pending operation ends in one error that says why.
//!
//! * [`Channel::call`], [`Channel::submit`], [`Channel::stream`], [`Channel::write`]: one
//!   reply, one reply later, many chunks, a message of unknown length.
//! * [`payload`]: batches of texts and matrices, written straight into the ring.
//! * [`RawLink`]: the rings as they are, for programs with a protocol of their own.
#![cfg_attr(feature = "async", doc = "* [`tasks`]: the same channel for async hosts.")]
#![cfg_attr(feature = "named", doc = "* [`named`]: channels for processes that were not spawned.")]
#![cfg_attr(feature = "testing", doc = "* [`testing`]: a worker thread in place of the process.")]
//!
//! Every method says whether it can block, for how long, and what stays usable after an
//! error. `docs/` in the repository has the architecture, the layout of memory to the
//! byte, and the figures.
// The documentation says which items need a feature; models are not in it.
#![cfg_attr(docsrs, feature(doc_cfg), doc(auto_cfg(hide(loom))))]
// A model build has what threads of two processes do to each other: the ring, and of the
// parent's side all but the processes. Nothing is above that would use it.
#![cfg_attr(loom, allow(dead_code, reason = "what uses it is not there"))]

/// [`cfg_select`], by the name of the one macro in which rustfmt looks for modules.
macro_rules! cfg_if {
    ($(if #[cfg($($when:tt)*)] { $($items:tt)* } else)* { $($others:tt)* }) => {
        cfg_select! {
            $($($when)* => { $($items)* })*
            _ => { $($others)* }
        }
    };
}

// One error where it cannot work, and none that follow from it: then nothing else is compiled.
cfg_if! {
    if #[cfg(not(target_os = "linux"))] {
        compile_error!("slipring runs on Linux only: it needs memfd seals, futexes and pidfds");
    } else if #[cfg(not(all(target_pointer_width = "64", target_endian = "little")))] {
        compile_error!("slipring supports 64-bit little-endian targets only");
    } else if #[cfg(target_env = "musl")] {
        compile_error!("slipring is not built against musl: use a target of the GNU C library");
    } else {
        #[cfg_attr(loom, path = "channel/mod_loom.rs")]
        #[cfg_attr(not(feature = "async"), allow(dead_code, unused_imports, reason = "the async view uses it"))]
        mod channel;
        mod config;
        mod error;
        mod failpoint;
        #[cfg(slipring_fuzzing)]
        #[doc(hidden)]
        #[path = "../fuzz/inside/mod.rs"]
        pub mod fuzzing;
        mod id;
        mod link;
        #[cfg(all(feature = "named", not(loom)))]
        pub mod named;
        pub mod payload;
        #[cfg(not(loom))]
        mod process;
        mod protocol;
        #[cfg(not(loom))]
        mod raw;
        pub mod ring;
        mod shm;
        mod sync;
        mod sys;
        #[cfg(all(feature = "async", not(loom)))]
        pub mod tasks;
        #[cfg(all(feature = "testing", not(loom)))]
        pub mod testing;
        #[cfg(not(loom))]
        mod trace;
        #[cfg(not(loom))]
        pub mod worker;

        #[cfg(not(loom))]
        pub use channel::{Channel, Spawner};
        pub use channel::{
            DEFAULT_CHUNK_TIMEOUT, DEFAULT_QUEUE_TIMEOUT, MessageWriter, Pending, Reply, Stats, Stream,
            StreamTimeouts,
        };
        pub use config::{Config, ConfigBuilder, RingConfig, WaitStrategy};
        pub use error::{Error, ErrorKind, ExitCause, Result, WorkerDeath, WorkerFailure};
        pub use id::RequestId;
        pub use payload::{Payload, Source};
        pub use protocol::{Health, Kind, RoleConfig, WorkerState};
        #[cfg(not(loom))]
        pub use raw::RawLink;
        pub use shm::bytes::PeerBytes;
    }
}

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
