//! `slipring bench` as a user runs it: figures for this machine, whatever they are.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;
use std::thread::available_parallelism;

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
    assert!(table.trim_end().contains("\n\nThe") || table.contains("\nNothing"), "{table}");
}

#[test]
fn the_worker_s_entry_is_not_for_users() {
    let output = Command::new(env!("CARGO_BIN_EXE_slipring")).arg("bench-worker").output();
    assert_eq!(output.unwrap().status.code(), Some(2));
}
