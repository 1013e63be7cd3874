//! What the status page tells of a channel, and in a line of a role.

use slipring::named::Present;
use slipring::status_page::{ChannelNumbers, RoleNumbers, Row};

use super::text::{Text, bytes, nanos};

pub(super) fn describe(text: &mut Text, row: &Row, numbers: &ChannelNumbers) {
    let n = numbers;
    let state = match n.state {
        1 => "open",
        2 => "closing",
        3 => "closed",
        4 => "its worker died",
        5 => "failed",
        _ => "in an unknown state",
    };
    let worker = match (n.state, n.worker_state) {
        (1, 1) => ", the worker starts",
        (1, 2) => ", the worker is idle",
        (1, 3) => ", the worker is busy",
        (1, 4) => ", the worker waits for its readers",
        (1, 5) => ", the worker stops",
        _ => "",
    };
    let (role, id) = (&row.role, row.id);
    let pid = row.pid.map_or_else(|| format!("{} (inside)", n.pid_inside), |pid| pid.to_string());
    text.line(0, format!("channel {role}#{id} to process {pid}: {state}{worker}"));
    let oldest = match n.busy_for {
        0 => String::new(),
        busy => format!(", the oldest since {}", nanos(busy)),
    };
    text.line(
        1,
        format!(
            "in flight   {} of {} requests: {} taken, {} begun{oldest}",
            n.in_flight, n.max_in_flight, n.taken, n.begun
        ),
    );
    text.line(
        1,
        format!(
            "requests    {} of {} in the ring, {} at most so far; frames of at most {}",
            bytes(n.request_ring_used),
            bytes(n.request_ring_capacity),
            bytes(n.request_ring_high_water),
            bytes(n.max_request_frame)
        ),
    );
    text.line(
        1,
        format!(
            "replies     {} of {} in the ring, {} at most so far, {} of them held; frames of at most {}",
            bytes(n.reply_ring_used),
            bytes(n.reply_ring_capacity),
            bytes(n.reply_ring_high_water),
            n.leases,
            bytes(n.max_reply_frame)
        ),
    );
    text.line(
        1,
        format!(
            "limits      messages of {}, streams {} ahead of their readers, health rings of {}",
            bytes(n.max_message),
            bytes(n.stream_window),
            bytes(n.health_ring_capacity)
        ),
    );
    note(text, row);
}

pub(super) fn describe_role(text: &mut Text, row: &Row, numbers: &RoleNumbers) {
    let n = numbers;
    let state = match (n.is_degraded, n.is_ready) {
        (1, _) => "degraded",
        (_, 1) => "ready",
        _ => "not ready",
    };
    let role = &row.role;
    let waits = match n.oldest_wait {
        0 => String::new(),
        oldest => format!(", the oldest for {}", nanos(oldest)),
    };
    text.line(
        0,
        format!(
            "role {role}: {state}, {} workers, {} requests in flight, {} waiting{waits}",
            n.workers, n.in_flight, n.queued
        ),
    );
    note(text, row);
}

/// A named channel: its name, how far it is, and between which processes.
pub(super) fn name(channel: &Present) -> String {
    let Present { name, host_pid, state, bytes: all, .. } = channel;
    let worker = channel.worker_pid.map(|pid| format!(" and worker {pid}")).unwrap_or_default();
    let (state, all) = (state.name(), bytes(*all));
    format!("{name}: {state}, of host {host_pid}{worker}, {all} in /dev/shm")
}

fn note(text: &mut Text, row: &Row) {
    if !row.note.is_empty() {
        text.line(1, format!("last error  {}", row.note));
    }
}
