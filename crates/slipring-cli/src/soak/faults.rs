//! Kills, stops and restarts of workers, at random moments.
#![allow(unsafe_code, reason = "pidfds, which std does not offer on stable")]

use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use slipring::{Channel, ErrorKind, Spawner};

use super::{Counts, HANG, Soak};

/// A worker, and a pidfd to signal it by: its process id can pass to another process.
pub(super) struct Running {
    pub(super) channel: Channel,
    pidfd: OwnedFd,
    /// When it was killed, in nanoseconds since the start plus one; 0 if it was not.
    pub(super) killed_at: AtomicU64,
}

/// A place at which one worker after another runs.
pub(super) struct Place(Mutex<Arc<Running>>);

impl Place {
    pub(super) fn start(spawner: &Spawner) -> slipring::Result<Self> {
        Ok(Self(Mutex::new(Arc::new(Running::start(spawner)?))))
    }

    pub(super) fn now(&self) -> Arc<Running> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, running: Running) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(running);
    }

    /// Ends the worker and releases all its resources.
    pub(super) fn close(self) {
        let running = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let _ = running.channel.close(Duration::from_secs(2));
    }
}

impl Running {
    fn start(spawner: &Spawner) -> slipring::Result<Self> {
        let channel = spawner.spawn()?;
        let pidfd = pidfd_open(channel.pid()).map_err(|error| {
            // Fails only if descriptors ran out, and is reported as that.
            let _ = channel.close(Duration::ZERO);
            super::super::error::say(error);
            slipring::Config::builder().max_in_flight(0).build().expect_err("not valid")
        })?;
        Ok(Self { channel, pidfd, killed_at: AtomicU64::new(0) })
    }

    fn signal(&self, signal: i32) {
        send(&self.pidfd, signal);
    }
}

/// Signals a child of this process. Returns false if it is none any more.
pub(super) fn signal_child(pid: u32, signal: i32) -> bool {
    let Ok(pidfd) = pidfd_open(pid) else { return false };
    // The number can have passed to another process before.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
    parent == Some(std::process::id().to_string().as_str()) && send(&pidfd, signal)
}

fn send(pidfd: &OwnedFd, signal: i32) -> bool {
    let (fd, no_info) = (pidfd.as_raw_fd(), std::ptr::null::<u8>());
    // SAFETY: without a siginfo the call takes integers only.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0_usize) == 0 }
}

fn pidfd_open(pid: u32) -> std::io::Result<OwnedFd> {
    // SAFETY: the call takes integers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0_usize) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// A generator of random numbers, good enough to choose moments.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new() -> Self {
        let state = std::collections::hash_map::RandomState::new();
        Self(state.build_hasher().finish() | 1)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit.max(1)
    }

    fn micros(&mut self, limit: u64) -> Duration {
        Duration::from_micros(self.below(limit))
    }
}

/// Does something to a worker again and again until the soak is over.
pub(super) fn run(soak: &Soak, spawner: &Spawner, every: Duration, random: &mut Random) {
    let every = u64::try_from(every.as_micros()).unwrap_or(u64::MAX);
    while !soak.is_over() {
        // In slices, so that a long pause does not outlast the soak.
        let until = Instant::now() + Duration::from_micros(every / 2) + random.micros(every);
        while Instant::now() < until && !soak.is_over() {
            let left = until.saturating_duration_since(Instant::now());
            thread::sleep(left.min(Duration::from_millis(20)));
        }
        if soak.is_over() {
            return;
        }
        let count = u64::try_from(soak.places.len()).unwrap_or(1);
        let index = usize::try_from(random.below(count)).unwrap_or(0);
        let Some(place) = soak.places.get(index) else { return };
        let running = place.now();
        match random.below(10) {
            0 | 1 => stop(soak, &running, random),
            2 => {
                stop_until(soak, &running, random);
                kill(soak, spawner, place, &running);
            }
            _ => kill(soak, spawner, place, &running),
        }
    }
}

fn stop(soak: &Soak, running: &Running, random: &mut Random) {
    stop_until(soak, running, random);
    running.signal(libc::SIGCONT);
}

fn stop_until(soak: &Soak, running: &Running, random: &mut Random) {
    running.signal(libc::SIGSTOP);
    soak.counts.stops.fetch_add(1, Ordering::Relaxed);
    thread::sleep(random.micros(20_000));
}

fn kill(soak: &Soak, spawner: &Spawner, place: &Place, running: &Running) {
    running.killed_at.store(soak.now(), Ordering::Release);
    running.signal(libc::SIGKILL);
    soak.counts.kills.fetch_add(1, Ordering::Relaxed);
    let patience = Instant::now() + HANG;
    while running.channel.is_alive() {
        if Instant::now() > patience {
            let message = format!("the death of {} is not noticed", running.channel.pid());
            Counts::wrong(&soak.counts.hangs, message);
            return;
        }
        thread::sleep(Duration::from_micros(50));
    }
    soak.counts.deaths.fetch_add(1, Ordering::Relaxed);
    let late = running.channel.stats().late_frames;
    soak.counts.late.fetch_add(late, Ordering::Relaxed);
    match Running::start(spawner) {
        Ok(running) => place.replace(running),
        Err(error) => {
            let is_exhausted = error.kind() == ErrorKind::Os;
            let what = if is_exhausted { "out of resources" } else { "a worker did not start" };
            Counts::wrong(&soak.counts.hangs, format!("{what}: {error:#}"));
        }
    }
}
