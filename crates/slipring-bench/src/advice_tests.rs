use super::*;
use crate::cases::{LIBRARY, PAST_CACHES, VECTORS};
use crate::machine::Placement;
use crate::words::tests::{report, row, with_ratio};

fn ratio(median: f64, low: f64, high: f64) -> Option<Ratio> {
    Some(Ratio { median, low, high, pairs: 25 })
}

/// A row of a stream that takes this many nanoseconds for a message of 96 KiB.
fn stream(transport: &str, role: Role, ns: f64, copies: Option<&str>) -> Row {
    Row {
        size: 96 << 10,
        sizes: "messages of 96 KiB".to_owned(),
        msgs_s: 1e9 / ns,
        gb_s: 98_304.0 / ns,
        is_rate: true,
        rounds: ratio(ns, 0.98 * ns, 1.02 * ns),
        copies: copies.map(str::to_owned),
        ..row("W3", "stream, copied in", transport, role)
    }
}

/// The advice, with each item in one line.
fn advice(rows: Vec<Row>) -> String {
    of(&report(rows, vec![100.0; 10], 0.0)).replace("\n      ", " ")
}

#[test]
fn long_items_are_cut_between_words() {
    let mut out = String::new();
    wrap("short", &mut out);
    wrap(&"word ".repeat(40), &mut out);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines[0], lines.len()), ("    short", 4), "{out}");
    assert!(lines[1].starts_with("    word") && lines[2].starts_with("      word"), "{out}");
    assert!(lines.iter().all(|line| line.len() <= 100), "{out}");
}

#[test]
fn the_routine_that_won_is_named_with_what_the_others_reached() {
    let rows = || {
        vec![
            stream("one", Role::Limit, 4000.0, Some(VECTORS)),
            stream("another of that kind", Role::Limit, 5000.0, Some(VECTORS)),
            stream("two", Role::Limit, 2000.0, Some(LIBRARY)),
            stream("three", Role::Limit, 2010.0, Some(PAST_CACHES)),
        ]
    };
    // The same by the rounds' ratios, where they are of the best routine.
    let paired: Vec<Row> = rows()
        .into_iter()
        .zip([(0.4, 0.45), (0.3, 0.35), (1.0, 1.0), (0.9, 0.95)])
        .map(|(row, (low, high))| Row { ratio: ratio(high, low, high), ..row })
        .collect();
    let text = advice(paired);
    assert!(
        text.contains("past the caches 0.95 of that, a loop of vectors 0.45 of that"),
        "{text}"
    );
    let own = |ratio, copies| Row { ratio, ..stream(RAW, Role::Own, 2500.0, Some(copies)) };
    let good = advice([rows(), vec![own(ratio(0.97, 0.9, 1.0), LIBRARY)]].concat());
    let expected = "W3, messages of 96 KiB (near): the C library's copy with 49.2 GB/s, a loop past \
                    the caches 1.00 of that (no difference by the intervals), a loop of vectors \
                    0.50 of that; raw ring has found: the C library's copy\n";
    assert!(good.contains(expected), "{good}");
    assert!(good.contains("leave the routine to the ring"), "{good}");
    let behind = advice([rows(), vec![own(ratio(0.5, 0.45, 0.55), VECTORS)]].concat());
    let expected = "for messages of 96 KiB (the C library's copy): measure `ConfigBuilder::";
    assert!(behind.contains(expected), "{behind}");
}

#[test]
fn nothing_is_said_of_what_was_not_measured() {
    assert_eq!(advice(Vec::new()), "");
    let alone = advice(vec![stream("one", Role::Limit, 4000.0, Some(VECTORS))]);
    assert_eq!(alone, "", "there is nothing to choose from");
    let failed = Row { failure: Some("it hung".to_owned()), ..stream(RAW, Role::Own, 1.0, None) };
    assert_eq!(advice(vec![failed]), "");
}

#[test]
fn what_spin_and_pinning_gain_is_said_by_what_was_measured() {
    let call = |what, transport, ns: f64| Row {
        p50_ns: ns,
        msgs_s: 1e9 / ns,
        rounds: ratio(ns, 0.98 * ns, 1.02 * ns),
        ..row("W4", what, transport, Role::Own)
    };
    let rows = |times, low, unpinned| {
        let default = call(PINNED_CALLS, CALL, 6000.0 * times);
        vec![
            with_ratio(default, times, low, times + 0.1),
            call(PINNED_CALLS, CALL_SPIN, 6000.0),
            call(UNPINNED_CALLS, CALL, unpinned),
        ]
    };
    let text = advice(rows(1.02, 0.99, 20_000.0));
    assert!(text.contains("1.02 [0.99, 1.12] times as long): keep the default"), "{text}");
    assert!(text.contains("20.0 us unbound: bind the two sides"), "{text}");
    let text = advice(rows(2.0, 1.8, 6000.0));
    assert!(text.contains("`Spin` pays where a call is all that counts"), "{text}");
    assert!(text.contains("6.0 us unbound: leave the two sides unbound"), "{text}");
}

#[test]
fn ring_sizes_and_batches_are_compared_within_a_case() {
    let text = advice(vec![
        stream(SMALL_RING, Role::Limit, 4000.0, Some(VECTORS)),
        stream(LARGE_RING, Role::Limit, 2000.0, Some(VECTORS)),
        stream(RAW, Role::Own, 2000.0, None),
        stream(RAW_BATCHES, Role::Own, 1000.0, None),
    ]);
    assert!(text.contains("the rate of 4 MiB times 0.50 (messages of 96 KiB): keep"), "{text}");
    assert!(text.contains("`drain`): 2.00 times the rate with messages of 96 KiB."), "{text}");
}

#[test]
fn the_strengths_are_the_best_figures_and_the_nearest_to_their_limit() {
    let slow = Row { ratio: ratio(0.5, 0.4, 0.6), ..stream(RAW, Role::Own, 4000.0, None) };
    let fast = Row {
        size: 4096,
        sizes: "messages of 4 KiB".to_owned(),
        ratio: ratio(0.9, 0.8, 1.0),
        ..stream(RAW, Role::Own, 2000.0, None)
    };
    let far = Row { placement: Placement::Far, gb_s: 99.0, ..fast.clone() };
    let text = advice(vec![slow, fast, far]);
    assert!(
        text.contains("W3 stream, copied in: raw ring 49.2 GB/s (messages of 4 KiB)\n"),
        "{text}"
    );
    let nearest =
        "Nearest to its limit: raw ring, W3 stream, copied in, messages of 4 KiB (0.90 of";
    assert!(text.contains(nearest), "{text}");
    assert!(text.contains("Furthest from it: ") && text.contains("96 KiB (0.50 of"), "{text}");
}
