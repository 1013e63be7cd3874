//! The examples run, as the command in their header says, and print what they should.

use std::process::Command;

fn run(example: &str) -> String {
    let source = std::fs::read_to_string(format!("examples/{example}.rs")).unwrap();
    let command = source.lines().find_map(|line| line.strip_prefix("//!     cargo ")).unwrap();
    // The same build as these tests, which exists already.
    let arguments = command.split_whitespace().filter(|argument| *argument != "--release");
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
