//! What a recording says of itself, in its header.

use std::time::{Duration, SystemTime};

use super::crc32c::crc32c;
use super::format::{
    ALIGN, Fields, HEAD, MAGIC, MAX_HEADER, MAX_PAIRS, SEGMENT_LEN, VERSION, is_sum,
};
use super::options::Payloads;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::sys::utc::Utc;

/// What a recording says of itself: which worker it is of, and what it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordingInfo {
    /// When the recording began.
    pub began: SystemTime,
    /// What it keeps of the payloads of requests.
    pub requests: Payloads,
    /// What it keeps of the payloads of replies and chunks.
    pub replies: Payloads,
    /// Names and values: the library and its version (`library`), the worker's role (`role`), its program
    /// (`program`) and arguments (`arg`, once for each), `model`, `mode`, extras (`extra.` and the name),
    /// the length of its blob (`blob`), the names of descriptors that it was passed (`fd`), the process ids
    /// of both (`host_pid`, `worker_pid`), and the sizes of the channel.
    pub fields: Vec<(String, String)>,
    pub(super) layout: Layout,
}

/// What the reader and the writer need of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) key: [u8; 16],
    /// `CLOCK_MONOTONIC` when it began, in nanoseconds.
    pub(super) began_ns: u64,
    /// Where the first segment starts.
    pub(super) first: u64,
    pub(super) segment_len: u64,
}

impl Layout {
    /// Where the segment with this number lies.
    pub(super) fn start_of(&self, segment: u64) -> u64 {
        let is_second = segment.wrapping_sub(1) % 2;
        self.first.saturating_add(is_second.saturating_mul(self.segment_len))
    }
}

impl RecordingInfo {
    /// Returns when the recording began, in UTC, as `2026-11-29T18:48:50.123Z`.
    #[must_use]
    pub fn began_utc(&self) -> String {
        Utc::of(self.began).text()
    }

    /// Returns the first value with this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// Returns all values with this name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let found = self.fields.iter().filter(move |(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the sizes that the recorded channel had.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) if they are none of a channel.
    pub fn config(&self) -> Result<Config> {
        let mut builder = Config::builder();
        let number = |name: &str| self.field(name).and_then(|value| value.parse::<usize>().ok());
        if let Some(bytes) = number("request_ring") {
            builder = builder.request_ring(bytes);
        }
        if let Some(bytes) = number("reply_ring") {
            builder = builder.reply_ring(bytes);
        }
        if let Some(bytes) = number("max_request_frame") {
            builder = builder.max_request_frame(bytes);
        }
        if let Some(bytes) = number("max_reply_frame") {
            builder = builder.max_reply_frame(bytes);
        }
        if let Some(bytes) = number("max_message") {
            builder = builder.max_message(bytes);
        }
        if let Some(requests) = number("max_in_flight") {
            builder = builder.max_in_flight(requests);
        }
        if let Some(bytes) = number("stream_window") {
            builder = builder.stream_window(bytes);
        }
        builder.build()
    }

    /// The names and values that say the sizes of a channel.
    pub(super) fn fields_of(config: &Config) -> Vec<(String, String)> {
        let fields = [
            ("request_ring", config.request_ring().capacity()),
            ("reply_ring", config.reply_ring().capacity()),
            ("max_request_frame", config.max_request_frame()),
            ("max_reply_frame", config.max_reply_frame()),
            ("max_message", config.max_message()),
            ("max_in_flight", config.max_in_flight()),
            ("stream_window", config.stream_window()),
        ];
        fields.map(|(name, value)| (name.to_owned(), value.to_string())).into()
    }

    /// Makes the header of a recording that begins now, whose file has at most `max_bytes`. Names and
    /// values that find no room in it are left out.
    pub(super) fn begin(
        fields: Vec<(String, String)>,
        (requests, replies): (Payloads, Payloads),
        (began_ns, key): (u64, [u8; 16]),
        max_bytes: u64,
    ) -> (Self, Vec<u8>) {
        let mut pairs = Vec::new();
        let mut kept = Vec::new();
        for (name, value) in fields {
            let len = 8 + name.len() + value.len();
            if HEAD + pairs.len() + len > MAX_HEADER || kept.len() >= 1000 {
                continue;
            }
            for text in [&name, &value] {
                pairs.extend(u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
                pairs.extend(text.as_bytes());
            }
            kept.push((name, value));
        }
        let first = u64::try_from(HEAD + pairs.len()).unwrap_or(0).next_multiple_of(ALIGN);
        let segment_len = max_bytes.saturating_sub(first) / 2 / ALIGN * ALIGN;
        let layout = Layout { key, began_ns, first, segment_len };
        let now = SystemTime::now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let wall_ns = u64::try_from(since.as_nanos()).unwrap_or(0);
        let began = SystemTime::UNIX_EPOCH + Duration::from_nanos(wall_ns);
        let info = Self { began, requests, replies, fields: kept, layout };
        let count = u32::try_from(info.fields.len()).unwrap_or(0);
        let mut rest = Vec::new();
        for word in [wall_ns, began_ns, segment_len] {
            rest.extend(word.to_le_bytes());
        }
        rest.extend(u32::try_from(pairs.len()).unwrap_or(0).to_le_bytes());
        rest.extend(count.to_le_bytes());
        rest.extend([code_of(requests), code_of(replies), 0, 0, 0, 0, 0, 0]);
        rest.extend(key);
        rest.resize(HEAD - 16, 0);
        rest.extend(pairs);
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(crc32c(&[&rest]).to_le_bytes());
        bytes.extend(rest);
        (info, bytes)
    }

    /// Reads a header. `more` returns the bytes behind the fixed part, as many as it is asked for.
    pub(super) fn read(
        head: &[u8; HEAD],
        more: impl FnOnce(usize) -> Result<Vec<u8>>,
    ) -> Result<Self> {
        let mut fields = Fields(head);
        if fields.take() != MAGIC {
            return Err(Error::mismatch("no recording: the first bytes are others"));
        }
        let version = fields.u32();
        if version != VERSION {
            let message = format!("a recording of layout {version}, this program knows {VERSION}");
            return Err(Error::mismatch(message));
        }
        let (crc, rest) = (fields.u32(), fields.0);
        let (wall_ns, began_ns, segment_len) = (fields.u64(), fields.u64(), fields.u64());
        let (pairs_len, count) = (fields.u32(), fields.u32());
        let [requests, replies, ..]: [u8; 8] = fields.take();
        let key = fields.take();
        let pairs_len = usize::try_from(pairs_len).unwrap_or(usize::MAX);
        if pairs_len > MAX_HEADER - HEAD || count > MAX_PAIRS {
            return Err(Error::mismatch("a recording with a header that is too long"));
        }
        let pairs = more(pairs_len)?;
        if !is_sum(crc, &[rest, &pairs]) {
            return Err(Error::mismatch("a recording with a damaged header"));
        }
        if !SEGMENT_LEN.contains(&segment_len) || segment_len % ALIGN != 0 {
            let message = format!("a recording with segments of {segment_len} bytes");
            return Err(Error::mismatch(message));
        }
        let (Some(requests), Some(replies)) = (payloads_of(requests), payloads_of(replies)) else {
            return Err(Error::mismatch("a recording that keeps something unknown of payloads"));
        };
        let first = u64::try_from(HEAD + pairs_len).unwrap_or(0).next_multiple_of(ALIGN);
        Ok(Self {
            began: SystemTime::UNIX_EPOCH + Duration::from_nanos(wall_ns),
            requests,
            replies,
            fields: read_pairs(&pairs, count)?,
            layout: Layout { key, began_ns, first, segment_len },
        })
    }
}

fn read_pairs(mut bytes: &[u8], count: u32) -> Result<Vec<(String, String)>> {
    let cut = || Error::mismatch("a recording whose header is cut");
    let mut text = || {
        let (len, rest) = bytes.split_first_chunk().ok_or_else(cut)?;
        let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
        let (text, rest) = rest.split_at_checked(len).ok_or_else(cut)?;
        bytes = rest;
        Ok(String::from_utf8_lossy(text).into_owned())
    };
    let mut pairs = Vec::new();
    for _ in 0..count {
        pairs.push((text()?, text()?));
    }
    Ok(pairs)
}

fn code_of(payloads: Payloads) -> u8 {
    match payloads {
        Payloads::Whole => 0,
        Payloads::Hashed => 1,
        Payloads::Omitted => 2,
    }
}

fn payloads_of(code: u8) -> Option<Payloads> {
    match code {
        0 => Some(Payloads::Whole),
        1 => Some(Payloads::Hashed),
        2 => Some(Payloads::Omitted),
        _ => None,
    }
}
