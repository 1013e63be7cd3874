//! The drivers: threads that call and read streams, and check the replies.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use slipring::{Error, ErrorKind};

use super::checked::{self, Fault, REPLY};
use super::faults::{Random, Running};
use super::{CALLERS, Counts, HANG, Soak};

/// One driver's state.
struct Driver<'a> {
    soak: &'a Soak,
    /// Its number in frames.
    sender: u64,
    number: u64,
    random: Random,
}

/// Drives the worker at this driver's place until the soak is over.
pub(super) fn run(soak: &Soak, driver: usize) {
    let (Some(place), Some(busy)) =
        (soak.places.get(driver / soak.per_place), soak.busy_since.get(driver))
    else {
        return;
    };
    let sender = u64::try_from(driver).unwrap_or(0) + 1;
    let mut this = Driver { soak, sender, number: 0, random: Random::new() };
    let is_caller = driver % soak.per_place < CALLERS;
    while !soak.is_over() {
        let running = place.now();
        busy.store(soak.now(), Ordering::Relaxed);
        let result = match () {
            () if soak.account.is_some() => this.any(&running),
            () if is_caller => this.call(&running),
            () => this.stream(&running),
        };
        if let Err(error) = result {
            this.failed(&running, &error);
        }
        busy.store(0, Ordering::Relaxed);
    }
}

impl Driver<'_> {
    /// A call, a stream, or a call that is cancelled.
    fn any(&mut self, running: &Running) -> Result<(), Error> {
        match self.random.below(8) {
            0 | 1 => self.stream(running),
            2 => self.give_up(running),
            _ => self.call(running),
        }
    }

    /// A call that is cancelled, or dropped, at some moment.
    fn give_up(&mut self, running: &Running) -> Result<(), Error> {
        self.number += 1;
        let request = checked::frame(self.sender, self.number, 100);
        let pending = running.channel.submit(checked::CALL, &request, HANG)?;
        self.count(1, request.len());
        thread::sleep(Duration::from_micros(self.random.below(300)));
        if self.random.below(2) == 0 {
            return Ok(());
        }
        pending.cancel();
        match pending.wait() {
            Ok(reply) => {
                let bytes = reply.to_vec();
                self.count(1, bytes.len());
                self.check(&bytes, self.number, request.len());
            }
            Err(error) if error.is_cancelled() => {
                self.soak.counts.cancelled.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn call(&mut self, running: &Running) -> Result<(), Error> {
        self.number += 1;
        let longest = if self.random.below(50) == 0 { 60_000 } else { 2_000 };
        let len = usize::try_from(self.random.below(longest)).unwrap_or(0);
        let request = checked::frame(self.sender, self.number, len);
        // Now and then a call that gives up before its reply comes.
        let is_hasty = self.random.below(20) == 0;
        let timeout = if is_hasty { Duration::from_micros(self.random.below(300)) } else { HANG };
        let reply = match running.channel.call(checked::CALL, &request, timeout) {
            Err(error) if error.is_timeout() && is_hasty => {
                self.soak.counts.timeouts.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            result => result?,
        };
        let bytes = reply.to_vec();
        self.count(2, request.len() + bytes.len());
        self.check(&bytes, self.number, request.len());
        Ok(())
    }

    fn stream(&mut self, running: &Running) -> Result<(), Error> {
        self.number += 1;
        let request = checked::frame(self.sender, self.number, 24);
        let count = checked::length_of(self.number);
        // Now and then a reader that drops its stream early.
        let wanted = if self.random.below(10) == 0 { self.random.below(count) } else { count };
        let mut stream = running.channel.stream(checked::STREAM, &request, HANG)?;
        self.count(1, request.len());
        for chunk in 0..wanted {
            let Some(reply) = stream.next_chunk()? else {
                let message = format!("chunk {chunk} and all after it, of {count}");
                Counts::wrong(&self.soak.counts.lost, format!("lost: {message}"));
                return Ok(());
            };
            let bytes = reply.to_vec();
            self.count(1, bytes.len());
            self.check(&bytes, self.number << 20 | chunk, checked::chunk_len(self.number, chunk));
        }
        if wanted == count && stream.next_chunk()?.is_some() {
            Counts::wrong(&self.soak.counts.duplicated, "a chunk after the last one");
        }
        Ok(())
    }

    fn count(&self, frames: usize, bytes: usize) {
        Counts::add(&self.soak.counts.frames, frames);
        Counts::add(&self.soak.counts.bytes, bytes);
    }

    fn check(&self, bytes: &[u8], number: u64, len: usize) {
        let counts = &self.soak.counts;
        let counter = match checked::check(bytes, self.sender | REPLY, number) {
            Ok(()) if bytes.len() == len.max(24) => return,
            Ok(()) | Err(Fault::Torn) => &counts.torn,
            Err(Fault::Foreign) => &counts.misdelivered,
            Err(Fault::Number(found)) if found >> 20 != number >> 20 => &counts.misdelivered,
            Err(Fault::Number(found)) if found < number => &counts.duplicated,
            Err(Fault::Number(_)) => &counts.lost,
        };
        let found = checked::header(bytes);
        let message = format!("driver {}: frame {number} is {found:?}", self.sender);
        Counts::wrong(counter, message);
    }

    /// An operation ended with an error: right only if the worker was killed.
    fn failed(&self, running: &Running, error: &Error) {
        let (soak, counts) = (self.soak, &self.soak.counts);
        let killed_at = running.killed_at.load(Ordering::Acquire);
        match error.kind() {
            ErrorKind::PeerDied if killed_at != 0 => {
                let began =
                    soak.busy_since.get(self.index()).map_or(0, |b| b.load(Ordering::Relaxed));
                if began < killed_at {
                    let after = Duration::from_nanos(soak.now().saturating_sub(killed_at));
                    counts.detected(after);
                }
                if let Some(account) = &soak.account {
                    account.died((self.sender, self.number), error, counts);
                }
                self.await_the_next(running);
            }
            ErrorKind::Timeout | ErrorKind::Stalled => {
                Counts::wrong(&counts.hangs, format!("driver {}: {error:#}", self.sender));
            }
            ErrorKind::HandlerFailed => {
                let failure = error
                    .handler_failure()
                    .map(|failure| failure.type_name.as_str())
                    .unwrap_or_default();
                let is_duplicate = failure == "soak::duplicated";
                let counter = if is_duplicate { &counts.duplicated } else { &counts.torn };
                Counts::wrong(counter, error);
            }
            ErrorKind::PeerCorrupt | ErrorKind::Protocol => Counts::wrong(&counts.torn, error),
            _ => Counts::wrong(&counts.lost, error),
        }
    }

    fn index(&self) -> usize {
        usize::try_from(self.sender).unwrap_or(1) - 1
    }

    fn await_the_next(&self, dead: &Running) {
        let Some(place) = self.soak.places.get(self.index() / self.soak.per_place) else {
            return;
        };
        while !self.soak.is_over() && std::ptr::eq(&raw const *place.now(), dead) {
            thread::sleep(Duration::from_micros(200));
        }
    }
}
