//! The thread that brings the page up to date, and what it asks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Weak};
use std::time::Duration;

use super::layout::BLOCKS;
use super::process;
use super::row::Row;
use super::writer::{Header, Writer};
use crate::error::Result;
use crate::process::service::start_thread;
use crate::shm::layout::as_u64;
use crate::sync::plain::{Condvar, Mutex};
use crate::sys::clock::now_ns;
use crate::sys::fork;

/// How long the thread sleeps between two rounds.
const PERIOD: Duration = Duration::from_secs(1);

/// The variable of the environment that gives a process a page, if it is 1.
const VARIABLE: &str = "SLIPRING_STATUS_PAGE";

/// What a row can be made of.
pub(crate) trait Source: Send + Sync {
    /// Describes itself; `None` to be left out. Called by a thread of the library's once a second. It
    /// may take locks that are held for short times only.
    fn row(&self, id: u64) -> Option<Row>;
}

/// What is described.
#[derive(Default)]
struct Sources {
    all: Vec<Listed>,
    last_id: u64,
    /// Whether the thread runs.
    is_running: bool,
}

#[derive(Clone)]
struct Listed {
    id: u64,
    source: Weak<dyn Source>,
    /// Its block, once it has one.
    block: Option<usize>,
}

/// The one list of the process. Its lock is held for moments, and never while a source is asked.
static SOURCES: LazyLock<(Mutex<Sources>, Condvar)> = LazyLock::new(Default::default);
/// Whether the process has a page once there is something to describe.
static IS_ON: LazyLock<AtomicBool> =
    LazyLock::new(|| AtomicBool::new(std::env::var_os(VARIABLE).is_some_and(|value| value == "1")));

/// Has the page describe this, until it is dropped. Makes the page, unless there is one or the process
/// wants none. Failures are not told: nothing depends on the page.
pub(crate) fn add(source: Weak<dyn Source>) {
    if !IS_ON.load(Ordering::Relaxed) || fork::is_forked_child() {
        return;
    }
    let mut sources = SOURCES.0.lock();
    sources.last_id += 1;
    let id = sources.last_id;
    sources.all.push(Listed { id, source, block: None });
    let starts = !std::mem::replace(&mut sources.is_running, true);
    drop(sources);
    if starts && start_thread("slipring-status", run).is_err() {
        SOURCES.0.lock().is_running = false;
    }
}

/// Gives the process a page, with what is made from now on.
pub(super) fn turn_on() {
    IS_ON.store(true, Ordering::Relaxed);
}

/// Removes the page, and has no other one made.
pub(super) fn turn_off() {
    if fork::is_forked_child() {
        return;
    }
    IS_ON.store(false, Ordering::Relaxed);
    let (sources, changed) = &*SOURCES;
    let mut sources = sources.lock();
    sources.all.clear();
    changed.notify_all();
    while sources.is_running {
        sources = changed.wait_timeout(sources, PERIOD);
    }
}

/// What the thread does: a round each second, as long as there is something to describe.
fn run() {
    let mut page = Writer::create().ok();
    loop {
        let listed = next_round();
        if listed.is_empty() {
            // The page is gone before the thread counts as ended: `turn_off` waits for that.
            drop(page.take());
            let (sources, changed) = &*SOURCES;
            let mut sources = sources.lock();
            if sources.all.is_empty() {
                sources.is_running = false;
                changed.notify_all();
                return;
            }
            drop(sources);
            page = Writer::create().ok();
            continue;
        }
        if let Some(writer) = &mut page
            && write(writer, &listed).is_err()
        {
            // There is no memory. Half a page says less than none.
            page = None;
        }
        let (sources, changed) = &*SOURCES;
        let sources = sources.lock();
        if !sources.all.is_empty() {
            drop(changed.wait_timeout(sources, PERIOD));
        }
    }
}

/// What is to be described now, all of which have a block if there is one.
fn next_round() -> Vec<Listed> {
    let mut sources = SOURCES.0.lock();
    sources.all.retain(|listed| listed.source.strong_count() > 0);
    let mut is_used = vec![false; BLOCKS];
    for block in sources.all.iter().filter_map(|listed| listed.block) {
        is_used.get_mut(block).into_iter().for_each(|used| *used = true);
    }
    let mut free = is_used.iter().enumerate().filter(|(_, used)| !**used).map(|(block, _)| block);
    for listed in sources.all.iter_mut().filter(|listed| listed.block.is_none()) {
        listed.block = free.next();
    }
    sources.all.clone()
}

/// Writes the rows, frees what is not used, and then the heartbeat.
fn write(page: &mut Writer, listed: &[Listed]) -> Result<()> {
    let mut rows: Vec<Option<Row>> = Vec::new();
    for listed in listed {
        let Some(block) = listed.block else { continue };
        // The last owner of a source drops code of the host's, which may panic.
        let row = || listed.source.upgrade()?.row(listed.id);
        let row = catch_unwind(AssertUnwindSafe(row)).ok().flatten();
        rows.resize_with(rows.len().max(block + 1), || None);
        if let Some(place) = rows.get_mut(block) {
            *place = row;
        }
    }
    page.write_rows(&rows)?;
    page.write_header(&Header {
        pid: std::process::id(),
        start_time: process::start_time("self").unwrap_or(0),
        heartbeat: now_ns(),
        period: u64::try_from(PERIOD.as_nanos()).unwrap_or(u64::MAX),
        omitted: as_u64(listed.iter().filter(|listed| listed.block.is_none()).count()),
        blocks: page.blocks(),
    })
}
