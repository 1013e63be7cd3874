//! `slipring soak`: it counts, and finds no errors.

use std::process::{Command, Output};

fn soak(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_slipring")).arg("soak").args(args).output().unwrap()
}

/// The number with this name in one flat level of JSON.
fn number(json: &str, name: &str) -> f64 {
    let (_, rest) = json.split_once(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{name}"));
    let end = rest.find([',', '}']).unwrap();
    rest[..end].parse().unwrap()
}

#[test]
fn five_seconds_of_kills_lose_duplicate_tear_and_leak_nothing() {
    let args = "--seconds 5 --kill-every 25 --workers 2 --frames 10000000 --json";
    let output = soak(&args.split(' ').collect::<Vec<_>>());
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{text}{errors}");
    assert!(output.status.success(), "{text}{errors}");
    assert_eq!(text.lines().count(), 1, "one object");
    assert!(text.starts_with('{') && text.trim_end().ends_with('}'));
    for name in ["lost", "duplicated", "torn", "misdelivered", "hangs", "fds", "maps", "children"] {
        assert!(number(&text, name).abs() < 0.5, "{name}: {text}");
    }
    assert!(number(&text, "seconds") >= 5.0);
    assert!(number(&text, "frames") > 10_001_000.0 && number(&text, "bytes") > 100_000.0);
    assert!(number(&text, "kills") > 5.0);
    assert!((number(&text, "kills") - number(&text, "deaths_detected")).abs() < 0.5);
    assert!(number(&text, "detection_p50_us") <= number(&text, "detection_p99_us"));
}

#[test]
fn requests_at_once_end_once_each_and_as_the_worker_says() {
    let args = "--seconds 2 --kill-every 25 --workers 2 --concurrent 16 --json";
    let output = soak(&args.split(' ').collect::<Vec<_>>());
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{text}{errors}");
    assert!(output.status.success(), "{text}{errors}");
    for name in ["lost", "duplicated", "torn", "misdelivered", "hangs", "begun_denied", "fds"] {
        assert!(number(&text, name).abs() < 0.5, "{name}: {text}");
    }
    assert!(number(&text, "kills") > 5.0 && number(&text, "cancelled") > 5.0);
    assert!(number(&text, "begun") > 100.0);
}

#[test]
fn people_get_lines_and_a_wrong_option_is_named() {
    let output = soak(&["--seconds", "1", "--kill-every", "1000000"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for name in ["frames", "kills", "detection p99 us", "misdelivered", "leaks"] {
        assert!(text.contains(name), "{name} is missing in: {text}");
    }
    let output = soak(&["--seconds", "0"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--seconds"));
}

#[test]
fn a_pool_loses_no_request_and_runs_none_twice_unasked() {
    let args = "--pool --seconds 4 --kill-every 25 --json";
    let output = soak(&args.split(' ').collect::<Vec<_>>());
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{text}{errors}");
    assert!(output.status.success(), "{text}{errors}");
    let wrong = ["lost", "run_twice", "innocent_poison", "torn", "misdelivered", "hangs"];
    for name in wrong.into_iter().chain(["places_kept", "fds", "children", "threads"]) {
        assert!(number(&text, name).abs() < 0.5, "{name}: {text}");
    }
    for name in ["replies", "streams", "kills", "deaths", "begun"] {
        assert!(number(&text, name) > 2.0, "{name}: {text}");
    }
}
