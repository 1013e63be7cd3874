//! A host with an event loop of its own: one epoll set for the channels of several workers, no
//! thread of its own for any of them. One of the workers crashes; the loop is told of that by
//! the same descriptor.
//!
//!     cargo run --example epoll_host
#![allow(unsafe_code, reason = "epoll is a C interface")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use slipring::{Channel, Kind, Pending, RequestId, Spawner, worker};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Replies with the length of the text.
const COUNT: Kind = Kind::named("count");
/// Ends the worker's process, as a fault in native code would.
const CRASH: Kind = Kind::named("crash");

/// A worker's channel and the requests that are on their way to it.
struct Client {
    name: &'static str,
    channel: Channel,
    pending: Vec<Pending>,
}

fn main() -> Result<()> {
    if worker::is_worker() {
        return Ok(serve()?);
    }
    let mut clients = Vec::new();
    for name in ["first", "second", "third"] {
        let channel = Spawner::current_exe()?.role(name).pollable().spawn()?;
        clients.push(Client { name, channel, pending: Vec::new() });
    }

    let epoll = Epoll::new()?;
    for (index, client) in clients.iter_mut().enumerate() {
        let fd = client.channel.poll_fd().ok_or("the channel was spawned without `pollable`")?;
        epoll.add(fd, index)?;
        for text in ["a", "few", "requests"] {
            client.pending.push(client.channel.submit(COUNT, text, TIMEOUT)?);
        }
        if client.name == "second" {
            client.pending.push(client.channel.submit(CRASH, "", TIMEOUT)?);
        }
        // From the first read on, the descriptor is readable exactly while there is something
        // to read.
        read(client);
    }

    // A real host has more in its set: sockets, timers. It would wait here for all of them.
    while clients.iter().any(|client| !client.pending.is_empty()) {
        let ready = epoll.wait(TIMEOUT)?;
        if ready.is_empty() {
            // Nothing came for so long that a request can be past its deadline.
            clients.iter_mut().for_each(|client| take(client.name, &mut client.pending, |_| true));
        }
        for index in ready {
            let Some(client) = clients.get_mut(index) else { continue };
            // Before the read: a channel that ends after it has more to say.
            let is_over = !client.channel.is_alive();
            read(client);
            if is_over {
                // Its descriptor stays readable for good.
                epoll.remove(client.channel.poll_fd().ok_or("no descriptor")?)?;
            }
        }
    }
    for client in &clients {
        println!("{}: {}", client.name, client.channel.close(TIMEOUT)?);
    }
    Ok(())
}

/// Reads what has come, and hands out the replies that are complete. Never blocks.
fn read(client: &mut Client) {
    let Client { name, channel, pending } = client;
    match channel.read_ready() {
        Ok(ready) => take(name, pending, |id| ready.contains(&id)),
        Err(error) => {
            println!("{name}: the channel is over: {:?}", error.kind());
            // Every pending request says the same, with more detail.
            take(name, pending, |_| true);
        }
    }
}

/// Looks at the requests that are ready.
fn take(name: &str, pending: &mut Vec<Pending>, is_ready: impl Fn(RequestId) -> bool) {
    pending.retain_mut(|pending| {
        let id = pending.id();
        if !is_ready(id) {
            return true;
        }
        match pending.try_wait() {
            Ok(Some(reply)) => {
                let text = String::from_utf8_lossy(&reply.to_vec()).into_owned();
                println!("{name}: request {id}: {text} letters");
                false
            }
            Ok(None) => true,
            Err(error) => {
                println!("{name}: request {id}: {error}");
                false
            }
        }
    });
}

fn serve() -> slipring::Result<()> {
    worker::Worker::new(|_role| Ok(()))
        .on(COUNT, |(), request, responder| Ok(responder.send(&request.len().to_string())?))
        .on(CRASH, |(), _, _| std::process::abort())
        .serve()
}

/// An epoll set whose events carry a number.
struct Epoll(OwnedFd);

impl Epoll {
    fn new() -> io::Result<Self> {
        // SAFETY: takes an integer.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: a new descriptor that nothing else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn add(&self, fd: BorrowedFd<'_>, number: usize) -> Result<()> {
        let events = u32::try_from(libc::EPOLLIN)?;
        let mut event = libc::epoll_event { events, u64: u64::try_from(number)? };
        let set = self.0.as_raw_fd();
        // SAFETY: the event is live during the call, which copies it.
        check(unsafe {
            libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event)
        })?;
        Ok(())
    }

    fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let (set, nothing) = (self.0.as_raw_fd(), std::ptr::null_mut());
        // SAFETY: a removal takes no event.
        check(unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_DEL, fd.as_raw_fd(), nothing) })?;
        Ok(())
    }

    /// Waits until a descriptor is readable, for at most `timeout`, and returns the numbers of
    /// those that are.
    fn wait(&self, timeout: Duration) -> Result<Vec<usize>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
        let (most, timeout) = (i32::try_from(events.len())?, i32::try_from(timeout.as_millis())?);
        let set = self.0.as_raw_fd();
        // SAFETY: there is room for as many events as the call is told.
        let count = check(unsafe { libc::epoll_wait(set, events.as_mut_ptr(), most, timeout) });
        let count = match count {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            other => other?,
        };
        let ready = events.iter().take(usize::try_from(count)?);
        Ok(ready.map(|event| usize::try_from(event.u64)).collect::<std::result::Result<_, _>>()?)
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
