//! The faults, each with what it may cost.

use std::thread::sleep;
use std::time::Duration;

use crate::figures::Recovery;
use crate::lines::{Line as Told, now};
use crate::net::Net;
use crate::process::{Process, send_signal};
use crate::proxy::Line;
use crate::rules::Failed;
use crate::trial::{FAULTY, Plan, TWO_GATEWAYS, Trial, Way, worker_of};

type Fault = fn(Way) -> Recovery;

pub const ALL: [(&str, Fault); 17] = [
    ("a_cable_that_is_pulled", a_cable_that_is_pulled),
    ("a_line_that_is_silent_for_long", a_line_that_is_silent_for_long),
    ("a_line_that_is_silent_for_a_moment", a_line_that_is_silent_for_a_moment),
    ("a_line_that_carries_only_answers", a_line_that_carries_only_answers),
    ("a_line_that_carries_only_requests", a_line_that_carries_only_requests),
    ("a_line_that_is_long_and_bad", a_line_that_is_long_and_bad),
    ("a_slow_line_full_of_answers", a_slow_line_full_of_answers),
    ("a_slow_line_full_both_ways", a_slow_line_full_both_ways),
    ("a_very_slow_line_full_of_answers", a_very_slow_line_full_of_answers),
    ("a_line_that_is_cut_again_and_again", a_line_that_is_cut_again_and_again),
    ("a_gateway_that_is_killed", a_gateway_that_is_killed),
    ("a_gateway_that_is_stopped", a_gateway_that_is_stopped),
    ("a_gateway_that_is_told_to_end", a_gateway_that_is_told_to_end),
    ("a_worker_that_is_killed", a_worker_that_is_killed),
    ("a_worker_that_is_stopped", a_worker_that_is_stopped),
    ("a_caller_that_is_killed", a_caller_that_is_killed),
    ("a_caller_that_is_stopped", a_caller_that_is_stopped),
];

const STOP: Duration = Duration::from_secs(5);
const BY_PROXY: &[&str] = &["caller-1", FAULTY, "proxy", "gateway-2"];

/// Cuts the faulty gateway off for so long. All that fails is what it had.
fn cut_off(way: Way, cut: impl Fn(&Net), mend: impl Fn(&Net), lasts: Duration) -> Recovery {
    let trial = Trial::start(Plan::new(way, TWO_GATEWAYS));
    trial.warm();
    let began = now();
    cut(&trial.net);
    let left = trial.left(began);
    trial.others_serve(began, lasts);
    mend(&trial.net);
    let back = trial.back(now());
    assert_cut_in_the_midst(&trial.finish(Some("Disconnected")));
    Recovery { left: Some(left), back: Some(back) }
}

/// The fault has met a stream from the faulty gateway in the midst, and none from the other.
fn assert_cut_in_the_midst(failed: &[Failed]) {
    let from = |failed: &Failed| failed.streamed_from.clone();
    assert!(failed.iter().any(|it| from(it).is_some()), "no stream was cut: {failed:?}");
    for failed in failed {
        assert!(from(failed).is_none_or(|host| host == FAULTY), "{failed:?}");
    }
}

fn a_cable_that_is_pulled(way: Way) -> Recovery {
    cut_off(way, |net| net.unplug(FAULTY), |net| net.plug(FAULTY), Duration::from_millis(1500))
}

fn a_line_that_is_silent_for_long(way: Way) -> Recovery {
    // Attempts to connect that begin while it is silent must not delay those that come later: it ends
    // just after the second packet with which the system asks for the first connection.
    cut_off(
        way,
        |net| net.silence(FAULTY),
        |net| net.unsilence(FAULTY),
        Duration::from_millis(2_000),
    )
}

fn a_line_that_carries_only_answers(way: Way) -> Recovery {
    cut_off(
        way,
        |net| net.cut_one_way("caller-1", FAULTY),
        |net| net.mend_one_way("caller-1", FAULTY),
        Duration::from_millis(2200),
    )
}

fn a_line_that_carries_only_requests(way: Way) -> Recovery {
    cut_off(
        way,
        |net| net.cut_one_way(FAULTY, "caller-1"),
        |net| net.mend_one_way(FAULTY, "caller-1"),
        Duration::from_millis(2200),
    )
}

/// A cut that is shorter than the keepalive costs nothing, also if there is no other gateway.
fn a_line_that_is_silent_for_a_moment(way: Way) -> Recovery {
    let trial = Trial::start(Plan::new(way, &["caller-1", FAULTY]));
    trial.warm();
    trial.net.silence(FAULTY);
    sleep(Duration::from_millis(50));
    trial.net.unsilence(FAULTY);
    let mended = now();
    let back = trial.back(mended);
    assert_none(&trial.finish(None));
    Recovery { left: None, back: Some(back) }
}

fn assert_none(failed: &[Failed]) {
    assert!(failed.is_empty(), "{failed:?}");
}

/// 30 ms each way, and pieces that come 200 ms later, cost nothing.
fn a_line_that_is_long_and_bad(way: Way) -> Recovery {
    let trial =
        Trial::start(Plan::new(way, BY_PROXY).line(Line { delay: 30, stall: 200, rate: None }));
    trial.warm();
    let began = now();
    trial.others_serve(began, Duration::from_secs(2));
    // The faulty one serves until the end.
    trial.back(now());
    assert_none(&trial.finish(None));
    Recovery::default()
}

/// A slow line, all of which is used: questions and answers stand behind other bytes for long. That costs
/// nothing. The rate is in KB/s.
fn full(way: Way, rate: u64, chunk: usize, request: usize) -> Recovery {
    let line = Line { delay: 2, stall: 0, rate: Some(rate) };
    let trial = Trial::start(Plan::new(way, BY_PROXY).line(line).load(chunk, request));
    trial.warm();
    sleep(Duration::from_secs(4));
    assert_none(&trial.finish(None));
    Recovery::default()
}

fn a_slow_line_full_of_answers(way: Way) -> Recovery {
    full(way, 1_000, 60_000, 0)
}

fn a_slow_line_full_both_ways(way: Way) -> Recovery {
    full(way, 1_000, 60_000, 300_000)
}

fn a_very_slow_line_full_of_answers(way: Way) -> Recovery {
    full(way, 200, 12_000, 0)
}

/// Connections that end in the midst of a frame, five times.
fn a_line_that_is_cut_again_and_again(way: Way) -> Recovery {
    let mut trial =
        Trial::start(Plan::new(way, BY_PROXY).line(Line { delay: 2, stall: 0, rate: None }));
    let mut recovery = Recovery::default();
    for _ in 0..5 {
        trial.warm();
        let began = now();
        trial.proxy.as_mut().unwrap().tell("cut");
        recovery.left = recovery.left.max(Some(trial.left(began)));
        recovery.back = recovery.back.max(Some(trial.back(now())));
        trial.others_serve(began, Duration::ZERO);
    }
    assert_cut_in_the_midst(&trial.finish(Some("Disconnected")));
    recovery
}

fn a_gateway_that_is_killed(way: Way) -> Recovery {
    let mut trial = Trial::start(Plan::new(way, TWO_GATEWAYS));
    trial.warm();
    let began = now();
    trial.gateways[0].signal("KILL");
    let left = trial.left(began);
    trial.gateways[0].ends();
    trial.others_serve(began, Duration::from_secs(1));
    trial.gateways[0] = trial.start_gateway(FAULTY);
    let back = trial.back(now());
    assert_cut_in_the_midst(&trial.finish(Some("Disconnected")));
    Recovery { left: Some(left), back: Some(back) }
}

fn a_gateway_that_is_stopped(way: Way) -> Recovery {
    let trial = Trial::start(Plan::new(way, TWO_GATEWAYS));
    trial.warm();
    let began = now();
    trial.gateways[0].signal("STOP");
    let left = trial.left(began);
    trial.others_serve(began, STOP);
    trial.gateways[0].signal("CONT");
    let back = trial.back(now());
    assert_cut_in_the_midst(&trial.finish(Some("Disconnected")));
    Recovery { left: Some(left), back: Some(back) }
}

fn a_gateway_that_is_told_to_end(way: Way) -> Recovery {
    let mut trial = Trial::start(Plan::new(way, TWO_GATEWAYS));
    trial.warm();
    let began = now();
    trial.gateways[0].signal("TERM");
    let left = trial.left(began);
    trial.gateways[0].ends();
    trial.others_serve(began, Duration::from_secs(1));
    trial.gateways[0] = trial.start_gateway(FAULTY);
    let back = trial.back(now());
    assert_none(&trial.finish(None));
    Recovery { left: Some(left), back: Some(back) }
}

/// Waits until a worker of the faulty gateway has answered.
fn worker(trial: &Trial) -> u32 {
    trial.callers[0].wait("a worker answers", |line| {
        let line = Told::parse(line);
        worker_of(&line).filter(|(host, _)| *host == FAULTY).map(|(_, process)| process)
    })
}

/// All that fails is what it had, and its callers are told whose it was. Another one takes its place.
fn a_worker_that_is_killed(way: Way) -> Recovery {
    let trial = Trial::start(Plan::new(way, TWO_GATEWAYS));
    trial.warm();
    let worker = worker(&trial);
    let began = now();
    send_signal("KILL", worker);
    let known: Vec<u32> =
        trial.callers[0].lines().iter().filter_map(worker_of).map(|it| it.1).collect();
    trial.others_serve(began, Duration::from_secs(1));
    let from_new = trial.callers[0].wait("another worker answers", |line| {
        let line = Told::parse(line);
        let (host, process) = worker_of(&line)?;
        let is_new = line.at >= began && host == FAULTY && !known.contains(&process);
        is_new.then_some(line.at)
    });
    for failed in trial.finish(Some("PeerDied")) {
        assert!(failed.message.contains(FAULTY), "{failed:?}");
        assert!(failed.message.contains(&worker.to_string()), "{failed:?}");
    }
    Recovery { left: None, back: Some(Duration::from_micros(from_new - began)) }
}

/// Its requests wait for it, and no other.
fn a_worker_that_is_stopped(way: Way) -> Recovery {
    let trial = Trial::start(Plan::new(way, TWO_GATEWAYS));
    trial.warm();
    let worker = worker(&trial);
    let began = now();
    send_signal("STOP", worker);
    trial.others_serve(began, STOP);
    send_signal("CONT", worker);
    let woken = now();
    let answered = trial.callers[0].wait("it answers", |line| {
        let line = Told::parse(line);
        let is_it = line.at >= woken && worker_of(&line).is_some_and(|it| it.1 == worker);
        is_it.then_some(line.at)
    });
    assert_none(&trial.finish(None));
    Recovery { left: None, back: Some(Duration::from_micros(answered - woken)) }
}

const TWO_CALLERS: &[&str] = &["caller-1", "caller-2", FAULTY];

/// How long after a time the workers ended the last request that the first caller had by then.
fn freed(trial: &Trial, since: u64) -> Duration {
    let mut open = std::collections::HashMap::new();
    let mut last = since;
    let journal = trial.journal();
    for line in journal.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let &[what, at, number, _] = words.as_slice() else { panic!("{line}") };
        if number.len() != 7 || !number.starts_with('1') {
            continue;
        }
        if what == "begin" {
            open.insert(number, at);
        } else {
            open.remove(number);
            last = last.max(at.parse().unwrap());
        }
    }
    assert!(open.is_empty(), "workers still have {open:?}");
    Duration::from_micros(last - since)
}

/// The workers give up what it asked for, and other callers notice nothing.
fn a_caller_that_is_killed(way: Way) -> Recovery {
    let mut trial = Trial::start(Plan::new(way, TWO_CALLERS));
    trial.warm();
    let mut killed: Process = trial.callers.remove(0);
    let began = now();
    killed.signal("KILL");
    killed.ends();
    sleep(Duration::from_millis(1500));
    let left = freed(&trial, began);
    assert!(left < Duration::from_secs(1), "workers were busy for {left:?}");
    let failed = trial.check_killed(&killed);
    assert_none(&failed);
    trial.back(now());
    assert_none(&trial.finish(None));
    Recovery { left: Some(left), back: None }
}

fn a_caller_that_is_stopped(way: Way) -> Recovery {
    let trial = Trial::start(Plan::new(way, TWO_CALLERS));
    trial.warm();
    let began = now();
    trial.callers[0].signal("STOP");
    sleep(STOP);
    let left = freed(&trial, began);
    assert!(left < Duration::from_secs(2), "workers were busy for {left:?}");
    trial.callers[0].signal("CONT");
    let back = trial.back(now());
    let failed = trial.finish(Some("Disconnected"));
    assert!(failed.iter().all(|failed| failed.number < 2_000_000), "{failed:?}");
    Recovery { left: Some(left), back: Some(back) }
}
