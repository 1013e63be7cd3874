//! Numbers for what errors say, which no version changes.

use super::{ErrorKind, RequestStage, StreamTimeout};

/// A number that is used once is never given to another kind.
const KINDS: [(u32, ErrorKind); 26] = [
    (1, ErrorKind::InvalidConfig),
    (2, ErrorKind::InvalidInput),
    (3, ErrorKind::TooLarge),
    (4, ErrorKind::InvalidPayload),
    (5, ErrorKind::Timeout),
    (6, ErrorKind::Stalled),
    (7, ErrorKind::Cancelled),
    (8, ErrorKind::Interrupted),
    (9, ErrorKind::Closed),
    (10, ErrorKind::TooManyInFlight),
    (11, ErrorKind::PeerDied),
    (12, ErrorKind::PeerCorrupt),
    (13, ErrorKind::Protocol),
    (14, ErrorKind::HandlerFailed),
    (15, ErrorKind::Session),
    (16, ErrorKind::Spawn),
    (17, ErrorKind::Handshake),
    (18, ErrorKind::Mismatch),
    (19, ErrorKind::Forked),
    (20, ErrorKind::Overloaded),
    (21, ErrorKind::QueueTimeout),
    (22, ErrorKind::Degraded),
    (23, ErrorKind::Poison),
    (24, ErrorKind::Unsupported),
    (25, ErrorKind::Os),
    (26, ErrorKind::Disconnected),
];

impl ErrorKind {
    /// Returns the kind's number, for a message to another host. No version changes it; 0 is that of
    /// [`ErrorKind::Unknown`].
    ///
    /// ```
    /// use slipring::ErrorKind;
    ///
    /// assert_eq!(ErrorKind::from_code(ErrorKind::PeerDied.code()), ErrorKind::PeerDied);
    /// assert_eq!(ErrorKind::from_code(4_000), ErrorKind::Unknown);
    /// ```
    #[must_use]
    pub fn code(self) -> u32 {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or(0, |(code, _)| *code)
    }

    /// Returns the kind of this number; [`ErrorKind::Unknown`] for one that this version does not
    /// know.
    #[must_use]
    pub fn from_code(code: u32) -> Self {
        let found = KINDS.iter().find(|(each, _)| *each == code);
        found.map_or(Self::Unknown, |(_, kind)| *kind)
    }
}

impl RequestStage {
    /// Returns the stage's number, for a message to another host: 1, 2 or 3. No version changes it.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::Queued => 1,
            Self::Taken => 2,
            Self::Begun => 3,
        }
    }

    /// Returns the stage of this number; `None` for 0, and for one that this version does not know.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        [Self::Queued, Self::Taken, Self::Begun].into_iter().find(|stage| stage.code() == code)
    }
}

impl StreamTimeout {
    /// Returns the timeout's number, for a message to another host: 1 to 4. No version changes it.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::Queue => 1,
            Self::FirstChunk => 2,
            Self::Chunk => 3,
            Self::Total => 4,
        }
    }

    /// Returns the timeout of this number; `None` for 0, and for one that this version does not know.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        let all = [Self::Queue, Self::FirstChunk, Self::Chunk, Self::Total];
        all.into_iter().find(|timeout| timeout.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_number_of_its_own_and_unknown_ones_do_not_fail() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_code(kind.code()), kind);
        }
        let mut codes = ErrorKind::ALL.map(ErrorKind::code);
        codes.sort_unstable();
        assert!(codes.into_iter().eq(0..=26), "{codes:?}");
        for code in [27, 1000, u32::MAX] {
            assert_eq!(ErrorKind::from_code(code), ErrorKind::Unknown);
        }
        // What peers of older versions say, whatever is added.
        assert_eq!((ErrorKind::PeerDied.code(), ErrorKind::QueueTimeout.code()), (11, 21));
    }

    #[test]
    fn stages_and_timeouts_have_numbers_and_unknown_ones_are_none() {
        let stages = [0, 1, 2, 3, 4, u32::MAX].map(RequestStage::from_code);
        let [none, known @ .., four, most] = stages;
        assert_eq!((none, four, most), (None, None, None));
        assert_eq!(known.map(|stage| stage.map_or(0, RequestStage::code)), [1, 2, 3]);
        let timeouts = [0, 1, 2, 3, 4, 5].map(StreamTimeout::from_code);
        assert_eq!(timeouts.map(|it| it.map_or(0, StreamTimeout::code)), [0, 1, 2, 3, 4, 0]);
    }
}
