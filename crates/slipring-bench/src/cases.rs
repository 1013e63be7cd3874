//! The comparisons: the work of each, and its contenders.

use slipring::Config;

use crate::limits::bytes;
use crate::limits::mailbox::Wait;
use crate::limits::ring::Style;
use crate::measure::{Case, Contender, Role};
use crate::own::Publishing;
use crate::work::Work;
use crate::{links, own};

const MIB: usize = 1 << 20;
/// Bytes of the pieces into which long messages are cut.
const PIECE: usize = 256 << 10;

/// Names of routines that copy.
pub(crate) const LIBRARY: &str = "the C library's copy";
pub(crate) const VECTORS: &str = "a loop of vectors";
pub(crate) const REPEATED: &str = "rep movsb";
pub(crate) const PAST_CACHES: &str = "a loop past the caches";
/// Names of contenders that are compared with each other.
pub(crate) const SMALL_RING: &str = "ring 16 KiB";
pub(crate) const LARGE_RING: &str = "ring 4 MiB";
pub(crate) const RAW: &str = "raw ring";
pub(crate) const RAW_BATCHES: &str = "raw ring, batches";
pub(crate) const CALL: &str = "Channel::call";
pub(crate) const CALL_SPIN: &str = "Channel::call, Spin";
/// A case with both sides bound to processors of their own, and the same without.
pub(crate) const PINNED_CALLS: &str = "default wait, pinned apart, busy";
pub(crate) const UNPINNED_CALLS: &str = "embedding call, default wait";

fn mailbox(name: &str, has_one_line: bool, wait: Wait) -> Contender {
    Contender::new(name, Role::Limit, move || links::mailbox(has_one_line, wait))
}

fn ring(name: &str, capacity: usize, style: Style) -> Contender {
    Contender::new(name, Role::Limit, move || links::ring(capacity, style))
        .copying(routine_of(style))
}

/// The routine with which a ring of this style copies.
fn routine_of(style: Style) -> &'static str {
    match style {
        Style::AroundCaches => PAST_CACHES,
        Style::Library => LIBRARY,
        Style::Repeated => REPEATED,
        Style::Fenced | Style::Plain | Style::Lagging | Style::Uncleared | Style::Index => VECTORS,
    }
}

fn raw(name: &str, config: Config) -> Contender {
    raw_publishing(name, config, Publishing::Lazily)
}

fn raw_publishing(name: &str, config: Config, publishing: Publishing) -> Contender {
    Contender::new(name, Role::Own, move || own::raw(&config, publishing))
}

fn channel(name: &str, config: Config) -> Contender {
    Contender::new(name, Role::Own, move || own::channel(&config))
}

fn channel_in_batches(config: Config) -> Contender {
    Contender::new("Channel::stream, batches", Role::Own, move || own::channel_in_batches(&config))
}

fn pipe() -> Contender {
    Contender::new("pipe", Role::Plain, links::pipe)
}

fn socket() -> Contender {
    Contender::new("unix socket", Role::Plain, links::socket)
}

/// Returns all cases, or only those for a quick look if `is_quick`.
#[must_use]
pub fn all(is_quick: bool) -> Vec<Case> {
    let mut cases = vec![round_trip(32), round_trip(64)];
    cases.extend([true, false].map(wake));
    let quick = [64, 4 << 10, 96 << 10, MIB, 32 * MIB];
    let full = [64, 1 << 10, 4 << 10, 96 << 10, 256 << 10, MIB, 4 * MIB, 32 * MIB];
    let sizes = if is_quick { &quick[..] } else { &full[..] };
    cases.extend(sizes.iter().map(|len| stream(*len)));
    let quick = [4 << 10, MIB];
    let full = [4 << 10, 96 << 10, 256 << 10, MIB];
    let sizes = if is_quick { &quick[..] } else { &full[..] };
    cases.extend(sizes.iter().map(|len| generate(*len)));
    cases.extend([
        embed_busy(),
        embed_blocking(),
        embed_pinned(),
        idle(if is_quick { 500 } else { 2000 }),
        spawn(),
    ]);
    cases
}

fn case(workload: &'static str, what: &'static str, work: Work, list: Vec<Contender>) -> Case {
    let (is_pinned, is_spawn, yardstick) = (true, false, None);
    Case { workload, what, work, is_pinned, is_spawn, yardstick, contenders: list }
}

fn round_trip(len: usize) -> Case {
    let limit = match len {
        ..=48 => mailbox("one line", true, Wait::Spin),
        _ => mailbox("two lines", false, Wait::Spin),
    };
    let mut list = vec![
        limit,
        ring(LARGE_RING, 4 * MIB, Style::Plain),
        ring("ring 4 MiB, never cleared", 4 * MIB, Style::Uncleared),
        ring("ring 4 MiB, shared index", 4 * MIB, Style::Index),
        raw(RAW, own::busy()),
        channel(CALL, own::busy()),
    ];
    if len == 64 {
        list.extend([pipe(), socket()]);
    }
    case("W1", "round trip, busy", Work::RoundTrip { len }, list)
}

fn wake(is_pinned: bool) -> Case {
    // A wait that a close or a death can end needs more than one word. If a processor has to be
    // woken for it, that hardly shows.
    let waitv = "bare waitv, 3 words";
    let yardstick = (!is_pinned).then_some(waitv);
    let list = vec![
        mailbox("bare futex", false, Wait::Futex),
        mailbox(waitv, false, Wait::Waitv),
        raw(RAW, Config::default()),
        channel(CALL, Config::default()),
        pipe(),
        socket(),
    ];
    let what = if is_pinned { "after 1 ms idle, pinned" } else { "after 1 ms idle, unpinned" };
    Case { is_pinned, yardstick, ..case("W2", what, Work::Wake { len: 64 }, list) }
}

fn stream(len: usize) -> Case {
    let is_long = len > MIB;
    let piece = if is_long { PIECE } else { len };
    let mut list = Vec::new();
    if piece <= 4 << 10 {
        list.push(ring(SMALL_RING, 16 << 10, Style::Fenced));
    }
    list.push(ring(LARGE_RING, 4 * MIB, Style::Fenced));
    if piece <= 4 << 10 {
        list.push(ring("ring 4 MiB, no fence", 4 * MIB, Style::Plain));
        list.push(ring("ring 4 MiB, shared index", 4 * MIB, Style::Index));
        list.push(ring("ring 4 MiB, no fence, lagging", 4 * MIB, Style::Lagging));
    }
    if piece >= 1 << 10 {
        // The rows above copy with a loop of vectors.
        list.push(ring("ring 4 MiB, around caches", 4 * MIB, Style::AroundCaches));
        list.push(ring("ring 4 MiB, C library", 4 * MIB, Style::Library));
        if bytes::has_repeated() {
            list.push(ring("ring 4 MiB, rep movsb", 4 * MIB, Style::Repeated));
        }
    }
    let config = own::busy();
    list.push(raw(RAW, config.clone()));
    if piece <= 4 << 10 {
        list.push(raw_publishing(RAW_BATCHES, config.clone(), Publishing::InBatches));
    }
    if len == 64 {
        list.push(raw_publishing("raw ring, bell each", config.clone(), Publishing::Eagerly));
    }
    list.push(channel("Channel::stream", config.clone()));
    if piece <= 4 << 10 {
        list.push(channel_in_batches(config));
    } else if is_long {
        let name = "Channel::stream, pieces";
        let start = move || own::channel_in_pieces(&config);
        list.push(Contender::new(name, Role::Own, start));
    }
    list.extend([pipe(), socket()]);
    case("W3", "stream, copied in", Work::Stream { len, piece }, list)
}

fn generate(len: usize) -> Case {
    let list = vec![
        ring(LARGE_RING, 4 * MIB, Style::Fenced),
        raw(RAW, own::busy()),
        channel("Channel::stream", own::busy()),
        channel_in_batches(own::busy()),
    ];
    case("W3", "stream, in place", Work::Generate { len }, list)
}

fn embed_busy() -> Case {
    let list = vec![
        mailbox("one slot each way", false, Wait::Spin),
        ring(LARGE_RING, 4 * MIB, Style::Plain),
        raw(RAW, own::busy()),
        channel(CALL, own::busy()),
        channel("Channel::call, typed", own::busy()).doing(Work::EmbedTyped),
        socket(),
    ];
    case("W4", "embedding call, busy", Work::Embed, list)
}

fn embed_blocking() -> Case {
    let list = vec![
        mailbox("bare futex", false, Wait::Futex),
        mailbox("bare waitv, 3 words", false, Wait::Waitv),
        channel(CALL, Config::default()),
        pipe(),
        socket(),
    ];
    let case = case("W4", UNPINNED_CALLS, Work::Embed, list);
    Case { is_pinned: false, ..case }
}

/// Calls between two busy processes with processors of their own, where the default wait strategy
/// should not sleep: beside one that never does.
fn embed_pinned() -> Case {
    let list = vec![channel(CALL_SPIN, own::busy()), channel(CALL, Config::default())];
    Case { yardstick: Some(CALL_SPIN), ..case("W4", PINNED_CALLS, Work::Embed, list) }
}

fn idle(millis: u64) -> Case {
    let list = vec![
        mailbox("bare futex", false, Wait::Futex),
        raw(RAW, Config::default()),
        channel(CALL, Config::default()),
        pipe(),
        socket(),
    ];
    let case = case("W5", "each side waits in turn", Work::Idle { millis }, list);
    Case { is_pinned: false, ..case }
}

fn spawn() -> Case {
    let list = vec![
        mailbox("bare process", false, Wait::Futex),
        Contender::new(RAW, Role::Own, || own::raw_cold(&Config::default())),
        Contender::new("Channel", Role::Own, || Ok(own::channel_cold(&Config::default())?)),
    ];
    let work = Work::Wake { len: 8 };
    let case = case("W6", "spawn to first answer", work, list);
    Case { is_pinned: false, is_spawn: true, ..case }
}
