//! What the numbers of a channel and of a pool's role are, each list once: it makes the type, the
//! places in a block, and the names and meanings that programs show.

/// What a number counts or measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its unit: `requests`, `bytes`, `ns`, …
    pub unit: &'static str,
    /// Whether it only grows.
    pub is_counter: bool,
    /// What it means.
    pub help: &'static str,
}

/// A number keeps its place for ever, and new ones come at the end. A reader leaves out those that it
/// does not know, and takes those for zero that a page does not have. For `since`, the page has the
/// time of the monotonic clock since when something goes on, so that a page need not be written while it
/// does.
macro_rules! numbers {
    ($(#[$doc:meta])* $type:ident: $($name:ident $kind:ident $unit:literal $help:literal,)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
        #[non_exhaustive]
        pub struct $type {
            $(#[doc = $help] #[doc = concat!("Unit: ", $unit, ".")] pub $name: u64,)*
        }

        impl $type {
            /// The numbers in the order in which a block has them.
            pub const FIELDS: &'static [Field] = &[$(Field {
                name: stringify!($name),
                unit: $unit,
                is_counter: numbers!(@ $kind),
                help: $help,
            },)*];

            /// Returns each number with what it is.
            pub fn iter(&self) -> impl Iterator<Item = (&'static Field, u64)> + use<> {
                Self::FIELDS.iter().zip([$(self.$name),*])
            }

            /// What a page has for these numbers, which were read at `now`.
            pub(super) fn to_words(self, now: u64) -> [u64; Self::FIELDS.len()] {
                [$(numbers!(@word $kind, self.$name, now)),*]
            }

            /// What the words of a page mean at `now`.
            pub(super) fn from_words(mut words: impl Iterator<Item = u64>, now: u64) -> Self {
                Self { $($name: numbers!(@number $kind, words.next().unwrap_or(0), now),)* }
            }
        }
    };
    (@ counter) => { true };
    (@ $other:ident) => { false };
    (@word since, $number:expr, $now:expr) => { turned($number, $now) };
    (@word $other:ident, $number:expr, $now:expr) => { $number };
    (@number since, $word:expr, $now:expr) => { turned($word, $now) };
    (@number $other:ident, $word:expr, $now:expr) => { $word };
}

/// How long ago it was, for a time of the clock, and the time of the clock for how long ago it was. 0 is
/// neither: nothing goes on.
fn turned(time: u64, now: u64) -> u64 {
    if time == 0 { 0 } else { now.saturating_sub(time).max(1) }
}

numbers! {
    /// The numbers of a channel.
    ChannelNumbers:
    pid_inside gauge "process id" "The worker's process, by its id in the host's pid namespace.",
    state gauge "code" "1 open, 2 closing, 3 closed, 4 the worker died, 5 failed.",
    worker_state gauge "code"
        "What the worker does: 1 starting, 2 idle, 3 busy, 4 awaiting credit, 5 stopping.",
    busy_for since "ns"
        "How long ago the request was begun that the worker has had for longest; 0 if it has none.",
    progress gauge "of the handler" "What the handler of that request said last of its progress.",
    taken gauge "requests" "Requests that the worker has taken and not begun.",
    begun gauge "requests" "Requests that the worker has begun and not answered.",
    served counter "requests" "Requests that the worker has finished.",
    requests counter "requests" "Requests that were made.",
    completed counter "requests" "Requests that got their result, or the end of their stream.",
    in_flight gauge "requests" "Requests that were made and have neither ended nor been dropped.",
    streams counter "requests" "Requests that are streams.",
    chunks counter "chunks" "Chunks that came for streams.",
    bytes_sent counter "bytes" "Payloads that were sent.",
    bytes_received counter "bytes" "Payloads that came.",
    late_frames counter "frames" "Frames that came for a request that was dropped.",
    unknown_frames counter "frames" "Frames for a request that was never made or had long ended.",
    cancels counter "requests" "Requests that the worker was told to cancel.",
    copied_frames counter "frames"
        "Frames that were copied because another thread than the owner's read them.",
    spins counter "waits" "Waits that began by spinning.",
    parks counter "waits" "Waits that went to sleep.",
    wakes counter "wakes" "Times that a sleeping worker was woken.",
    request_ring_used gauge "bytes" "Bytes in the request ring that the worker has not released.",
    request_ring_high_water gauge "bytes" "The most bytes in the request ring when it seemed full.",
    request_ring_capacity gauge "bytes" "The capacity of the request ring.",
    reply_ring_used gauge "bytes" "Bytes in the reply ring that the worker cannot fill again yet.",
    reply_ring_capacity gauge "bytes" "The capacity of the reply ring.",
    leases gauge "replies" "Replies and chunks that hold a slot of the reply ring.",
    channel_id gauge "id" "The start of the random id in the headers of the channel's memory; see `slipring inspect`.",
    max_in_flight gauge "requests" "How many requests may be in flight.",
    max_request_frame gauge "bytes" "The longest request that goes in one frame.",
    max_reply_frame gauge "bytes" "The longest reply or chunk that goes in one frame.",
    max_message gauge "bytes" "The longest message.",
    stream_window gauge "bytes" "How far a stream may be ahead of its reader.",
    health_ring_capacity gauge "bytes" "The capacity of either ring for pings and their answers.",
    reply_ring_high_water gauge "bytes"
        "The most bytes in the reply ring when it seemed full, as the worker says.",
    recorded_frames counter "frames" "Frames that were recorded.",
    unrecorded_frames counter "frames" "Frames that the recording has left out: its queue or the disk was full.",
    is_recorded gauge "0 or 1" "Whether the frames are recorded.",
}

numbers! {
    /// The numbers of a role of a pool.
    RoleNumbers:
    is_ready gauge "0 or 1" "Whether requests can be served.",
    is_degraded gauge "0 or 1" "Whether requests fail because workers do not start.",
    workers gauge "workers" "Workers that are there.",
    queued gauge "requests" "Requests that wait for a worker.",
    queue_limit gauge "requests" "How many may wait.",
    in_flight gauge "requests" "Requests that workers have.",
    oldest_wait since "ns" "How long the oldest of those that wait has waited.",
    answered counter "requests" "Requests whose reply, or the end of whose stream, was returned.",
    failed counter "requests" "Requests that ended with an error.",
    resent_unbegun counter "requests"
        "Times that a request was sent again that a dead worker had not begun.",
    resent_begun counter "requests"
        "Times that a request was sent again that a dead worker had begun.",
    started counter "workers" "Workers that were started.",
    restarted counter "workers" "Workers that replace one that was lost.",
    failed_to_start counter "workers" "Workers that did not start, or died before they were ready.",
    died_serving counter "workers" "Workers that died while they served a request.",
    died_idle counter "workers" "Workers that died by themselves without a request.",
    killed_idle counter "workers" "Workers that were killed from outside without a request.",
    hung counter "workers" "Workers that were killed because a request made no progress.",
    recycled counter "workers" "Workers that were replaced or ended although they could go on.",
    bytes_sent counter "bytes" "Payloads that were sent.",
    bytes_received counter "bytes" "Payloads that came.",
    chunks counter "chunks" "Chunks that came for streams.",
    spins counter "waits" "Waits that began by spinning.",
    parks counter "waits" "Waits that went to sleep.",
    wakes counter "wakes" "Times that a sleeping worker was woken.",
    request_ring_used gauge "bytes" "Bytes in all request rings that workers have not released.",
    request_ring_high_water gauge "bytes" "The most bytes in one request ring when it seemed full.",
    request_ring_capacity gauge "bytes" "The capacity of all request rings.",
    reply_ring_used gauge "bytes" "Bytes in all reply rings that workers cannot fill again yet.",
    reply_ring_capacity gauge "bytes" "The capacity of all reply rings.",
    leases gauge "replies" "Replies and chunks that hold a slot of a reply ring.",
    overflowed counter "requests"
        "Times that a request was sent to the workers of another backend.",
    overflowed_back counter "requests" "Times that these had not begun it, and it came back.",
    reply_ring_high_water gauge "bytes"
        "The most bytes in one reply ring when it seemed full, as the workers say.",
    recorded_frames counter "frames" "Frames of all channels that were recorded.",
    unrecorded_frames counter "frames" "Frames that recordings have left out: their queue or the disk was full.",
}
