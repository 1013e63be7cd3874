use super::*;

fn row(transport: &str, placement: &str, ns: f64, ratio: Option<[f64; 3]>, of: &str) -> Value {
    let mut row = json!({
        "workload": "W1", "what": "round trip", "sizes": "64 B", "transport": transport,
        "role": if transport == "limit" { "limit" } else { "slipring" }, "placement": placement,
        "round_ns": ns, "round_low_ns": 0.9 * ns, "round_high_ns": 1.1 * ns, "rounds": 25,
        "ratio_of": of, "pairs": 25, "cpu_ms": 1.0, "wakeups": 2.0,
    });
    if let Some([median, low, high]) = ratio {
        row["ratio_to_limit"] = json!(median);
        row["ratio_low"] = json!(low);
        row["ratio_high"] = json!(high);
    }
    row
}

fn value(rows: Vec<Value>) -> Value {
    json!({
        "format": FORMAT, "slipring": "1.2.3", "command": "slipring bench --json",
        "machine": {"cpu": "a processor", "cores": 2, "kernel": "6.1", "date": "2026-01-01 00:00"},
        "probes": {"near": 9, "far": 1, "disturbed": 0}, "rows": rows,
    })
}

fn figures(rows: Vec<Value>) -> Figures {
    serde_json::from_value(value(rows)).unwrap()
}

/// Judges a row beside another one.
fn judged(before: Value, after: Value) -> Judgement {
    let (before, after) = (figures(vec![before]), figures(vec![after]));
    Comparison::new(&before, &after).pairs[0].judgement
}

#[test]
fn rows_are_judged_by_their_intervals_beside_the_limit() {
    let times = |median, low, high| row("raw", "near", 100.0, Some([median, low, high]), "time");
    assert_eq!(judged(times(2.0, 1.9, 2.1), times(1.5, 1.4, 1.6)), Judgement::Better);
    assert_eq!(judged(times(1.5, 1.4, 1.6), times(2.0, 1.9, 2.1)), Judgement::Worse);
    assert_eq!(judged(times(2.0, 1.5, 2.1), times(1.5, 1.4, 1.6)), Judgement::WithinNoise);
    let rates = |median, low, high| row("raw", "near", 100.0, Some([median, low, high]), "rate");
    assert_eq!(judged(rates(0.5, 0.4, 0.6), rates(0.9, 0.8, 1.0)), Judgement::Better);
    assert_eq!(judged(rates(0.9, 0.8, 1.0), rates(0.5, 0.4, 0.6)), Judgement::Worse);
    // The limit itself, and a row without one, by time; the ratio decides elsewhere.
    let limit = |ns| row("limit", "near", ns, Some([1.0, 1.0, 1.0]), "time");
    assert_eq!(judged(limit(200.0), limit(100.0)), Judgement::Better);
    assert_eq!(judged(limit(105.0), limit(100.0)), Judgement::WithinNoise);
    let plain = |ns| row("socket", "near", ns, None, "time");
    assert_eq!(judged(plain(100.0), plain(200.0)), Judgement::Worse);
    let slower = row("raw", "near", 900.0, Some([2.0, 1.9, 2.1]), "time");
    assert_eq!(judged(times(2.0, 1.9, 2.1), slower), Judgement::WithinNoise);
    let mut few = plain(200.0);
    few["rounds"] = json!(2);
    assert_eq!(judged(plain(100.0), few), Judgement::NotJudged);
    let disturbed = |ns| row("socket", "disturbed", ns, None, "time");
    assert_eq!(judged(disturbed(100.0), disturbed(200.0)), Judgement::NotJudged);
}

#[test]
fn the_change_of_a_rate_is_a_gain_in_speed_as_that_of_a_time() {
    let ratio = |of, median: f64| {
        let interval = Some([median, 0.9 * median, 1.1 * median]);
        let row: Figure = serde_json::from_value(row("raw", "near", 1.0, interval, of)).unwrap();
        row.ratio().unwrap()
    };
    for change in [
        faster(ratio("time", 2.0), ratio("time", 1.0)),
        faster(ratio("rate", 0.5), ratio("rate", 1.0)),
    ] {
        assert!((change.median - 2.0).abs() < 1e-9, "{change:?}");
        assert!(change.low < 2.0 && change.high > 2.0, "{change:?}");
    }
}

#[test]
fn placements_are_never_mixed_and_rows_of_one_result_are_listed() {
    let near = |name: &str| row(name, "near", 100.0, None, "time");
    let far = |name: &str| row(name, "far", 400.0, None, "time");
    let before = figures(vec![near("both"), far("moved"), near("gone")]);
    let failed = json!({
        "workload": "W1", "what": "round trip", "sizes": "64 B", "transport": "broken",
        "role": "slipring", "failure": "it hung",
    });
    let after = figures(vec![near("both"), near("moved"), failed]);
    let table = Comparison::new(&before, &after).table();
    let (pairs, rest) = table.split_once("\nOnly before\n").unwrap();
    let (gone, new) = rest.split_once("\nOnly after\n").unwrap();
    assert!(pairs.contains("  both ") && !pairs.contains("  moved "), "{table}");
    assert!(gone.contains("(far)\n    moved\n") && gone.contains("(near)\n    gone\n"), "{table}");
    assert!(new.contains("(near)\n    moved\n"), "{table}");
    assert!(new.contains("(failed)\n    broken: it hung\n"), "{table}");
    assert!(table.ends_with("\nOf 1 rows: 0 better, 0 worse, 1 within noise, 0 not judged.\n"));
}

#[test]
fn rows_of_a_comparison_fit_eighty_columns() {
    let wide = |ns| {
        let row = || row("slipring channel in batches", "disturbed", ns, None, "time");
        let mut rows = [row(), row(), row()];
        rows[0]["ratio_to_limit"] = json!(33.333);
        rows[0]["ratio_low"] = json!(11.111);
        rows[0]["ratio_high"] = json!(99.999);
        rows[1]["workload"] = json!("W5");
        rows[1]["what"] = json!("idle wait");
        rows[1]["cpu_ms"] = json!(1234.5);
        rows[1]["wakeups"] = json!(123_456.0);
        rows[2]["transport"] = json!("pipe");
        figures(rows.to_vec())
    };
    let (before, after) = (wide(99_999.0), wide(999_999.0));
    let table = Comparison::new(&before, &after).table();
    let (_, rows) = table.split_once("\n\n").unwrap();
    assert!(rows.lines().all(|line| line.chars().count() <= 80), "{table}");
    assert!(rows.contains("beside limit") && rows.contains(" wake-ups\n"), "{table}");
}

#[test]
fn what_differs_beside_the_figures_is_a_warning() {
    let before = figures(Vec::new());
    assert_eq!(Comparison::new(&before, &before).warnings(), [""; 0]);
    let mut other = value(Vec::new());
    other["machine"]["cpu"] = json!("another processor");
    other["slipring"] = json!("1.3.0");
    other["probes"] = json!({"near": 1, "far": 9, "disturbed": 0});
    let after: Figures = serde_json::from_value(other).unwrap();
    let table = Comparison::new(&before, &after).table();
    for warning in [
        "Warning: the machines differ: a processor, 2 cores, then another processor, 2 cores;",
        "Warning: the versions of slipring differ: 1.2.3, then 1.3.0.",
        "Warning: the placements of most probes differ: near, then far;",
    ] {
        assert!(table.contains(warning), "{warning}: {table}");
    }
    assert!(table.starts_with("before  2026-01-01 00:00 UTC, slipring 1.2.3, a processor"));
}

#[test]
fn a_file_that_is_no_result_or_one_of_another_format_is_an_error() {
    let error = |text: &str| Figures::parse(text.as_bytes()).unwrap_err();
    for text in ["", "slipring", "[]", "{\"rows\": []}", "{\"format\": \"1\"}", "{\"format\": 1}"] {
        let error = error(text);
        assert!(matches!(error, CompareError::NoResult(_)), "{text}: {error:?}");
    }
    assert!(matches!(error("{\"format\": 7}"), CompareError::OtherFormat(7)));
    let first = "{\"machine\": {}, \"in_words\": \"\", \"rows\": []}";
    assert!(matches!(error(first), CompareError::OtherFormat(0)));
    let missing = Figures::read(Path::new("/no/such/file")).unwrap_err();
    assert!(matches!(missing, CompareError::Read(_)));
}

#[test]
fn what_a_run_writes_can_be_compared() {
    use crate::measure::Role;
    use crate::words::tests;
    let row = |name| tests::with_ratio(tests::row("W1", "round", name, Role::Own), 1.5, 1.4, 1.6);
    let rounds = Some(Ratio { median: 188.0, low: 180.0, high: 190.0, pairs: 25 });
    let measured = crate::measure::Row { rounds, ..row("raw ring") };
    let failed = crate::measure::Row { failure: Some("it hung".to_owned()), ..row("Channel") };
    let report = tests::report(vec![measured, failed], vec![100.0, 400.0, 100.0], 0.0);
    let figures = Figures::parse(report.json().as_bytes()).unwrap();
    let comparison = Comparison::new(&figures, &figures);
    assert_eq!(comparison.pairs[0].judgement, Judgement::WithinNoise);
    assert_eq!(comparison.only_after.len(), 1, "the one that failed");
    assert_eq!(figures.mostly(), "near");
    let json: Value = serde_json::from_str(&comparison.json()).unwrap();
    assert_eq!(json["rows"][0]["judgement"], "within noise");
    assert_eq!(json["rows"][0]["speed"]["median"], 1.0);
    assert_eq!(json["warnings"], json!([]));
}
