//! What the tests of this layer share.
#![allow(unsafe_code, reason = "tests look at and change what std does not show")]

use std::collections::BTreeSet;
use std::env;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::socket::Received;
use super::spawn::Program;

const ALONE: &str = "SLIPRING_TEST_ALONE";
const CHILD: &str = "SLIPRING_TEST_CHILD";

/// Runs the body of a test in a process of its own, because it changes, or counts, what
/// all tests share. To be called with a closure written in the test itself.
pub(crate) fn alone<F: FnOnce()>(body: F) {
    if env::var_os(ALONE).is_some() {
        return body();
    }
    let output = Command::new(env::current_exe().unwrap())
        .args([&test_name::<F>(), "--exact", "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{}\n{text}", output.status);
    if wants_figures() {
        println!("{text}");
    }
}

/// Whether the tests that measure shall do so at length, and print what they find.
pub(crate) fn wants_figures() -> bool {
    env::var_os("SLIPRING_TEST_FIGURES").is_some()
}

/// Runs `child` if this process was started with [`child_program`], else `parent`, which
/// gets the program that runs `child`. Both closures must be written in the test itself.
pub(crate) fn parent_and_child<P: FnOnce(Program)>(parent: P, child: impl FnOnce()) {
    if env::var_os(CHILD).is_some() {
        return child();
    }
    let mut program = Program { path: env::current_exe().unwrap(), ..Program::default() };
    program.args = vec![test_name::<P>().into(), "--exact".into(), "--nocapture".into()];
    program.env.set(CHILD, "1");
    program.env.remove(ALONE);
    parent(program);
}

/// The name by which the test harness knows the test that a closure was written in.
fn test_name<F>() -> String {
    let full = std::any::type_name::<F>();
    let test = full.split("::{{closure}}").next().unwrap();
    test.split_once("::").unwrap().1.to_owned()
}

/// `/bin/sh -c script`.
pub(crate) fn shell(script: &str) -> Program {
    let args = vec!["-c".into(), script.into()];
    Program { path: "/bin/sh".into(), args, ..Program::default() }
}

pub(crate) fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

/// Far enough away for a machine that is busy with something else.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Waits until `condition` holds; gives up loudly.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = soon();
    while !condition() {
        assert!(Instant::now() < deadline, "never came: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The letter for the state of a process.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// Whether a process runs: not even a zombie counts.
pub(crate) fn is_alive(pid: u32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// The open descriptors of this process, and the processes that it has started.
pub(crate) fn belongings() -> (BTreeSet<String>, BTreeSet<String>) {
    let fds = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let fds = fds.filter_map(|entry| {
        // The listing's own descriptor is gone by now.
        let to = fs::read_link(entry.path()).ok()?;
        Some(format!("{:?} -> {to:?}", entry.file_name()))
    });
    let fds = fds.filter(|line| !line.contains("/proc/")).collect();
    let mut children = BTreeSet::new();
    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(list.split_whitespace().map(str::to_owned));
    }
    (fds, children)
}

/// How often the threads of that name have gone to sleep so far.
pub(crate) fn sleeps_of_threads(name: &str) -> u64 {
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
        if name_of_thread(&task) == name {
            let status = fs::read_to_string(task.path().join("status")).unwrap();
            let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            sum += line.unwrap().trim().parse::<u64>().unwrap();
        }
    }
    sum
}

pub(crate) fn threads_named(name: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.filter(|task| name_of_thread(task) == name).count()
}

/// Empty for one that has ended since it was listed.
fn name_of_thread(task: &fs::DirEntry) -> String {
    let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// Prints the median and the 99th percentile, which `--nocapture` shows.
pub(crate) fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{what}: p50 {:?}, p99 {:?}, max {:?}, of {}", at(50), at(99), at(100), times.len());
}

pub(crate) fn read_all(from: impl Into<File>) -> String {
    let mut text = String::new();
    from.into().read_to_string(&mut text).unwrap();
    text
}

pub(crate) fn is_close_on_exec(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: F_GETFD takes integers only.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
    flags & libc::FD_CLOEXEC != 0
}

/// A duplicate at `number`, in whatever place that is, which an exec would inherit.
pub(crate) fn inheritable_duplicate_at(fd: BorrowedFd<'_>, number: i32) -> OwnedFd {
    // SAFETY: dup2 takes integers only.
    assert_eq!(unsafe { libc::dup2(fd.as_raw_fd(), number) }, number);
    // SAFETY: the caller has given this number to this call.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Runs `body` with descriptors 0, 1 and 2 closed. For a process of the test's own.
pub(crate) fn without_stdio<T>(body: impl FnOnce() -> T) -> T {
    let own = [0, 1, 2].map(|number| {
        // SAFETY: standard streams, which stay open but for the time of `body`.
        let stream = unsafe { BorrowedFd::borrow_raw(number) };
        let saved = stream.try_clone_to_owned().unwrap();
        // SAFETY: takes an integer only; nothing in Rust owns this descriptor.
        assert_eq!(unsafe { libc::close(number) }, 0);
        (saved, number)
    });
    let result = body();
    for (saved, number) in own {
        std::mem::forget(inheritable_duplicate_at(saved.as_fd(), number));
    }
    result
}

pub(crate) fn ignore_signal(signal: i32) {
    // SAFETY: ignoring a signal runs no code.
    let before = unsafe { libc::signal(signal, libc::SIG_IGN) };
    assert_ne!(before, libc::SIG_ERR);
}

/// Makes these system calls fail for the calling thread and for all that it starts, as a
/// container's filter would.
pub(crate) fn forbid(calls: [libc::c_long; 2], error: i32) {
    let statement = |code: u32, k: u32, jump: u8| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: jump,
        jf: 0,
        k,
    };
    let number = |call: libc::c_long| u32::try_from(call).unwrap();
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    let mut program = [
        // The call's number is the first word of what a filter is shown.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        statement(equal, number(calls[0]), 2),
        statement(equal, number(calls[1]), 1),
        statement(answer, libc::SECCOMP_RET_ALLOW, 0),
        statement(answer, libc::SECCOMP_RET_ERRNO | error.unsigned_abs(), 0),
    ];
    let filter = libc::sock_fprog { len: 5, filter: program.as_mut_ptr() };
    let (yes, none) = (1_usize, 0_usize);
    // SAFETY: takes integers only.
    let is_set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, yes, none, none, none) };
    assert_eq!(is_set, 0);
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: a live program of the length given, which the kernel copies.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter) }, 0);
}

/// Clears `O_APPEND` and the like, as a worker may do to its standard output.
pub(crate) fn clear_status_flags(fd: BorrowedFd<'_>) {
    // SAFETY: F_SETFL takes integers only.
    assert_eq!(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, 0) }, 0);
}

pub(crate) fn make_fifo(path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a live string, which the call only reads.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

/// Runs `child` in a fork of this process and returns its exit code, or 128 and the number of
/// the signal that ended it: that of an alarm clock after a minute.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child only runs `child` and leaves without any clean-up.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: takes an integer only.
        unsafe { libc::alarm(60) };
        let code = child();
        // SAFETY: ends the process.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `status` has room for what the call writes.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

/// Has all memory of this process that is mapped from now on be locked. Returns whether it may.
pub(crate) fn lock_memory() -> bool {
    // SAFETY: takes an integer only.
    unsafe { libc::mlockall(libc::MCL_FUTURE) == 0 }
}

/// A number of `/proc/self/status`, such as `VmSize`, in KiB.
pub(crate) fn status_kib(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// The signals that the calling thread blocks.
pub(crate) fn blocked_signals() -> Vec<i32> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
    let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
    (1..=64).filter(|signal| mask >> (signal - 1) & 1 == 1).collect()
}

/// Starts a process that holds another one as a debugger does, and never lets it go. Returns
/// its number; `None` where that is forbidden. It ends with the calling thread.
pub(crate) fn hold_as_debugger(pid: u32) -> Option<u32> {
    const NONE: *mut libc::c_void = std::ptr::null_mut();
    // SAFETY: the child only makes system calls, until it is killed.
    let debugger = unsafe { libc::fork() };
    if debugger == 0 {
        // SAFETY: takes integers only.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
        // SAFETY: this request takes integers only.
        while unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, NONE, NONE) } == 0 {
            // SAFETY: takes nothing, and no signal that is handled comes.
            unsafe { libc::pause() };
        }
        // SAFETY: ends the process.
        unsafe { libc::_exit(1) };
    }
    let debugger = debugger.unsigned_abs();
    let status = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let is_held = || status().contains(&format!("TracerPid:\t{debugger}\n"));
    eventually("the debugger holds it", || is_held() || !is_alive(debugger));
    is_held().then_some(debugger)
}

/// Kills a child of this process, and reaps it.
pub(crate) fn kill_and_reap(pid: u32) {
    // SAFETY: takes integers only.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) }, 0);
    // SAFETY: without a place for the status, the call takes integers only.
    assert!(unsafe { libc::waitpid(pid.cast_signed(), std::ptr::null_mut(), 0) } > 0);
}

/// Processor time of the threads of that name, in hundredths of a second.
pub(crate) fn ticks_of_threads(name: &str) -> u64 {
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
        // A short-lived thread may have ended since the folder was read.
        let Ok(stat) = fs::read_to_string(task.path().join("stat")) else { continue };
        if stat.contains(&format!("({name})")) {
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            sum += fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>();
        }
    }
    sum
}

/// Leaves the process group, for that of the parent.
pub(crate) fn join_parents_group() {
    // SAFETY: takes nothing.
    let parent = unsafe { libc::getppid() };
    // SAFETY: takes integers only.
    let group = unsafe { libc::getpgid(parent) };
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setpgid(0, group) }, 0);
}

/// From now on the orphans among its descendants become children of this process.
pub(crate) fn ask_for_orphans() {
    // SAFETY: takes integers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }, 0);
}

/// Reaps one child of this process, as a host might that knows nothing of this library.
pub(crate) fn reap_any() -> i32 {
    // SAFETY: without a place for the status, the call takes integers only.
    unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) }
}

/// A page of memory that processes share, of which the first word is used.
pub(crate) struct SharedPage {
    word: *const AtomicU32,
}

// SAFETY: the word is only used through shared references to an atomic.
unsafe impl Send for SharedPage {}
// SAFETY: as above.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    pub(crate) fn memfd() -> OwnedFd {
        // SAFETY: a live string, which the call only reads.
        let fd = unsafe { libc::memfd_create(c"slipring-test".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: the kernel has just made this descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        File::from(fd.try_clone().unwrap()).set_len(4096).unwrap();
        fd
    }

    pub(crate) fn map(memfd: BorrowedFd<'_>, is_writable: bool) -> Self {
        let write = if is_writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: a new mapping in a place that the kernel chooses.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | write,
                libc::MAP_SHARED,
                memfd.as_raw_fd(),
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED);
        Self { word: at.cast() }
    }
}

impl Deref for SharedPage {
    type Target = AtomicU32;

    fn deref(&self) -> &AtomicU32 {
        // SAFETY: mapped by `map` until the drop, aligned, and used as an atomic only.
        unsafe { &*self.word }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, with this length, and no reference outlives this.
        unsafe { libc::munmap(self.word.cast_mut().cast(), 4096) };
    }
}

/// Waits for so many milliseconds in a system call that does not go on after a signal. Returns
/// whether a signal has interrupted it.
pub(crate) fn is_interrupted_within(milliseconds: i32) -> bool {
    // SAFETY: a system call without pointers.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    // SAFETY: a new descriptor, which nothing else has.
    let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: there is room for the one event.
    let count = unsafe { libc::epoll_wait(epoll.as_raw_fd(), &raw mut event, 1, milliseconds) };
    count == -1
}

/// Threads that ran the handler of [`note_threads_that_handle`], by their ids; zeros are free.
static HANDLED_BY: [AtomicU32; 16] = [const { AtomicU32::new(0) }; 16];

/// Handles this signal from now on, and notes on which threads the handler runs.
pub(crate) fn note_threads_that_handle(signal: i32) {
    extern "C" fn note(_: i32) {
        // SAFETY: a system call without pointers.
        let thread = unsafe { libc::gettid() };
        let thread = u32::try_from(thread).unwrap_or(u32::MAX);
        for place in &HANDLED_BY {
            if place.compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return;
            }
        }
    }
    // SAFETY: the handler only makes a system call and stores to atomics.
    unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
}

/// The names of these threads.
pub(crate) fn names_of_threads_that_handled() -> Vec<String> {
    let threads = HANDLED_BY.iter().map(|place| place.load(Ordering::Relaxed));
    let name = |thread| fs::read_to_string(format!("/proc/self/task/{thread}/comm"));
    threads.filter(|thread| *thread != 0).filter_map(|thread| name(thread).ok()).collect()
}

/// A directory that is removed with all that is in it.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("slipring-test-{}-{number}", process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a program writes until it ends, and its process id.
pub(crate) fn output_of(
    program: &Program,
    spawn: impl FnOnce(&Program, BorrowedFd<'_>, BorrowedFd<'_>) -> u32,
) -> (String, u32) {
    let (reader, writer) = std::io::pipe().unwrap();
    let pid = spawn(program, null().as_fd(), writer.as_fd());
    drop(writer);
    (read_all(OwnedFd::from(reader)), pid)
}

/// The bytes and descriptors of a message that must have come.
pub(crate) fn message(received: Received) -> (Vec<u8>, Vec<OwnedFd>) {
    match received {
        Received::Message { bytes, fds } => (bytes, fds),
        Received::Eof => panic!("no message"),
    }
}
