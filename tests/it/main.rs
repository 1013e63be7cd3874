//! Tests that need no binary of their own. A test that changes or measures its own process
//! (descriptors, limits, signals, forks) runs itself again in a new process: see
//! `in_a_process_of_its_own`. Only what a new process cannot do has a binary of its own.

#[path = "../common/mod.rs"]
mod common;
#[cfg(feature = "tokio")]
#[path = "../executors/mod.rs"]
mod executors;
#[path = "../hostile/mod.rs"]
mod hostile;

mod absurd;
#[cfg(all(feature = "tokio", feature = "testing"))]
mod async_worker;
#[cfg(all(feature = "tokio", feature = "testing"))]
mod backends;
#[cfg(feature = "testing")]
mod batches;
mod calls;
mod closing;
mod concurrency;
mod counters;
mod crash_reports;
mod deaths;
mod deaths_of_many;
mod ending;
mod examples;
mod faults;
mod forked;
mod full_filesystems;
mod health;
mod hostile_parent;
#[cfg(feature = "testing")]
mod inbox;
mod inherited;
mod inspected;
#[cfg(feature = "testing")]
mod interleaved;
mod interrupts;
mod limits;
#[cfg(feature = "named")]
mod named;
#[cfg(feature = "testing")]
mod overload;
#[cfg(feature = "testing")]
mod owned_replies;
mod parents;
mod passing;
mod payloads;
mod platforms;
mod pool;
#[cfg(feature = "tokio")]
mod pool_async;
mod pool_errors;
mod pool_events;
#[cfg(feature = "tracing")]
mod pool_host_code;
mod pool_metrics;
#[cfg(all(feature = "async", feature = "testing"))]
mod pool_overflow;
mod pool_places;
mod pool_streams;
mod pool_submit;
mod pools;
mod processors;
mod raw_links;
#[cfg(feature = "tokio")]
mod reactors;
mod readers;
mod recording;
#[cfg(feature = "testing")]
mod request_pieces;
mod request_readers;
#[cfg(feature = "serde")]
mod serialized;
#[cfg(feature = "testing")]
mod slow_readers;
mod spawning;
mod status_page;
#[cfg(feature = "testing")]
mod steps;
#[cfg(all(feature = "testing", feature = "async"))]
mod stream_timeouts;
mod streams;
mod streams_in_batches;
mod system_calls;
#[cfg(feature = "tokio")]
mod tasks;
#[cfg(feature = "tokio")]
mod tasks_dropped;
#[cfg(feature = "tokio")]
mod tasks_reading;
#[cfg(feature = "tokio")]
mod tasks_scale;
#[cfg(feature = "testing")]
mod thread_worker;
#[cfg(feature = "testing")]
mod threads;
#[cfg(feature = "testing")]
mod traces;
#[cfg(all(feature = "tracing", feature = "testing"))]
mod tracing_spans;
#[cfg(feature = "testing")]
mod warm_up;
mod worker_api;

common::worker_entry!();
