//! The commit word, which is the first word of every slot.
//!
//! ```text
//!   position | 1                 a frame is published here
//!   position | 2                 padding from here to the ring's end
//!   0                            nothing yet
//!   (position - capacity) | 1    nothing yet: a frame of the last lap left this
//!   anything else                the peer is corrupt
//! ```
//!
//! The word carries the position. So a frame that is torn, duplicated, lost, or older than
//! one lap shows itself: its word is none of the first four.

/// What a commit word says to a reader that waits at a position.
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

    /// Whether the word says that nothing is here yet. The writer clears every other word
    /// before the reader can look at it.
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
