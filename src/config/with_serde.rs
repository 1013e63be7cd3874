//! Configurations that are read from files.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Config, CopyRoutine, WaitStrategy};

/// What is written of a configuration: what the setters of its builder take.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename = "Config", default, deny_unknown_fields)]
struct Fields {
    request_ring: usize,
    reply_ring: usize,
    health_ring: usize,
    max_request_frame: usize,
    max_reply_frame: usize,
    max_message: usize,
    max_in_flight: usize,
    /// `None`: half the reply ring.
    stream_window: Option<usize>,
    wait_strategy: WaitStrategy,
    /// `None`: it is found out.
    copy_routine: Option<CopyRoutine>,
}

impl Default for Fields {
    fn default() -> Self {
        Self::from(&Config::default())
    }
}

impl From<&Config> for Fields {
    fn from(config: &Config) -> Self {
        Self {
            request_ring: config.down.capacity,
            reply_ring: config.up.capacity,
            health_ring: config.health.capacity,
            max_request_frame: config.down.max_frame,
            max_reply_frame: config.up.max_frame,
            max_message: config.max_message,
            max_in_flight: config.max_in_flight,
            stream_window: config.to_builder().window,
            wait_strategy: config.wait,
            copy_routine: config.copy,
        }
    }
}

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Fields::from(self).serialize(serializer)
    }
}

/// A field that is missing has its default. The result is checked as by
/// [`ConfigBuilder::build`](super::ConfigBuilder::build).
impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Fields::deserialize(deserializer)?;
        let mut builder = Self::builder()
            .request_ring(fields.request_ring)
            .reply_ring(fields.reply_ring)
            .health_ring(fields.health_ring)
            .max_request_frame(fields.max_request_frame)
            .max_reply_frame(fields.max_reply_frame)
            .max_message(fields.max_message)
            .max_in_flight(fields.max_in_flight)
            .wait_strategy(fields.wait_strategy);
        builder.window = fields.stream_window;
        builder.config.copy = fields.copy_routine;
        builder.build().map_err(D::Error::custom)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_configuration_comes_out_as_it_went_in() {
        let other = Config::builder()
            .request_ring(1 << 20)
            .max_request_frame(1000)
            .health_ring(8 << 10)
            .stream_window(1 << 20)
            .wait_strategy(WaitStrategy::SpinThenPark(Duration::from_micros(5)))
            .build()
            .unwrap();
        for config in [Config::default(), Config::small(), other] {
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config, "{text}");
        }
    }

    #[test]
    fn what_is_missing_has_its_default_and_the_window_follows_the_ring() {
        let read = |text| serde_json::from_str::<Config>(text);
        assert_eq!(read("{}").unwrap(), Config::default());
        let large = read(r#"{"reply_ring": 8388608, "wait_strategy": "park"}"#).unwrap();
        assert_eq!((large.stream_window(), large.wait_strategy()), (4 << 20, WaitStrategy::Park));
    }

    #[test]
    fn a_configuration_that_cannot_work_is_not_read() {
        let refused = |text| serde_json::from_str::<Config>(text).unwrap_err().to_string();
        assert!(refused(r#"{"reply_ring": 1000}"#).contains("power of two"));
        assert!(refused(r#"{"max_in_flight": 0}"#).contains("from 1 to 65536"));
        assert!(refused(r#"{"request_rin": 4096}"#).contains("unknown field"));
    }
}
