//! The trace that a request is part of, as the recommendation "Trace Context" of the W3C writes it.

mod table;

use std::fmt;
use std::sync::Arc;

#[cfg(feature = "tracing")]
pub(crate) use table::Join;
pub(crate) use table::TraceTable;

/// Bytes of a context in a frame.
pub(crate) const CONTEXT_LEN: usize = 32;

/// The longest `tracestate` that is handed on, in bytes: what each system must take at least.
const LONGEST_STATE: usize = 512;
/// An entry that is longer than this is dropped first if all together are too long.
const LONGEST_ENTRY: usize = 128;
const MOST_ENTRIES: usize = 32;
const LONGEST_PART: usize = 256;

/// The flags that are handed on: that the trace is recorded, and that its number is random.
const KNOWN_FLAGS: u8 = 0b11;

/// The trace that a request is part of, and the span in it that the request belongs to: the
/// `traceparent` and `tracestate` of the W3C recommendation [Trace Context]. Cheap to clone.
///
/// [`Channel::traced`](crate::Channel::traced), `trace` of a pool's request and of a
/// `BackendRequest` have it travel with a request;
/// [`Request::trace_context`](crate::worker::Request::trace_context) tells a worker. The crate itself
/// makes no traces and sends no spans anywhere.
///
/// [Trace Context]: https://www.w3.org/TR/trace-context/
///
/// ```
/// use slipring::TraceContext;
///
/// let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let trace = TraceContext::parse(text).unwrap().with_state("vendor=1");
/// assert!(trace.is_sampled());
/// assert_eq!((trace.to_string().as_str(), trace.state()), (text, "vendor=1"));
/// assert!(TraceContext::parse("00-0-0-01").is_none());
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TraceContext(Arc<Parts>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Parts {
    trace_id: [u8; 16],
    parent_id: [u8; 8],
    flags: u8,
    state: Box<str>,
}

impl TraceContext {
    /// Makes a context of a trace's id, the id of the caller's span, and the flags, of which bit 0
    /// says that the trace is recorded. `None` if an id is zero, which none may be.
    #[must_use]
    pub fn new(trace_id: [u8; 16], parent_id: [u8; 8], flags: u8) -> Option<Self> {
        let are_ids = trace_id != [0; 16] && parent_id != [0; 8];
        let (flags, state) = (flags & KNOWN_FLAGS, Box::default());
        are_ids.then(|| Self(Arc::new(Parts { trace_id, parent_id, flags, state })))
    }

    /// Reads a `traceparent`. `None` if it is malformed: the recommendation has that ignored.
    #[must_use]
    pub fn parse(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.split('-');
        let (version, trace_id) = (hex::<1>(parts.next()?)?, hex(parts.next()?)?);
        let (parent_id, flags) = (hex(parts.next()?)?, hex::<1>(parts.next()?)?);
        // Later versions may have more parts.
        if version == [0xff] || (version == [0] && parts.next().is_some()) {
            return None;
        }
        let [flags] = flags;
        Self::new(trace_id, parent_id, flags)
    }

    /// Returns the context as it lies in a frame, without the `tracestate`.
    ///
    /// ```text
    ///   0  u8 version, 0   1  u8 flags   2  u8[6] zero   8  u8[16] trace   24  u8[8] span
    /// ```
    pub(crate) fn to_bytes(&self) -> [u8; CONTEXT_LEN] {
        let Parts { trace_id, parent_id, flags, .. } = &*self.0;
        let mut bytes = [0; CONTEXT_LEN];
        let parts = [0, *flags, 0, 0, 0, 0, 0, 0].into_iter().chain(*trace_id).chain(*parent_id);
        bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        bytes
    }

    /// Reads what [`TraceContext::to_bytes`] has made. `None` for what is no context, and for a later
    /// version.
    pub(crate) fn from_bytes(bytes: &[u8; CONTEXT_LEN]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        let (trace_id, rest) = rest.split_first_chunk::<16>()?;
        let (parent_id, _) = rest.split_first_chunk::<8>()?;
        let [0, flags, ..] = *head else { return None };
        Self::new(*trace_id, *parent_id, flags)
    }

    /// Sets the `tracestate`: what systems of several makers say of the trace. A malformed one is
    /// ignored. Of one that is over 512 bytes long, entries over 128 bytes are dropped, and then the
    /// last ones.
    #[must_use]
    pub fn with_state(mut self, tracestate: &str) -> Self {
        let state = checked_state(tracestate).unwrap_or_default();
        Arc::make_mut(&mut self.0).state = state.into();
        self
    }

    /// Returns the id of the trace.
    #[must_use]
    pub fn trace_id(&self) -> [u8; 16] {
        self.0.trace_id
    }

    /// Returns the id of the span that the request belongs to.
    #[must_use]
    pub fn parent_id(&self) -> [u8; 8] {
        self.0.parent_id
    }

    /// Returns the flags: bit 0 says that the trace is recorded, bit 1 that its id is random.
    #[must_use]
    pub fn flags(&self) -> u8 {
        self.0.flags
    }

    /// Returns whether the caller may have recorded the trace.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.0.flags & 1 == 1
    }

    /// Returns the `tracestate`; empty if there is none.
    #[must_use]
    pub fn state(&self) -> &str {
        &self.0.state
    }

    /// Returns what writes the id of the trace as 32 digits.
    pub fn trace_id_hex(&self) -> impl fmt::Display + '_ {
        Hex(&self.0.trace_id)
    }

    /// Returns what writes the id of the span as 16 digits.
    pub fn parent_id_hex(&self) -> impl fmt::Display + '_ {
        Hex(&self.0.parent_id)
    }
}

/// Writes the `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace_id, parent_id) = (self.trace_id_hex(), self.parent_id_hex());
        write!(f, "00-{trace_id}-{parent_id}-{:02x}", self.0.flags)
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceContext")
            .field("parent", &format_args!("{self}"))
            .field("state", &self.0.state)
            .finish()
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Reads lower-case digits, of exactly so many bytes.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 2 * N || !text.bytes().all(is_digit) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// The entries that are handed on; `None` if the text is malformed.
fn checked_state(text: &str) -> Option<String> {
    let entries = text.split(',').map(|entry| entry.trim_matches([' ', '\t']));
    let mut entries: Vec<&str> = entries.filter(|entry| !entry.is_empty()).collect();
    if entries.len() > MOST_ENTRIES || !entries.iter().all(|entry| is_entry(entry)) {
        return None;
    }
    let len = |entries: &[&str]| entries.iter().map(|entry| entry.len() + 1).sum::<usize>();
    if len(&entries) > LONGEST_STATE + 1 {
        entries.retain(|entry| entry.len() <= LONGEST_ENTRY);
    }
    while len(&entries) > LONGEST_STATE + 1 {
        entries.pop();
    }
    Some(entries.join(","))
}

fn is_entry(entry: &str) -> bool {
    let Some((key, value)) = entry.split_once('=') else { return false };
    let first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let in_key = |byte: u8| first(byte) || b"_-*/@".contains(&byte);
    let in_value = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'=';
    key.bytes().next().is_some_and(first)
        && key.bytes().all(in_key)
        && !value.is_empty()
        && value.bytes().all(in_value)
        && key.len().max(value.len()) <= LONGEST_PART
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_lies_in_a_frame_as_drawn() {
        let context = TraceContext::parse(TEXT).unwrap().with_state("a=1");
        let bytes = context.to_bytes();
        assert_eq!(bytes[..8], [0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[8..24], context.trace_id());
        assert_eq!(bytes[24..], context.parent_id());
        assert_eq!(TraceContext::from_bytes(&bytes), TraceContext::parse(TEXT));
    }

    #[test]
    fn bytes_that_are_no_context_are_none() {
        let bytes = TraceContext::parse(TEXT).unwrap().to_bytes();
        let with = |from: usize, part: &[u8]| {
            let mut other = bytes;
            other[from..from + part.len()].copy_from_slice(part);
            TraceContext::from_bytes(&other)
        };
        assert_eq!(with(0, &[1]), None, "a later version");
        assert_eq!(with(8, &[0; 16]), None);
        assert_eq!(with(24, &[0; 8]), None);
        assert_eq!(with(2, &[9; 6]), TraceContext::parse(TEXT), "what later versions may use");
        assert_eq!(with(1, &[0xff]).unwrap().flags(), KNOWN_FLAGS);
        assert_eq!(TraceContext::from_bytes(&[0; CONTEXT_LEN]), None);
    }

    #[test]
    fn a_malformed_parent_is_none() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-+1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(TraceContext::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_parent_of_a_later_version_is_read_as_one_of_this() {
        for end in ["", "-", "-what-comes.later"] {
            let text = format!("cc{}{end}", &TEXT[2..]);
            assert_eq!(TraceContext::parse(&text).unwrap().to_string(), TEXT);
        }
        let unknown = TraceContext::parse(&format!("{}ff", &TEXT[..53])).unwrap();
        assert_eq!(unknown.flags(), KNOWN_FLAGS, "other flags are not handed on");
    }

    #[test]
    fn a_state_is_handed_on_if_it_is_one() {
        let state = |text: &str| TraceContext::parse(TEXT).unwrap().with_state(text).state().len();
        let kept = "a=1,b@c=2 3".len();
        assert_eq!(state("a=1 ,, b@c=2 3\t"), kept);
        for text in ["a", "A=1", "=1", "a=", "a=1=2", "a=\u{e9}", "a=1\n", "a b=1"] {
            assert_eq!(state(text), 0, "{text}");
        }
        assert_eq!(state(&["a=1"; 33].join(",")), 0, "too many");
    }

    #[test]
    fn a_long_state_loses_long_entries_and_then_the_last() {
        let (long, short) = (format!("a={}", "1".repeat(127)), format!("b={}", "2".repeat(98)));
        let with = |entries: &[&str]| {
            TraceContext::parse(TEXT).unwrap().with_state(&entries.join(",")).state().to_owned()
        };
        let kept = [&long[..], &short, &short, &short];
        assert_eq!(with(&kept), kept.join(","), "together they are not too long");
        let shorts = [&short[..]; 5];
        assert_eq!(with(&[&[&long[..]], &shorts[..]].concat()), shorts.join(","));
        let six = [&short[..]; 6];
        assert_eq!(with(&six), shorts.join(","));
    }
}
