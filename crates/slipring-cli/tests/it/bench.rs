//! `slipring bench` as a user runs it: figures for this machine, whatever they are.

use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

use crate::common::{Directory, Finished};

fn bench(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_slipring")).arg("bench").args(args).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_contender_has_a_row_with_all_figures_in_json() {
    if available_parallelism().unwrap().get() < 2 {
        return;
    }
    let json = bench(&["--quick", "--json", "--only", "W1,W6"]);
    assert!(!json.contains("\"failure\""), "{json}");
    let rows: Vec<&str> = json.lines().filter(|line| line.contains("\"workload\"")).collect();
    for transport in ["one line", "raw ring", "Channel::call", "pipe", "unix socket", "Channel"] {
        let is_its = |row: &&&str| row.contains(&format!("\"transport\": \"{transport}\""));
        let row = rows.iter().find(is_its).unwrap_or(&"");
        for key in [
            "size",
            "placement",
            "p50_ns",
            "p99_ns",
            "msgs_s",
            "gb_s",
            "ratio_to_limit",
            "cpu_ms",
            "wakeups",
        ] {
            assert!(row.contains(&format!("\"{key}\": ")), "{transport} has no {key}: {json}");
        }
    }
}

#[test]
fn the_table_says_which_machine_it_is_and_whether_the_run_counts() {
    if available_parallelism().unwrap().get() < 2 {
        return;
    }
    let table = bench(&["--quick", "--only", "W6"]);
    assert!(table.contains(" cores, Linux ") && table.contains("cache line there and back"));
    assert!(table.contains("W6 spawn to first answer") && table.contains("bare process"));
    for reference in ["This run", "The run counts", "There is no reference", "Nothing here"] {
        if table.contains(&format!("\n    {reference}")) {
            return;
        }
    }
    panic!("whether it counts: {table}");
}

#[test]
fn the_table_names_sizes_and_places_and_ends_with_a_verdict_in_words() {
    if available_parallelism().unwrap().get() < 2 {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_slipring"))
        .args(["bench", "--quick", "--only", "W1,W4"])
        .output()
        .unwrap();
    let (table, progress) = (String::from_utf8_lossy(&output.stdout), output.stderr);
    for title in [
        "W1 round trip, busy: 32 B there and back",
        "W1 round trip, busy: 64 B there and back",
        "W4 embedding call, busy: 12,800 B there, 96 KiB back",
    ] {
        assert!(table.contains(&format!("\n{title}\n")), "{title}: {table}");
        assert!(String::from_utf8_lossy(&progress).contains(title), "{title}");
    }
    for word in ["\nnear ", "\nfar ", "\ndisturbed ", "share a cache", "of the limit "] {
        assert!(table.contains(word), "{word:?}: {table}");
    }
    let (_, verdict) = table.split_once("\nVerdict\n").expect("a verdict at the end");
    assert!(verdict.contains("raw ring: ") && verdict.contains("Channel::call: "), "{verdict}");
    let is_judged = ["  Good: ", "  Off\n", "  Unclear: "].iter().any(|it| verdict.contains(it));
    assert!(is_judged && verdict.contains("  This machine\n"), "{verdict}");
}

#[test]
fn two_results_are_compared_row_by_row_and_other_files_refused() {
    if available_parallelism().unwrap().get() < 2 {
        return;
    }
    let directory = Directory::new();
    let [before, after, other] =
        ["before.json", "after.json", "other"].map(|it| directory.path(it));
    for file in [&before, &after] {
        std::fs::write(file, bench(&["--quick", "--json", "--only", "W6"])).unwrap();
    }
    let compare = |first: &Path, second: &Path, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slipring"));
        Finished::from(
            command.args(["bench", "--compare"]).args([first, second]).args(more).output().unwrap(),
        )
    };
    let table = compare(&before, &after, &[]).succeeded().stdout;
    for part in ["before  20", "after   20", "W6 spawn to first answer", "bare process", "\nOf "] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let json = compare(&before, &after, &["--json"]).succeeded().stdout;
    assert!(json.starts_with('{') && json.contains("\"judgement\": \""), "{json}");
    for (text, why) in [
        ("x", "is no result of `slipring bench --json`"),
        ("{\"format\": 99}", "is a result of format 99, of another version of slipring"),
    ] {
        std::fs::write(&other, text).unwrap();
        for (first, second) in [(&other, &before), (&before, &other)] {
            let done = compare(first, second, &[]);
            assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{done:?}");
            assert!(done.stderr.contains(why) && done.stderr.contains("other"), "{done:?}");
            assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
        }
    }
    let endless = compare("/dev/zero".as_ref(), &before, &[]);
    assert!(endless.code == 1 && endless.stderr.contains("has over 64 MiB"), "{endless:?}");
    let missing = compare(&directory.path("missing"), &before, &[]);
    assert!(missing.code == 1 && missing.stderr.contains("cannot be read"), "{missing:?}");
}

#[test]
fn processors_that_cannot_be_measured_on_are_refused_at_once() {
    let all: Vec<usize> = slipring_bench::limits::sys::allowed_cpus();
    let first = all[0];
    for (cpus, message) in [
        (format!("{first},1023"), "there is no processor 1023; this process may use "),
        (format!("99999,{first}"), "there is no processor 99999; this process may use "),
        (format!("{first},{first}"), "the two must differ"),
    ] {
        for args in [&["--quick", "--only", "W6"][..], &["--plot", "/no-such/cost.svg"]] {
            // Without the check, the first of these measures for minutes.
            let output = Command::new("timeout")
                .args(["20", env!("CARGO_BIN_EXE_slipring"), "bench", "--cpus", &cpus])
                .args(args)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{cpus}: {said}");
            assert!(said.contains(message) && said.contains("--cpus"), "{cpus}: {said}");
            assert_eq!(said.lines().count(), 1, "{cpus}: {said}");
        }
    }
}

#[test]
fn the_worker_s_entry_is_not_for_users() {
    let output = Command::new(env!("CARGO_BIN_EXE_slipring")).arg("bench-worker").output();
    assert_eq!(output.unwrap().status.code(), Some(2));
}
