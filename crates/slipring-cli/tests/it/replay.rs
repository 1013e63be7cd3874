//! `slipring replay`, with recordings of real hosts and real workers.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use slipring::recording::{Payloads, Recording};
use slipring::worker::{self, Worker};
use slipring::{Channel, Kind, Spawner};

use crate::common::{Directory, Finished, kill, until};

const LONG: Duration = Duration::from_secs(60);

const SHOUT: Kind = Kind::named("shout");
const SPELL: Kind = Kind::named("spell");
const VECTOR: Kind = Kind::named("vector");

/// Turns the direction of what follows, and clears a terminal.
const EVIL: &str = "\u{202e}evil\u{9b}2J";

/// How the worker of these tests behaves.
const MODE: &str = "SLIPRING_TEST_REPLAY";

const ENTRY: &str = "replay::the_worker_of_these_tests";
const ENTRY_ARGS: [&str; 4] = [ENTRY, "--exact", "--nocapture", "--test-threads=1"];

/// The worker process.
#[test]
fn the_worker_of_these_tests() {
    if !worker::is_worker() {
        return;
    }
    let mode = std::env::var(MODE).unwrap_or_default();
    let has = move |word: &str| mode.contains(word);
    let (crashes, whispers, is_noisy) = (has("crashes"), has("whispers"), has("noisy"));
    let is_slow = has("slow");
    Worker::new(|_| Ok(()))
        .on(SHOUT, move |(), request, responder| {
            let text = request.text()?;
            if text == "boom" && crashes {
                eprintln!("about to crash");
                std::process::abort();
            }
            if text == "slow" && is_slow {
                std::thread::sleep(LONG);
            }
            if text == "no" {
                return Err("it cannot be shouted".into());
            }
            let loud = text.to_uppercase();
            Ok(responder.send(&if whispers { loud.replace('X', "x") } else { loud })?)
        })
        .on(SPELL, |(), request, responder| {
            let mut stream = responder.stream();
            for byte in request.text()?.bytes() {
                stream.send(&[byte; 3][..])?;
            }
            Ok(stream.end()?)
        })
        .on(VECTOR, move |(), _, responder| {
            let off = if is_noisy { 1e-5 } else { 0.0 };
            let numbers = [0.25_f32, -3.0 + off, 0.0];
            Ok(responder.send(numbers.map(f32::to_le_bytes).as_flattened())?)
        })
        .serve()
        .unwrap();
}

fn recorded(directory: &Directory, mode: &str, change: impl Fn(Recording) -> Recording) -> Channel {
    let recording = change(Recording::in_dir(directory.path("recordings")));
    let spawner = Spawner::current_exe().unwrap().args(ENTRY_ARGS).role("test");
    spawner.env(MODE, mode).record(recording).spawn().unwrap()
}

/// Makes requests of every form, and returns the recording.
fn record_all(directory: &Directory, change: impl Fn(Recording) -> Recording) -> PathBuf {
    let channel = recorded(directory, "", change);
    channel.wait_ready(LONG).unwrap();
    channel.call(SHOUT, "axe", LONG).unwrap();
    channel.call(SHOUT, "no", LONG).unwrap_err();
    let long = "long ".repeat(300_000);
    let together = [channel.submit(SHOUT, &long, LONG), channel.submit(SHOUT, "and", LONG)];
    together.into_iter().for_each(|pending| drop(pending.unwrap().wait().unwrap()));
    assert_eq!(channel.stream(SPELL, "spell", LONG).unwrap().count(), 5);
    channel.call(VECTOR, "", LONG).unwrap();
    let mut cancelled = channel.stream(SPELL, "cancelled", LONG).unwrap();
    cancelled.next_chunk().unwrap();
    drop(cancelled);
    channel.close(LONG).unwrap();
    let recording = channel.recording_path().unwrap().to_owned();
    // A close waits for a second, which is too short on a busy machine.
    until("the end of the recording", || list(&[], &recording).stdout.contains("# whole\n"));
    recording
}

fn whole(recording: Recording) -> Recording {
    recording
}

fn replay(mode: &str, options: &[&str], recording: &PathBuf) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipring"));
    command.arg("replay").args(options).arg(recording);
    command.arg("--").arg(std::env::current_exe().unwrap()).args(ENTRY_ARGS);
    command.env(MODE, mode).env_remove("SLIPRING_RECORD").output().unwrap().into()
}

fn list(options: &[&str], recording: &PathBuf) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipring"));
    command.args(["replay", "--list"]).args(options).arg(recording).output().unwrap().into()
}

#[test]
fn a_recorded_crash_happens_again_at_the_same_request_until_it_is_mended() {
    let directory = Directory::new();
    let channel = recorded(&directory, "crashes", whole);
    channel.call(SHOUT, "first", LONG).unwrap();
    let behind = channel.submit(SPELL, "behind", LONG).unwrap();
    drop(behind);
    let doomed = channel.submit(SHOUT, "boom", LONG).unwrap();
    let number = doomed.id();
    assert!(doomed.wait().unwrap_err().is_peer_dead());
    let recording = channel.recording_path().unwrap().to_owned();
    for options in [&[][..], &["--one-by-one"], &["--speed", "as-recorded"]] {
        let crashed = replay("crashes", options, &recording);
        assert_eq!(crashed.code, 3, "{crashed:?}");
        let said = format!("the worker died at request {number} (named kind ");
        for words in [&*said, "4 bytes)", "SIGABRT", "no answer to it", "about to crash\n"] {
            assert!(crashed.stderr.contains(words), "{words}: {crashed:?}");
        }
        assert!(
            crashed.stderr.contains("its worker died: killed by signal SIGABRT"),
            "{crashed:?}"
        );
        assert!(crashed.stdout.contains(&format!("request {number} ")), "{crashed:?}");
    }
    let mended = replay("", &[], &recording).succeeded();
    assert!(mended.stdout.contains(&format!("request {number} ")), "{mended:?}");
    assert!(mended.stdout.contains("1 answers are the same, 0 differ, 1 have none"), "{mended:?}");
}

#[test]
fn the_same_worker_answers_the_same_however_it_is_asked() {
    let directory = Directory::new();
    let recording = record_all(&directory, whole);
    for options in [&[][..], &["--one-by-one"], &["--tolerance", "0.5"], &["--json"]] {
        let same = replay("", options, &recording).succeeded();
        let said = match options {
            ["--json"] => r#""differs":0"#,
            _ => "6 answers are the same, 0 differ, 0 have none in the recording, 1 were not",
        };
        assert!(same.stdout.contains(said), "{same:?}");
    }
    let lines = replay("", &["--json", "--only", "shout"], &recording).succeeded().stdout;
    assert_eq!(lines.matches(r#""outcome":"same""#).count(), 4, "{lines}");
}

#[test]
fn an_answer_that_differs_is_named_with_its_first_byte_or_number() {
    let directory = Directory::new();
    let recording = record_all(&directory, whole);
    let differs = replay("whispers", &[], &recording);
    assert_eq!(differs.code, 1, "{differs:?}");
    assert!(differs.stdout.contains("differs: byte 1 of 3 is 78, was 58"), "{differs:?}");
    assert!(differs.stderr.contains("1 of 7 answers differ"), "{differs:?}");
    let noisy = replay("noisy", &["--only", "vector"], &recording);
    assert_eq!(noisy.code, 1, "{noisy:?}");
    let near = replay("noisy", &["--tolerance", "1e-3"], &recording).succeeded();
    assert!(near.stdout.contains("6 answers are the same"), "{near:?}");
    let exact = replay("noisy", &["--tolerance", "1e-9"], &recording);
    assert!(exact.stdout.contains("number 1, at byte 4, is -2.99999, was -3.0"), "{exact:?}");
}

#[test]
fn hashed_answers_are_compared_and_requests_left_out_are_not_sent() {
    let directory = Directory::new();
    let hashed = record_all(&directory, |recording| recording.replies(Payloads::Hashed));
    let same = replay("", &[], &hashed).succeeded();
    assert!(same.stdout.contains("6 answers are the same"), "{same:?}");
    let differs = replay("whispers", &[], &hashed);
    assert_eq!(differs.code, 1);
    assert!(differs.stdout.contains("another hash of the bytes 0 to 3"), "{differs:?}");
    let refused = replay("", &["--tolerance", "1"], &hashed);
    assert_eq!((refused.code, refused.stderr.contains("whole answers")), (1, true));
    let omitted = record_all(&directory, |recording| recording.payloads(Payloads::Omitted));
    let refused = replay("", &[], &omitted);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("left out"), "{refused:?}");
    let listed = list(&[], &omitted).succeeded().stdout;
    assert!(listed.contains(" left-out\n") && listed.contains("# whole\n"), "{listed}");
}

#[test]
fn requests_have_the_time_that_they_had_if_that_is_asked_for() {
    let directory = Directory::new();
    let channel = recorded(&directory, "", whole);
    channel.call(SHOUT, "slow", Duration::from_secs(2)).unwrap();
    channel.close(LONG).unwrap();
    let recording = channel.recording_path().unwrap().to_owned();
    let late = replay("slow", &["--deadlines"], &recording);
    assert_eq!(late.code, 1, "{late:?}");
    assert!(late.stdout.contains("differs: ") && late.stdout.contains("timed out"), "{late:?}");
    let same = replay("", &["--deadlines"], &recording).succeeded();
    assert!(same.stdout.contains("1 answers are the same"), "{same:?}");
}

#[test]
fn a_replay_that_is_ended_leaves_no_log_behind() {
    let directory = Directory::new();
    let recording = record_all(&directory, whole);
    let temporary = directory.path("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let logs = || std::fs::read_dir(&temporary).unwrap().flatten().next();
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipring"));
    command.arg("replay").arg(&recording).args(["--", "/bin/sleep", "1000"]);
    let mut child = command.env("TMPDIR", &temporary).spawn().unwrap();
    until("the directory of the log", || logs().is_some());
    let mode = logs().unwrap().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    until("the handler of signals", || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().flatten();
        let names = threads.flat_map(|thread| std::fs::read(thread.path().join("comm")));
        names.into_iter().any(|name| name == b"signals\n")
    });
    kill("TERM", child.id());
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    assert!(logs().is_none());
}

#[test]
fn records_are_listed_up_to_where_a_file_is_cut_or_damaged() {
    let directory = Directory::new();
    let recording = record_all(&directory, whole);
    let listed = list(&[], &recording).succeeded().stdout;
    for words in
        ["# role: test\n", " request ", " stream-chunk 3\n", " error ", " cancel ", "# whole\n"]
    {
        assert!(listed.contains(words), "{words}: {listed}");
    }
    assert!(listed.contains("it cannot be shouted"), "{listed}");
    let began = listed.lines().find_map(|line| line.strip_prefix("# began: 20")).unwrap();
    assert!(began.len() == 22 && began.contains('T') && began.ends_with('Z'), "{began}");
    assert!(listed.lines().any(|line| line.contains(" end -\tclosed: exited with code 0")));
    let json = list(&["--json", "--only", "vector"], &recording).succeeded().stdout;
    assert_eq!(json.matches(r#""what":"re"#).count(), 2, "{json}");
    let bytes = std::fs::read(&recording).unwrap();
    let copy = directory.path("copy.sliprec");
    std::fs::write(&copy, &bytes[..bytes.len() - 20]).unwrap();
    let cut = list(&[], &copy).succeeded().stdout;
    assert!(cut.contains("# cut within a record"), "{cut}");
    let cut = replay("", &[], &copy).succeeded().stdout;
    assert!(cut.contains("6 answers are the same"), "{cut}");
    std::fs::write(&copy, "something else").unwrap();
    for refused in [list(&[], &copy), replay("", &[], &copy)] {
        assert_eq!(refused.code, 1);
        assert!(refused.stderr.contains("copy.sliprec: "), "{refused:?}");
    }
}

#[test]
fn a_replay_without_a_worker_or_with_one_that_does_not_start_says_so() {
    let directory = Directory::new();
    let recording = record_all(&directory, whole);
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipring"));
    let none: Finished = command.arg("replay").arg(&recording).output().unwrap().into();
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("give the worker behind --"), "{none:?}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipring"));
    command.arg("replay").arg(&recording).args(["--", "/bin/false"]);
    let failed: Finished = command.output().unwrap().into();
    assert_eq!(failed.code, 3);
    assert!(failed.stderr.contains("the worker did not start"), "{failed:?}");
}

#[test]
fn what_a_recording_says_does_not_steer_the_terminal() {
    let directory = Directory::new();
    let recording = Recording::in_dir(directory.path("recordings"));
    let spawner = Spawner::current_exe().unwrap().args(ENTRY_ARGS).role("test");
    let channel = spawner.extra("note", EVIL).record(recording).spawn().unwrap();
    channel.close(LONG).unwrap();
    let recording = channel.recording_path().unwrap().to_owned();
    let text = list(&[], &recording).succeeded().stdout;
    let json = list(&["--json"], &recording).succeeded().stdout;
    assert!(text.contains(r"\u{202e}evil\u{9b}2J"), "{text}");
    assert!(json.contains(r"\u202eevil\u009b2J"), "{json}");
    let head: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    let mut fields = head["fields"].as_array().unwrap().iter();
    assert!(fields.any(|field| *field == serde_json::json!(["extra.note", EVIL])), "{json}");
}
