//! Worker processes for native code that is slow to load, hogs a core and sometimes crashes: a
//! parent starts them and exchanges frames with them through rings in shared memory.
//!
//! A worker that crashes never takes its parent with it, and every operation in flight says why
//! the worker died. A call costs well under a microsecond while both sides are awake, and an idle
//! channel costs no processor time.
//!
//! One program can be both sides; it starts itself again:
//!
//! ```standalone_crate
//! use std::time::Duration;
//! use slipring::{Kind, Spawner, worker};
//!
//! const SHOUT: Kind = Kind::named("shout");
//!
//! fn main() -> slipring::Result<()> {
//!     if worker::is_worker() {
//!         return worker::Worker::new(|_role| Ok(0_u64)) // the session: your loaded model
//!             .on(SHOUT, |calls, request, responder| {
//!                 *calls += 1;
//!                 let text = request.text()?; // an error reply if it is no text
//!                 Ok(responder.send(&text.to_uppercase())?)
//!             })
//!             .serve();
//!     }
//!     let channel = Spawner::current_exe()?.role("shout").spawn()?;
//!     let reply = channel.call(SHOUT, "hello", Duration::from_secs(10))?;
//!     assert_eq!(reply.to_vec(), b"HELLO");
//!     channel.close(Duration::from_secs(10))?;
//!     Ok(())
//! }
//! ```
//!
//! # Which type do I want?
//!
//! | to | use |
//! |---|---|
//! | start a worker | [`Spawner`] |
//! | send it requests from threads | [`Channel`] |
//! | have many requests in flight | [`Channel::submit`], which returns a [`Pending`] |
//! | get a long answer as it is made | [`Channel::stream`], which returns a [`Stream`] |
//! | take the chunks of a fast stream in batches | [`Stream::next_chunks`] |
//! | read a long reply piece by piece | [`Pending::wait_reader`], which returns a [`MessageReader`] |
//! | have several workers kept alive, with retries, limits and metrics | [`pool`] |
//! | serve requests in the worker | [`worker::Worker`] |
//! | send texts, matrices, or types of your own | [`payload`], [`Payload`] |
//! | serve embeddings, chats, reranking or documents | [`payload::roles`] |
//! | record what is sent and answered, to send it again | [`recording`], [`Spawner::record`] |
//! | exchange frames with a protocol of your own | [`RawLink`], [`ring`] |
//! | send requests from tasks | `tasks::AsyncChannel`, `RoleHandle::to_async` (feature `async`) |
//! | call workers wherever they are, by one trait | `backend::Backend` (feature `async`) |
//! | test a host without processes | `testing::spawn_thread` (feature `testing`) |
//! | exchange messages of bytes over passed descriptors | `pipe` (feature `pipe`) |
//! | reach a process that was not spawned | `named` (feature `named`) |
//!
//! By default a worker serves **one request at a time**. To serve several at the same time, start
//! more workers, or choose another [way to serve](worker).
//!
//! # Errors
//!
//! Every fallible operation returns [`Error`], one pointer wide, whose [`ErrorKind`] says what
//! happened. What stays usable:
//!
//! | after | the request | the channel |
//! |---|---|---|
//! | [`Timeout`](ErrorKind::Timeout), [`Stalled`](ErrorKind::Stalled), [`Cancelled`](ErrorKind::Cancelled) | is cancelled | is usable |
//! | [`HandlerFailed`](ErrorKind::HandlerFailed) | failed in its handler | is usable |
//! | [`TooLarge`](ErrorKind::TooLarge), [`TooManyInFlight`](ErrorKind::TooManyInFlight), [`InvalidPayload`](ErrorKind::InvalidPayload) | was not sent | is usable |
//! | [`Protocol`](ErrorKind::Protocol) | ended with an answer of the wrong form | is usable |
//! | [`InvalidInput`](ErrorKind::InvalidInput) | was not sent, as its kind is not one of requests, or had ended before | is usable |
//! | [`Interrupted`](ErrorKind::Interrupted) | goes on if its handle is kept, and is otherwise cancelled | is usable |
//! | [`PeerDied`](ErrorKind::PeerDied) | [`Error::was_begun`] says whether it can be sent again | is over: spawn another |
//! | [`PeerCorrupt`](ErrorKind::PeerCorrupt), [`Session`](ErrorKind::Session), [`Closed`](ErrorKind::Closed) | is over | is over |
//! | [`Overloaded`](ErrorKind::Overloaded), [`QueueTimeout`](ErrorKind::QueueTimeout), [`Degraded`](ErrorKind::Degraded) | was not begun, or was before it was sent again: [`Error::was_begun`] says | the pool is usable |
//! | [`Poison`](ErrorKind::Poison) | is not sent again | the pool is usable |
//! | [`Disconnected`](ErrorKind::Disconnected) | [`Error::was_begun`] says whether it can be sent again | another host's: the backend connects again |
//! | [`Forked`](ErrorKind::Forked) | belongs to the parent of this process | belongs to the parent |
//!
//! # Timeouts
//!
//! Timeouts are [`Duration`](std::time::Duration)s that count from the call, on the monotonic
//! clock. `Duration::MAX` waits for ever, or until the worker dies or the channel is closed.
//! `Duration::ZERO` does not wait. A timeout that passes is an error, of the kind `Timeout` or
//! `Stalled`, and ends the operation. Only the methods that look without ending the operation
//! (`try_wait`, `wait_timeout`, `try_next_chunk` and the like) return "not yet" as a value.
//!
//! # Features
//!
//! None is on by default; the dependencies then are `libc`, `memmap2` and `zerocopy`.
//!
//! | feature | adds |
//! |---|---|
//! | `async` | `tasks::AsyncChannel`, the view of a pool's role for tasks, and `backend`, on any executor |
//! | `tokio` | the same, on tokio's own reactor and runtime |
//! | `testing` | a worker thread in place of the worker process |
//! | `pipe` | `pipe`: byte messages between processes that have descriptors of one memory |
//! | `tracing` | spans for operations, events for a worker's start, death and end |
//! | `named` | channels by name, for processes that the parent did not start |
//! | `bytes`, `half`, `ndarray` | payloads from and to types of these crates |
//! | `serde` | serialization of configurations and reports |
//! | `prometheus` | a pool's metrics for a registry of `prometheus-client` |
//! | `metrics` | a pool's metrics for the recorder of the facade `metrics` |
//! | `tower` | a role of a pool as a service of `tower` (with `async`) |
//!
//! # Platform
//!
//! Linux on 64-bit little-endian machines, with the GNU C library 2.34 or newer. Other targets are
//! refused when they are compiled. The worker runs with the parent's rights: this is no sandbox.
// The documentation says which items need a feature.
#![cfg_attr(docsrs, feature(doc_cfg))]
// Tests and benchmarks may panic; code that ships may not.
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::as_conversions)
)]
#![cfg_attr(loom, allow(dead_code, unused_imports, reason = "what uses it is not in a model"))]

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
    } else if #[cfg(loom)] {
        // For the models: what threads of two processes do to each other. That is the ring, of the
        // parent's side all but the processes, of the worker's side what serves many requests, and
        // of a pool what it decides and how requests are told.
        #[path = "channel/mod_loom.rs"]
        mod channel;
        mod config;
        mod error;
        mod failpoint;
        mod id;
        mod link;
        pub mod payload;
        pub mod pipe;
        #[path = "pool/mod_loom.rs"]
        pub mod pool;
        mod priority;
        #[path = "process/mod_loom.rs"]
        mod process;
        mod protocol;
        pub mod ring;
        mod shm;
        mod sync;
        mod sys;
        mod trace_context;
        #[path = "worker/mod_loom.rs"]
        pub mod worker;

        pub use channel::{
            Chunks, ChunksIter, DEFAULT_CHUNK_TIMEOUT, DEFAULT_QUEUE_TIMEOUT, ErrorCounts,
            LatencyHistogram, MessageReader, MessageWriter, Pending, Reply, Stats, Stream,
            StreamTimeouts,
        };
        pub use config::{Config, ConfigBuilder, CopyRoutine, RingConfig, WaitStrategy};
        pub use error::{
            AttemptEnd, DeathReport, EarlierAttempts, Error, ErrorKind, ErrorReport, Escaped, ExitCause,
            HandlerFailure, Overload, RequestStage, Result, StreamTimeout, WorkerDeath,
        };
        pub use id::RequestId;
        pub use payload::{Payload, Source};
        pub use protocol::{Health, Kind, RequestHealth, RoleConfig, WorkerState};
        pub use shm::bytes::PeerBytes;
        pub use trace_context::TraceContext;
    } else {
        #[cfg(feature = "async")]
        pub mod backend;
        #[cfg_attr(not(feature = "tokio"), allow(dead_code, unused_imports, reason = "the async views use it"))]
        mod channel;
        mod config;
        mod crash_report;
        mod error;
        #[cfg_attr(slipring_failpoints, path = "failpoint_armed.rs")]
        mod failpoint;
        #[cfg(slipring_fuzzing)]
        #[doc(hidden)]
        #[path = "../fuzz/inside/mod.rs"]
        pub mod fuzzing;
        mod id;
        pub mod inspect;
        mod link;
        #[cfg(feature = "named")]
        pub mod named;
        pub mod payload;
        #[cfg(feature = "pipe")]
        pub mod pipe;
        pub mod pool;
        mod priority;
        mod process;
        mod protocol;
        mod raw;
        pub mod recording;
        pub mod ring;
        mod shm;
        pub mod status_page;
        mod sync;
        mod sys;
        #[cfg(feature = "async")]
        pub mod tasks;
        #[cfg(not(feature = "async"))]
        #[allow(dead_code, unreachable_pub, unused_imports, reason = "the pool uses a part of it")]
        mod tasks;
        #[cfg(feature = "testing")]
        pub mod testing;
        mod trace;
        mod trace_context;
        pub mod worker;

        pub use channel::{
            Channel, Chunks, ChunksIter, DEFAULT_CHUNK_TIMEOUT, DEFAULT_QUEUE_TIMEOUT, ErrorCounts,
            LatencyHistogram, MessageReader, MessageWriter, Pending, Reply, Spawner, Stats, Stream,
            StreamTimeouts, TracedChannel,
        };
        pub use config::{Config, ConfigBuilder, CopyRoutine, RingConfig, WaitStrategy};
        pub use crash_report::CrashReports;
        pub use error::{
            AttemptEnd, DeathReport, EarlierAttempts, Error, ErrorKind, ErrorReport, Escaped, ExitCause,
            HandlerFailure, Overload, RequestStage, Result, StreamTimeout, WorkerDeath,
        };
        pub use id::RequestId;
        pub use payload::{Payload, Source};
        pub use protocol::{Health, Kind, RequestHealth, RoleConfig, WorkerState};
        pub use raw::{RawLink, RawReceiver, RawSender};
        pub use shm::bytes::PeerBytes;
        pub use trace_context::TraceContext;
    }
}

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
