//! Looks at this process, and at processes that a test has started.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{LONG, eventually};

/// The path of a test in this binary, which is its name for the harness.
pub fn name_of<F: Fn()>(_: F) -> &'static str {
    let name = std::any::type_name::<F>();
    name.split_once("::").expect("a test is a function of a crate").1
}

/// The arguments that make this program run one test alone.
pub fn only(test: &str) -> [&str; 4] {
    [test, "--exact", "--nocapture", "--test-threads=1"]
}

/// Runs the test `name` of this binary in a new process, in which [`is_rerun`] returns true, and
/// returns its standard output. Panics unless the test succeeds.
pub fn rerun(name: &str) -> String {
    let output = rerun_command(name).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {}\n{text}\n{errors}", output.status);
    assert!(text.contains("1 passed"), "{name} is not the name of a test");
    text
}

/// Runs the test once more in a new process. Returns true in the new process, which is to run the
/// body of the test, and false in the process that waited for it.
pub fn in_a_process_of_its_own(name: &str) -> bool {
    if is_rerun(name) {
        return true;
    }
    print!("{}", rerun(name));
    false
}

pub fn rerun_command(name: &str) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(only(name)).env(RERUN, name);
    command
}

pub fn is_rerun(name: &str) -> bool {
    std::env::var_os(RERUN).is_some_and(|value| value == name)
}

pub const RERUN: &str = "SLIPRING_TEST_RERUN";

/// Runs `child` in a fork of this process and panics unless it returns true, within a minute.
pub fn in_fork(child: impl FnOnce() -> bool) {
    // SAFETY: the child calls what a host's child might, and ends without unwinding.
    #[allow(unsafe_code, reason = "fork")]
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // This signal ends a child that hangs.
        // SAFETY: a system call without pointers.
        #[allow(unsafe_code, reason = "alarm")]
        unsafe {
            libc::alarm(60)
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
        let code = i32::from(!matches!(result, Ok(true)));
        // SAFETY: ends the child, without unwinding into the code of the test.
        #[allow(unsafe_code, reason = "_exit")]
        unsafe {
            libc::_exit(code)
        }
    }
    let mut status = 0;
    // SAFETY: waits for the child that was just started.
    #[allow(unsafe_code, reason = "waitpid")]
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid);
    assert_eq!(status, 0, "the child's wait status");
}

/// Repeats a system call while a signal interrupts it. The end of any child process interrupts some
/// calls: its signal is ignored, but they do not continue after it.
pub fn uninterrupted<T: Copy + PartialEq + From<i8>>(mut call: impl FnMut() -> T) -> T {
    loop {
        let result = call();
        let is_error = result == T::from(-1);
        let error = std::io::Error::last_os_error();
        if !is_error || error.kind() != std::io::ErrorKind::Interrupted {
            return result;
        }
    }
}

/// Sends a signal to a process that this test started.
pub fn send_signal(pid: u32, signal: i32) {
    // SAFETY: a system call without pointers.
    #[allow(unsafe_code, reason = "kill")]
    let result = unsafe { libc::kill(pid as i32, signal) };
    assert_eq!(result, 0, "signal {signal} to {pid}");
}

/// Interrupts this process from now on, by a signal whose handler does nothing.
pub fn signal_every_100_microseconds() {
    extern "C" fn nothing(_: i32) {}
    // SAFETY: a handler that does nothing.
    #[allow(unsafe_code, reason = "signal")]
    unsafe {
        libc::signal(libc::SIGALRM, nothing as *const () as libc::sighandler_t)
    };
    let every = libc::timeval { tv_sec: 0, tv_usec: 100 };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: a live timer that is only read.
    #[allow(unsafe_code, reason = "setitimer")]
    let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    assert_eq!(set, 0);
}

/// Stops a process, and returns when all its threads have stopped.
pub fn stop(pid: u32) {
    send_signal(pid, libc::SIGSTOP);
    let is_stopped = |task: std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("stat"))
            .is_ok_and(|stat| stat.rsplit(')').next().unwrap_or_default().starts_with(" T"))
    };
    eventually("it is stopped", || {
        let mut tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        tasks.all(is_stopped)
    });
}

/// Whether the process exists and is not a zombie.
pub fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or(" Z").starts_with(" Z"))
}

/// Whether the process exists. A zombie does.
pub fn is_in_the_table(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// Descriptors, mappings of memfds, threads and children of this process.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Footprint {
    pub fds: Vec<String>,
    pub maps: usize,
    pub threads: usize,
    pub children: Vec<String>,
}

impl Footprint {
    /// Waits until this process has no more than this footprint again. A worker is reaped, and a
    /// mapping removed, a moment after its channel is dropped. It may have less: a thread that was
    /// about to end when the footprint was taken.
    #[track_caller]
    pub fn assert_restored(&self, what: &str) {
        let start = Instant::now();
        loop {
            let found = footprint();
            if found.is_within(self) {
                return;
            }
            let is_in_time = start.elapsed() < LONG;
            assert!(is_in_time, "left behind by: {what}: {found:?}, before: {self:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn is_within(&self, other: &Self) -> bool {
        // Both lists are sorted.
        let is_part = |part: &[String], whole: &[String]| {
            let mut whole = whole.iter();
            part.iter().all(|one| whole.any(|other| other == one))
        };
        is_part(&self.fds, &other.fds)
            && is_part(&self.children, &other.children)
            && self.maps <= other.maps
            && self.threads <= other.threads
    }
}

/// A guard for each test of a binary whose tests cannot run beside each other.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Resident memory of this process.
pub fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Processor time that all threads of this process have used.
pub fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: there is room for what the call writes.
    #[allow(unsafe_code, reason = "clock_gettime")]
    let read = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(read, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

pub fn footprint() -> Footprint {
    let mut fds: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .map(|target| {
            let target = target.display().to_string();
            // Inode numbers differ from run to run. Only the kinds of files and their numbers
            // count.
            target.split(':').next().unwrap_or_default().to_owned()
        })
        .filter(|target| !target.contains("/proc/"))
        .collect();
    fds.sort();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let maps = maps.lines().filter(|line| line.contains("memfd:slipring")).count();
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let mut children: Vec<String> = tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    children.sort();
    Footprint { fds, maps, threads, children }
}

/// An empty directory of this test's own.
pub fn temp_dir(name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("slipring-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Copies a program that is to be started. Another process does it: a child that another thread forks
/// meanwhile would have the copy open for writing until it starts its own program, and a file that is
/// open for writing cannot be started ("text file busy").
pub fn copy_program(from: impl AsRef<Path>, to: &Path) {
    let status = Command::new("cp").arg(from.as_ref()).arg(to).status().unwrap();
    assert!(status.success(), "cp: {status}");
}

/// Writes a program that is to be started, for the same reason by another process.
pub fn write_program(path: &Path, text: &str, mode: u32) {
    let mut tee = Command::new("tee");
    let mut tee = tee.arg(path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    tee.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(tee.wait().unwrap().success());
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}
