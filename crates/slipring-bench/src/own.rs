//! slipring itself: its raw rings, and its channel.

mod channel;
mod raw;

use std::io;
use std::time::Duration;

use slipring::ring::CopyChoices;
use slipring::{Config, CopyRoutine, PeerBytes, Spawner, WaitStrategy};

pub use channel::{ChannelSession, channel, channel_cold, channel_in_batches, channel_in_pieces};
pub(crate) use channel::{echo, pin, spawn_channel, work};
pub use raw::{raw, raw_cold};

use crate::cases;
use crate::links::WORKER;

/// The same as for the limits.
const LONG: Duration = Duration::from_secs(120);
const CLOSE: Duration = Duration::from_secs(2);

/// Both sides spin without end, for the lowest latency.
#[must_use]
pub fn busy() -> Config {
    let config = Config::builder().wait_strategy(WaitStrategy::Spin).build();
    config.unwrap_or_default()
}

fn spawner(link: &str, config: &Config) -> slipring::Result<Spawner> {
    Ok(Spawner::current_exe()?.args([WORKER, link]).role("bench").config(config.clone()))
}

/// How the frames of a stream are sent over a raw link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publishing {
    /// One at a time; the bell is checked now and then.
    Lazily,
    /// One at a time, with a check of the bell for each.
    Eagerly,
    /// In batches, on both sides.
    InBatches,
}

/// Reads the bytes in place, as a host may that trusts its workers.
#[inline]
fn in_place<'a>(payload: &PeerBytes<'a>) -> &'a [u8] {
    #[allow(unsafe_code, reason = "reading in place is what is measured")]
    // SAFETY: the peer is this very program; it does not write to a slot that it has
    // published before the slot is released.
    unsafe {
        payload.as_slice()
    }
}

/// The name of the routine for messages of this length.
fn routine_for(len: usize, found: CopyChoices) -> Option<String> {
    match len {
        ..0x1000 => None,
        0x1000..0x4000 => Some(routine_name(found.from_4_kib)),
        0x4000..0x2_0000 => Some(routine_name(found.from_16_kib)),
        _ => Some(routine_name(found.from_128_kib)),
    }
}

/// The name of a routine, as the limits have it.
fn routine_name(routine: CopyRoutine) -> String {
    match routine {
        CopyRoutine::Library => cases::LIBRARY.to_owned(),
        CopyRoutine::Vectors => cases::VECTORS.to_owned(),
        CopyRoutine::PastCaches => cases::PAST_CACHES.to_owned(),
        other => format!("{other:?}"),
    }
}

/// Runs the worker's side of the links of this module; `None` if `args` name none of them.
pub(crate) fn serve(args: &[&str]) -> Option<io::Result<()>> {
    match args {
        ["raw"] => Some(raw::serve_raw(true, Publishing::Lazily)),
        ["raw-batches"] => Some(raw::serve_raw(true, Publishing::InBatches)),
        ["raw-cold"] => Some(raw::serve_raw(false, Publishing::Lazily)),
        ["channel"] => Some(channel::serve_channel().map_err(io::Error::from)),
        _ => None,
    }
}
