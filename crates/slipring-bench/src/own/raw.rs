//! The raw rings.

use std::io;

use slipring::payload::copy_from_slice;
use slipring::ring::Header;
use slipring::{Config, RawLink, worker};

use super::{CLOSE, LONG, Publishing, in_place, routine_for, spawner};
use crate::end::{End, put_stamp};
use crate::work::{self, Session, Slice, Work};

/// Frames of a batch.
const FRAMES: u64 = 32;

/// One end of a raw link.
#[derive(Debug)]
struct Raw {
    link: RawLink,
    is_streaming: bool,
    publishing: Publishing,
}

impl End for Raw {
    #[inline]
    fn send(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<()> {
        let mut claim = self.link.claim(len, LONG)?;
        fill(claim.payload());
        if self.is_streaming {
            claim.commit_lazily(Header::default());
        } else {
            claim.commit(Header::default());
        }
        Ok(())
    }

    #[inline]
    fn send_copy(&mut self, source: &[u8], stamp: u64) -> io::Result<()> {
        self.send(source.len(), |slot| {
            copy_from_slice(slot, source);
            put_stamp(slot, stamp);
        })
    }

    #[inline]
    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> io::Result<R> {
        let frame = self.link.recv(LONG)?;
        Ok(read(in_place(&frame.payload())))
    }

    fn send_all<'m>(
        &mut self,
        len: usize,
        count: u64,
        mut messages: impl Iterator<Item = (u64, &'m [u8])>,
    ) -> io::Result<()> {
        if self.publishing != Publishing::InBatches {
            for (_, (stamp, message)) in (0..count).zip(messages) {
                self.send_copy(message, stamp)?;
            }
            return Ok(());
        }
        let mut left = count;
        while left > 0 {
            let most = left.min(FRAMES) as usize;
            let mut batch = self.link.claim_batch(len, most, LONG)?;
            for (index, (stamp, message)) in (0..batch.len()).zip(&mut messages) {
                let slot = batch.payload(index);
                copy_from_slice(slot, message);
                put_stamp(slot, stamp);
            }
            left -= batch.len() as u64;
            batch.commit_lazily(|_| Header::default());
        }
        Ok(())
    }

    fn recv_all(&mut self, count: u64, mut read: impl FnMut(&[u8])) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            if self.publishing != Publishing::InBatches {
                self.recv(&mut read)?;
                left -= 1;
                continue;
            }
            let most = left.min(FRAMES) as usize;
            left -= self.link.drain(most, LONG, |_, payload| read(in_place(&payload)))? as u64;
        }
        Ok(())
    }

    fn set_streaming(&mut self, is_streaming: bool) -> io::Result<()> {
        self.is_streaming = is_streaming && self.publishing != Publishing::Eagerly;
        self.link.flush();
        Ok(())
    }
}

/// A session over a raw link.
struct RawSession {
    end: Raw,
    pid: u32,
}

/// Starts a worker with raw rings.
///
/// # Errors
///
/// Fails as `Spawner::spawn` does.
pub fn raw(config: &Config, publishing: Publishing) -> io::Result<Box<dyn Session>> {
    let worker = if publishing == Publishing::InBatches { "raw-batches" } else { "raw" };
    let link = spawner(worker, config)?.spawn_raw()?;
    link.prefault();
    let mut end = Raw { link, is_streaming: false, publishing };
    let pid = work::ready(&mut end)?;
    Ok(Box::new(RawSession { end, pid }))
}

/// Starts it, and returns as soon as the worker has attached, to measure how long that takes.
///
/// # Errors
///
/// Fails as `Spawner::spawn` does.
pub fn raw_cold(config: &Config) -> io::Result<Box<dyn Session>> {
    let link = spawner("raw-cold", config)?.spawn_raw()?;
    let mut end = Raw { link, is_streaming: false, publishing: Publishing::Lazily };
    let pid = work::ready(&mut end)?;
    Ok(Box::new(RawSession { end, pid }))
}

impl Session for RawSession {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn pin(&mut self, cpu: usize) -> io::Result<()> {
        work::pin(&mut self.end, cpu)
    }

    fn run(&mut self, work: Work, count: u64) -> io::Result<Slice> {
        work::drive(&mut self.end, work, count)
    }

    fn copies(&self, len: usize) -> Option<String> {
        routine_for(len, self.end.link.sender().copies())
    }
}

impl Drop for RawSession {
    fn drop(&mut self) {
        // The next measurement must not share its processor with this worker.
        let _ = self.end.link.close(CLOSE);
    }
}

pub(super) fn serve_raw(is_warm: bool, publishing: Publishing) -> io::Result<()> {
    let (link, _) = worker::attach_raw()?;
    if is_warm {
        link.prefault();
    }
    // Until the parent closes the link.
    let _ = work::serve(&mut Raw { link, is_streaming: false, publishing });
    Ok(())
}
