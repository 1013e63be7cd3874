//! The header of a frame.
//!
//! ```text
//!   0  u64 commit    position | 1 for a frame, position | 2 for padding, 0 for nothing yet
//!   8  u32 length    payload bytes
//!  12  u16 kind
//!  14  u16 flags
//!  16  u64 request   id
//!  24  u64 aux       what the kind needs: a deadline, a sequence number
//!  32  payload
//! ```
//!
//! The commit word carries the position, so that a stale, torn, duplicated or lost
//! frame shows: it is any other value than the one that belongs there.

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

    #[inline]
    pub(crate) fn read(word: u64, position: u64) -> Self {
        if word == Self::frame(position) {
            Self::Frame
        } else if word == 0 {
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
        for position in [0, 64, u64::MAX - 63] {
            assert_eq!(Commit::read(position | 1, position), Commit::Frame);
            assert_eq!(Commit::read(position | 2, position), Commit::Padding);
            assert_eq!(Commit::read(0, position), Commit::Nothing);
            for other in [position | 3, position.wrapping_add(64) | 1, position | 4, 2 | 1] {
                assert_eq!(Commit::read(other, position), Commit::Corrupt);
            }
        }
    }
}
