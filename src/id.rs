//! The number of a request.

use std::fmt;

/// Identifies one request of a channel.
///
/// A channel never uses a number twice, and never zero. Both sides use the same number, and
/// errors and health reports name requests by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RequestId(u64);

impl RequestId {
    pub(crate) const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Makes an id of its number, for a program that has kept the number alone: an object of another
/// language, or a message. A number that a channel has not given out names none of its requests.
///
/// ```
/// assert_eq!(slipring::RequestId::from(7).get(), 7);
/// ```
impl From<u64> for RequestId {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
