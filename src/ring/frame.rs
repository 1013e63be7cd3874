//! The header of a frame.
//!
//! ```text
//!   0  u64 commit    position | 1 for a frame, position | 2 for padding; for nothing yet 0,
//!                    or what the frame of one lap before left: (position - capacity) | 1
//!   8  u32 length    payload bytes
//!  12  u16 kind
//!  14  u16 flags
//!  16  u64 request   id
//!  24  u64 aux       what the kind needs: a deadline, a sequence number
//!  32  payload
//! ```
//!
//! The commit word carries the position, so that a torn, duplicated or lost frame, or one
//! that is older than a lap, shows: it is any other value than those that belong there.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Everything of a frame but its commit word and its payload.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Header {
    /// Payload length in bytes. Set by the ring.
    pub len: u32,
    /// What the frame is; the ring does not look at it.
    pub kind: u16,
    /// Flags; the ring does not look at them.
    pub flags: u16,
    /// The request that the frame belongs to; the ring does not look at it.
    pub request: u64,
    /// What the kind needs; the ring does not look at it.
    pub aux: u64,
}

const _: () = assert!(size_of::<Header>() == 24 && align_of::<Header>() == 8);
const _: () = assert!(std::mem::offset_of!(Header, kind) == 4);
const _: () = assert!(std::mem::offset_of!(Header, flags) == 6);
const _: () = assert!(std::mem::offset_of!(Header, request) == 8);
const _: () = assert!(std::mem::offset_of!(Header, aux) == 16);
const _: () = assert!(size_of::<Header>() + 8 == crate::config::FRAME_HEADER);

impl Header {
    #[inline]
    pub(crate) fn to_words(self) -> [u64; 3] {
        zerocopy::transmute!(self)
    }

    #[inline]
    pub(crate) fn from_words(words: [u64; 3]) -> Self {
        zerocopy::transmute!(words)
    }
}

/// What a commit word says to a consumer that waits at a position.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Commit {
    Nothing,
    Frame,
    Padding,
    Corrupt,
}

impl Commit {
    #[inline]
    pub(crate) fn frame(position: u64) -> u64 {
        position | 1
    }

    #[inline]
    pub(crate) fn padding(position: u64) -> u64 {
        position | 2
    }

    /// Whether a word says that nothing lies there yet: the producer clears a word that would
    /// say anything else before the consumer can look at it.
    #[inline]
    pub(crate) fn is_nothing(word: u64, position: u64, capacity: u64) -> bool {
        word == 0 || word == Self::frame(position.wrapping_sub(capacity))
    }

    #[inline]
    pub(crate) fn read(word: u64, position: u64, capacity: u64) -> Self {
        if word == Self::frame(position) {
            Self::Frame
        } else if Self::is_nothing(word, position, capacity) {
            Self::Nothing
        } else if word == Self::padding(position) {
            Self::Padding
        } else {
            Self::Corrupt
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_lies_in_the_words_as_drawn() {
        let header = Header { len: 0x0403_0201, kind: 0x0605, flags: 0x0807, request: 9, aux: 10 };
        assert_eq!(header.to_words(), [0x0807_0605_0403_0201, 9, 10]);
        assert_eq!(Header::from_words(header.to_words()), header);
    }

    #[test]
    fn only_the_word_of_this_position_is_a_frame() {
        for position in [0, 64, 4096, u64::MAX - 63] {
            let read = |word| Commit::read(word, position, 4096);
            assert_eq!(read(position | 1), Commit::Frame);
            assert_eq!(read(position | 2), Commit::Padding);
            let lap = |laps: u64| position.wrapping_sub(laps * 4096);
            for nothing in [0, lap(1) | 1] {
                assert_eq!(read(nothing), Commit::Nothing);
            }
            let others = [position | 3, position.wrapping_add(64) | 1, position | 4, 2 | 1];
            for other in others.into_iter().chain([lap(1) | 2, lap(2) | 1, lap(1) | 4]) {
                assert_eq!(read(other), Commit::Corrupt);
            }
        }
    }
}
