//! Both ends of a ring in one process, for tests.

use std::sync::Arc;

use crate::config::{Config, RingConfig, WaitStrategy};
use crate::error::Result;
use crate::link::{ParentLink, WorkerLink};
use crate::ring::{Consumer, Producer};

/// A ring of `capacity` bytes whose positions start at `origin`, over a real memfd that
/// is mapped twice.
pub(crate) fn ring(capacity: usize, max_frame: usize, origin: u64) -> (Producer, Consumer) {
    let config = config(capacity, max_frame, origin);
    let (parent, worker) = link(&config).unwrap();
    (parent.data.producer, worker.data.consumer)
}

pub(crate) fn config(capacity: usize, max_frame: usize, origin: u64) -> Config {
    let ring = RingConfig { capacity, max_frame };
    Config { down: ring, up: ring, wait: WaitStrategy::Park, origin, ..Config::small() }
}

pub(crate) fn link(config: &Config) -> Result<(ParentLink, WorkerLink)> {
    let (parent, files) = ParentLink::create(config)?;
    let worker = WorkerLink::attach(files.down.into(), files.up.into(), config.wait)?;
    Ok((parent, worker))
}

pub(crate) fn alarm() -> Arc<crate::ring::doorbell::Alarm> {
    Arc::default()
}
