//! The examples print what they should. The command in the header of each runs it. The web
//! service, which is a package of its own, is run by `tests/other_packages.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// The time of the last change in a folder.
fn changed(folder: &str) -> SystemTime {
    let mut newest = SystemTime::UNIX_EPOCH;
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.path().is_dir() {
                true => folders.push(entry.path()),
                false => newest = newest.max(entry.metadata().unwrap().modified().unwrap()),
            }
        }
    }
    newest
}

/// The program of an example, if it was built since the last change. `cargo test` builds all of
/// them before the tests run; it builds none if it is told to run some of the tests only.
fn built(example: &str) -> Option<PathBuf> {
    let test = std::env::current_exe().unwrap();
    let program = test.parent()?.parent()?.join("examples").join(example);
    let time = fs::metadata(&program).ok()?.modified().unwrap();
    let source = fs::metadata(format!("examples/{example}.rs")).unwrap().modified().unwrap();
    (time > changed("src").max(source)).then_some(program)
}

fn run(example: &str) -> String {
    let source = fs::read_to_string(format!("examples/{example}.rs")).unwrap();
    let command = source.lines().find_map(|line| line.strip_prefix("//!     cargo run "));
    let command = command.unwrap();
    assert!(command.ends_with(&format!("--example {example}")), "{command}");
    let mut program = match built(example) {
        Some(program) => Command::new(program),
        None => {
            let mut cargo = Command::new(env!("CARGO"));
            let arguments = command.split(' ').filter(|word| *word != "--release");
            cargo.args(["run", "--quiet"]).args(arguments);
            cargo
        }
    };
    let output = program.output().unwrap();
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
fn continuous_batching_advances_three_chats_at_a_time() {
    let printed = run("continuous_batching");
    for prompt in ["one", "one two", "one two three"] {
        assert!(printed.contains(&format!("the chat \"{prompt}\" is whole: true\n")), "{printed}");
    }
    assert!(!printed.contains("false"), "{printed}");
    assert!(printed.contains("the long chat: request 1 was cancelled\n"), "{printed}");
    assert!(printed.contains(" steps, of at most 3 chats\n"), "{printed}");
    assert!(printed.ends_with("5 chats have finished, 1 was cancelled\n"), "{printed}");
}

/// The example itself compares each answer with what it should be.
#[test]
fn dynamic_batching_needs_far_fewer_passes_for_as_many_texts() {
    let printed = run("dynamic_batching");
    assert!(printed.contains("  320 texts in 320 passes\n"), "{printed}");
    let passes = printed.split("  3200 texts in ").nth(1).and_then(|rest| rest.split(' ').next());
    let passes: u32 = passes.unwrap().parse().unwrap();
    // No pass has more than 64.
    assert!((50..1600).contains(&passes), "{printed}");
    assert!(printed.ends_with(" times as many with batches\n"), "{printed}");
}

#[test]
fn role_worker_embeds_chats_reranks_and_reads_pages() {
    let expected = "\
embed: text 0 is [3.0, 2.0, 2.0, 2.0]
embed: text 1 is [2.0, 1.0, 0.0, 1.0]
chat: round and round it goes, stop
chat: round and round, length: 10 tokens read, 3 written
rerank: [0.33333334, 0.6666667, 0.0, 0.0]
rerank: \"a ring that slips\" has 0.6666667
rerank: \"the ring of a bell\" has 0.33333334
vision: page 1 of Some(3): title
vision: page 3 of Some(3): chapter one
";
    assert_eq!(run("role_worker"), expected);
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

/// `cargo test` runs the tests of this example, as of any target.
#[cfg(feature = "testing")]
#[test]
fn testing_host_translates_two_words() {
    assert_eq!(run("testing_host"), "ring: anneau\nbell: bell, 1 not translated\n");
}

#[cfg(feature = "tokio")]
#[test]
fn async_host_calls_and_streams_at_once_and_survives_a_timeout() {
    let printed = run("async_host");
    assert!(printed.contains("ten calls: 55 letters"), "{printed}");
    assert!(printed.contains("the whole stream: 40 tokens"), "{printed}");
    assert!(printed.contains("the stream that was dropped: 15 tokens"), "{printed}");
    assert!(printed.contains("timed out after 20ms"), "{printed}");
    assert!(printed.contains("a ping won: Busy"), "{printed}");
    assert!(printed.contains("then: 14 letters\nin flight: 0\n"), "{printed}");
}
