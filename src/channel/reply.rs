//! A reply, or one chunk of a stream.

use crate::channel::item::Body;
use crate::error::Result;
use crate::id::RequestId;
use crate::payload::{PayloadReader, Source};
use crate::shm::bytes::PeerBytes;

/// A reply, one chunk of a stream, or a piece of either from a
/// [`MessageReader`](crate::MessageReader).
///
/// Its bytes may still lie in the ring: while it lives its slot, and those after it, cannot be
/// filled again. Replies of up to 96 bytes and chunks of up to 4 KiB are copied out of the ring
/// instead; chunks share the memory that they are copied to, up to 32 KiB, which lives as long
/// as any of them. [`Reply::detach`] copies the others, and [`Reply::keep`] has them give way when
/// they hold too much of the ring.
///
/// In a forked child, bytes that lie in the ring are those of the reply until the parent drops
/// it, and then any bytes.
///
/// ```
#[doc = include_str!("example.md")]
/// let reply = channel.call(ECHO, &[7; 1000], timeout)?;
/// assert_eq!(reply.len(), 1000);
/// // To be kept for long: the slot is given back to the worker.
/// let kept = reply.detach();
/// assert_eq!(kept.into_vec(), [7; 1000]);
/// # channel.close(timeout)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Reply {
    request: RequestId,
    body: Body,
}

impl Reply {
    #[inline]
    pub(super) fn new(request: u64, body: Body) -> Self {
        Self { request: RequestId::new(request), body }
    }

    /// Makes a reply of bytes that did not come by a ring, such as those of another host: for
    /// implementations of [`Backend`](crate::backend::Backend). The bytes are not copied; `owner` is
    /// dropped with the reply. `as_ref` must return the same bytes each time. With the feature `bytes`, a
    /// `Bytes` is kept as it is, without an allocation.
    ///
    /// ```
    /// use slipring::{Reply, RequestId};
    ///
    /// let received: std::sync::Arc<[u8]> = b"hello"[..].into();
    /// let reply = Reply::from_owner(RequestId::from(7), received.clone());
    /// assert_eq!(reply.payload().as_ptr(), received.as_ptr());
    /// assert_eq!((reply.request().get(), reply.text()?.as_str()), (7, "hello"));
    /// # Ok::<(), slipring::Error>(())
    /// ```
    #[cfg(feature = "async")]
    #[must_use]
    pub fn from_owner(request: RequestId, owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self { request, body: Body::of_owner(owner) }
    }

    /// Makes a reply of a copy of bytes that did not come by a ring. For short ones: a copy of up to 96
    /// bytes costs less than to share their memory, and does not keep it.
    ///
    /// ```
    /// use slipring::{Reply, RequestId};
    ///
    /// let reply = Reply::copy_of(RequestId::from(7), b"hello");
    /// assert_eq!(reply.text()?, "hello");
    /// # Ok::<(), slipring::Error>(())
    /// ```
    #[cfg(feature = "async")]
    #[must_use]
    pub fn copy_of(request: RequestId, bytes: &[u8]) -> Self {
        Self { request, body: Body::copy_of(bytes) }
    }

    /// Returns the request that it answers.
    #[must_use]
    pub fn request(&self) -> RequestId {
        self.request
    }

    /// Returns its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.payload().len()
    }

    /// Returns whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payload().is_empty()
    }

    /// Returns its bytes, in memory that the worker may be able to write.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> PeerBytes<'_> {
        self.body.bytes()
    }

    /// Returns a copy of its bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.payload().to_vec()
    }

    /// Returns its bytes. Copies them if they lie in the ring, and gives the slot back.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.body.into_vec()
    }

    /// Returns the same reply with its bytes outside the ring, whose slot is given back.
    #[must_use]
    pub fn detach(self) -> Self {
        Self { request: self.request, body: self.body.detach() }
    }

    /// Returns the same reply, to be kept for any time. Its bytes stay at their address as long as it
    /// lives, and it does not hold up the worker: once it holds back a share of the ring, its bytes leave
    /// the ring, at the same address. While there is no memory for that, it holds the ring as any reply.
    ///
    /// For replies that mostly live for a moment: that costs next to nothing, and to leave the ring
    /// as much as many copies. A reply that is surely kept is better off with [`Reply::detach`]. The
    /// share is half of the ring, and less if its longest frames are longer than a quarter. If the bytes
    /// cannot stay, they are copied at once: if replies were kept for long lately, if another one that
    /// is still kept has left the ring at the same place, on kernels before 5.14, and on named channels.
    ///
    /// The kernel exchanges the pages of bytes that leave the ring. Reads by any thread go on meanwhile,
    /// but not those of a device that was given the pages themselves, as by `O_DIRECT`,
    /// `MSG_ZEROCOPY` or RDMA: for these, use a copy.
    ///
    /// ```
    #[doc = include_str!("example.md")]
    /// let kept = channel.call(ECHO, &[7; 1000], timeout)?.keep();
    /// let address = kept.payload().as_ptr();
    /// for _ in 0..10_000 {
    ///     channel.call(ECHO, &[8; 1000], timeout)?;
    /// }
    /// assert_eq!(kept.payload().as_ptr(), address);
    /// assert_eq!(kept.to_vec(), [7; 1000]);
    /// # channel.close(timeout)?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn keep(self) -> Self {
        Self { request: self.request, body: self.body.pin() }
    }

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

impl Source for Reply {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        self.payload().read_at(offset, out)
    }
}

/// Takes the bytes out of the reply, and copies them if they lie in the ring. A long one's buffer is used
/// for the next when they are dropped.
#[cfg(feature = "bytes")]
impl From<Reply> for bytes::Bytes {
    fn from(reply: Reply) -> Self {
        match reply.body {
            #[cfg(feature = "async")]
            Body::Foreign(foreign) => foreign.into_bytes(),
            Body::Message(message) if !message.is_oversized() => Self::from_owner(message),
            other => other.into_vec().into(),
        }
    }
}
