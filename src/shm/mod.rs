//! Shared memory: what it looks like, and typed access to it, whatever backs it.
//!
//! This folder is where memory is dereferenced. It knows nothing of rings, frames or processes.
//! From the bottom up:
//!
//! * [`layout`] says which byte means what;
//! * [`transport`] is the seam to that which backs the memory, and [`memfd`] the transport that
//!   channels use unless they are named;
//! * [`region`] makes of the memory [`words`], a [`status`] line, the tables [`requests`] and
//!   [`marks`], [`slots`] and [`bytes`];
//! * [`second_map`] is where replies that are kept stay when their slots are given back;
//! * `status_memory` is the memory of a process's status page;
//! * `shared_map` backs the memory of pipes, whose rings are `byte_ring`s.

#[cfg(any(loom, feature = "pipe"))]
pub(crate) mod byte_ring;
pub(crate) mod bytes;
pub(crate) mod layout;
mod mapping;
pub(crate) mod marks;
pub(crate) mod region;
pub(crate) mod requests;
pub(crate) mod second_map;
pub(crate) mod slots;
pub(crate) mod status;
pub(crate) mod transport;
pub(crate) mod words;

cfg_if! {
    if #[cfg(loom)] {
        pub(crate) mod model;
    } else {
        #[cfg_attr(slipring_tsan, path = "file_map_tsan.rs")]
        mod file_map;
        pub(crate) mod memfd;
        #[cfg(feature = "pipe")]
        pub(crate) mod shared_map;
        pub(crate) mod status_memory;
    }
}
