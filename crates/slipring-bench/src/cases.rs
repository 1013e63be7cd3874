//! The comparisons: the work of each, and its contenders.

use slipring::Config;

use crate::limits::mailbox::Wait;
use crate::limits::ring::Style;
use crate::measure::{Case, Contender, Role};
use crate::own::Publishing;
use crate::work::Work;
use crate::{links, own};

const MIB: usize = 1 << 20;
/// Bytes of the pieces into which long messages are cut.
const PIECE: usize = 256 << 10;

fn mailbox(name: &str, has_one_line: bool, wait: Wait) -> Contender {
    Contender::new(name, Role::Limit, move || links::mailbox(has_one_line, wait))
}

fn ring(name: &str, capacity: usize, style: Style) -> Contender {
    Contender::new(name, Role::Limit, move || links::ring(capacity, style))
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
        ring("ring 4 MiB", 4 * MIB, Style::Plain),
        ring("ring 4 MiB, never cleared", 4 * MIB, Style::Uncleared),
        ring("ring 4 MiB, shared index", 4 * MIB, Style::Index),
        raw("raw ring", own::busy()),
        channel("Channel::call", own::busy()),
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
        raw("raw ring", Config::default()),
        channel("Channel::call", Config::default()),
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
        list.push(ring("ring 16 KiB", 16 << 10, Style::Fenced));
    }
    list.push(ring("ring 4 MiB", 4 * MIB, Style::Fenced));
    if piece <= 4 << 10 {
        list.push(ring("ring 4 MiB, no fence", 4 * MIB, Style::Plain));
        list.push(ring("ring 4 MiB, shared index", 4 * MIB, Style::Index));
        list.push(ring("ring 4 MiB, no fence, lagging", 4 * MIB, Style::Lagging));
    } else {
        list.push(ring("ring 4 MiB, around caches", 4 * MIB, Style::AroundCaches));
    }
    let config = own::busy();
    list.push(raw("raw ring", config.clone()));
    if piece <= 4 << 10 {
        list.push(raw_publishing("raw ring, batches", config.clone(), Publishing::InBatches));
    }
    if len == 64 {
        list.push(raw_publishing("raw ring, bell each", config.clone(), Publishing::Eagerly));
    }
    list.push(channel("Channel::stream", config));
    list.extend([pipe(), socket()]);
    case("W3", "stream, copied in", Work::Stream { len, piece }, list)
}

fn generate(len: usize) -> Case {
    let list = vec![
        ring("ring 4 MiB", 4 * MIB, Style::Fenced),
        raw("raw ring", own::busy()),
        channel("Channel::stream", own::busy()),
    ];
    case("W3", "stream, in place", Work::Generate { len }, list)
}

fn embed_busy() -> Case {
    let list = vec![
        mailbox("one slot each way", false, Wait::Spin),
        ring("ring 4 MiB", 4 * MIB, Style::Plain),
        raw("raw ring", own::busy()),
        channel("Channel::call", own::busy()),
        channel("Channel::call, typed", own::busy()).doing(Work::EmbedTyped),
        socket(),
    ];
    case("W4", "embedding call, busy", Work::Embed, list)
}

fn embed_blocking() -> Case {
    let list = vec![
        mailbox("bare futex", false, Wait::Futex),
        mailbox("bare waitv, 3 words", false, Wait::Waitv),
        channel("Channel::call", Config::default()),
        pipe(),
        socket(),
    ];
    let case = case("W4", "embedding call, default wait", Work::Embed, list);
    Case { is_pinned: false, ..case }
}

fn idle(millis: u64) -> Case {
    let list = vec![
        mailbox("bare futex", false, Wait::Futex),
        raw("raw ring", Config::default()),
        channel("Channel::call", Config::default()),
        pipe(),
        socket(),
    ];
    let case = case("W5", "each side waits in turn", Work::Idle { millis }, list);
    Case { is_pinned: false, ..case }
}

fn spawn() -> Case {
    let list = vec![
        mailbox("bare process", false, Wait::Futex),
        Contender::new("raw ring", Role::Own, || own::raw_cold(&Config::default())),
        Contender::new("Channel", Role::Own, || Ok(own::channel_cold(&Config::default())?)),
    ];
    let work = Work::Wake { len: 8 };
    let case = case("W6", "spawn to first answer", work, list);
    Case { is_pinned: false, is_spawn: true, ..case }
}
