//! The parent's side: making the segments, and waiting for the worker.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use zerocopy::FromZeros;

use crate::channel::{Channel, ChannelState, begin_external};
use crate::config::{Config, Tuning};
use crate::error::{Error, ErrorKind, ExitCause, Result};
use crate::link::ParentLink;
use crate::named::layout::{
    CLOSED, DETACHED, MAGIC, MAKER_STATE, MakerLine, OPEN, PeerClaim, VERSION,
};
use crate::named::names::{self, Names};
use crate::named::peer::{self, LOOK_EVERY, Process, health_event, sleep_events};
use crate::named::segment::{Segment, c_library, free_space};
use crate::named::segment_file::{DIRECTORY, path};
use crate::named::stale::maker_of;
use crate::process::external::ExternalWorker;
use crate::protocol::handshake::{copy_to_number, wait_to_numbers};
use crate::protocol::role::check_name;
use crate::recording::Recording;
use crate::ring::copy_choice::FINDINGS;
use crate::shm::layout::{RegionHeader, channel_id};
use crate::shm::region::Regions;
use crate::shm::transport::SharedEvent;
use crate::shm::words::OwnU32;
use crate::sys::clock::Deadline;
use crate::sys::fork;
use crate::sys::memfd::check_file_size;

/// The memory of a channel that waits for its worker. Dropping it before it has made a
/// channel removes the names.
pub struct NamedHost {
    name: String,
    config: Config,
    down: Arc<Segment>,
    up: Arc<Segment>,
    claim: PeerClaim,
    closing: Arc<Closing>,
    maker: Process,
    /// `None`: as the environment says.
    recording: Option<Recording>,
    /// `None` once a channel was made of it.
    link: Option<ParentLink>,
}

/// Makes the memory of the channel `name`, for one worker to attach to. Names are 1 to 32
/// letters, digits, `_`, `-` or `.`, and do not start with a dot. Blocks while the kernel
/// finds the pages, all of which are reserved.
///
/// # Errors
///
/// [`ErrorKind::InvalidConfig`] for an invalid name or more than 3 GiB in one direction;
/// [`ErrorKind::Os`] if the name is taken, by a channel or by what a killed process left
/// behind, see [`stale`](crate::named::stale()), or if `/dev/shm` has no room;
/// [`ErrorKind::Mismatch`] if the files are tampered with while they are made;
/// [`ErrorKind::Unsupported`] if the kernel is too old; [`ErrorKind::Forked`] in a forked child.
/// Nothing is left behind then.
pub fn create(name: &str, config: &Config) -> Result<NamedHost> {
    check_name("channel", name)?;
    fork::watch()?;
    let maker = Process::this()?;
    let header = RegionHeader::down(config, channel_id(), maker.pid);
    let (down_len, up_len) = (header.own.region_len, header.peer.region_len);
    check_space(down_len.saturating_add(up_len))?;
    let line = maker_line(&maker, &header, config.tuning());

    let mut names = Names::default();
    let mut make = |id: String, len: u64| -> Result<Arc<Segment>> {
        let (segment, file) = Segment::create(&id, len).map_err(|e| explain(e, &id))?;
        names.add(&id, file);
        let segment = Arc::new(segment);
        // First, so that the file tells its maker if this process is killed from here on.
        line.write(&segment.own()?)?;
        segment.reserve()?;
        Ok(segment)
    };
    // In this order, so that a worker that finds `down` open finds `up`.
    let up = make(names::up_id(name), up_len)?;
    let down = make(names::down_id(name), down_len)?;
    down.keep_from_forks();
    let (own, peer) = (down.own()?, up.peer());
    let claim = PeerClaim::of(&peer)?;
    let state = own.u32_at(MAKER_STATE)?;
    own.write_header(&header);
    let link = ParentLink::over(Regions { own, peer, header }, config.tuning(), None)?;
    // Pairs with the worker's Acquire load: a worker that sees it sees all of the above.
    state.store(OPEN, Ordering::Release);

    let (wakes_worker, wakes_watch) = (sleep_events(&down), health_event(&up)?);
    let is_over = AtomicBool::new(false);
    let closing = Arc::new(Closing { names, state, wakes_worker, wakes_watch, is_over });
    let (name, config) = (name.to_owned(), config.clone());
    let (recording, link) = (None, Some(link));
    Ok(NamedHost { name, config, down, up, claim, closing, maker, recording, link })
}

impl NamedHost {
    /// Returns the channel's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Has the frames of the channel recorded: see [`Recording`]. By default they are recorded if the
    /// variable `SLIPRING_RECORD` of this process's environment names a directory.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] for a recording that cannot be; [`ErrorKind::Os`] if the directory is
    /// relative to one that this process cannot find. The host stays as it was.
    pub fn record(&mut self, recording: Recording) -> Result<()> {
        recording.check()?;
        let directory = std::path::absolute(&recording.directory)
            .map_err(|e| Error::os("cannot find the directory of recordings", e))?;
        self.recording = Some(Recording { directory, ..recording });
        Ok(())
    }

    /// Waits until a worker has attached and returns the channel to it. Blocks for at most
    /// `timeout`. The channel's role is the name; its worker's exit cause is never known.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] if none came: this can be called again then.
    /// [`ErrorKind::Handshake`] if one ended while it attached, and [`ErrorKind::Mismatch`]
    /// if it does not agree on the layout: make a new host then. [`ErrorKind::Closed`] if
    /// a channel was returned before; [`ErrorKind::Os`] if no thread can be started, or the file of a
    /// recording cannot be made;
    /// [`ErrorKind::Forked`] in a forked child.
    pub fn accept(&mut self, timeout: Duration) -> Result<Channel> {
        let spent = || {
            let message = "a named channel has one worker, which has attached already";
            Error::new(ErrorKind::Closed, message)
        };
        fork::check()?;
        if self.link.is_none() {
            return Err(spent());
        }
        let of_environment = match self.recording {
            None => Recording::of_environment()?,
            Some(_) => None,
        };
        let worker = self.await_worker(timeout)?;
        let state = Arc::<ChannelState>::default();
        let wanted = self.recording.as_ref().or(of_environment.as_ref());
        let recorder = wanted
            .map(|wanted| begin_external(wanted, (&self.name, worker.pid), &self.config, &state))
            .transpose()?;
        let link = self.link.take().ok_or_else(spent)?;
        link.answer.check_attached()?;

        state.alarm.also_set(sleep_events(&self.up));
        let thread = ExternalWorker::new(worker.pid, {
            let closing = Arc::clone(&self.closing);
            Arc::new(move || closing.close())
        });
        let (ended, its_state) = (thread.clone(), Arc::clone(&state));
        let name = self.name.clone();
        let channel = Channel::over_thread(link, &self.config, name, thread, state, None, recorder);
        let (claim, closing) = (self.claim.clone(), Arc::clone(&self.closing));
        peer::watch(
            "slipring-named",
            worker,
            health_event(&self.up)?,
            move || claim.state() == DETACHED || closing.is_over.load(Ordering::Acquire),
            [Arc::clone(&self.down), Arc::clone(&self.up)],
            move || {
                ended.record_exit(ExitCause::Unknown);
                its_state.note_exit();
            },
        )?;
        Ok(channel)
    }

    fn await_worker(&self, timeout: Duration) -> Result<Process> {
        let deadline = Deadline::after(timeout);
        let event = health_event(&self.up)?;
        loop {
            let is_attached = self.claim.state() != 0;
            let (pid, start_time) = self.claim.claimant()?;
            let worker = Process { pid, start_time, ..self.maker };
            if is_attached {
                return Ok(worker);
            }
            if pid != 0 && start_time != 0 && !worker.is_alive() {
                let message = format!("process {pid} ended while it attached to {}", self.name);
                return Err(Error::new(ErrorKind::Handshake, message));
            }
            if deadline.has_passed() {
                let message = format!("no worker attached to {} within {timeout:?}", self.name);
                return Err(Error::new(ErrorKind::Timeout, message));
            }
            event.wait(&|| self.claim.state() == 0, deadline.at_most(LOOK_EVERY));
        }
    }
}

impl fmt::Debug for NamedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("NamedHost");
        debug.field("name", &self.name).field("config", &self.config).finish_non_exhaustive()
    }
}

/// Ends the parent's side.
struct Closing {
    names: Names,
    state: OwnU32,
    wakes_worker: Vec<SharedEvent>,
    wakes_watch: SharedEvent,
    is_over: AtomicBool,
}

impl Closing {
    /// Removes the names, tells the worker to end, and ends the watch on it.
    fn close(&self) {
        // A forked child has neither the memory nor the right to end its parent's channel.
        if fork::is_forked_child() || self.is_over.swap(true, Ordering::AcqRel) {
            return;
        }
        self.names.remove();
        // Pairs with the Acquire load in the worker's watch.
        self.state.store(CLOSED, Ordering::Release);
        self.wakes_worker.iter().for_each(|event| event.set());
        self.wakes_watch.set();
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.close();
    }
}

fn maker_line(maker: &Process, header: &RegionHeader, tuning: Tuning) -> MakerLine {
    let (wait, spin) = wait_to_numbers(tuning.wait);
    MakerLine {
        magic: MAGIC,
        version: VERSION,
        pid: maker.pid,
        start_time: maker.start_time,
        namespace: maker.namespace,
        channel: header.channel,
        c_library: c_library(),
        wait,
        copy: copy_to_number(tuning.copy, FINDINGS.bits()),
        spin,
        ..MakerLine::new_zeroed()
    }
}

/// Checks that there is enough memory before anything is made. Writing to pages that do not exist
/// would end this process, or another one that the kernel chooses.
fn check_space(wanted: u64) -> Result<()> {
    check_file_size(wanted)?;
    let free = free_space()?;
    if wanted > free {
        return Err(Error::os(
            format!("a channel needs {wanted} bytes of {DIRECTORY}, which has {free} left"),
            io::ErrorKind::StorageFull.into(),
        ));
    }
    Ok(())
}

/// Adds to the error that a name is taken by which process it is.
fn explain(error: Error, id: &str) -> Error {
    let source = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<io::Error>());
    if source.is_none_or(|e| e.kind() != io::ErrorKind::AlreadyExists) {
        return error;
    }
    let by = match maker_of(&path(id)) {
        Some(maker) if maker.is_alive() => format!("by process {}", maker.pid),
        Some(maker) => format!(
            "by a file that process {} left behind when it ended; named::stale finds it",
            maker.pid
        ),
        None => "by a file that this library has not made, or not yet".to_owned(),
    };
    let message = format!("segment {id} is taken {by}");
    Error::os(message, io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_machine_has_is_refused_before_anything_is_made() {
        let error = check_space(u64::MAX).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Os);
        assert!(error.to_string().contains(&u64::MAX.to_string()), "{error}");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::StorageFull);
        check_space(1 << 20).unwrap();
    }
}
