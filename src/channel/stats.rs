//! Counters of a channel.

/// Counters of a channel since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Stats {
    /// Frames that came for a request after its owner had let go of it; dropped.
    pub late_frames: u64,
    /// Frames for a request that was never made, or was long finished; dropped.
    pub unknown_frames: u64,
    /// Requests that the worker was told to give up.
    pub cancels: u64,
    /// Frames that were copied out of the ring because another thread than the owner's read
    /// them.
    pub copied_frames: u64,
    /// Waits that began by spinning.
    pub spins: u64,
    /// Waits that went to sleep.
    pub parks: u64,
    /// Times that a sleeping worker was woken for a request.
    pub wakes: u64,
    /// The most bytes that were in the request ring when it seemed full.
    pub request_ring_high_water: u64,
    /// Replies and chunks that still hold a slot. Short ones never do: see
    /// [`Reply`](crate::Reply).
    pub leases_held: usize,
}
