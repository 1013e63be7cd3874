//! `slipring doctor`, on this machine and with less than it has.
#![allow(unsafe_code, reason = "limits and filters are set between fork and exec")]

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::{Resource, Rlimit, geteuid, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::Value;

use crate::common::{Directory, Finished, copy_program};

const PROGRAM: &str = env!("CARGO_BIN_EXE_slipring");

/// What `doctor --json` has said, with the exit code.
struct Report {
    code: i32,
    stderr: String,
    json: Value,
}

impl Report {
    #[track_caller]
    fn of(finished: Finished) -> Self {
        let Finished { code, stdout, stderr } = finished;
        let json =
            serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}{stderr}"));
        Self { code, stderr, json }
    }

    fn items(&self) -> &[Value] {
        self.json["items"].as_array().unwrap()
    }

    #[track_caller]
    fn item(&self, name: &str) -> &Value {
        let found = self.items().iter().find(|item| item["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {}", self.json))
    }

    #[track_caller]
    fn assert_state(&self, name: &str, state: &str, value: &str) {
        let item = self.item(name);
        assert_eq!(item["state"], state, "{item}");
        assert!(item["value"].as_str().unwrap().starts_with(value), "{item}");
        assert_eq!(item["change"].is_null(), state == "ok", "{item}");
    }
}

fn doctor(args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("doctor").args(args);
    command
}

#[track_caller]
fn report(command: &mut Command) -> Report {
    Report::of(command.output().unwrap().into())
}

/// Runs it after a change of the process between fork and exec.
#[track_caller]
fn report_after(change: impl FnMut() -> io::Result<()> + Send + Sync + 'static) -> Report {
    let mut command = doctor(&["--json", "--no-measure"]);
    // SAFETY: the closures of this file make system calls only.
    unsafe { command.pre_exec(change) };
    report(&mut command)
}

fn limited(resource: Resource, value: u64) -> Report {
    let limit = Rlimit { current: Some(value), maximum: Some(value) };
    report_after(move || Ok(setrlimit(resource, limit)?))
}

/// Lets a filter answer these system calls: with an error number, or with a signal that kills.
fn filtered(calls: &[libc::c_long], answer: Option<i32>) -> Report {
    let statement = |code: u32, value: u32| libc::sock_filter {
        code: code.try_into().unwrap(),
        jt: 0,
        jf: 0,
        k: value,
    };
    let answer = match answer {
        Some(number) => libc::SECCOMP_RET_ERRNO | u32::try_from(number).unwrap(),
        None => libc::SECCOMP_RET_KILL_PROCESS,
    };
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for call in calls {
        let call = u32::try_from(*call).unwrap();
        let is_other = statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call);
        program.push(libc::sock_filter { jf: 1, ..is_other });
        program.push(statement(libc::BPF_RET | libc::BPF_K, answer));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    report_after(move || {
        let filter = program.as_mut_ptr();
        let filter = libc::sock_fprog { len: program.len().try_into().unwrap(), filter };
        // SAFETY: takes integers only.
        let locked = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        // SAFETY: the filter and the statements that it points to live until the call returns.
        let set = unsafe {
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter)
        };
        if locked == 0 && set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    })
}

#[test]
fn a_machine_that_runs_these_tests_has_what_slipring_needs() {
    let directory = Directory::new();
    let done = doctor(&[]).current_dir(directory.path("")).output().unwrap();
    let shown = Finished::from(done).succeeded();
    assert_eq!(shown.stderr, "");
    let text = shown.stdout;
    for title in
        ["What the kernel offers", "Control groups", "What slipring will use", "What to change"]
    {
        assert!(text.contains(&format!("\n{title}\n")), "{text}");
    }
    for line in ["  ok   seals", "  ok   worker", "ok   waiting"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(
        !text.contains('\x1b') && text.lines().all(|line| line.chars().count() <= 100),
        "{text}"
    );
    // Nothing is left behind.
    assert_eq!(directory.names(), [""; 0]);
    assert_eq!(directory.processes(), [0; 0]);
}

#[test]
fn what_scripts_read_has_the_names_that_are_documented() {
    let report = report(&mut doctor(&["--json"]));
    assert_eq!((report.code, report.stderr.as_str()), (0, ""));
    assert_eq!(report.json["schema"], 1);
    assert!(report.json["state"] != "fail" && report.json["slipring"].is_string());
    for item in report.items() {
        for key in ["name", "state", "value", "meaning"] {
            assert!(item[key].is_string(), "{key}: {item}");
        }
        assert!(["ok", "note", "warn"].iter().any(|state| item["state"] == *state), "{item}");
    }
    let nofile = &report.item("limits.nofile")["data"];
    assert!(nofile["soft"].is_u64() || nofile["soft"].is_null(), "{nofile}");
    for pair in report.json["pairs"].as_array().unwrap() {
        assert!(pair["median_ns"].as_f64() > Some(0.0) && pair["relation"].is_string(), "{pair}");
        assert!(pair["p99_ns"].as_f64() >= pair["median_ns"].as_f64(), "{pair}");
    }
    // The package of this program does not have the documentation.
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/DOCTOR.md");
    let Ok(page) = std::fs::read_to_string(page) else {
        return eprintln!("left out: docs/DOCTOR.md is not there");
    };
    for item in report.items() {
        let name = item["name"].as_str().unwrap();
        assert!(page.contains(&format!("`{name}`")), "docs/DOCTOR.md does not have {name}");
    }
    for name in page.split('`').skip(1).step_by(2).filter(|name| name.starts_with("kernel.")) {
        assert!(report.items().iter().any(|item| item["name"] == name), "there is no {name}");
    }
}

#[test]
fn low_limits_are_warnings_and_too_low_ones_are_failures() {
    let few = limited(Resource::Nofile, 40);
    assert_eq!(few.code, 0, "{}", few.stderr);
    few.assert_state("limits.nofile", "warn", "40");
    let addresses = limited(Resource::As, 900 << 20);
    assert_eq!(addresses.code, 0, "{}", addresses.stderr);
    addresses.assert_state("limits.as", "warn", "900 MiB");
    let small = limited(Resource::Fsize, 1 << 20);
    assert_eq!(small.code, 1);
    small.assert_state("limits.fsize", "fail", "1 MiB");
    small.assert_state("kernel.worker", "fail", "fails: ");
    let message = "slipring: slipring cannot work here: kernel.worker, limits.fsize\n";
    assert_eq!(small.stderr, message);
    assert_eq!(small.json["state"], "fail");
}

#[test]
fn on_one_processor_that_is_said_and_nothing_hangs() {
    let before = sched_getaffinity(None).unwrap();
    let first = (0..CpuSet::MAX_CPU).find(|cpu| before.is_set(*cpu)).unwrap();
    let mut one = CpuSet::new();
    one.set(first);
    // The child inherits what its thread may use.
    let run = move || {
        sched_setaffinity(None, &one).unwrap();
        report(&mut doctor(&["--json"]))
    };
    let report = std::thread::spawn(run).join().unwrap();
    assert_eq!(report.code, 0, "{}", report.stderr);
    report.assert_state("cores.allowed", "warn", "1");
    assert_eq!(report.item("cores.latency")["value"], "not known: one processor has no other");
    assert_eq!(report.json["pairs"], serde_json::json!([]));
    let waiting = report.item("plan.waiting")["value"].as_str().unwrap();
    assert!(waiting.starts_with("sleeps at once"), "{waiting}");
}

#[test]
fn calls_that_a_filter_refuses_are_refused_and_no_crash() {
    let calls = [libc::SYS_futex_waitv, libc::SYS_pidfd_open, libc::SYS_sched_setaffinity];
    let report = filtered(&calls, Some(libc::EPERM));
    assert_eq!(report.code, 0, "{} {}", report.stderr, report.json);
    report.assert_state("kernel.filter", "ok", "seccomp");
    report.assert_state("kernel.futex_waitv", "warn", "refused: Operation not permitted");
    report.assert_state("kernel.pidfd", "warn", "refused: ");
    report.assert_state("kernel.affinity", "note", "refused: ");
    report.assert_state("kernel.worker", "ok", "answers");
    report.assert_state("plan.sleeping", "ok", "futex, for 100 ms at a time");
    report.assert_state("plan.deaths", "ok", "a robust futex, and looks");
    let old = filtered(&[libc::SYS_futex_waitv], Some(libc::ENOSYS));
    old.assert_state("kernel.futex_waitv", "warn", "not there: Function not implemented");
    let without = filtered(&[libc::SYS_memfd_create], Some(libc::EPERM));
    assert_eq!(without.code, 1);
    without.assert_state("kernel.memfd", "fail", "refused: ");
    assert!(without.stderr.contains("cannot work here: kernel.memfd, "), "{}", without.stderr);
}

#[test]
fn calls_that_kill_are_found_without_the_programs_own_end() {
    let report = filtered(&[libc::SYS_futex_waitv, libc::SYS_pidfd_open], None);
    assert_eq!(report.code, 1, "{} {}", report.stderr, report.json);
    for name in ["kernel.futex_waitv", "kernel.pidfd", "kernel.pidfd_group"] {
        report.assert_state(name, "fail", "refused: a filter kills the process that tries it");
    }
    for name in ["kernel.memfd", "kernel.robust_list", "kernel.ofd_locks"] {
        report.assert_state(name, "ok", "works");
    }
    report.assert_state("kernel.worker", "fail", "not tried: ");
}

#[test]
fn another_user_needs_nothing_that_root_has() {
    if !geteuid().is_root() {
        return eprintln!(
            "left out: the tests run as an ordinary user, as all others of this program"
        );
    }
    // Other users cannot reach the directory of the build.
    let directory = Directory::new();
    copy_program(&directory.path("slipring"));
    let mut command = Command::new(directory.path("slipring"));
    let report = report(command.args(["doctor", "--json", "--no-measure"]).uid(65_534).gid(65_534));
    assert_eq!(report.code, 0, "{} {}", report.stderr, report.json);
    report.assert_state("kernel.worker", "ok", "answers");
    report.assert_state("kernel.seals", "ok", "works");
}

/// Runs it where these directories are empty. `None`, with the reason printed, if this user may not do
/// that.
fn without(directories: &[&str]) -> Option<Finished> {
    let mounts = directories.iter().map(|path| format!("mount -t tmpfs none {path} && "));
    let script = mounts.collect::<String>() + &format!("exec {PROGRAM} doctor --json");
    for options in [&["--mount"][..], &["--user", "--map-root-user", "--mount"]] {
        let run = |script: &str| {
            let mut command = Command::new("unshare");
            command.args(options).args(["sh", "-c", script]).output()
        };
        if run(&script.replace(&format!("exec {PROGRAM} doctor --json"), "true"))
            .is_ok_and(|tried| tried.status.success())
        {
            return Some(run(&script).unwrap().into());
        }
    }
    eprintln!("left out: this user may not hide {directories:?} in a namespace");
    None
}

#[test]
fn without_sys_and_proc_the_rest_is_told_and_what_is_missing_named() {
    if let Some(finished) = without(&["/sys"]) {
        let report = Report::of(finished);
        assert_eq!(report.code, 0, "{} {}", report.stderr, report.json);
        for name in ["cgroup.version", "pages.huge", "cores.topology"] {
            assert!(
                report.item(name)["value"].as_str().unwrap().starts_with("not known"),
                "{name}"
            );
        }
        report.assert_state("kernel.worker", "ok", "answers");
    }
    if let Some(finished) = without(&["/sys", "/proc"]) {
        let report = Report::of(finished);
        report.assert_state("visibility.proc", "warn", "not mounted");
        report.assert_state("kernel.memfd", "ok", "works");
        // A program does not find itself without /proc.
        report.assert_state("kernel.worker", "fail", "fails: the running program's path");
        assert_eq!(report.code, 1);
    }
}
