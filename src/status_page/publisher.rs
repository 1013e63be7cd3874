//! The thread that brings the page up to date, and what it asks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering, fence};
use std::sync::{LazyLock, Weak};
use std::time::Duration;

use super::layout::BLOCKS;
use super::row::Row;
use super::writer::{Header, Writer};
use crate::error::{Error, Result};
use crate::process::proc_stat::ProcStat;
use crate::process::service::start_thread;
use crate::shm::layout::as_u64;
use crate::sync::plain::{Condvar, Mutex};
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::variables::{STATUS_PAGE, value};
use crate::sys::{activity, fork};

/// How long the thread sleeps between two rounds while something changes. While nothing does, each
/// sleep is twice as long as the one before.
const PERIOD: Duration = Duration::from_secs(1);
/// The longest sleep while something goes on that may change without the host: the progress of a
/// request, or a reply that the host holds.
const LONGEST_UNSETTLED: Duration = Duration::from_secs(4);
/// The longest sleep. Whatever happens ends it.
const LONGEST: Duration = Duration::from_secs(64);

/// What a row can be made of. Its functions are called by a thread of the library's, and may take locks
/// that are held for short times only.
pub(crate) trait Source: Send + Sync {
    /// Returns a checksum that changes whenever the row does, but for the time that passes. Cheap: it is
    /// asked for in each round. `is_settled` says that of the last row.
    fn look(&self, is_settled: bool) -> u64;

    /// Describes itself at `now`, in nanoseconds of the monotonic clock; `None` to be left out.
    fn row(&self, id: u64, now: u64) -> Option<Row>;
}

/// What is shared with the thread.
#[derive(Default)]
struct Inbox {
    /// What is to be described from the next round on.
    new: Vec<Listed>,
    last_id: u64,
    /// Whether the thread runs.
    is_running: bool,
    /// Whether the page is to be removed.
    is_to_end: bool,
}

/// What is described.
struct Listed {
    id: u64,
    source: Weak<dyn Source>,
    /// Its block, once it has one.
    block: Option<usize>,
    /// What it looked like when its block was written.
    looked: Option<u64>,
    /// Whether nothing of it changes then before the host does something with it.
    is_settled: bool,
}

/// The one inbox of the process. Its lock is held for moments, and never while a source is asked.
static INBOX: LazyLock<(Mutex<Inbox>, Condvar)> = LazyLock::new(Default::default);

/// Whether the process has a page once there is something to describe. A plain word, so that a child that
/// is forked meanwhile never waits for it.
static WISH: AtomicU8 = AtomicU8::new(NOT_SAID);
/// The variable has not been looked at, and no function was called.
const NOT_SAID: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

fn is_on() -> bool {
    if WISH.load(Ordering::Relaxed) == NOT_SAID {
        let is_on = value(STATUS_PAGE).is_none_or(|value| value != "0");
        let said = if is_on { ON } else { OFF };
        let _ = WISH.compare_exchange(NOT_SAID, said, Ordering::Relaxed, Ordering::Relaxed);
    }
    WISH.load(Ordering::Relaxed) == ON
}

/// Has the page describe this, until it is dropped. Makes the page, unless there is one or the process
/// wants none. Failures are not told: nothing depends on the page.
pub(crate) fn add(source: Weak<dyn Source>) {
    // Pairs with the fence in `turn_off`, which may find that the library was not used before this.
    fence(Ordering::SeqCst);
    if fork::is_forked_child() || !is_on() {
        return;
    }
    let mut inbox = INBOX.0.lock();
    // Again: `turn_off` may be done meanwhile.
    if !is_on() {
        return;
    }
    inbox.last_id += 1;
    let id = inbox.last_id;
    inbox.new.push(Listed { id, source, block: None, looked: None, is_settled: false });
    let starts = !std::mem::replace(&mut inbox.is_running, true);
    drop(inbox);
    if !starts {
        activity::note();
    } else if start().is_err() {
        end(&mut INBOX.0.lock(), Vec::new());
    }
}

/// Makes the page and starts its thread. The page is made here, so that the thread itself never opens a
/// descriptor: a host that has closed its standard streams would see it take their numbers for a moment.
fn start() -> Result<()> {
    let unknown = |e| Error::os("cannot see when this process began", e);
    let began = ProcStat::of("self").map_err(unknown)?.map_or(0, |stat| stat.start_time);
    let page = Writer::create(began)?;
    start_thread("slipring-status", move || run(page))
        .map_err(|e| Error::os("cannot start the thread of the status page", e))
}

/// There is no page any more. What still is to be described waits for the next one, which the next channel
/// or role makes.
fn end(inbox: &mut Inbox, mut listed: Vec<Listed>) {
    let is_to_end = std::mem::take(&mut inbox.is_to_end);
    inbox.is_running = false;
    inbox.new.append(&mut listed);
    inbox.new.retain(|listed| !is_to_end && listed.source.strong_count() > 0);
    for listed in &mut inbox.new {
        (listed.block, listed.looked) = (None, None);
    }
    INBOX.1.notify_all();
}

/// Gives the process a page, with what is made from now on.
pub(super) fn turn_on() {
    WISH.store(ON, Ordering::Relaxed);
}

/// Removes the page, and has no other one made.
pub(super) fn turn_off() {
    WISH.store(OFF, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    // Also where the library was not used yet: there is no page then.
    if fork::is_forked_child() {
        return;
    }
    let (inbox, changed) = &*INBOX;
    let mut inbox = inbox.lock();
    inbox.new.clear();
    inbox.is_to_end = inbox.is_running;
    while inbox.is_to_end {
        activity::hurry();
        inbox = changed.wait_timeout(inbox, PERIOD);
    }
}

/// What the thread does: rounds, as long as there is something to describe.
fn run(mut page: Writer) {
    let (mut listed, mut period) = (Vec::new(), PERIOD);
    loop {
        let mut inbox = INBOX.0.lock();
        listed.append(&mut inbox.new);
        listed.retain(|listed| listed.source.strong_count() > 0);
        if inbox.is_to_end || listed.is_empty() {
            // `turn_off` waits until it is gone.
            drop(page);
            return end(&mut inbox, listed);
        }
        drop(inbox);
        activity::before_look();
        let began = now_ns();
        let written = write_rows(&mut page, &mut listed, began).and_then(|found| {
            let longest = if found.is_settled { LONGEST } else { LONGEST_UNSETTLED };
            period = match found.has_changed {
                true => PERIOD,
                false => longest.min(period.saturating_mul(2)),
            };
            write_header(&mut page, &listed, period)
        });
        if written.is_err() {
            // There is no memory. Half a page says less than none.
            drop(page);
            return end(&mut INBOX.0.lock(), listed);
        }
        activity::sleep(Deadline::from(began, PERIOD), Deadline::from(began, period));
    }
}

/// What a round has found.
struct Round {
    has_changed: bool,
    /// Whether nothing can change without the host.
    is_settled: bool,
}

/// Writes the rows of what has changed, and frees the blocks of what is gone.
fn write_rows(page: &mut Writer, listed: &mut [Listed], now: u64) -> Result<Round> {
    let mut is_used = vec![false; page.blocks()];
    let mut round = Round { has_changed: false, is_settled: true };
    for block in listed.iter().filter_map(|listed| listed.block) {
        is_used.get_mut(block).into_iter().for_each(|used| *used = true);
    }
    for (block, _) in is_used.iter().enumerate().filter(|(_, used)| !**used) {
        round.has_changed |= page.free(block)?;
    }
    let mut free = is_used.iter().enumerate().filter(|(_, used)| !**used).map(|(block, _)| block);
    let mut behind = is_used.len()..BLOCKS;
    for listed in listed {
        if listed.block.is_none() {
            listed.block = free.next().or_else(|| behind.next());
        }
        let Some(block) = listed.block else { continue };
        // The last owner of a source drops code of the host's, which may panic.
        let looked = catch_unwind(AssertUnwindSafe(|| look(listed, now)));
        match looked.unwrap_or(Looked::Gone) {
            Looked::Same => {}
            Looked::Gone => round.has_changed |= page.free(block)?,
            Looked::Row(row, looked) => {
                round.has_changed |= page.write_row(block, &row, now)?;
                (listed.looked, listed.is_settled) = (Some(looked), row.is_settled());
            }
        }
        round.is_settled &= listed.is_settled;
    }
    Ok(round)
}

enum Looked {
    /// Its block says what there is to say.
    Same,
    Gone,
    /// What it is now, and what it looked like before that.
    Row(Box<Row>, u64),
}

fn look(listed: &Listed, now: u64) -> Looked {
    let Some(source) = listed.source.upgrade() else { return Looked::Gone };
    if listed.looked == Some(source.look(listed.is_settled)) {
        return Looked::Same;
    }
    // Before the row: what changes meanwhile makes the next look another one.
    let [settled, unsettled] = [true, false].map(|is_settled| source.look(is_settled));
    let Some(row) = source.row(listed.id, now) else { return Looked::Gone };
    let looked = if row.is_settled() { settled } else { unsettled };
    Looked::Row(Box::new(row), looked)
}

/// Writes the heartbeat, and when the next one will be.
fn write_header(page: &mut Writer, listed: &[Listed], period: Duration) -> Result<()> {
    page.write_header(&Header {
        pid: std::process::id(),
        start_time: page.start_time,
        heartbeat: now_ns(),
        period: u64::try_from(period.as_nanos()).unwrap_or(u64::MAX),
        omitted: as_u64(listed.iter().filter(|listed| listed.block.is_none()).count()),
        blocks: page.blocks(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Numbers, RoleNumbers, Times, host};
    use super::*;
    use crate::process::testing::{alone, forbid, threads_named};

    /// Describes itself as idle.
    struct Idle;

    impl Source for Idle {
        fn look(&self, _: bool) -> u64 {
            7
        }

        fn row(&self, id: u64, _: u64) -> Option<Row> {
            Some(Row {
                id,
                role: "idle".into(),
                note: String::new(),
                numbers: Numbers::Role(RoleNumbers::default()),
                errors: Vec::new(),
                first_times: Times::default(),
                second_times: Times::default(),
            })
        }
    }

    /// Describes itself as often as it is listed.
    fn add_to_page(source: &Arc<Idle>) {
        let weak: Weak<dyn Source> = Arc::<Idle>::downgrade(source);
        add(weak);
    }

    fn rows() -> Option<usize> {
        host(std::process::id()).unwrap().map(|host| host.rows.len())
    }

    fn until(is_so: impl Fn() -> bool) {
        let deadline = Deadline::after(Duration::from_secs(60));
        while !is_so() {
            assert!(!deadline.has_passed());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn what_is_gone_leaves_the_page_and_the_last_one_ends_it() {
        alone(|| {
            fork::watch().unwrap();
            let (one, other) = (Arc::new(Idle), Arc::new(Idle));
            (0..2500).for_each(|_| add_to_page(&one));
            add_to_page(&other);
            until(|| rows() == Some(BLOCKS));
            assert_eq!(host(std::process::id()).unwrap().unwrap().omitted, 453);
            drop(one);
            activity::note();
            until(|| rows() == Some(1));
            drop(other);
            activity::note();
            until(|| rows().is_none() && threads_named("slipring-status") == 0);
            // And again.
            let again = Arc::new(Idle);
            add_to_page(&again);
            until(|| rows() == Some(1));
            turn_off();
            assert_eq!(rows(), None);
            add_to_page(&again);
            assert_eq!(rows(), None);
        });
    }

    #[test]
    fn a_process_that_may_not_have_a_thread_or_a_memfd_has_no_page() {
        alone(|| {
            fork::watch().unwrap();
            forbid([libc::SYS_clone3, libc::SYS_clone], libc::EAGAIN);
            let source = Arc::new(Idle);
            let has_none = || {
                add_to_page(&source);
                add_to_page(&source);
                assert_eq!((rows(), threads_named("slipring-status")), (None, 0));
                // What there is waits for a page.
                assert!(!INBOX.0.lock().new.is_empty());
                turn_off();
                assert!(INBOX.0.lock().new.is_empty());
                turn_on();
            };
            has_none();
            forbid([libc::SYS_memfd_create; 2], libc::EPERM);
            has_none();
        });
    }
}
