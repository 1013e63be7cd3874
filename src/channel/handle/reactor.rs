//! A channel that is read by a reactor of the host's.

use std::os::fd::{AsFd, BorrowedFd};

use super::Channel;
use crate::channel::reactor_turn::read_for_host;
use crate::error::Result;
use crate::id::RequestId;

/// For a host with a reactor of its own.
impl Channel {
    /// Reads all replies and chunks that are there, without waiting, and returns the requests
    /// that have got something since the last call, each once. For a reactor of the host's that
    /// has found [`Channel::poll_fd`] readable, and once before it polls the descriptor for the
    /// first time. Never blocks.
    ///
    /// Look at each request with [`Pending::try_wait`](crate::Pending::try_wait) or
    /// [`Stream::try_next_chunk`](crate::Stream::try_next_chunk), which read nothing more by
    /// themselves once this was called. From then on the descriptor is readable exactly while there
    /// is something to read. Threads may use the same channel: when they read something that no
    /// thread waits for, they make the descriptor readable.
    ///
    /// A timeout makes nothing readable. When the time of a request is up, a reactor calls
    /// [`Pending::try_wait`](crate::Pending::try_wait), which then returns
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout).
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// # use slipring::{Config, Kind, RoleConfig, testing, worker::Worker};
    /// # use std::time::Duration;
    /// # const ECHO: Kind = Kind::named("echo");
    /// # const COUNT: Kind = Kind::named("count");
    /// # const WAIT: Kind = Kind::named("wait");
    /// # let make = || Worker::new(|_role| Ok(()))
    /// #     .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?))
    /// #     .on(COUNT, |(), _, responder| {
    /// #         let mut chunks = responder.stream();
    /// #         for chunk in ["one", "two", "three"] { chunks.send(chunk)?; }
    /// #         Ok(chunks.end()?)
    /// #     })
    /// #     .on(WAIT, |(), request, _| loop {
    /// #         request.check_cancelled()?;
    /// #         std::thread::sleep(Duration::from_millis(1));
    /// #     });
    /// # let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// # let timeout = Duration::from_secs(10);
    /// use std::collections::HashMap;
    /// use std::os::fd::{AsRawFd, BorrowedFd};
    ///
    /// /// The host's reactor, which has this one descriptor.
    /// fn wait_until_readable(fd: BorrowedFd<'_>) {
    ///     let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    ///     // SAFETY: a live array of one entry.
    ///     unsafe { libc::poll(&mut entry, 1, -1) };
    /// }
    ///
    /// let mut pending = HashMap::new();
    /// for number in 0..10_u8 {
    ///     let request = channel.submit(ECHO, &[number][..], timeout)?;
    ///     pending.insert(request.id(), request);
    /// }
    /// let mut replies = Vec::new();
    /// loop {
    ///     // Before the first wait, and after each wait.
    ///     for id in channel.read_ready()? {
    ///         let Some(request) = pending.get_mut(&id) else { continue };
    ///         if let Some(reply) = request.try_wait()? {
    ///             replies.push(reply.to_vec());
    ///             pending.remove(&id);
    ///         }
    ///     }
    ///     if pending.is_empty() {
    ///         break;
    ///     }
    ///     wait_until_readable(channel.poll_fd().expect("the channel is pollable"));
    /// }
    /// assert_eq!(replies.len(), 10);
    /// # channel.close(timeout)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) without
    /// [`Spawner::pollable`](crate::Spawner::pollable); as [`Channel::call`] if the channel is
    /// over. Requests that have got something still have it.
    pub fn read_ready(&self) -> Result<Vec<RequestId>> {
        read_for_host(&self.core)?;
        let ready = self.core.pending.requests().take_ready();
        Ok(ready.into_iter().map(RequestId::new).collect())
    }

    /// Returns the descriptor for reactors, if the channel was spawned with
    /// [`Spawner::pollable`](crate::Spawner::pollable). Do not read from it or write to it:
    /// [`Channel::read_ready`] says when it is readable, and has an example.
    #[must_use]
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.core.reactor_state.wake_fd().map(|wake_fd| wake_fd.as_fd())
    }
}
