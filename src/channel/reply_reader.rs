//! What a reply is read as: text, a stream of `std`, bytes of the `bytes` crate.

use crate::channel::reply::Reply;
use crate::error::Result;
use crate::payload::PayloadReader;

impl Reply {
    /// Returns a copy of the bytes as text.
    ///
    /// ```no_run
    /// # fn example(channel: &slipring::Channel) -> slipring::Result<()> {
    /// use std::time::Duration;
    ///
    /// use slipring::Kind;
    ///
    /// let answer = channel.call(Kind::CHAT, "How are you?", Duration::from_secs(30))?.text()?;
    /// println!("{answer}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`PeerBytes::text`](crate::PeerBytes::text).
    pub fn text(&self) -> Result<String> {
        self.payload().text()
    }

    /// Returns a reader of the bytes: [`Read`](std::io::Read), [`BufRead`](std::io::BufRead) and
    /// [`Seek`](std::io::Seek). A reader that owns the reply is made by
    /// [`PayloadReader::new`].
    ///
    /// ```no_run
    /// # fn example(channel: &slipring::Channel) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::io::BufRead;
    /// use std::time::Duration;
    ///
    /// use slipring::Kind;
    ///
    /// let page = channel.call(Kind::VISION, "scan.png", Duration::from_secs(30))?;
    /// for line in page.reader().lines() {
    ///     println!("{}", line?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn reader(&self) -> PayloadReader<&Self> {
        PayloadReader::new(self)
    }
}

/// Takes the bytes out of the reply, and copies them if they lie in the ring.
#[cfg(feature = "bytes")]
impl From<Reply> for bytes::Bytes {
    fn from(reply: Reply) -> Self {
        reply.into_vec().into()
    }
}
