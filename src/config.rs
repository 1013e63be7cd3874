//! Limits, parsed once into a valid [`Config`].
//!
//! Nothing below this module checks a limit of its own: a `Config` that exists
//! is one that works.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// Bytes that stand before a payload in its slot.
pub(crate) const FRAME_HEADER: usize = 32;
/// Slots start at multiples of this many bytes: one cache line.
pub(crate) const SLOT_ALIGN: usize = 64;

const MIN_RING: usize = 4 << 10;
const MAX_RING: usize = 1 << 30;
const MIN_HEALTH_FRAME: usize = 1 << 10;
/// The shortest longest reply, in bytes: an error's type and message, cut if they must be.
const MIN_REPLY: usize = 64;
const MAX_IN_FLIGHT: usize = 1 << 16;

/// How a side waits for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitStrategy {
    /// Never sleeps while the other side runs on another core: the lowest latency, one core at
    /// 100 % for as long as it waits. After a millisecond it yields to other threads between
    /// looks. Where both sides were last seen on one core it sleeps at once, as `Park` does.
    Spin,
    /// Spins for at most this long, then sleeps. No spinning where both sides were last seen on
    /// one core, nor where the process has less than two cores' time: on a machine with one, or
    /// in a control group that allows no more.
    SpinThenPark(Duration),
    /// Sleeps at once.
    Park,
}

/// Size of one ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingConfig {
    pub(crate) capacity: usize,
    pub(crate) max_frame: usize,
}

impl RingConfig {
    /// The ring's size in bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The longest payload of one frame, in bytes.
    #[must_use]
    pub fn max_frame(&self) -> usize {
        self.max_frame
    }

    /// How long the pieces of a message are that does not fit a frame: so short that both
    /// sides copy at the same time, and that many of them fit a stream's window.
    pub(crate) fn piece_len(&self) -> usize {
        self.max_frame.min(self.capacity / 16 - FRAME_HEADER)
    }

    fn check(self, name: &str, option: &str) -> Result<Self> {
        let Self { capacity, max_frame } = self;
        if !capacity.is_power_of_two() || !(MIN_RING..=MAX_RING).contains(&capacity) {
            return Err(invalid(format!(
                "{name} ring of {capacity} bytes: it must be a power of two from {MIN_RING} to \
                 {MAX_RING}"
            )));
        }
        let longest = capacity / 2 - FRAME_HEADER;
        if max_frame == 0 || max_frame > longest {
            return Err(invalid(format!(
                "frames of {max_frame} bytes in a {name} ring of {capacity} bytes: they must be \
                 from 1 to {longest} bytes long, half the ring less the header; see {option}"
            )));
        }
        Ok(self)
    }
}

/// Geometry and behaviour of a channel.
///
/// ```
/// use slipring::Config;
///
/// let config = Config::builder().request_ring(1 << 20).max_request(256 << 10).build()?;
/// assert_eq!(config.max_request(), 256 << 10);
/// let refused = Config::builder().request_ring(1 << 20).max_request(1 << 20).build();
/// assert!(refused.unwrap_err().to_string().contains("half the ring"));
/// # Ok::<(), slipring::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub(crate) down: RingConfig,
    pub(crate) up: RingConfig,
    pub(crate) health: RingConfig,
    pub(crate) max_in_flight: usize,
    pub(crate) stream_window: usize,
    pub(crate) max_message: usize,
    pub(crate) wait: WaitStrategy,
    /// Where all positions start; tests put it next to the wraps of u32 and u64.
    pub(crate) origin: u64,
}

impl Default for Config {
    /// Rings of 4 MiB with frames of at most 1 MiB; a channel maps 8.1 MiB.
    fn default() -> Self {
        Self {
            down: RingConfig { capacity: 4 << 20, max_frame: 1 << 20 },
            up: RingConfig { capacity: 4 << 20, max_frame: 1 << 20 },
            health: RingConfig { capacity: 16 << 10, max_frame: 4 << 10 },
            max_in_flight: 1024,
            stream_window: 2 << 20,
            max_message: 64 << 20,
            wait: WaitStrategy::SpinThenPark(Duration::from_micros(20)),
            origin: 0,
        }
    }
}

impl Config {
    /// The default configuration, to be changed.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder { config: Self::default(), window: None }
    }

    /// Rings of 64 KiB with frames of at most 16 KiB, 64 requests in flight; a
    /// channel maps under 256 KiB. For hosts with many channels.
    #[must_use]
    pub fn small() -> Self {
        Self {
            down: RingConfig { capacity: 64 << 10, max_frame: 16 << 10 },
            up: RingConfig { capacity: 64 << 10, max_frame: 16 << 10 },
            health: RingConfig { capacity: 4 << 10, max_frame: 1 << 10 },
            max_in_flight: 64,
            stream_window: 32 << 10,
            max_message: 1 << 20,
            ..Self::default()
        }
    }

    /// The longest request that fits one frame, in bytes.
    #[must_use]
    pub fn max_request(&self) -> usize {
        self.down.max_frame
    }

    /// The longest reply or stream chunk that fits one frame, in bytes.
    #[must_use]
    pub fn max_reply(&self) -> usize {
        self.up.max_frame
    }

    /// The longest message, in bytes, that may travel as a chain of frames.
    #[must_use]
    pub fn max_message(&self) -> usize {
        self.max_message
    }

    /// How many requests one channel holds at a time.
    #[must_use]
    pub fn max_in_flight(&self) -> usize {
        self.max_in_flight
    }

    /// How many bytes of unread chunks a stream may have in flight.
    #[must_use]
    pub fn stream_window(&self) -> usize {
        self.stream_window
    }

    /// The ring that carries requests.
    #[must_use]
    pub fn request_ring(&self) -> RingConfig {
        self.down
    }

    /// The ring that carries replies.
    #[must_use]
    pub fn reply_ring(&self) -> RingConfig {
        self.up
    }

    /// How the parent and the worker wait.
    #[must_use]
    pub fn wait_strategy(&self) -> WaitStrategy {
        self.wait
    }
}

/// Changes a [`Config`] and checks the result.
#[derive(Debug, Clone)]
#[must_use]
pub struct ConfigBuilder {
    config: Config,
    window: Option<usize>,
}

impl ConfigBuilder {
    /// Bytes of the ring that carries requests: a power of two from 4 KiB to 1 GiB.
    pub fn request_ring(mut self, bytes: usize) -> Self {
        self.config.down.capacity = bytes;
        self
    }

    /// Bytes of the ring that carries replies: a power of two from 4 KiB to 1 GiB.
    pub fn reply_ring(mut self, bytes: usize) -> Self {
        self.config.up.capacity = bytes;
        self
    }

    /// The longest request in one frame, in bytes: at most half its ring less 32.
    pub fn max_request(mut self, bytes: usize) -> Self {
        self.config.down.max_frame = bytes;
        self
    }

    /// The longest reply or chunk in one frame, in bytes: at most half its ring less 32.
    pub fn max_reply(mut self, bytes: usize) -> Self {
        self.config.up.max_frame = bytes;
        self
    }

    /// The longest message that may travel as a chain of frames, in bytes. Each side keeps
    /// the buffer of one such message until sixteen requests have not needed it.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.config.max_message = bytes;
        self
    }

    /// Bytes of each health ring: a power of two from 4 KiB to 1 GiB.
    pub fn health_ring(mut self, bytes: usize) -> Self {
        self.config.health.capacity = bytes;
        self.config.health.max_frame = (bytes / 4).max(MIN_HEALTH_FRAME);
        self
    }

    /// How many requests may be in flight, finished ones that the worker has not
    /// yet let go of included: from 1 to 65,536.
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.config.max_in_flight = requests;
        self
    }

    /// Bytes of unread chunks that a stream may have in flight; by default half
    /// the reply ring. One chunk is always allowed.
    pub fn stream_window(mut self, bytes: usize) -> Self {
        self.window = Some(bytes);
        self
    }

    /// How both sides wait.
    pub fn wait_strategy(mut self, wait: WaitStrategy) -> Self {
        self.config.wait = wait;
        self
    }

    /// Where every position starts. Only tests need it: positions never wrap in
    /// the life of a process otherwise.
    #[doc(hidden)]
    pub fn origin(mut self, position: u64) -> Self {
        self.config.origin = position & !63;
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] with the value, the limit and the reason.
    pub fn build(self) -> Result<Config> {
        let mut config = self.config;
        config.down.check("request", "max_request")?;
        config.up.check("reply", "max_reply")?;
        if config.up.max_frame < MIN_REPLY {
            return Err(invalid(format!(
                "a max_reply of {} bytes: at least {MIN_REPLY}, or what a handler fails with does \
                 not fit",
                config.up.max_frame
            )));
        }
        config.health.check("health", "health_ring")?;
        config.stream_window = self.window.unwrap_or(config.up.capacity / 2);
        if config.stream_window == 0 || config.stream_window > config.up.capacity / 2 {
            return Err(invalid(format!(
                "stream window of {} bytes: it must be from 1 to {}, half the reply ring, or an \
                 unread stream fills the ring for everybody",
                config.stream_window,
                config.up.capacity / 2
            )));
        }
        if !(1..=MAX_IN_FLIGHT).contains(&config.max_in_flight) {
            return Err(invalid(format!(
                "{} requests in flight: it must be from 1 to {MAX_IN_FLIGHT}",
                config.max_in_flight
            )));
        }
        let longest = config.down.max_frame.max(config.up.max_frame);
        if config.max_message < longest || u32::try_from(config.max_message).is_err() {
            return Err(invalid(format!(
                "messages of {} bytes: it must be from {longest}, the longest frame, to {}",
                config.max_message,
                u32::MAX
            )));
        }
        if let WaitStrategy::SpinThenPark(spin) = config.wait
            && spin > Duration::from_secs(1)
        {
            return Err(invalid(format!("spinning for {spin:?}: at most one second")));
        }
        Ok(config)
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(builder: ConfigBuilder) -> String {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        error.to_string()
    }

    #[test]
    fn the_presets_are_valid() {
        Config::builder().build().unwrap();
        ConfigBuilder { config: Config::small(), window: None }.build().unwrap();
    }

    #[test]
    fn the_longest_frame_is_half_the_ring_less_its_header() {
        let ring = Config::builder().request_ring(8192);
        assert!(ring.clone().max_request(4096 - 32).build().is_ok());
        assert!(reason(ring.max_request(4096 - 31)).contains("from 1 to 4064"));
    }

    #[test]
    fn nonsense_is_refused_with_the_reason() {
        let b = Config::builder;
        assert!(reason(b().request_ring(3 << 20)).contains("power of two"));
        assert!(reason(b().reply_ring(2048)).contains("power of two from 4096"));
        assert!(reason(b().max_reply(0)).contains("from 1 to"));
        assert!(reason(b().max_reply(63)).contains("at least 64"));
        assert!(reason(b().max_in_flight(0)).contains("from 1 to 65536"));
        assert!(reason(b().stream_window(0)).contains("stream window"));
        assert!(reason(b().stream_window(3 << 20)).contains("half the reply ring"));
        assert!(reason(b().max_message(10)).contains("the longest frame"));
        for odd in [0, 1, 1 << 62, 1 << 63, usize::MAX - 1, usize::MAX] {
            for builder in [
                b().request_ring(odd),
                b().reply_ring(odd),
                b().health_ring(odd),
                b().max_request(odd),
                b().max_reply(odd),
                b().max_message(odd),
                b().max_in_flight(odd),
                b().stream_window(odd),
            ] {
                // One byte is little, but it works.
                let is_small = builder.clone().build().is_ok_and(|_| odd == 1);
                assert!(is_small || !reason(builder).is_empty(), "{odd}");
            }
        }
        let spin = WaitStrategy::SpinThenPark(Duration::MAX);
        assert!(reason(b().wait_strategy(spin)).contains("at most one second"));
        let spin = WaitStrategy::SpinThenPark(Duration::from_secs(5));
        assert!(reason(b().wait_strategy(spin)).contains("at most one second"));
    }
}
