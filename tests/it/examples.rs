//! The examples run, as the command in their header says, and print what they should. The web
//! service, which is a package of its own, is run by `tests/other_packages.rs`.

use std::process::Command;

fn run(example: &str) -> String {
    run_command(example, "//!     cargo run ")
}

/// Runs the command in the example's header that begins so.
fn run_command(example: &str, start: &str) -> String {
    let source = std::fs::read_to_string(format!("examples/{example}.rs")).unwrap();
    let command = source.lines().find(|line| line.starts_with(start)).unwrap();
    // The same build as these tests, which exists already.
    let arguments = command.split_whitespace().skip(2).filter(|word| *word != "--release");
    let output = Command::new(env!("CARGO")).args(arguments).arg("--quiet").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{example}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn self_spawn_gets_an_answer_from_another_process() {
    assert!(run("self_spawn").ends_with("says: HELLO FROM ANOTHER PROCESS\n"));
}

#[test]
fn embed_host_embeds_every_text() {
    let printed = run("embed_host");
    let letters = include_str!("../../examples/glosses.txt");
    let letters = letters.bytes().filter(u8::is_ascii_alphabetic).count();
    assert!(printed.starts_with("5000 texts in "), "{printed}");
    assert!(printed.contains(&format!("letters counted: {letters}\n")), "{printed}");
}

#[test]
fn token_stream_tells_all_is_cancelled_and_goes_on() {
    let printed = run("token_stream");
    assert!(printed.contains("whole: a slip ring carries"), "{printed}");
    assert!(printed.contains("the stream: request 2 was cancelled"), "{printed}");
    assert!(printed.contains("26 tokens in the next stream"), "{printed}");
}

#[test]
fn raw_link_adds_up_what_was_sent_in_batches() {
    let printed = run("raw_link");
    assert!(printed.starts_with("100000 samples in 31"), "{printed}");
    assert!(printed.ends_with("kind 3: the sum is 4999950000\n"), "{printed}");
}

#[test]
fn epoll_host_reads_all_replies_and_is_told_of_a_crash() {
    let printed = run("epoll_host");
    for name in ["first", "second", "third"] {
        assert!(printed.contains(&format!("{name}: request 1: 1 letters\n")), "{printed}");
        assert!(printed.contains(&format!("{name}: request 2: 3 letters\n")), "{printed}");
        assert!(printed.contains(&format!("{name}: request 3: 8 letters\n")), "{printed}");
    }
    assert!(printed.contains("second: request 4: worker second (pid "), "{printed}");
    assert!(printed.ends_with(
        "first: exited with code 0\nsecond: killed by signal SIGABRT (6)\n\
         third: exited with code 0\n"
    ));
}

/// Its tests are run by `cargo test --features testing` as well, as those of any target.
#[cfg(feature = "testing")]
#[test]
fn testing_host_runs_and_passes_its_own_tests() {
    let printed = run("testing_host");
    assert_eq!(printed, "ring: anneau\nbell: bell, 1 not translated\n");
    let printed = run_command("testing_host", "//!     cargo test ");
    assert!(printed.contains("4 passed"), "{printed}");
}

#[cfg(feature = "tokio")]
#[test]
fn async_host_calls_and_streams_at_once_and_is_unharmed_by_a_timeout_and_a_drop() {
    let printed = run("async_host");
    assert!(printed.contains("ten calls: 55 letters"), "{printed}");
    assert!(printed.contains("the whole stream: 40 tokens"), "{printed}");
    assert!(printed.contains("the stream that was dropped: 15 tokens"), "{printed}");
    assert!(printed.contains("timed out after 20ms"), "{printed}");
    assert!(printed.contains("a ping won: Busy"), "{printed}");
    assert!(printed.contains("then: 14 letters\nin flight: 0\n"), "{printed}");
}
