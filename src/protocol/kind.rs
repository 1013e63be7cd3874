//! Kinds of frames and their flags.

use std::fmt;

/// What a frame is: for the application, what a request asks for.
///
/// Both sides agree on the kinds of their requests, by number ([`Kind::app`]) or by name
/// ([`Kind::named`]). A kind is a code of 16 bits: codes below 32 belong to the protocol, the
/// others are kinds of requests.
///
/// ```
/// use slipring::Kind;
///
/// const SUMMARIZE: Kind = Kind::named("summarize");
/// const FIRST: Kind = Kind::app(0);
/// assert_ne!(SUMMARIZE, FIRST);
/// assert_eq!(Kind::EMBED.to_string(), "embed");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind(u16);

/// First code of numbered application kinds.
const APP: u16 = 0x0100;
/// First code of named application kinds.
const NAMED: u16 = 0x8000;

impl Kind {
    /// Asks for the worker's health. Of the protocol: [`Channel::ping`](crate::Channel::ping)
    /// sends it.
    pub const PING: Self = Self(1);
    /// Answers a ping, with a [`Health`](crate::Health) report.
    pub const PONG: Self = Self(2);
    /// Tells the worker to end. Of the protocol: [`Channel::close`](crate::Channel::close)
    /// sends it.
    pub const SHUTDOWN: Self = Self(3);
    /// Answers a shutdown.
    pub const ACK: Self = Self(4);
    /// The one reply to a call.
    pub const RESULT: Self = Self(5);
    /// The request failed in its handler.
    pub const ERROR: Self = Self(6);
    /// One chunk of a stream.
    pub const CHUNK: Self = Self(7);
    /// The end of a stream.
    pub const END: Self = Self(8);
    /// The request was cancelled. Nothing more comes of it.
    pub const CANCEL: Self = Self(9);
    /// Asks whether the session is built. The library answers, with an empty result, once it
    /// is.
    pub const READY: Self = Self(10);
    /// A slot that was claimed and not used. Of the protocol: it belongs to no request.
    pub(crate) const VOID: Self = Self(11);

    /// A batch of texts, answered with a matrix: a row for each text. The payloads of this kind
    /// and of the next three are in [`payload::roles`](crate::payload::roles).
    pub const EMBED: Self = Self(32);
    /// A chat, answered with text or a stream of tokens.
    pub const CHAT: Self = Self(33);
    /// A query and documents, answered with scores.
    pub const RERANK: Self = Self(34);
    /// A document or an image, answered with one chunk a page.
    pub const VISION: Self = Self(35);

    /// Returns the application's kind number `n`. There are 32,512 of them.
    ///
    /// # Panics
    ///
    /// If `n` is over 32,511; at compile time when used in a constant.
    #[must_use]
    pub const fn app(n: u16) -> Self {
        assert!(n < NAMED - APP, "application kinds are numbered from 0 to 32511");
        Self(APP + n)
    }

    /// Returns the application's kind with this name. Its code is made from the FNV-1a hash of
    /// the name, so that both sides need to agree on the name alone. Two names can have the same
    /// code (1 in 32,768); a worker refuses to serve two such names.
    #[must_use]
    pub const fn named(name: &str) -> Self {
        let mut hash: u32 = 0x811c_9dc5;
        let mut rest = name.as_bytes();
        while let [byte, tail @ ..] = rest {
            #[expect(clippy::as_conversions, reason = "lossless; `u32::from` is not const")]
            let byte = *byte as u32;
            hash = (hash ^ byte).wrapping_mul(0x0100_0193);
            rest = tail;
        }
        #[expect(clippy::as_conversions, reason = "folds 32 bits into 15")]
        let folded = ((hash >> 15) ^ hash) as u16;
        Self(NAMED | folded)
    }

    /// Returns the code of the kind, as it lies in shared memory.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.0
    }

    pub(crate) const fn from_code(code: u16) -> Self {
        Self(code)
    }

    /// Returns the kind with this code, if a request of a program may be of it: for a carrier of
    /// requests that knows the code alone.
    ///
    /// ```
    /// use slipring::Kind;
    ///
    /// let kind = Kind::named("summarize");
    /// assert_eq!(Kind::from_request_code(kind.code()), Some(kind));
    /// assert_eq!(Kind::from_request_code(Kind::SHUTDOWN.code()), None);
    /// ```
    #[must_use]
    pub fn from_request_code(code: u16) -> Option<Self> {
        Some(Self(code)).filter(|kind| kind.is_request() && *kind != Self::READY)
    }

    /// Returns whether a request may be of this kind.
    #[must_use]
    pub fn is_request(self) -> bool {
        self.0 >= 32 || self == Self::READY
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::PING => "ping",
            Self::PONG => "pong",
            Self::SHUTDOWN => "shutdown",
            Self::ACK => "ack",
            Self::RESULT => "result",
            Self::ERROR => "error",
            Self::CHUNK => "stream chunk",
            Self::END => "stream end",
            Self::CANCEL => "cancel",
            Self::READY => "ready",
            Self::VOID => "void",
            Self::EMBED => "embed",
            Self::CHAT => "chat",
            Self::RERANK => "rerank",
            Self::VISION => "vision",
            Self(code) if code >= NAMED => return write!(f, "named kind {code:#06x}"),
            Self(code) if code >= APP => return write!(f, "application kind {}", code - APP),
            Self(code) => return write!(f, "unknown kind {code}"),
        };
        f.write_str(name)
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kind({self})")
    }
}

/// The auxiliary word of a cancel frame whose request's deadline had passed before the request
/// was begun.
pub(crate) const EXPIRED: u64 = 1;

/// The auxiliary word of an error frame whose request was refused before any handler saw it.
pub(crate) const REFUSED: u64 = 1;

/// Flags in a frame's header.
pub(crate) mod flags {
    /// The caller of the request reads a stream of chunks.
    pub(crate) const STREAM: u16 = 1;
    /// More frames of the same message follow.
    pub(crate) const MORE: u16 = 2;
    /// The frame is a further piece of a message that an earlier frame began.
    pub(crate) const CONTINUED: u16 = 4;
    /// The request is abandoned: it was dropped while its message was being sent.
    pub(crate) const ABANDONED: u16 = 8;
    /// The last bytes of the first frame of a request are the context of its trace: see
    /// [`TraceContext::to_bytes`](crate::TraceContext::to_bytes).
    pub(crate) const TRACED: u16 = 16;

    /// What each worker knows. [`TRACED`] is for those that say so.
    pub(crate) const REQUEST: u16 = STREAM | MORE | CONTINUED | ABANDONED;
    pub(crate) const REPLY: u16 = MORE | CONTINUED;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_the_protocol_the_application_and_names_never_overlap() {
        assert!(Kind::app(0).code() > Kind::VISION.code());
        assert!(Kind::app(32_511).code() < NAMED);
        assert!(Kind::named("").code() >= NAMED);
        assert_ne!(Kind::named("summarize"), Kind::named("translate"));
    }

    #[test]
    fn names_make_the_codes_that_other_languages_make() {
        // FNV-1a of "a" is 0xe40c292c.
        let folded = u16::try_from((0xe40c_292c_u32 ^ (0xe40c_292c >> 15)) & 0x7fff).unwrap();
        assert_eq!(Kind::named("a").code(), 0x8000 | folded);
    }

    #[test]
    fn only_requests_may_be_sent_as_requests() {
        assert!(Kind::EMBED.is_request() && Kind::READY.is_request());
        assert!(!Kind::RESULT.is_request() && !Kind::PING.is_request());
    }
}
