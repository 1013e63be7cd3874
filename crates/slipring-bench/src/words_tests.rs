use super::*;
use crate::figures::Ratio;
use crate::machine::Machine;
use crate::reference::Verdict;

pub(crate) fn row(workload: &'static str, what: &'static str, transport: &str, role: Role) -> Row {
    Row {
        workload,
        what,
        sizes: "64 B there and back".to_owned(),
        is_pinned: true,
        transport: transport.to_owned(),
        role,
        size: 64,
        placement: Placement::Near,
        p50_ns: 188.0,
        p99_ns: 300.0,
        msgs_s: 5e6,
        gb_s: 0.0,
        rounds: None,
        ratio: None,
        is_rate: false,
        cpu_ms: 1.0,
        wakeups: 0.0,
        copies: None,
        failure: None,
    }
}

pub(crate) fn with_ratio(row: Row, median: f64, low: f64, high: f64) -> Row {
    Row { ratio: Some(Ratio { median, low, high, pairs: 25 }), ..row }
}

pub(crate) fn report(rows: Vec<Row>, probes: Vec<f64>, load: f64) -> Report {
    let machine = Machine {
        cpu: "a processor".to_owned(),
        cores: 2,
        kernel: "6.1".to_owned(),
        date: "2026-01-01 00:00".to_owned(),
    };
    Report { machine, probes, load, rows, verdict: Verdict::NoReference, command: String::new() }
}

#[test]
fn a_cost_is_only_known_of_the_way_that_has_it() {
    let cost = |what, transport| {
        let row = Row { is_rate: true, ..row("W3", what, transport, Role::Own) };
        let text = judge(&with_ratio(row, 0.5, 0.4, 0.6), &[]).unwrap().text;
        text.split_once("known cost: ").map_or(String::new(), |(_, cost)| cost.to_owned())
    };
    let (copied, in_place) = ("stream, copied in", "stream, in place");
    assert!(cost(copied, "Channel::stream").contains("copied once more"));
    assert!(cost(in_place, "Channel::stream").contains("by itself"));
    for what in [copied, in_place] {
        assert!(!cost(what, "Channel::stream, batches").contains("by itself"));
    }
    assert_eq!(cost(copied, "Channel::stream, pieces"), "");
}

#[test]
fn a_figure_is_good_off_or_unclear_by_its_interval() {
    let call = || row("W1", "round trip, busy", "Channel::call", Role::Own);
    let judged = |median, low, high| {
        let row = with_ratio(call(), median, low, high);
        judge(&row, &[]).unwrap().judgement
    };
    assert_eq!(judged(2.4, 2.3, 2.9), Judgement::Good);
    assert_eq!(judged(2.6, 2.4, 2.9), Judgement::Unclear);
    assert_eq!(judged(2.6, 2.55, 2.9), Judgement::Off);
    let stream = Row { is_rate: true, ..row("W3", "stream, copied in", "raw ring", Role::Own) };
    let judged = |median, low, high| {
        judge(&with_ratio(stream.clone(), median, low, high), &[]).unwrap().judgement
    };
    assert_eq!(judged(0.96, 0.9, 1.0), Judgement::Good);
    assert_eq!(judged(0.9, 0.8, 0.97), Judgement::Unclear);
    assert_eq!(judged(0.7, 0.6, 0.8), Judgement::Off);
}

#[test]
fn a_figure_that_is_off_has_target_reason_and_plain_rival() {
    let raw = row("W1", "round trip, busy", "raw ring", Role::Own);
    let raw = with_ratio(raw, 1.82, 1.7, 1.9);
    let socket = row("W1", "round trip, busy", "unix socket", Role::Plain);
    let socket = Row { msgs_s: 25_000.0, ..socket };
    let text = of(&report(vec![raw, socket], vec![100.0; 10], 0.0));
    let expected = "  Off\n    W1 round trip, busy: 64 B there and back\n      raw ring: 188 ns, \
                    1.82 times the limit (target: 1.25); 200.0 times as fast as a unix \
                    socket\n        known cost: a ring moves on through its memory, and the \
                    limit uses one place again and again\n";
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("Of 1 figures of slipring 0 are good, 1 are off, 0 are unclear."));
    assert!(!text.contains("Good") && !text.contains("Unclear"), "{text}");
    assert!(text.contains("shared a cache: near in 10 of 10"), "{text}");
}

#[test]
fn a_case_is_judged_where_most_of_its_rounds_were() {
    let rounds = |pairs| Some(Ratio { median: 1.0, low: 1.0, high: 1.0, pairs });
    let near = with_ratio(row("W2", "pinned", "raw ring", Role::Own), 1.0, 0.9, 1.1);
    let few = Row { rounds: rounds(2), ..near.clone() };
    let far = Row { placement: Placement::Far, ..with_ratio(near.clone(), 3.0, 2.9, 3.1) };
    let text = of(&report(vec![far.clone(), near], vec![100.0, 400.0], 0.0));
    assert!(text.contains("Good") && !text.contains("Off"), "{text}");
    assert!(text.contains("for a part of the time: near in 1 of 2"), "{text}");
    let many = Row { rounds: rounds(23), ..far.clone() };
    let text = of(&report(vec![few, many], vec![100.0, 400.0], 0.0));
    assert!(text.contains("(far)") && text.contains("Off"), "{text}");
    let text = of(&report(vec![far], vec![400.0; 3], 0.0));
    assert!(text.contains("(far)") && text.contains("Off"), "{text}");
    assert!(text.contains("shared no cache: far in 3 of 3"), "{text}");
}

#[test]
fn the_machine_s_part_is_said() {
    let text = of(&report(Vec::new(), vec![1000.0, 100.0], 3.25));
    assert!(text.contains("Something else ran on these processors in 1 of 2 probes"), "{text}");
    assert!(text.contains("3.2 processes on average wanted to run on 2"), "{text}");
    assert!(text.contains("There is no reference for this machine"), "{text}");
}

#[test]
fn a_contender_that_failed_is_named() {
    let failed = row("W5", "each side waits in turn", "raw ring", Role::Own);
    let failed = Row { failure: Some("it hung".to_owned()), ..failed };
    let text = of(&report(vec![failed], vec![100.0], 0.0));
    assert!(text.contains("Failed") && text.contains("raw ring: it hung"), "{text}");
}
