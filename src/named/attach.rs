//! The worker's side: finding the segments, checking them, claiming them.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Tuning;
use crate::error::{Error, ErrorKind, Result};
use crate::link::WorkerLink;
use crate::named::layout::{ATTACHED, CLOSED, DETACHED, MAKER_STATE, MakerLine, OPEN, claim};
use crate::named::names;
use crate::named::peer::{self, Process, health_event, sleep_events};
use crate::named::segment::{Segment, c_library};
use crate::protocol::RoleConfig;
use crate::protocol::handshake::{copy_from_number, wait_from_numbers};
use crate::protocol::role::check_name;
use crate::ring::copy_choice::FINDINGS;
use crate::shm::layout::{RegionHeader, Side, as_u64};
use crate::shm::region::Regions;
use crate::shm::transport::{Backing, SharedEvent};
use crate::shm::words::OwnU32;
use crate::sync::Ordering;
use crate::sys::clock::Deadline;
use crate::sys::fork;
use crate::worker::{StopToken, Worker};

/// How often a channel that is not there yet is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

impl<S> Worker<S> {
    /// Attaches to the channel that another process of the same user makes under `name`
    /// with [`named::create`](crate::named::create), and serves it until the parent says
    /// to end or is gone. Waits for at most `timeout` until the channel is there, then
    /// blocks the calling thread for as long as it serves. The role that the session's
    /// builder gets is the name.
    ///
    /// A parent that is killed is noticed within about half a second; this returns when
    /// the handler that runs then has returned. See [`named`](crate::named) for what else
    /// is different from a worker that the parent has started.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Handshake`] if there is no such channel within `timeout`, or only one
    /// whose maker is gone; [`ErrorKind::Mismatch`], naming both values, for the first of
    /// type, owner, mode, size, versions, C library, pid namespace and geometry that is not
    /// as it must be, and if another worker is attached; otherwise as [`Worker::serve`].
    pub fn serve_named(self, name: &str, timeout: Duration) -> Result<()> {
        self.check()?;
        check_name("channel", name)?;
        fork::watch()?;
        let deadline = Deadline::after(timeout);
        let attached = loop {
            match attach(name)? {
                Found::Channel(attached) => break *attached,
                Found::NotYet(why) if deadline.has_passed() => {
                    let message = format!("no channel {name} to attach to: {why}");
                    return Err(Error::new(ErrorKind::Handshake, message));
                }
                Found::NotYet(_) => std::thread::sleep(LOOK_EVERY.min(deadline.remaining())),
            }
        };
        attached.serve(name, self)
    }
}

/// The result of a look for a channel.
enum Found {
    Channel(Box<Attached>),
    /// The reason why no channel can be attached to now. There may be one later.
    NotYet(String),
}

/// A worker that has claimed its channel.
struct Attached {
    link: WorkerLink,
    down: Arc<Segment>,
    up: Arc<Segment>,
    parent: Process,
    claim: Claim,
}

/// The worker's claim on its channel. Dropping it tells the parent.
struct Claim {
    state: OwnU32,
    wakes_parent: SharedEvent,
}

impl Claim {
    fn tell(&self, state: u32) {
        // Pairs with the Acquire load in `PeerClaim::state`: the parent sees all that came before.
        self.state.store(state, Ordering::Release);
        self.wakes_parent.set();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !fork::is_forked_child() {
            self.tell(DETACHED);
        }
    }
}

/// Checks and claims the channel, if it is there.
fn attach(name: &str) -> Result<Found> {
    let not_yet = |why: &str| Ok(Found::NotYet(why.to_owned()));
    let this = Process::this()?;
    let Some(down) = Segment::open(&names::down_id(name))? else {
        return not_yet("no process has made it");
    };
    let down = Arc::new(down);
    let peer = down.peer();
    let Some(line) = MakerLine::read(&peer)? else { return not_yet("it is being made") };
    let MakerLine { pid, start_time, namespace, .. } = line;
    let parent = Process { pid, start_time, namespace };
    check_maker(&line, &this)?;
    // Pairs with the Release stores of the maker: if it is open, all of the header is there.
    let state = peer.u32_at(MAKER_STATE)?.load(Ordering::Acquire);
    if !parent.is_alive() {
        return Ok(Found::NotYet(format!("process {pid}, which made it, is gone")));
    }
    match state {
        0 => return not_yet("it is being made"),
        OPEN => {}
        CLOSED => return not_yet("it is closed"),
        other => {
            return Err(Error::mismatch(format!("state {other} of a channel, expected 0 to 2")));
        }
    }
    let header = RegionHeader::parse(&peer.header_bytes(), Side::Down, as_u64(down.len()))?;

    let Some(up) = Segment::open(&names::up_id(name))? else {
        return not_yet("its other segment is gone");
    };
    let up = Arc::new(up);
    let other = MakerLine::read(&up.peer())?;
    if other != Some(line) || header.channel != line.channel {
        return not_yet("its two segments are of different channels");
    }
    let (up_len, wanted) = (as_u64(up.len()), header.peer.region_len);
    if up_len != wanted {
        return Err(Error::mismatch(format!("up segment of {up_len} bytes, expected {wanted}")));
    }
    down.adopt_events()?;
    up.adopt_events()?;
    up.keep_from_forks();
    let own = up.own()?;
    let claim =
        Claim { state: claim(&own, this.pid, this.start_time)?, wakes_parent: health_event(&up)? };
    let wait = wait_from_numbers(line.wait, line.spin);
    let (copy, found_copies) = copy_from_number(line.copy);
    FINDINGS.begin_with(found_copies);
    let tuning = Tuning { wait, copy };
    let mut link = WorkerLink::over(Regions { own, peer, header }, tuning, None)?;
    // The parent of a named channel does not watch the robust word.
    link.owner = None;
    link.words.tell_what_is_understood();
    claim.tell(ATTACHED);
    Ok(Found::Channel(Box::new(Attached { link, down, up, parent, claim })))
}

fn check_maker(line: &MakerLine, this: &Process) -> Result<()> {
    if line.namespace != this.namespace {
        let (found, own) = (line.namespace, this.namespace);
        return Err(Error::mismatch(format!("made in pid namespace {found}, this one is {own}")));
    }
    if line.c_library != c_library() {
        let text = |tag: &[u8]| String::from_utf8_lossy(tag).trim_end_matches('\0').to_owned();
        let (found, own) = (text(&line.c_library), text(&c_library()));
        return Err(Error::mismatch(format!("made with C library {found:?}, this one is {own:?}")));
    }
    Ok(())
}

impl Attached {
    fn serve<S>(self, name: &str, worker: Worker<S>) -> Result<()> {
        let Self { link, down, up, parent, claim } = self;
        let stop = Arc::<StopToken>::default();
        stop.alarm.also_set(sleep_events(&down));
        let state = down.peer().u32_at(MAKER_STATE)?;
        let wakes_watch = health_event(&down)?;
        let is_over = {
            let stop = Arc::clone(&stop);
            move || stop.is_set() || state.load(Ordering::Acquire) != OPEN
        };
        let at_end = {
            let stop = Arc::clone(&stop);
            move || stop.set()
        };
        peer::watch("slipring-parent", parent, wakes_watch, is_over, [down, up], at_end)?;
        let role = RoleConfig { role: name.to_owned(), ..RoleConfig::default() };
        let served = worker.serve_link(link, &role, &stop);
        // This ends the watch.
        stop.set();
        drop(claim);
        served
    }
}
