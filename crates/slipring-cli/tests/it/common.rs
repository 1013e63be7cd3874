//! Helpers of the tests of the program.
#![allow(unsafe_code, reason = "signals are set between fork and exec")]

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A directory of the test's own, in which the program runs; removed at the
/// end.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("slipring-cli-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// All names in the directory, hidden ones too.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The processes that run in this directory, as the program and its workers
    /// do; those that have ended and are not reaped yet do not run.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let here = fs::read_link(entry.path().join("cwd")).ok()? == self.0;
            (here && is_running(pid)).then_some(pid)
        })
        .collect()
    }

    /// Waits until the program and all its workers are gone.
    #[track_caller]
    pub(crate) fn until_no_process_is_left(&self) {
        until("the end of all processes", || self.processes().is_empty());
    }

    /// Waits until a program has a file of this directory open, one without a name too.
    #[track_caller]
    pub(crate) fn until_output_is_open(&self, pid: u32) {
        let here = fs::canonicalize(&self.0).unwrap();
        until("an output that is open", || {
            let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let mut targets = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
            targets.any(|target| target.starts_with(&here) && target != here)
        });
    }

    /// `slipring embed` with these arguments, not started yet.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slipring"));
        command.arg("embed").args(args).current_dir(&self.0).env_remove("NO_COLOR");
        piped(&mut command);
        with_default_signals(&mut command);
        command
    }

    /// Runs `slipring embed` to its end with this standard input. Its workers
    /// have ended when it has.
    #[track_caller]
    pub(crate) fn embed(&self, args: &[&str], stdin: impl AsRef<[u8]>) -> Finished {
        let done = finish(self.command(args).spawn().unwrap(), stdin.as_ref());
        assert_eq!(self.processes(), [0; 0], "left behind: {done:?}");
        done
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn piped(command: &mut Command) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
}

/// Signals end the program to be started, whatever these tests were started to ignore: `nohup`
/// ignores SIGHUP, and a shell ignores SIGINT and SIGQUIT in its background jobs.
pub(crate) fn with_default_signals(command: &mut Command) {
    let reset = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
            // SAFETY: no handler is installed.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only.
    unsafe { command.pre_exec(reset) };
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Finished {
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

pub(crate) fn finish(mut child: Child, stdin: &[u8]) -> Finished {
    let mut to = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // The program may end before it has read all.
        scope.spawn(move || to.write_all(stdin).is_ok());
        child.wait_with_output().unwrap().into()
    })
}

/// Copies the program to where other users can reach it. Another process does it: a child that another
/// thread forks meanwhile would have the copy open for writing, and such a file cannot be started.
pub(crate) fn copy_program(to: &Path) {
    let status = Command::new("cp").arg(env!("CARGO_BIN_EXE_slipring")).arg(to).status().unwrap();
    assert!(status.success(), "cp: {status}");
}

/// Sends a signal by name.
pub(crate) fn kill(signal: &str, pid: u32) {
    let command = format!("kill -{signal} {pid}");
    let status = Command::new("sh").args(["-c", &command]).status().unwrap();
    assert!(status.success(), "{command}");
}

/// Whether a process exists and has not ended.
pub(crate) fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything; the state follows it.
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The child processes of all threads of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .flat_map(|task| {
            let list = fs::read_to_string(task.unwrap().path().join("children"));
            let list = list.unwrap_or_default();
            let pids: Vec<u32> = list.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
            pids
        })
        .collect()
}

/// Processor time that a process has used, over all its threads.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nanos = tasks.map(|task| {
        let schedstat = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
        schedstat.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(nanos.sum())
}

/// Waits until something holds; the generous limit only ends a hanging test. Time in which this process and
/// the one that it waits for were stopped does not count.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let mut waited = Duration::ZERO;
    loop {
        let start = Instant::now();
        if holds() {
            return;
        }
        assert!(waited < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
        waited += start.elapsed().min(Duration::from_secs(1));
    }
}

/// The most memory that a running process has had, in bytes.
pub(crate) fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

/// An `.npy` file of float32 in C order.
#[derive(Debug)]
pub(crate) struct Npy {
    pub(crate) rows: usize,
    pub(crate) dim: usize,
    pub(crate) values: Vec<f32>,
}

impl Npy {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        assert_eq!(bytes[..8], *b"\x93NUMPY\x01\x00");
        let header_end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!(header_end % 64, 0, "the data must be aligned");
        let header = std::str::from_utf8(&bytes[10..header_end]).unwrap();
        assert!(header.ends_with('\n'));
        let shape = header
            .trim_end()
            .strip_prefix("{'descr': '<f4', 'fortran_order': False, 'shape': (")
            .and_then(|rest| rest.strip_suffix("), }"))
            .unwrap();
        let (rows, dim) = shape.split_once(", ").unwrap();
        let data = bytes[header_end..].chunks_exact(4);
        let values: Vec<f32> = data.map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
        let npy = Self { rows: rows.parse().unwrap(), dim: dim.parse().unwrap(), values };
        assert_eq!(bytes.len() - header_end, npy.rows * npy.dim * 4);
        npy
    }

    pub(crate) fn row(&self, at: usize) -> &[f32] {
        &self.values[at * self.dim..(at + 1) * self.dim]
    }
}

/// The rows of JSON lines.
pub(crate) fn parse_jsonl(text: &str) -> Vec<Vec<f32>> {
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| {
            let inner = line.strip_prefix('[').unwrap().strip_suffix(']').unwrap();
            inner.split(',').map(|x| x.parse().unwrap()).collect()
        })
        .collect()
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

pub(crate) fn glosses() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/glosses.txt")
}

/// The FNV-1a digest of the bytes of numbers, little-endian.
pub(crate) fn digest(values: &[f32]) -> String {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes());
    let mix = |state: u64, byte: u8| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    format!("{:016x}", bytes.fold(0xcbf2_9ce4_8422_2325, mix))
}
