//! Crash reports: one file for each worker that ended without being asked to, and what is in it.

mod directory;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Duration;

use serde_json::Value;

use crate::common::*;
use crate::hostile::script::CASE;
use crate::pools::{close as close_pool, new_pool_of, patient, pool_of};
use slipring::pool::{EventKind, Role};
use slipring::recording::Recording;
use slipring::worker::is_worker;
use slipring::{Channel, CrashReports, ErrorKind, Kind, Spawner};

/// What no report has unless it is asked for: it goes in payloads, arguments and the environment.
const SECRET: &str = "s3cret-p4yload";

/// Not a test of its own: a worker that writes garbage.
#[test]
fn hostile_entry() {
    if is_worker() {
        crate::hostile::worker::run();
    }
}

/// Not a test of its own: a worker that does not attach.
#[test]
fn entry_that_exits() {
    if is_worker() {
        println!("no model");
        std::process::exit(3);
    }
}

fn in_new_dir(name: &str) -> CrashReports {
    CrashReports::in_dir(temp_dir(name))
}

/// The files of the directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The reports, once all are written.
fn written(reports: &CrashReports) -> Vec<Value> {
    assert!(reports.wait(LONG));
    assert_eq!(reports.last_failure(), None);
    let files = files(reports.directory());
    let read = |path: &PathBuf| {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    files.iter().map(read).collect()
}

/// The one report that there is.
fn only_one(reports: &CrashReports) -> Value {
    let mut all = written(reports);
    assert_eq!((all.len(), reports.written()), (1, 1), "{all:?}");
    let report = all.remove(0);
    let compilers = report["host"]["build"]["compilers"].as_array().unwrap();
    assert!(compilers.iter().any(|it| it.as_str().unwrap().starts_with("rustc version 1.")));
    assert_eq!(report["format"], "slipring crash report");
    assert_eq!(report["format_version"], 1);
    assert_eq!(report["slipring"]["version"], env!("CARGO_PKG_VERSION"));
    report
}

/// Kills the worker, and waits until that is noticed.
fn kill(channel: &Channel) {
    send_signal(channel.pid(), libc::SIGKILL);
    eventually("it is dead", || !channel.is_alive());
}

/// The requests of a report, as id, stage, length, and the code of the kind.
fn requests(report: &Value) -> Vec<(u64, &str, u64, u64)> {
    let one = |request: &Value| {
        let number = |name: &str| request[name].as_u64().unwrap_or(u64::MAX);
        (number("id"), number("length"), number("kind_code"))
    };
    let list = report["requests"].as_array().unwrap();
    let all = list.iter().map(|it| (one(it), it["stage"].as_str().unwrap()));
    all.map(|((id, length, kind), stage)| (id, stage, length, kind)).collect()
}

fn code(kind: Kind) -> u64 {
    kind.code().into()
}

#[test]
fn each_way_to_die_has_one_report_that_names_it() {
    let signal = |number: i32| ("signal", Some(i64::from(number)), None);
    let ways = [
        (RAISE, libc::SIGKILL as u8, signal(libc::SIGKILL)),
        (RAISE, libc::SIGABRT as u8, signal(libc::SIGABRT)),
        (RAISE, libc::SIGSEGV as u8, signal(libc::SIGSEGV)),
        (EXIT, 3, ("exit", None, Some(3))),
        (EXIT, 0, ("exit", None, Some(0))),
    ];
    for (kind, byte, (cause, signal, code)) in ways {
        let reports = in_new_dir("ways");
        let logs = temp_dir("ways-logs");
        let channel = patient().log_dir(&logs).crash_reports(reports.clone()).spawn().unwrap();
        channel.call(PRINT, "last words", LONG).unwrap();
        let error = channel.call(kind, &[byte], LONG).unwrap_err();
        let report = only_one(&reports);
        let found = &report["cause"];
        assert_eq!(found["kind"], cause, "{report:#}");
        assert_eq!((found["signal"].as_i64(), found["exit_code"].as_i64()), (signal, code));
        assert_eq!(found["error_kind"], "peer_died");
        assert_eq!(found["has_dumped_core"], false);
        assert_eq!(report["worker"]["pid"], channel.pid());
        assert_eq!(report["worker"]["role"], "test");
        let tail = report["log_tail"].as_array().unwrap();
        assert!(tail.iter().any(|line| line == "err: last words"), "{tail:?}");
        let last = tail.last().unwrap().as_str().unwrap();
        assert!(last.starts_with("[supervisor] "), "{last}");
        assert_eq!(report["counters"]["requests"], 2);
        assert_eq!(report["health"]["begun"], 1);
        // The error was there first, and has the path now.
        let path = &files(reports.directory())[0];
        assert_eq!(error.crash_report(), Some(path.as_path()));
        assert_eq!(error.death().unwrap().crash_report(), Some(path.as_path()));
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        let summary = report["summary"].as_str().unwrap();
        assert!(error.to_string().contains(summary.split(", while").next().unwrap()), "{summary}");
        let _ = channel.close(LONG);
        drop(channel);
        assert_eq!(written(&reports).len(), 1);
        fs::remove_dir_all(reports.directory()).unwrap();
        fs::remove_dir_all(logs).unwrap();
    }
}

#[test]
fn nothing_is_written_for_a_worker_that_is_closed_or_dropped() {
    let reports = in_new_dir("closed");
    assert!(reports.wait(LONG));
    let spawner = small().crash_reports(reports.clone());
    let channel = ready(&spawner);
    assert_usable(&channel);
    close(&channel, LONG);
    // Does not end by itself, so that the close kills it.
    let (channel, pending) = stuck(&spawner);
    let _ = channel.close(Duration::ZERO);
    pending.wait().unwrap_err();
    let dropped = ready(&spawner).pid();
    eventually("it is reaped", || !is_in_the_table(dropped));
    let own = spawner.clone();
    let (pool, handle) = pool_of(Role::new(move |_| Ok(own.clone())).max_requests(2));
    for _ in 0..10 {
        handle.call(ECHO, "x", LONG).unwrap();
    }
    close_pool(&pool);
    assert_eq!(written(&reports), Vec::<Value>::new());
    assert_eq!((reports.written(), reports.lost()), (0, 0));
}

#[test]
fn a_worker_that_writes_garbage_has_a_report_although_it_lives() {
    let reports = in_new_dir("garbage");
    let spawner = spawner_of(hostile_entry).config(slipring::Config::small());
    let channel = spawner.crash_reports(reports.clone()).spawn().unwrap();
    let kind = Kind::from_request_code(CASE).unwrap();
    let error = channel.call(kind, "commit: torn", LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerCorrupt);
    let report = only_one(&reports);
    assert_eq!(report["cause"]["kind"], "corrupt");
    assert_eq!(report["cause"]["error_kind"], "peer_corrupt");
    assert_eq!(report["worker"]["has_ended"], false);
    assert_eq!(error.crash_report(), Some(files(reports.directory())[0].as_path()));
    assert!(error.to_string().contains("; crash report /"), "{error}");
    // Its end adds nothing.
    send_signal(channel.pid(), libc::SIGKILL);
    eventually("it is reaped", || channel.exit_cause().is_some());
    assert_eq!(written(&reports).len(), 1);
}

#[test]
fn a_start_that_fails_has_a_report() {
    let starts: [(&str, Spawner, &str); 4] = [
        ("no program", Spawner::program("/no/such/program"), "start failed"),
        ("no attach", spawner_of(entry_that_exits).log_dir(temp_dir("starts-log")), "start failed"),
        (
            "no end",
            Spawner::program("/bin/sleep").arg("600").handshake_timeout(Duration::from_millis(50)),
            "start failed",
        ),
        ("no session", small().mode("fail"), "no session"),
    ];
    for (name, spawner, cause) in starts {
        let reports = in_new_dir("starts");
        let spawner = spawner.crash_reports(reports.clone());
        let error = match spawner.spawn() {
            Err(error) => error,
            Ok(channel) => channel.wait_ready(LONG).unwrap_err(),
        };
        let report = only_one(&reports);
        assert_eq!(report["cause"]["kind"], cause, "{name}: {report:#}");
        assert_eq!(report["cause"]["error_kind"], error.kind().name(), "{name}");
        let path = &files(reports.directory())[0];
        assert_eq!(error.crash_report(), Some(path.as_path()), "{name}");
        if name == "no attach" {
            assert_eq!(report["cause"]["exit_code"], 3);
            let tail = report["log_tail"].as_array().unwrap();
            let has_told = |line: &Value| line.as_str().unwrap().ends_with("no model");
            assert!(tail.iter().any(has_told), "{tail:?}");
        }
        fs::remove_dir_all(reports.directory()).unwrap();
    }
    // What is refused before anything is started is no crash.
    let reports = in_new_dir("starts");
    small().nice(99).crash_reports(reports.clone()).spawn().unwrap_err();
    assert_eq!(written(&reports).len(), 0);
}

#[test]
fn the_requests_in_flight_are_listed_with_how_far_each_was() {
    let reports = in_new_dir("requests");
    let spawner = small().env(THREADS, "").arg(SECRET).env("CRASH_TEST", SECRET);
    let channel = ready(&spawner.extra("name", SECRET).crash_reports(reports.clone()));
    let (stay, secret) = (Stay::new(), SECRET.repeat(10));
    // All eight threads are busy: what comes then waits in the ring.
    let busy: Vec<_> = (0..8).map(|_| channel.submit(STAY, &stay.path(), LONG).unwrap()).collect();
    busy.iter().for_each(|pending| until_served(&channel, pending));
    let queued = channel.submit(ECHO, secret.as_str(), Duration::MAX).unwrap();
    let long = channel.submit(SUM, &vec![b'x'; 20_000], LONG).unwrap();
    let stream = channel.stream(COUNT, &encode(&[1, 1]), LONG).unwrap();
    let given_up = channel.submit(ECHO, secret.as_str(), LONG).unwrap();
    let given_up_id = given_up.id().get();
    drop(given_up);
    kill(&channel);
    let report = only_one(&reports);
    let mut expected: Vec<_> = busy
        .iter()
        .map(|it| (it.id().get(), "begun", stay.path().len() as u64, code(STAY)))
        .collect();
    expected.extend([
        (queued.id().get(), "queued", secret.len() as u64, code(ECHO)),
        (long.id().get(), "queued", 20_000, code(SUM)),
        (stream.id().get(), "queued", 16, code(COUNT)),
        (given_up_id, "queued", secret.len() as u64, code(ECHO)),
    ]);
    assert_eq!(requests(&report), expected, "{report:#}");
    let list = report["requests"].as_array().unwrap();
    let of = |id: u64| list.iter().find(|it| it["id"] == id).unwrap();
    assert!(of(expected[0].0)["stage_ms"].is_u64() && of(queued.id().get())["stage_ms"].is_null());
    assert!(of(queued.id().get())["deadline_in_ms"].is_null());
    let left = of(long.id().get())["deadline_in_ms"].as_i64().unwrap();
    assert!(left > 0 && left <= LONG.as_millis() as i64, "{left}");
    let flags = |id: u64| (of(id)["is_stream"].as_bool(), of(id)["is_awaited"].as_bool());
    assert_eq!(flags(stream.id().get()), (Some(true), Some(true)));
    assert_eq!(flags(given_up_id), (Some(false), Some(false)));
    let rings = &report["rings"]["request"];
    assert!(rings["used"].as_u64().unwrap() > 20_000, "{rings}");
    let sent = report["last_requests_sent"].as_array().unwrap();
    assert_eq!(sent.last().unwrap()["request"], given_up_id);

    // Neither payloads nor arguments nor values are in the file.
    let text = fs::read_to_string(&files(reports.directory())[0]).unwrap();
    assert!(!text.contains(SECRET) && !text.contains(&hex(SECRET)), "{text}");
    assert!(!text.contains("payload_hex"));
    let worker = &report["worker"];
    assert_eq!((&worker["argument_count"], &worker["arguments"]), (&5.into(), &Value::Null));
    let names = report["environment_names"].as_array().unwrap();
    assert!(names.iter().any(|name| name == "CRASH_TEST"));
    assert_eq!(worker["extra_names"][0], "name");
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn payloads_and_arguments_are_there_if_they_are_asked_for() {
    let reports = in_new_dir("asked").payloads(20).arguments();
    let channel = ready(&small().arg(SECRET).crash_reports(reports.clone()));
    let stay = Stay::new();
    let first = channel.submit(STAY, &stay.path(), LONG).unwrap();
    until_served(&channel, &first);
    let _second = channel.submit(ECHO, SECRET, LONG).unwrap();
    // In pieces, of which the first one is longer than what is wanted.
    let _third = channel.submit(SUM, &[b'y'; 20_000][..], LONG).unwrap();
    kill(&channel);
    let report = only_one(&reports);
    let payload = |at: usize| report["requests"][at]["payload_hex"].as_str().unwrap();
    assert_eq!(payload(0), &hex(std::str::from_utf8(&stay.path()).unwrap())[..40]);
    assert_eq!(payload(1), hex(SECRET));
    assert_eq!(payload(2), "79".repeat(20));
    let arguments = report["worker"]["arguments"].as_array().unwrap();
    assert_eq!(arguments.last().unwrap(), SECRET);
}

#[test]
fn requests_that_have_left_the_ring_keep_kind_and_length_for_a_while() {
    let reports = in_new_dir("released");
    let spawner = in_4_kib().env(THREADS, "").crash_reports(reports.clone());
    let channel = ready(&spawner);
    let stay = Stay::new();
    let old = channel.submit(STAY, &stay.path(), LONG).unwrap();
    until_served(&channel, &old);
    // They go over the first one several times.
    for _ in 0..40 {
        channel.call(ECHO, &[1; 900], LONG).unwrap();
    }
    let new = channel.submit(STAY, &stay.path(), LONG).unwrap();
    until_served(&channel, &new);
    kill(&channel);
    let report = only_one(&reports);
    let unknown = u64::MAX;
    let expected = [
        (old.id().get(), "begun", unknown, unknown),
        (new.id().get(), "begun", stay.path().len() as u64, code(STAY)),
    ];
    assert_eq!(requests(&report), expected);
}

#[test]
fn a_recorded_channel_has_its_last_frames_in_the_report() {
    for asked in [false, true] {
        let reports = in_new_dir("recorded");
        let reports = if asked { reports.payloads(6) } else { reports };
        let recordings = temp_dir("recorded-frames");
        let recording = Recording::in_dir(&recordings);
        let spawner = patient().crash_reports(reports.clone()).record(recording);
        let channel = spawner.spawn().unwrap();
        for _ in 0..20 {
            channel.call(ECHO, SECRET, LONG).unwrap();
        }
        channel.call(RAISE, &[libc::SIGKILL as u8], LONG).unwrap_err();
        let report = only_one(&reports);
        assert_eq!(report["recording"].as_str(), channel.recording_path().unwrap().to_str());
        let frames = report["last_frames"].as_array().unwrap();
        assert_eq!(frames.len(), 32, "{report:#}");
        let what: Vec<_> = frames.iter().map(|frame| frame["what"].as_str().unwrap()).collect();
        let end = what.iter().position(|what| *what == "end").unwrap();
        assert!(what[..end].contains(&"reply"), "{what:?}");
        assert!(frames[end]["cause"].as_str().unwrap().contains("SIGKILL"), "{report:#}");
        let raised = frames.iter().rfind(|frame| frame["what"] == "request").unwrap();
        assert_eq!((&raised["kind"], &raised["length"]), (&RAISE.to_string().into(), &1.into()));
        let file = fs::read_to_string(&files(reports.directory())[0]).unwrap();
        assert!(!file.contains(SECRET) && !file.contains(&hex(SECRET)), "{file}");
        assert_eq!(file.contains(&hex(&SECRET[..6])), asked, "{file}");
        drop(channel);
        fs::remove_dir_all(reports.directory()).unwrap();
        fs::remove_dir_all(recordings).unwrap();
    }
}

#[test]
fn a_death_that_many_threads_wait_for_has_one_report() {
    let reports = in_new_dir("many-wait");
    let channel = ready(&small().pollable().crash_reports(reports.clone()));
    let (stay, barrier) = (Stay::new(), Barrier::new(33));
    let first = channel.submit(STAY, &stay.path(), LONG).unwrap();
    until_served(&channel, &first);
    let errors: Vec<_> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..32)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    channel.call(ECHO, "x", LONG).unwrap_err()
                })
            })
            .collect();
        barrier.wait();
        eventually("all are sent", || channel.in_flight() == 33);
        send_signal(channel.pid(), libc::SIGKILL);
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    let report = only_one(&reports);
    assert_eq!(report["requests"].as_array().unwrap().len(), 33);
    let path = files(reports.directory()).remove(0);
    assert!(errors.iter().all(|error| error.crash_report() == Some(path.as_path())));
}

#[test]
fn fifty_deaths_at_once_have_fifty_reports() {
    let reports = in_new_dir("fifty").keep(1000);
    let spawner = small().crash_reports(reports.clone());
    let channels: Vec<_> = (0..50).map(|_| ready(&spawner)).collect();
    channels.iter().for_each(|channel| send_signal(channel.pid(), libc::SIGKILL));
    for channel in &channels {
        eventually("it is dead", || !channel.is_alive());
    }
    // Their memory may go before the reports are written.
    let mut pids: Vec<_> = channels.iter().map(|channel| u64::from(channel.pid())).collect();
    drop(channels);
    let all = written(&reports);
    let mut found: Vec<_> =
        all.iter().map(|report| report["worker"]["pid"].as_u64().unwrap()).collect();
    pids.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, pids);
}

#[test]
fn a_pool_says_which_place_the_worker_had_and_what_was_sent_again() {
    let reports = in_new_dir("pool");
    let own = reports.clone();
    let role = Role::new(move |_| Ok(patient().crash_reports(own.clone())))
        .backoff(Duration::from_millis(5), Duration::from_millis(20), Duration::from_secs(5))
        .idempotent(EXIT)
        .kind_name(EXIT, "leave");
    let (pool, handle) = pool_of(role);
    let error = handle.call(EXIT, &[3], LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poison);
    let all = written(&reports);
    assert_eq!(all.len(), 2, "{all:#?}");
    for (at, report) in all.iter().enumerate() {
        assert_eq!(report["cause"]["kind"], "exit");
        let row = &report["pool"];
        assert_eq!((&row["role"], &row["was_ready"]), (&"one".into(), &true.into()));
        // There is one more place, for replacements.
        assert!(row["place"].as_u64().unwrap() < 2 && row["workers_before"].as_u64().unwrap() < 2);
        let request = &report["requests"][0];
        assert_eq!((&request["kind"], &request["stage"]), (&"leave".into(), &"begun".into()));
        let retries = row["resent_requests"].as_array().unwrap();
        assert_eq!(retries.len(), at, "{retries:?}");
    }
    let retry = &all[1]["pool"]["resent_requests"][0];
    assert_eq!((&retry["kind"], &retry["attempt"]), (&"leave".into(), &2.into()));
    close_pool(&pool);
    assert_eq!(written(&reports).len(), 2);
}

#[test]
fn a_hang_and_a_slow_start_that_a_pool_has_ended_have_reports() {
    let reports = in_new_dir("hang");
    let own = reports.clone();
    let role = Role::new(move |_| Ok(patient().crash_reports(own.clone())))
        .hang_timeout(Duration::from_millis(100));
    let (pool, handle) = pool_of(role);
    handle.call(FOR_EVER, "", LONG).unwrap_err();
    let report = only_one(&reports);
    assert_eq!((&report["cause"]["kind"], &report["cause"]["signal"]), (&"hung".into(), &9.into()));
    assert_eq!(report["requests"][0]["stage"], "begun");
    close_pool(&pool);

    let reports = in_new_dir("slow-start");
    let own = reports.clone();
    let role = Role::new(move |_| Ok(small().mode("slow").crash_reports(own.clone())))
        .start_timeout(Duration::from_millis(50))
        .backoff(LONG, LONG, LONG);
    let (pool, _handle) = new_pool_of(role);
    let events = pool.events();
    let error = loop {
        if let EventKind::StartFailed(error) = events.recv_timeout(LONG).unwrap().kind {
            break error;
        }
    };
    let report = only_one(&reports);
    assert_eq!(report["cause"]["kind"], "start timed out", "{report:#}");
    assert_eq!(report["pool"]["was_ready"], false);
    assert_eq!(error.crash_report(), Some(files(reports.directory())[0].as_path()));
    close_pool(&pool);
}
