//! ringfire: its ring of records with back-pressure, and its blobs.
//!
//! Blobs are lossy by design. Here the producer looks at the reader's lag and keeps
//! clear of it, so that nothing is lost: the arena has room for twice as many messages
//! as the ring has slots.

use std::io;
use std::process::Stdio;

use ringfire::{
    BlobConsumer, BlobProducer, BlobProducerBuilder, FlowControl, FutexWait, RingConsumer,
    RingProducer, RingProducerBuilder,
};
use slipring_bench::end::{End, put_stamp};
use slipring_bench::links::{EndSession, WorkerProcess};
use slipring_bench::work::Session;

use crate::{RING, failed, retry, spin, unique};

/// The longest message of the ring of records.
pub const SMALL: usize = 64;

/// A record: its slot also has a sequence number, and so two lines in any case.
#[repr(C)]
#[derive(Clone, Copy)]
struct Message {
    bytes: [u8; SMALL],
    len: u64,
}

struct Ring {
    producer: RingProducer<Message>,
    consumer: RingConsumer<Message>,
    is_blocking: bool,
    wait: FutexWait,
}

impl Ring {
    /// The ring out must be there before the other side looks for it, and the other side
    /// must read before anything is sent: the worker's ring shows that it does.
    fn producer(path: &str) -> io::Result<RingProducer<Message>> {
        RingProducerBuilder::new((RING / 128) as u64)
            .flow_control(FlowControl::LosslessBackpressure)
            .max_readers(1)
            .build(path)
            .map_err(failed)
    }

    fn consumer(path: &str) -> io::Result<RingConsumer<Message>> {
        retry(|| RingConsumer::attach(path))
    }
}

impl End for Ring {
    #[inline]
    fn send(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<()> {
        let mut message = Message { bytes: [0; SMALL], len: len as u64 };
        fill(message.bytes.get_mut(..len).ok_or(io::ErrorKind::InvalidInput)?);
        self.producer.push(&message);
        Ok(())
    }

    #[inline]
    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> io::Result<R> {
        let message = if self.is_blocking {
            self.consumer.recv_blocking(&mut self.wait)
        } else {
            spin(|| Ok(self.consumer.try_recv()))?
        };
        let bytes = message.bytes.get(..message.len as usize);
        Ok(read(bytes.ok_or(io::ErrorKind::InvalidData)?))
    }
}

fn names(path: &str) -> (String, String) {
    (format!("/dev/shm/{path}-down"), format!("/dev/shm/{path}-up"))
}

/// Records of up to [`SMALL`] bytes.
pub fn ring(is_blocking: bool) -> io::Result<Box<dyn Session>> {
    let path = unique("ringfire");
    let (down, up) = names(&path);
    let producer = Ring::producer(&down)?;
    let wait = if is_blocking { "block" } else { "spin" };
    let worker = WorkerProcess::start(&["ringfire", &path, wait], Stdio::null(), Stdio::inherit())?;
    let consumer = Ring::consumer(&up)?;
    let ring = Ring { producer, consumer, is_blocking, wait: FutexWait::default() };
    EndSession::begin(ring, worker)
}

/// The worker's side of [`ring`].
pub fn serve_ring(path: &str, is_blocking: bool) -> io::Result<()> {
    let (down, up) = names(path);
    let end = || {
        let consumer = Ring::consumer(&down)?;
        let producer = Ring::producer(&up)?;
        Ok(Ring { producer, consumer, is_blocking, wait: FutexWait::default() })
    };
    crate::serve(end())
}

struct Blob {
    producer: BlobProducer<u64>,
    consumer: BlobConsumer<u64>,
}

impl Blob {
    fn producer(path: &str, len: usize) -> io::Result<BlobProducer<u64>> {
        let slots = (RING / len).next_power_of_two().clamp(4, 1 << 15);
        let arena = (2 * slots * len.next_multiple_of(64)).next_power_of_two();
        BlobProducerBuilder::new(slots as u64, arena).max_readers(1).build(path).map_err(failed)
    }

    fn consumer(path: &str) -> io::Result<BlobConsumer<u64>> {
        retry(|| BlobConsumer::attach_with_name(path, "bench"))
    }

    #[inline]
    fn await_headroom(&self) -> io::Result<()> {
        spin(|| Ok((self.producer.headroom() > 1).then_some(())))
    }
}

impl End for Blob {
    #[inline]
    fn send(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<()> {
        self.await_headroom()?;
        self.producer.push_with(&0, len, fill).map(drop).map_err(failed)
    }

    #[inline]
    fn send_copy(&mut self, source: &[u8], stamp: u64) -> io::Result<()> {
        self.send(source.len(), |slot| {
            slot.copy_from_slice(source);
            put_stamp(slot, stamp);
        })
    }

    #[inline]
    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> io::Result<R> {
        let mut read = Some(read);
        spin(|| {
            let found = self.consumer.view(|_, bytes| read.take().map(|read| read(bytes)));
            found.map(Option::flatten).map_err(failed)
        })
    }
}

/// Blobs of up to `len` bytes.
pub fn blob(len: usize) -> io::Result<Box<dyn Session>> {
    let path = unique("blob");
    let (down, up) = names(&path);
    let producer = Blob::producer(&down, len)?;
    let args = ["ringfire-blob", &path, &len.to_string()];
    let worker = WorkerProcess::start(&args, Stdio::null(), Stdio::inherit())?;
    let consumer = Blob::consumer(&up)?;
    EndSession::begin(Blob { producer, consumer }, worker)
}

/// The worker's side of [`blob`].
pub fn serve_blob(path: &str, len: usize) -> io::Result<()> {
    let (down, up) = names(path);
    let end = || {
        let consumer = Blob::consumer(&down)?;
        Ok(Blob { producer: Blob::producer(&up, len)?, consumer })
    };
    crate::serve(end())
}
