//! Processes on hosts.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::lines::{Line, Says};
use crate::trial::CERTS;
use crate::worker::{HOST, LOG};

/// Passes only if something hangs.
pub const LONG: Duration = Duration::from_secs(60);

/// A process on a host. It is killed when this is dropped.
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    lines: Arc<Lines>,
}

#[derive(Default)]
struct Lines {
    all: Mutex<Vec<String>>,
    has_more: Condvar,
}

impl Process {
    /// Starts this program on a host, with other words.
    pub fn start(host: &str, words: &[&str], certs: Option<&Path>) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", host]).arg(std::env::current_exe().unwrap()).args(words);
        if let Some(certs) = certs {
            command.env(CERTS, certs);
        }
        Self::spawn(command)
    }

    /// Starts a gateway on a host, whose name it gets. Its workers are this program.
    pub fn start_gateway(host: &str, log: &Path, options: &[&str]) -> Self {
        let mut command = Command::new("ip");
        let named = "echo \"$0\" >/proc/sys/kernel/hostname && exec \"$@\"";
        command.args(["netns", "exec", host, "unshare", "--uts", "sh", "-c", named, host]);
        command.arg(env!("CARGO_BIN_EXE_slipring-gateway")).args(options).arg("--");
        command.arg(std::env::current_exe().unwrap()).env(LOG, log).env(HOST, host);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let lines = Arc::<Lines>::default();
        std::thread::spawn({
            let lines = Arc::clone(&lines);
            move || {
                for line in output.lines().map_while(Result::ok) {
                    lines.all.lock().unwrap().push(line);
                    lines.has_more.notify_all();
                }
            }
        });
        Self { input: child.stdin.take(), child, lines }
    }

    /// Waits for a line that is looked for. Looks at each line once.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, look: impl FnMut(&str) -> Option<T>) -> T {
        self.wait_from(0, what, look)
    }

    #[track_caller]
    fn wait_from<T>(
        &self,
        mut seen: usize,
        what: &str,
        mut look: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + LONG;
        let mut lines = self.lines.all.lock().unwrap();
        loop {
            while let Some(line) = lines.get(seen) {
                if let Some(found) = look(line) {
                    return found;
                }
                seen += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: never, after {seen} lines, {:?}", lines.last());
            lines = self.lines.has_more.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Waits until it listens.
    pub fn listens(self) -> Self {
        self.wait("it listens", |line| line.starts_with("listen").then_some(()));
        self
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, to it or to a worker.
    pub fn signal(&self, signal: &str) {
        send_signal(signal, self.child.id());
    }

    /// Writes a line to its standard input.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.input.as_ref().unwrap(), "{line}").unwrap();
    }

    /// Tells a gateway to end, and waits until it has ended well.
    #[track_caller]
    pub fn ends_well(&mut self) {
        self.signal("TERM");
        self.ends();
        assert!(self.child.wait().unwrap().success());
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ends(&mut self) {
        let deadline = Instant::now() + LONG;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the process never ends");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn lines(&self) -> Vec<Line> {
        let lines = self.lines.all.lock().unwrap();
        lines.iter().map(|line| Line::parse(line)).collect()
    }

    /// Waits for a line of a caller. Returns its time.
    #[track_caller]
    pub fn said(&self, what: &str, is_it: impl Fn(u64, &Says) -> bool) -> u64 {
        self.wait(what, |line| {
            let line = Line::parse(line);
            is_it(line.at, &line.says).then_some(line.at)
        })
    }
}

impl Process {
    /// Waits for a line of a caller from a time on. Returns its time.
    #[track_caller]
    pub fn said_since(&self, since: u64, what: &str, is_it: impl Fn(&Says) -> bool) -> u64 {
        self.wait_since(since, what, |line| is_it(&line.says).then_some(line.at))
    }

    /// Waits for a line of a caller, from a time on, that is looked for.
    #[track_caller]
    pub fn wait_since<T>(
        &self,
        since: u64,
        what: &str,
        mut look: impl FnMut(&Line) -> Option<T>,
    ) -> T {
        // Its lines are in the order of their times, but for a moment.
        let begins = since.saturating_sub(1_000_000);
        let lines = self.lines.all.lock().unwrap();
        let first = lines.partition_point(|line| Line::at(line) < begins);
        drop(lines);
        self.wait_from(first, what, |line| {
            let line = Line::parse(line);
            (line.at >= since).then(|| look(&line)).flatten()
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Also one that is stopped.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

pub fn send_signal(signal: &str, process: u32) {
    let script = format!("kill -{signal} {process}");
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success(), "{script}");
}
