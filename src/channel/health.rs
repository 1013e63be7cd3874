//! The parent's end of the health rings: pings and the shutdown, apart from the data
//! rings, so that neither a long handler nor full rings delay them.

use std::time::Duration;

use crate::channel::life::Life;
#[cfg(feature = "async")]
use crate::channel::timed::Loan;
use crate::channel::timed::TimedLock;
use crate::error::{Error, ErrorKind, Result};
use crate::link::Duplex;
use crate::protocol::Kind;
use crate::protocol::health::{self, Health};
use crate::ring::Header;
use crate::shm::clock::Deadline;
#[cfg(feature = "async")]
use crate::sync::{Ordering, fence};

/// The health rings, used by one thread at a time.
#[derive(Debug)]
pub(crate) struct HealthClient {
    rings: TimedLock<Rings>,
}

#[derive(Debug)]
pub(crate) struct Rings {
    duplex: Duplex,
    next: u64,
}

impl HealthClient {
    pub(crate) fn new(duplex: Duplex) -> Self {
        Self { rings: TimedLock::new(Rings { duplex, next: 1 }) }
    }

    pub(crate) fn ping(&self, life: &Life, timeout: Duration) -> Result<Health> {
        let deadline = Deadline::after(timeout);
        let stop = || life.check_open();
        let (header, payload) = self.ask(life, Kind::PING, deadline, timeout, &stop)?;
        pong(header, &payload)
    }

    /// Asks the worker to end; returns once it has said that it will.
    pub(crate) fn shutdown(&self, life: &Life, deadline: Deadline) -> Result<()> {
        let stop = || {
            // The channel is closing; only the worker's end stops the wait.
            let ended = life.deathbed.get().is_some_and(|bed| bed.body.status().is_some());
            if ended { Err(life.why_over(None)) } else { Ok(()) }
        };
        self.ask(life, Kind::SHUTDOWN, deadline, Duration::ZERO, &stop).map(drop)
    }

    fn ask(
        &self,
        life: &Life,
        kind: Kind,
        deadline: Deadline,
        timeout: Duration,
        stop: &dyn Fn() -> Result<()>,
    ) -> Result<(Header, Vec<u8>)> {
        stop()?;
        let mut rings = self.rings.lock_until(deadline).ok_or_else(|| no_answer(kind, timeout))?;
        let answer = rings.with(|rings| rings.ask(life, kind, deadline, stop)).transpose()?;
        answer.flatten().ok_or_else(|| no_answer(kind, timeout))
    }
}

#[cfg(feature = "async")]
impl HealthClient {
    /// The rings, or a wake-up when they may be free.
    pub(crate) fn poll_rings(&self, waker: &std::task::Waker) -> Option<Loan<'_, Rings>> {
        self.rings.poll_lock(waker)
    }
}

#[cfg(feature = "async")]
impl Rings {
    /// Sends a question if there is room; returns its number.
    pub(crate) fn try_send(&mut self, kind: Kind) -> Result<Option<u64>> {
        let request = self.next;
        let Some(claim) = self.duplex.producer.try_claim(0)? else { return Ok(None) };
        claim.commit(Header { kind: kind.code(), request, ..Header::default() });
        self.next += 1;
        Ok(Some(request))
    }

    /// The answer to that question, if it is there; otherwise the next frame makes the
    /// channel's descriptor readable.
    pub(crate) fn try_answer(&mut self, request: u64) -> Result<Option<(Header, Vec<u8>)>> {
        self.duplex.consumer.announce_by_fd();
        fence(Ordering::SeqCst); // A, pairs with B in the worker's producer
        while let Some(frame) = self.duplex.consumer.poll()? {
            if frame.header().request == request {
                return Ok(Some((frame.header(), frame.payload().to_vec())));
            }
        }
        // Frames that were dropped have moved what is waited for.
        self.duplex.consumer.announce_by_fd();
        fence(Ordering::SeqCst);
        Ok(None)
    }

    pub(crate) fn has_next(&self) -> bool {
        self.duplex.consumer.has_next()
    }
}

impl Rings {
    fn ask(
        &mut self,
        life: &Life,
        kind: Kind,
        deadline: Deadline,
        stop: &dyn Fn() -> Result<()>,
    ) -> Result<Option<(Header, Vec<u8>)>> {
        let alarm = &life.alarm;
        let request = self.next;
        self.next += 1;
        let Some(claim) = self.duplex.producer.claim_until(0, alarm, deadline, stop)? else {
            return Ok(None);
        };
        let has_rung = claim.commit(Header { kind: kind.code(), request, ..Header::default() });
        loop {
            let frame = self.duplex.consumer.poll_until(alarm, deadline, has_rung, stop)?;
            let Some(frame) = frame else { return Ok(None) };
            // An answer to a ping that timed out: dropped.
            if frame.header().request == request {
                return Ok(Some((frame.header(), frame.payload().to_vec())));
            }
        }
    }
}

/// What the answer to a ping says.
pub(crate) fn pong(header: Header, payload: &[u8]) -> Result<Health> {
    if header.kind != Kind::PONG.code() {
        let kind = Kind::from_code(header.kind);
        return Err(Error::new(ErrorKind::Protocol, format!("a ping was answered by {kind}")));
    }
    health::decode(payload)
}

#[cold]
pub(crate) fn no_answer(kind: Kind, timeout: Duration) -> Error {
    let message = format!("no answer to a {kind} within {timeout:?}: the worker is unresponsive");
    Error::new(ErrorKind::Timeout, message)
}
