//! `slipring top` in a terminal: a pseudo-terminal, whose other end is read here.
#![allow(unsafe_code, reason = "pseudo-terminals and sessions are made by system calls")]

use std::fs::File;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use crate::common::{Finished, children, is_running, kill, until, with_default_signals};
use crate::hosts::Host;

const PROGRAM: &str = env!("CARGO_BIN_EXE_slipring");
const ENTERED: &str = "\x1b[?1049h";
const LEFT: &str = "\x1b[?1049l";
const CURSOR: &str = "\x1b[?25h";

/// A program in a terminal of its own.
struct Terminal {
    child: Child,
    keys: File,
    /// The program's end, which keeps what was written when the program has ended.
    end: OwnedFd,
    written: Arc<Mutex<Vec<u8>>>,
    /// Its modes before the program was started.
    at_first: [u32; 4],
}

impl Terminal {
    fn start(command: Command, columns: u16) -> Self {
        let terminal = Self::start_unread(command, columns);
        let (mut reader, all) = (terminal.keys.try_clone().unwrap(), Arc::clone(&terminal.written));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                all.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        terminal
    }

    /// Starts it in a terminal that takes no more than its buffer holds.
    fn start_unread(mut command: Command, columns: u16) -> Self {
        // Neither end may be open in a program that another thread starts meanwhile.
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        // SAFETY: integers only.
        let keys = unsafe { libc::posix_openpt(flags) };
        // SAFETY: integers only.
        assert_eq!(unsafe { libc::unlockpt(keys) }, 0);
        // SAFETY: integers only.
        let end = unsafe { libc::ioctl(keys, libc::TIOCGPTPEER, flags) };
        assert!(end >= 0);
        // SAFETY: just opened, and owned by nothing else.
        let keys = unsafe { File::from_raw_fd(keys) };
        // SAFETY: likewise.
        let end = unsafe { OwnedFd::from_raw_fd(end) };
        set_size(&keys, columns);
        let at_first = modes(&end);
        let own = || Stdio::from(end.try_clone().unwrap());
        command.stdin(own()).stdout(own()).stderr(own());
        let in_a_session = || {
            // SAFETY: takes nothing.
            let session = unsafe { libc::setsid() };
            // SAFETY: integers only.
            let set = unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
            if session > 0 && set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: the closure makes system calls only.
        unsafe { command.pre_exec(in_a_session) };
        with_default_signals(&mut command);
        let child = command.spawn().unwrap();
        Self { child, keys, end, at_first, written: Arc::default() }
    }

    fn top(columns: u16, variables: &[(&str, &str)]) -> Self {
        let mut command = top();
        command.envs(variables.iter().copied());
        Self::start(command, columns)
    }

    fn written(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().unwrap()).into_owned()
    }

    /// How often something was written.
    fn count(&self, text: &str) -> usize {
        self.written().matches(text).count()
    }

    #[track_caller]
    fn until_it_has_written(&self, text: &str) {
        until(&format!("{text:?}"), || self.count(text) > 0);
    }

    /// Waits until a line of the screen has this text.
    #[track_caller]
    fn until_it_shows(&self, text: &str) {
        until(&format!("{text:?}"), || {
            shown(&self.written()).iter().any(|line| line.contains(text))
        });
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn modes(&self) -> [u32; 4] {
        modes(&self.end)
    }

    /// How many bytes the program has not read.
    fn unread(&self) -> i32 {
        let mut count = 0;
        // SAFETY: the call writes the number.
        let asked = unsafe { libc::ioctl(self.end.as_raw_fd(), libc::FIONREAD, &raw mut count) };
        assert_eq!(asked, 0);
        count
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: signals a child that was not waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    fn end(&mut self) -> ExitStatus {
        let mut status = None;
        until("the end of the program", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Whether the terminal is as it was, and shows what it showed.
    #[track_caller]
    fn assert_given_back(&self, modes: [u32; 4]) {
        self.until_it_has_written(LEFT);
        let written = self.written();
        let (entered, left) = (written.rfind(ENTERED).unwrap(), written.rfind(LEFT).unwrap());
        let cursor = written.rfind(CURSOR).unwrap();
        assert!(entered < left && entered < cursor, "{written:?}");
        assert!(!written[left..].contains("slipring:"), "drawn after its end: {written:?}");
        // Not more than once: that would move the cursor into what others have written since.
        assert_eq!(written.matches(ENTERED).count(), written.matches(LEFT).count());
        assert_eq!(self.modes(), modes);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn top() -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("top").env("TERM", "xterm").env_remove("NO_COLOR");
    command
}

/// What a terminal shows of what was written: of the few sequences that the program uses.
fn shown(written: &str) -> Vec<String> {
    let mut lines = vec![vec![' '; 300]; 100];
    let (mut row, mut column) = (0, 0);
    let mut rest = written.chars();
    while let Some(c) = rest.next() {
        if c != '\x1b' {
            if c >= ' ' {
                lines[row][column] = c;
                column += 1;
            }
            continue;
        }
        assert!(matches!(rest.next(), Some('[') | None), "not known: {written:?}");
        let mut arguments = String::new();
        // A sequence can be cut off at the end.
        let Some(last) = rest.by_ref().find(|c| {
            let is_last = c.is_ascii_alphabetic();
            arguments.extend((!is_last).then_some(*c));
            is_last
        }) else {
            break;
        };
        match last {
            'H' => {
                let (to_row, to_column) = arguments.split_once(';').unwrap();
                row = to_row.parse::<usize>().unwrap() - 1;
                column = to_column.parse::<usize>().unwrap() - 1;
            }
            'J' => lines.iter_mut().for_each(|line| line.fill(' ')),
            'm' | 'h' | 'l' => {}
            other => panic!("not known: {other} in {written:?}"),
        }
    }
    let text = |line: Vec<char>| line.into_iter().collect::<String>().trim_end().to_owned();
    lines.into_iter().map(text).collect()
}

fn set_size(terminal: &File, columns: u16) {
    let size = libc::winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call reads the size.
    let set = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    assert_eq!(set, 0);
}

#[test]
fn the_terminal_is_given_back_after_q_control_c_and_a_signal() {
    for (key, signal) in [("q", 0), ("\x03", 0), ("", libc::SIGTERM), ("", libc::SIGHUP)] {
        let mut terminal = Terminal::top(80, &[]);
        let cooked = {
            let terminal = Terminal::start(Command::new("true"), 80);
            terminal.modes()
        };
        terminal.until_it_shows("quit");
        assert_ne!(terminal.modes(), cooked);
        match signal {
            0 => terminal.press(key),
            signal => terminal.signal(signal),
        }
        let ended = terminal.end();
        match signal {
            0 => assert_eq!(ended.code(), Some(0)),
            signal => assert_eq!(ended.signal(), Some(signal)),
        }
        terminal.assert_given_back(cooked);
    }
}

#[test]
fn a_signal_ends_it_also_where_the_terminal_takes_nothing_more() {
    let mut terminal = Terminal::start_unread(top(), 80);
    let cooked = terminal.at_first;
    until("the screen", || terminal.modes() != cooked);
    // SAFETY: integers only.
    unsafe { libc::fcntl(terminal.keys.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    // Each key changes the last line, until the terminal's buffer is full and a write waits. Then the
    // program sleeps although there are keys.
    let state = format!("/proc/{0}/task/{0}/stat", terminal.child.id());
    let (mut sleeps, keys) = (0, b"/\r".repeat(1000));
    until("the program to wait", || {
        let takes_keys = terminal.keys.write(&keys).is_ok();
        let state = std::fs::read_to_string(&state).unwrap();
        sleeps = if !takes_keys && state.contains(") S ") { sleeps + 1 } else { 0 };
        sleeps > 100
    });
    terminal.signal(libc::SIGTERM);
    assert_eq!(terminal.end().signal(), Some(libc::SIGTERM));
    assert_eq!(terminal.modes(), cooked);
}

/// The modes of a terminal, as flags.
fn modes(end: &OwnedFd) -> [u32; 4] {
    let mut modes = MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: there is room for what the call writes.
    let read = unsafe { libc::tcgetattr(end.as_raw_fd(), modes.as_mut_ptr()) };
    assert_eq!(read, 0);
    // SAFETY: integers, which were zero or written.
    let modes = unsafe { modes.assume_init() };
    [modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag]
}

/// A shell that controls jobs.
fn shell(script: &str) -> Terminal {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("set -m; {script}")]).env("TERM", "xterm").env("PROGRAM", PROGRAM);
    Terminal::start(shell, 80)
}

#[test]
fn control_z_gives_the_shell_the_terminal_until_it_continues_the_program() {
    // A script, too, is stopped and goes on with the program.
    for top in ["$PROGRAM top", r#"sh -c "$PROGRAM top; exit 0""#] {
        let mut terminal = shell(&format!("{top}; stty -a; echo in between; fg; echo at the end"));
        is_stopped_and_continued(&mut terminal, |terminal| terminal.press("\x1a"));
    }
}

#[test]
fn a_signal_that_stops_the_program_gives_the_shell_the_terminal_as_well() {
    let mut terminal = shell("$PROGRAM top; stty -a; echo in between; fg; echo at the end");
    is_stopped_and_continued(&mut terminal, |terminal| {
        kill("TSTP", children(terminal.child.id())[0]);
    });
}

fn is_stopped_and_continued(terminal: &mut Terminal, stop: impl Fn(&mut Terminal)) {
    let cooked = terminal.at_first;
    terminal.until_it_shows("quit");
    stop(terminal);
    terminal.until_it_has_written("in between\r\n");
    let written = terminal.written();
    let shown = &written[written.find(LEFT).expect("the screen is left")..];
    assert!(shown.contains("\nisig icanon"), "{shown:?}");
    // It is drawn anew when it goes on.
    until("the screen again", || terminal.count(ENTERED) > 1 && terminal.count("quit") > 1);
    terminal.press("q");
    terminal.until_it_has_written("at the end\r\n");
    terminal.end();
    terminal.assert_given_back(cooked);
}

#[test]
fn a_program_that_is_stopped_can_be_ended_and_leaves_the_terminal_alone() {
    let mut terminal = shell("$PROGRAM top; kill %1; kill -CONT %1; read -r line");
    let cooked = terminal.at_first;
    terminal.until_it_shows("quit");
    let top = children(terminal.child.id())[0];
    terminal.press("\x1a");
    until("the end of the program", || !is_running(top));
    terminal.press("\n");
    terminal.end();
    terminal.assert_given_back(cooked);
    assert_eq!(terminal.count(ENTERED), 1);
}

#[test]
fn in_the_background_nothing_is_drawn_until_the_program_has_the_terminal() {
    let mut terminal =
        shell("$PROGRAM top & sleep 0.3; stty -echo; stty -a; stty echo; fg; stty -a");
    let cooked = terminal.at_first;
    terminal.until_it_has_written("-echo echoe");
    let written = terminal.written();
    let (before, _) = written.split_once("-echo echoe").expect("it is written");
    assert!(!before.contains('\x1b'), "{before:?}");
    terminal.until_it_has_written("quit");
    terminal.press("q");
    terminal.end();
    terminal.assert_given_back(cooked);
}

#[test]
fn bytes_that_are_no_key_do_not_stop_the_screen() {
    let host = Host::start();
    host.until_it_is_shown();
    let mut terminal = Terminal::top(80, &[]);
    terminal.until_it_shows("quit");
    terminal.press(&format!("/{}\r", host.pid()));
    terminal.until_it_shows(&format!("filter: {}", host.pid()));
    terminal.keys.write_all(b"\xff").unwrap();
    until("the byte to be read", || terminal.unread() == 0);
    host.signal(libc::SIGSTOP);
    terminal.until_it_shows("stopped");
}

#[test]
fn the_program_ends_with_its_terminal_even_if_it_ignores_that_signal() {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" top", PROGRAM]).env("TERM", "xterm");
    let Terminal { child, keys, end, .. } = &mut Terminal::start_unread(command, 80);
    let mut screen = [0; 64];
    assert!(keys.read(&mut screen).unwrap() > 0);
    let null = || File::options().read(true).write(true).open("/dev/null").unwrap();
    *keys = null();
    *end = null().into();
    until("the end of the program", || child.try_wait().unwrap().is_some());
}

#[test]
fn a_host_is_shown_in_as_many_columns_as_there_is_room_for() {
    let host = Host::start();
    host.until_it_is_shown();
    let mut terminal = Terminal::top(80, &[]);
    terminal.until_it_shows(&host.pid());
    terminal.until_it_shows("OLDEST RING   P99 ERRORS");
    set_size(&terminal.keys, 200);
    terminal.until_it_shows("COMMAND");
    terminal.press(&format!("/{}\r", host.pid()));
    terminal.until_it_shows(&format!("filter: {}", host.pid()));
    terminal.press("\r");
    terminal.until_it_shows("queue_limit");
    terminal.press("qq");
    assert_eq!(terminal.end().code(), Some(0));
}

#[test]
fn colours_are_shown_only_where_they_are_wanted() {
    let host = Host::start();
    host.until_it_is_shown();
    host.signal(libc::SIGSTOP);
    let shows_colours = |variables: &[(&str, &str)]| {
        let mut terminal = Terminal::top(80, variables);
        terminal.until_it_shows("stopped");
        terminal.press("q");
        terminal.end();
        terminal.count("\x1b[38;5;3") > 0
    };
    assert!(shows_colours(&[]));
    assert!(!shows_colours(&[("NO_COLOR", "1")]));
    assert!(!shows_colours(&[("TERM", "vt100")]));
}

#[test]
fn what_is_no_screen_is_refused_with_what_to_do() {
    let refused: Finished = Command::new(PROGRAM).arg("top").output().unwrap().into();
    let message = "slipring: standard output is no terminal: --once prints the table once\n";
    assert_eq!((refused.code, refused.stdout.as_str(), refused.stderr.as_str()), (1, "", message));
    let mut terminal = Terminal::top(80, &[("TERM", "dumb")]);
    let before = terminal.modes();
    assert_eq!(terminal.end().code(), Some(1));
    terminal.until_it_has_written("TERM=dumb cannot show a screen: --once prints");
    assert_eq!((terminal.count("\x1b"), terminal.modes()), (0, before));
}
