//! iceoryx2: publish-subscribe of slices each way; with events when ends sleep.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use slipring_bench::end::End;
use slipring_bench::links::{EndSession, WorkerProcess};
use slipring_bench::work::Session;

use crate::{RING, failed, retry, spin, unique};

const GIVE_UP: Duration = Duration::from_secs(30);

type Service = ipc::Service;

struct Ports {
    publisher: Publisher<Service, [u8], ()>,
    subscriber: Subscriber<Service, [u8], ()>,
    /// Only if ends sleep.
    events: Option<(Notifier<Service>, Listener<Service>)>,
    _node: Node<Service>,
}

impl Ports {
    /// Both ends wait until the other's ports are there.
    fn new(name: &str, len: usize, is_parent: bool, is_blocking: bool) -> io::Result<Self> {
        set_log_level(LogLevel::Error);
        let node = NodeBuilder::new().create::<Service>().map_err(failed)?;
        let (out, incoming) = if is_parent { ("down", "up") } else { ("up", "down") };
        let full = |side: &str| -> io::Result<ServiceName> {
            ServiceName::new(&format!("{name}-{side}")).map_err(failed)
        };
        let service = |side: &str| {
            node.service_builder(&full(side)?)
                .publish_subscribe::<[u8]>()
                .enable_safe_overflow(false)
                .history_size(0)
                .subscriber_max_buffer_size((RING / len).clamp(2, 1024))
                .max_publishers(1)
                .max_subscribers(1)
                .open_or_create()
                .map_err(failed)
        };
        let (down, up) = (service(out)?, service(incoming)?);
        let subscriber = up.subscriber_builder().create().map_err(failed)?;
        let publisher = down
            .publisher_builder()
            .initial_max_slice_len(len)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()
            .map_err(failed)?;
        let events = match is_blocking {
            true => {
                let event = |side: &str| {
                    let name = full(&format!("{side}-bell"))?;
                    node.service_builder(&name).event().open_or_create().map_err(failed)
                };
                let notifier = event(out)?.notifier_builder().create().map_err(failed)?;
                let listener = event(incoming)?.listener_builder().create().map_err(failed)?;
                Some((notifier, listener))
            }
            false => None,
        };
        retry(|| match down.dynamic_config().number_of_subscribers() {
            0 => Err("there is no subscriber"),
            _ => Ok(()),
        })?;
        Ok(Self { publisher, subscriber, events, _node: node })
    }
}

impl End for Ports {
    #[inline]
    fn send(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<()> {
        let mut sample = self.publisher.loan_slice_uninit(len).map_err(failed)?;
        let slot: *mut [std::mem::MaybeUninit<u8>] = sample.payload_mut();
        // SAFETY: bytes that are uninitialised to the type only: the memory is shared and
        // mapped, and `fill` writes all of it.
        fill(unsafe { &mut *(slot as *mut [u8]) });
        // SAFETY: as above.
        unsafe { sample.assume_init() }.send().map_err(failed)?;
        if let Some((notifier, _)) = &self.events {
            notifier.notify().map_err(failed)?;
        }
        Ok(())
    }

    #[inline]
    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> io::Result<R> {
        let sample = if let Some((_, listener)) = &self.events {
            loop {
                if let Some(sample) = self.subscriber.receive().map_err(failed)? {
                    break sample;
                }
                match listener.timed_wait(|_| {}, GIVE_UP) {
                    Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                    Ok(_) => {}
                    // A process that was stopped and goes on.
                    Err(error) if format!("{error:?}") == "InterruptSignal" => {}
                    Err(error) => return Err(failed(error)),
                }
            }
        } else {
            spin(|| self.subscriber.receive().map_err(failed))?
        };
        Ok(read(sample.payload()))
    }
}

/// Messages of up to `len` bytes.
pub fn start(len: usize, is_blocking: bool) -> io::Result<Box<dyn Session>> {
    let name = unique("iceoryx2");
    let wait = if is_blocking { "block" } else { "spin" };
    let args = ["iceoryx2", &name, &len.to_string(), wait];
    let worker = WorkerProcess::start(&args, Stdio::null(), Stdio::inherit())?;
    EndSession::begin(Ports::new(&name, len, true, is_blocking)?, worker)
}

/// The worker's side of [`start`].
pub fn serve(name: &str, len: usize, is_blocking: bool) -> io::Result<()> {
    crate::serve(Ports::new(name, len, false, is_blocking))
}
