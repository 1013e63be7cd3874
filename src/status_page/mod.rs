//! The status page: what a host's channels and pools count, for other processes of the same user.
//!
//! A process that makes channels has one page of all its channels and pools: a memfd of a few kilobytes,
//! which a thread of the library's brings up to date once a second while something changes. The host need
//! not be asked for it, and no reader can hurt the host: the page is found through `/proc`, is sealed
//! against all writers but the host, and can also be read while the host is stopped. It contains names of
//! roles, process ids, counters and the text of the last failure; no payloads.
//!
//! [`hosts`] reads the pages of all hosts; `slipring top` shows them. `docs/STATUS_PAGE.md` has the
//! layout, and says what the page costs.
//!
//! A process that is started with `SLIPRING_STATUS_PAGE=0`, or calls [`turn_off`], has none.

mod find;
mod layout;
mod namespace;
mod numbers;
mod process;
mod publisher;
mod reader;
mod row;
mod writer;

pub use find::{Host, Hosts, host, hosts};
pub(crate) use layout::checksum;
pub use numbers::{ChannelNumbers, Field, RoleNumbers};
pub(crate) use publisher::{Source, add, release, remove};
pub use row::{Numbers, Row, Times};
pub(crate) use writer::{Block, Note};

/// What the fuzz target of the reader uses.
#[cfg(slipring_fuzzing)]
pub(crate) mod inside {
    pub(crate) use super::layout::{BLOCK_BYTES, CHECKED, CHECKSUM, WORDS, checksum};
    pub(crate) use super::reader::{Pages, header, rows};
    pub(crate) use super::writer::row_words;
}

/// Has this process keep a page again, of all channels and pools that it makes from now on.
pub fn turn_on() {
    publisher::turn_on();
}

/// Removes this process's page, if it has one, and keeps it from having one. Does not wait
/// for the thread that writes the page, which ends soon.
pub fn turn_off() {
    publisher::turn_off();
}
