//! The header of a frame.
//!
//! ```text
//!   0  u64 commit    says whether a frame is here: see `commit.rs`
//!   8  u32 length    of the payload, in bytes
//!  12  u16 kind
//!  14  u16 flags
//!  16  u64 request
//!  24  u64 aux
//!  32  payload
//! ```

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a frame carries beside its payload. The ring sets `len` and passes the rest on as it
/// is: on a raw link, the program decides what the fields mean.
///
/// ```
/// use slipring::ring::Header;
///
/// let header = Header { kind: 3, aux: 17, ..Header::default() };
/// assert_eq!((header.len, header.flags, header.request), (0, 0, 0));
/// ```
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Header {
    /// Length of the payload in bytes. The ring sets it, whatever a caller stores here.
    pub len: u32,
    /// What the frame is.
    pub kind: u16,
    /// Flags of the kind.
    pub flags: u16,
    /// A number that tells which frames belong together.
    pub request: u64,
    /// What else the kind needs, such as a deadline or a sequence number.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_lies_in_the_words_as_drawn() {
        let header = Header { len: 0x0403_0201, kind: 0x0605, flags: 0x0807, request: 9, aux: 10 };
        assert_eq!(header.to_words(), [0x0807_0605_0403_0201, 9, 10]);
        assert_eq!(Header::from_words(header.to_words()), header);
    }
}
