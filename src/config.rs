//! Limits, parsed once into a valid [`Config`].
//!
//! Nothing below this module checks a limit of its own: a `Config` that exists
//! is one that works.

mod tuning;
#[cfg(feature = "serde")]
mod with_serde;

use std::fmt;
use std::time::Duration;

pub(crate) use self::tuning::Tuning;
pub use self::tuning::{CopyChoices, CopyRoutine, WaitStrategy};
use crate::error::{Error, ErrorKind, Result};

/// Bytes that stand before a payload in its slot.
pub(crate) const FRAME_HEADER: usize = 32;
/// Slots start at multiples of this many bytes: one cache line.
pub(crate) const SLOT_ALIGN: usize = 64;

const MIN_RING: usize = 4 << 10;
const MAX_RING: usize = 1 << 30;
const MIN_HEALTH_FRAME: usize = 1 << 10;
/// The smallest limit of a reply frame, in bytes: an error's type and message, cut if they must be.
const MIN_REPLY_FRAME: usize = 64;
const MAX_IN_FLIGHT: usize = 1 << 16;
const MAX_SPIN: Duration = Duration::from_secs(1);

/// The size of one ring and of its frames; see [`Config::request_ring`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingConfig {
    pub(crate) capacity: usize,
    pub(crate) max_frame: usize,
}

impl RingConfig {
    /// Returns the size of the ring, in bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns the length of the longest payload of one frame, in bytes.
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

/// Geometry and behaviour of a channel. A value of this type is valid.
///
/// [`Config::default`] suits messages of up to a few MiB, [`Config::small`] hosts with many
/// channels; [`Config::builder`] and [`Config::to_builder`] make others.
///
/// ```
/// use slipring::Config;
///
/// // Large matrices in one frame each, and replies of little more than a score:
/// let builder = Config::builder().request_ring(64 << 20).max_request_frame(16 << 20);
/// let config = builder.reply_ring(64 << 10).max_reply_frame(4 << 10).build()?;
/// assert_eq!(config.request_ring().capacity(), 64 << 20);
/// let refused = Config::builder().request_ring(1 << 20).max_request_frame(1 << 20).build();
/// assert!(refused.unwrap_err().to_string().contains("half the ring"));
/// # Ok::<(), slipring::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    pub(crate) down: RingConfig,
    pub(crate) up: RingConfig,
    pub(crate) health: RingConfig,
    pub(crate) max_in_flight: usize,
    pub(crate) stream_window: usize,
    pub(crate) max_message: usize,
    pub(crate) wait: WaitStrategy,
    pub(crate) copy: Option<CopyRoutine>,
    /// Where all positions start; tests put it next to the wraps of u32 and u64.
    pub(crate) origin: u64,
}

impl Default for Config {
    /// Rings of 4 MiB with frames of at most 1 MiB, and 1,024 requests in flight; a channel maps
    /// 8.1 MiB.
    fn default() -> Self {
        Self {
            down: RingConfig { capacity: 4 << 20, max_frame: 1 << 20 },
            up: RingConfig { capacity: 4 << 20, max_frame: 1 << 20 },
            health: RingConfig { capacity: 16 << 10, max_frame: 4 << 10 },
            max_in_flight: 1024,
            stream_window: 2 << 20,
            max_message: 64 << 20,
            wait: WaitStrategy::SpinThenPark(Duration::from_micros(20)),
            copy: None,
            origin: 0,
        }
    }
}

impl Config {
    /// Starts from the default configuration.
    pub fn builder() -> ConfigBuilder {
        Self::default().to_builder()
    }

    /// Starts from this configuration.
    ///
    /// ```
    /// use slipring::Config;
    ///
    /// let config = Config::small().to_builder().max_in_flight(8).build()?;
    /// assert_eq!((config.max_in_flight(), config.max_request_frame()), (8, 16 << 10));
    /// # Ok::<(), slipring::Error>(())
    /// ```
    pub fn to_builder(&self) -> ConfigBuilder {
        let window = Some(self.stream_window).filter(|window| *window != self.up.capacity / 2);
        ConfigBuilder { config: self.clone(), window }
    }

    /// Returns a configuration for hosts with many channels: rings of 64 KiB with frames of at
    /// most 16 KiB, messages of at most 1 MiB, and 64 requests in flight. A channel maps less
    /// than 256 KiB.
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

    /// Returns the length of the longest request that fits one frame, in bytes.
    #[must_use]
    pub fn max_request_frame(&self) -> usize {
        self.down.max_frame
    }

    /// Returns the length of the longest reply or chunk that fits one frame, in bytes.
    #[must_use]
    pub fn max_reply_frame(&self) -> usize {
        self.up.max_frame
    }

    /// Returns the length of the longest message, in bytes: a request, reply or chunk that may
    /// travel in several frames.
    #[must_use]
    pub fn max_message(&self) -> usize {
        self.max_message
    }

    /// Returns how many requests a channel holds at a time.
    #[must_use]
    pub fn max_in_flight(&self) -> usize {
        self.max_in_flight
    }

    /// Returns how many bytes of unread chunks a stream may have in flight.
    #[must_use]
    pub fn stream_window(&self) -> usize {
        self.stream_window
    }

    /// Returns the ring that carries requests.
    #[must_use]
    pub fn request_ring(&self) -> RingConfig {
        self.down
    }

    /// Returns the ring that carries replies.
    #[must_use]
    pub fn reply_ring(&self) -> RingConfig {
        self.up
    }

    /// Returns either of the two rings that carry pings, shutdowns and their answers.
    #[must_use]
    pub fn health_ring(&self) -> RingConfig {
        self.health
    }

    /// Returns how the parent and the worker wait.
    #[must_use]
    pub fn wait_strategy(&self) -> WaitStrategy {
        self.wait
    }

    /// Returns how both sides copy payloads into the rings; `None` if each ring finds that out.
    #[must_use]
    pub fn copy_routine(&self) -> Option<CopyRoutine> {
        self.copy
    }

    pub(crate) fn tuning(&self) -> Tuning {
        Tuning { wait: self.wait, copy: self.copy }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("request_ring", &self.down)
            .field("reply_ring", &self.up)
            .field("health_ring", &self.health)
            .field("max_in_flight", &self.max_in_flight)
            .field("stream_window", &self.stream_window)
            .field("max_message", &self.max_message)
            .field("wait_strategy", &self.wait)
            .field("copy_routine", &self.copy)
            .finish()
    }
}

/// Changes a [`Config`] and checks the result.
///
/// No setter fails: [`build`](Self::build) checks all values together. [`Config`] has an example.
#[derive(Clone)]
#[must_use]
pub struct ConfigBuilder {
    config: Config,
    /// `None`: half the reply ring.
    window: Option<usize>,
}

impl ConfigBuilder {
    /// Sets the size of the ring that carries requests, in bytes: a power of two from 4 KiB to
    /// 1 GiB. The default is 4 MiB.
    ///
    /// A caller blocks while the ring is full. Set [`max_request_frame`](Self::max_request_frame)
    /// as well if the ring is to be smaller than 4 MiB.
    pub fn request_ring(mut self, bytes: usize) -> Self {
        self.config.down.capacity = bytes;
        self
    }

    /// Sets the size of the ring that carries replies and chunks, in bytes: a power of two from
    /// 4 KiB to 1 GiB. The default is 4 MiB.
    ///
    /// The worker blocks while the ring is full. Set [`max_reply_frame`](Self::max_reply_frame) as
    /// well if the ring is to be smaller than 4 MiB.
    pub fn reply_ring(mut self, bytes: usize) -> Self {
        self.config.up.capacity = bytes;
        self
    }

    /// Sets the length of the longest request in one frame, in bytes: from 1 to half the
    /// [`request_ring`](Self::request_ring) less 32. The default is 1 MiB.
    ///
    /// A longer request is sent in several frames, up to [`max_message`](Self::max_message).
    pub fn max_request_frame(mut self, bytes: usize) -> Self {
        self.config.down.max_frame = bytes;
        self
    }

    /// Sets the length of the longest reply or chunk in one frame, in bytes: from 64 to half the
    /// [`reply_ring`](Self::reply_ring) less 32. The default is 1 MiB.
    ///
    /// A longer reply is sent in several frames, up to [`max_message`](Self::max_message).
    pub fn max_reply_frame(mut self, bytes: usize) -> Self {
        self.config.up.max_frame = bytes;
        self
    }

    /// Sets the length of the longest message, in bytes: from the longer of
    /// [`max_request_frame`](Self::max_request_frame) and
    /// [`max_reply_frame`](Self::max_reply_frame) to 4 GiB less one byte. The default is 64 MiB. A
    /// longer message fails with [`ErrorKind::TooLarge`].
    ///
    /// A message that does not fit a frame is copied once more by its receiver, which keeps
    /// the buffer of one such message until sixteen requests have not needed it.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.config.max_message = bytes;
        self
    }

    /// Sets the size of each of the two rings that carry pings, shutdowns and their answers, in
    /// bytes: a power of two from 4 KiB to 1 GiB. The default is 16 KiB. The message of the last
    /// error in a [`Health`](crate::Health) report is cut to what fits a quarter of the ring.
    pub fn health_ring(mut self, bytes: usize) -> Self {
        self.config.health.capacity = bytes;
        self.config.health.max_frame = (bytes / 4).max(MIN_HEALTH_FRAME);
        self
    }

    /// Sets how many requests may be in flight: from 1 to 65,536. The default is 1,024. One more
    /// fails with [`ErrorKind::TooManyInFlight`].
    ///
    /// A request that was cancelled counts until the worker has sent its last frame, too.
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.config.max_in_flight = requests;
        self
    }

    /// Sets how many bytes of unread chunks a stream may have in flight, counted as the room that
    /// they take in the ring: from 1 to half the [`reply_ring`](Self::reply_ring), which is the
    /// default. The worker blocks when so much is unread. One chunk is always allowed.
    pub fn stream_window(mut self, bytes: usize) -> Self {
        self.window = Some(bytes);
        self
    }

    /// Sets how both sides wait. The default is [`WaitStrategy::SpinThenPark`] with 20
    /// microseconds; the longest is one second.
    pub fn wait_strategy(mut self, wait: WaitStrategy) -> Self {
        self.config.wait = wait;
        self
    }

    /// Sets how both sides copy payloads of 4 KiB and more into the rings. By default each ring finds
    /// out which routine makes its stream the fastest; that takes less than 1 % of the time of a
    /// long stream. [`Stats::request_copies`](crate::Stats::request_copies) tells what it found.
    pub fn copy_routine(mut self, routine: CopyRoutine) -> Self {
        self.config.copy = Some(routine);
        self
    }

    /// Where every position starts. Only tests need it: positions never wrap in
    /// the life of a process otherwise.
    #[doc(hidden)]
    pub fn origin(mut self, position: u64) -> Self {
        self.config.origin = position & !63;
        self
    }

    /// Checks all values and returns the configuration.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`]. The message names the value, the limit and the reason:
    ///
    /// ```
    /// use slipring::Config;
    ///
    /// let error = Config::builder().max_in_flight(100_000).build().unwrap_err();
    /// assert_eq!(error.to_string(), "100000 requests in flight: it must be from 1 to 65536");
    /// ```
    pub fn build(self) -> Result<Config> {
        let mut config = self.config;
        config.down.check("request", "max_request_frame")?;
        config.up.check("reply", "max_reply_frame")?;
        if config.up.max_frame < MIN_REPLY_FRAME {
            return Err(invalid(format!(
                "a max_reply_frame of {} bytes: at least {MIN_REPLY_FRAME}, or what a handler \
                 fails with does not fit",
                config.up.max_frame
            )));
        }
        config.health.check("health", "health_ring")?;
        config.stream_window = self.window.unwrap_or(config.up.capacity / 2);
        if config.stream_window == 0 || config.stream_window > config.up.capacity / 2 {
            return Err(invalid(format!(
                "stream window of {} bytes: it must be from 1 to {}, half the reply ring, or an \
                 unread stream fills the ring for all requests",
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
            && spin > MAX_SPIN
        {
            return Err(invalid(format!("spinning for {spin:?}: at most one second")));
        }
        Ok(config)
    }
}

impl fmt::Debug for ConfigBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let window = self.window.unwrap_or(self.config.up.capacity / 2);
        let config = Config { stream_window: window, ..self.config.clone() };
        f.debug_tuple("ConfigBuilder").field(&config).finish()
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
        assert_eq!(Config::small().to_builder().build().unwrap(), Config::small());
    }

    #[test]
    fn a_builder_of_a_configuration_keeps_the_window_that_was_chosen() {
        let half = Config::default().to_builder().reply_ring(8 << 20).build().unwrap();
        assert_eq!(half.stream_window(), 4 << 20, "the default grows with the ring");
        let chosen = Config::builder().stream_window(1 << 20).build().unwrap();
        let larger = chosen.to_builder().reply_ring(8 << 20).build().unwrap();
        assert_eq!((larger.stream_window(), larger.reply_ring().capacity()), (1 << 20, 8 << 20));
        let text = format!("{larger:?}");
        assert!(text.contains("reply_ring: RingConfig") && !text.contains("origin"), "{text}");
        assert_eq!(format!("{:?}", larger.to_builder()), format!("ConfigBuilder({text})"));
    }

    #[test]
    fn the_longest_frame_is_half_the_ring_less_its_header() {
        let ring = Config::builder().request_ring(8192);
        assert!(ring.clone().max_request_frame(4096 - 32).build().is_ok());
        assert!(reason(ring.max_request_frame(4096 - 31)).contains("from 1 to 4064"));
    }

    #[test]
    fn nonsense_is_refused_with_the_reason() {
        let b = Config::builder;
        assert!(reason(b().request_ring(3 << 20)).contains("power of two"));
        assert!(reason(b().reply_ring(2048)).contains("power of two from 4096"));
        assert!(reason(b().max_reply_frame(0)).contains("from 1 to"));
        assert!(reason(b().max_reply_frame(63)).contains("at least 64"));
        assert!(reason(b().max_in_flight(0)).contains("from 1 to 65536"));
        assert!(reason(b().stream_window(0)).contains("stream window"));
        assert!(reason(b().stream_window(3 << 20)).contains("half the reply ring"));
        assert!(reason(b().max_message(10)).contains("the longest frame"));
        for odd in [0, 1, 1 << 62, 1 << 63, usize::MAX - 1, usize::MAX] {
            for builder in [
                b().request_ring(odd),
                b().reply_ring(odd),
                b().health_ring(odd),
                b().max_request_frame(odd),
                b().max_reply_frame(odd),
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
