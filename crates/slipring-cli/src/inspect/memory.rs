//! What lies in the memory of a channel: checks, rings, frames, and what the worker says of itself.

use slipring::inspect::{
    ChannelMemory, FrameInRing, Layout, RingMemory, Verdict, WaitWord, WorkerLines,
};

use super::text::{Text, bytes, nanos};

/// `host` is the process id of the host here.
pub(super) fn describe(text: &mut Text, memory: &ChannelMemory, host: u32) {
    let count = |verdict| memory.checks.iter().filter(|check| check.verdict == verdict).count();
    let all = memory.checks.len();
    let verdict = match (count(Verdict::Wrong), count(Verdict::Moved), count(Verdict::Skipped)) {
        (0, 0, 0) => format!("all {all} checks are passed"),
        (wrong, moved, skipped) => {
            format!("of {all} checks {wrong} fail, {moved} moved on, {skipped} are left out")
        }
    };
    text.line(1, format!("memory      {:016x}: {verdict}", memory.id));
    for check in &memory.checks {
        let why = if check.why.is_empty() { "" } else { ": " };
        text.line(2, format!("{:<8}{}{why}{}", check.verdict.name(), check.name, check.why));
    }
    if let Some(layout) = &memory.layout {
        describe_layout(text, layout, host);
    }
    if let Some(worker) = &memory.worker {
        describe_worker(text, worker);
    }
    for ring in &memory.rings {
        describe_ring(text, ring);
    }
}

fn describe_layout(text: &mut Text, layout: &Layout, host: u32) {
    let Layout { version, host_pid, worker_pid, host_library, worker_library, .. } = layout;
    text.line(2, format!("layout {version}, {} requests at most", layout.max_in_flight));
    let (host_region, worker_region) = (bytes(layout.host_region), bytes(layout.worker_region));
    // The headers have the ids of the host's pid namespace.
    let inside = if *host_pid == host { "" } else { " (inside)" };
    let of_host = format!("{host_pid}{inside}, {host_library}, region of {host_region}");
    text.line(2, format!("host    process {of_host}"));
    let of_worker = format!("{worker_pid}{inside}, {worker_library}, region of {worker_region}");
    text.line(2, format!("worker  process {of_worker}"));
}

fn describe_worker(text: &mut Text, worker: &WorkerLines) {
    let mut line = format!(
        "        {}, {} requests served, {} B in, {} B out, health thread {}",
        worker.state, worker.served, worker.bytes_in, worker.bytes_out, worker.health_thread
    );
    if worker.has_ended {
        line.push_str(", which has ended");
    }
    if worker.is_abort_set {
        line.push_str("; the host has set the abort flag");
    }
    if worker.cancelled > 0 {
        line.push_str(&format!("; {} requests were cancelled", worker.cancelled));
    }
    text.line(2, line);
    for mark in &worker.marks {
        let waits = if mark.awaits_credit { ", waits for its reader" } else { "" };
        text.line(
            3,
            format!(
                "request {} {} {} ago, progress {}{waits}",
                mark.request,
                mark.stage,
                nanos(mark.age_ns),
                mark.progress
            ),
        );
    }
    more(text, worker.mark_count, worker.marks.len(), "requests");
}

fn describe_ring(text: &mut Text, ring: &RingMemory) {
    let RingMemory { name, offset, capacity, head, notified, end, .. } = ring;
    let (capacity, cap) = (bytes(*capacity), bytes(u64::from(ring.max_frame)));
    text.line(2, format!("ring of {name}: {capacity} at {offset}, frames of at most {cap}"));
    let used = end.wrapping_sub(*head);
    let padding = match ring.padding {
        0 => String::new(),
        padding => format!(", padding of {padding} B"),
    };
    let moving = if ring.is_moving { "; it moves on, frames may be missing" } else { "" };
    text.line(
        3,
        format!("head {head}, notified {notified}, end {end}: {used} B in use{padding}{moving}"),
    );
    let waits = |wait: &WaitWord, still: &str, what: &str| {
        let how = if wait.by_descriptor { " by its descriptor" } else { "" };
        let WaitWord { position, is_to_come, .. } = wait;
        match is_to_come {
            true => format!("{still} {what} {position}{how}"),
            false => format!("last waited for {what} {position}{how}"),
        }
    };
    let frame = ring.reader_waits.as_ref().map(|wait| waits(wait, "waits for", "the frame at"));
    let room = ring.writer_waits.as_ref().map(|wait| waits(wait, "waits for", "a head of"));
    let never = || "has never waited".to_owned();
    let cpu = ring.reader_cpu.map(|cpu| format!(" on processor {cpu}")).unwrap_or_default();
    text.line(
        3,
        format!(
            "reader {}{cpu}; writer {}; bell {}",
            frame.unwrap_or_else(never),
            room.unwrap_or_else(never),
            ring.bell
        ),
    );
    ring.frames.iter().for_each(|frame| describe_frame(text, frame));
    more(text, ring.frame_count, ring.frames.len(), "frames");
}

fn describe_frame(text: &mut Text, frame: &FrameInRing) {
    let FrameInRing { position, kind_name, request, len, aux, .. } = frame;
    let mut line = format!("{position:>12}  {kind_name}, request {request}, {len} B");
    const FLAGS: [&str; 5] = ["stream", "more follows", "goes on", "abandoned", "traced"];
    let named = FLAGS.iter().zip(0..).filter(|(_, bit)| frame.flags & (1 << bit) != 0);
    named.for_each(|(name, _)| line.push_str(&format!(", {name}")));
    if frame.flags > 31 {
        line.push_str(&format!(", flags {:#x}", frame.flags));
    }
    if *aux != 0 {
        line.push_str(&format!(", aux {aux}"));
    }
    if let Some(trace) = &frame.trace {
        line.push_str(&format!(", trace {trace}"));
    }
    if let Some(stage) = frame.stage {
        line.push_str(&format!(": {stage}"));
    }
    text.line(3, line);
    let digits: Vec<char> = frame.payload.chars().collect();
    for bytes in digits.chunks(64) {
        let pairs = bytes.chunks(2).map(|pair| pair.iter().collect::<String>());
        text.line(4, format!("            {}", pairs.collect::<Vec<_>>().join(" ")));
    }
}

/// Says that a list was cut.
fn more(text: &mut Text, all: u64, shown: usize, what: &str) {
    let left = all.saturating_sub(u64::try_from(shown).unwrap_or(u64::MAX));
    if left > 0 {
        text.line(3, format!("{left} more {what}"));
    }
}
