//! What lies beside the rings: the worker's lines and marks, and the host's table of requests.

use std::io;

use super::memory::{Memory, u32_at, u64_at};
use super::report::{Check, FrameInRing, Options, RequestMark, Verdict, WorkerLines};
use crate::error::Stage;
use crate::shm::layout::{
    Geometry, MARK_WORDS, REQUEST_WORDS, as_u64, as_usize, control, request_entry,
};
use crate::sys::clock::now_ns;

/// How often a table in which something looks wrong is read: a word may be torn.
const LOOKS: usize = 3;

/// Bits of a mark that hold the stage.
const STAGE_BITS: u32 = 3;

/// A table of a region: as many words for each request in flight.
struct Table<const WORDS: usize> {
    bytes: Vec<u8>,
}

impl<const WORDS: usize> Table<WORDS> {
    fn read(memory: &dyn Memory, geometry: &Geometry) -> io::Result<Self> {
        let entries = as_usize(u64::from(geometry.request_count));
        let mut bytes = vec![0; entries * WORDS * 8];
        memory.read_at(geometry.requests_offset, &mut bytes)?;
        Ok(Self { bytes })
    }

    fn len(&self) -> u64 {
        as_u64(self.bytes.len() / (WORDS * 8))
    }

    fn entry(&self, index: usize) -> [u64; WORDS] {
        std::array::from_fn(|word| u64_at(&self.bytes, (index * WORDS + word) * 8))
    }

    fn entries(&self) -> impl Iterator<Item = (usize, [u64; WORDS])> + '_ {
        (0..as_usize(self.len())).map(|index| (index, self.entry(index)))
    }
}

/// The worker's marks.
pub(super) struct Marks(Table<MARK_WORDS>);

impl Marks {
    pub(super) fn read(up: &dyn Memory, geometry: &Geometry) -> io::Result<Self> {
        Table::read(up, geometry).map(Self)
    }

    /// How far the worker is with a request; `None` of a worker that stores no marks.
    fn stage_of(&self, request: u64) -> Option<&'static str> {
        let [mark, ..] = self.0.entry(request_entry(request, self.0.len()));
        let marked = mark >> STAGE_BITS;
        Some(match marked {
            _ if marked == request => stage_name(mark)?,
            // The host sends no other request for the same entry before this one has ended.
            _ if marked > request => "done",
            _ => "waiting",
        })
    }

    /// Adds to each frame how far the worker is with its request.
    pub(super) fn explain(&self, frames: &mut [FrameInRing]) {
        for frame in frames.iter_mut().filter(|frame| frame.request != 0) {
            frame.stage = self.stage_of(frame.request);
        }
    }

    /// The requests that are in the worker's hands, the oldest first.
    fn in_hand(&self) -> Vec<RequestMark> {
        let now = now_ns();
        let in_hand = |(_, [mark, since, progress, credit]): (_, [u64; MARK_WORDS])| {
            let stage = stage_name(mark).filter(|stage| matches!(*stage, "taken" | "begun"))?;
            let age_ns = now.saturating_sub(since);
            let (request, awaits_credit) = (mark >> STAGE_BITS, credit != 0);
            Some(RequestMark { request, stage, age_ns, progress, awaits_credit })
        };
        let mut marks: Vec<_> = self.0.entries().filter_map(in_hand).collect();
        marks.sort_by_key(|mark| std::cmp::Reverse(mark.age_ns));
        marks
    }

    fn fault(&self) -> Option<String> {
        let (len, mut entries) = (self.0.len(), self.0.entries());
        entries.find_map(|(index, [mark, ..])| {
            let is_right = mark == 0
                || stage_name(mark).is_some() && request_entry(mark >> STAGE_BITS, len) == index;
            (!is_right).then(|| format!("mark {index} is {mark:#x}"))
        })
    }
}

fn stage_name(mark: u64) -> Option<&'static str> {
    Some(match Stage::from_code(mark & ((1 << STAGE_BITS) - 1))? {
        Stage::Taken => "taken",
        Stage::Begun => "begun",
        Stage::Answered => "answered",
        Stage::Done => "done",
    })
}

/// Reads the lines of both sides that belong to no ring.
pub(super) fn worker_lines(
    down: &dyn Memory,
    up: &dyn Memory,
    [ours, theirs]: [&Geometry; 2],
    options: &Options,
) -> io::Result<(WorkerLines, Marks, Vec<Check>)> {
    let line = |memory: &dyn Memory, at: usize| -> io::Result<[u8; 32]> {
        let mut line = [0; 32];
        memory.read_at(as_u64(at), &mut line)?;
        Ok(line)
    };
    let (status, owner) = (line(up, control::STATUS)?, line(up, control::OWNER)?);
    let abort = line(down, control::ABORT)?;
    let (state, owner) = (u32_at(&status, 0), u32_at(&owner, 0));
    let marks = settled(|| Marks::read(up, theirs), Marks::fault)?;
    let requests = settled(|| Table::<REQUEST_WORDS>::read(down, ours), cancel_fault)?;
    let in_hand = marks.in_hand();
    let cancelled = requests.entries().filter(|(_, [cancelled, _])| *cancelled != 0);
    let lines = WorkerLines {
        state: match state {
            0 => "starting",
            1 => "serving",
            2 => "stopping",
            _ => "unknown",
        },
        served: u64_at(&status, 8),
        bytes_in: u64_at(&status, 16),
        bytes_out: u64_at(&status, 24),
        health_thread: owner & libc::FUTEX_TID_MASK,
        has_ended: owner & libc::FUTEX_OWNER_DIED != 0,
        is_abort_set: u32_at(&abort, 0) != 0,
        mark_count: as_u64(in_hand.len()),
        marks: in_hand.into_iter().take(options.frames).collect(),
        cancelled: as_u64(cancelled.count()),
    };
    let state = (state > 2).then(|| format!("state {state}, which this version does not know"));
    let checks = vec![
        check("worker's state", state),
        check("worker's marks", marks.fault()),
        check("cancelled requests", cancel_fault(&requests)),
    ];
    Ok((lines, marks, checks))
}

fn cancel_fault(table: &Table<REQUEST_WORDS>) -> Option<String> {
    table.entries().find_map(|(index, [cancelled, _])| {
        let is_right = cancelled == 0 || request_entry(cancelled, table.len()) == index;
        (!is_right).then(|| format!("entry {index} is of request {cancelled}"))
    })
}

/// Reads a table until nothing is wrong with it, a few times at most.
fn settled<T>(
    read: impl Fn() -> io::Result<T>,
    fault: impl Fn(&T) -> Option<String>,
) -> io::Result<T> {
    let mut table = read()?;
    for _ in 1..LOOKS {
        if fault(&table).is_none() {
            break;
        }
        table = read()?;
    }
    Ok(table)
}

/// A check that was made.
pub(super) fn check(name: &str, fault: Option<String>) -> Check {
    let verdict = if fault.is_some() { Verdict::Wrong } else { Verdict::Ok };
    Check { name: name.to_owned(), verdict, why: fault.unwrap_or_default() }
}
