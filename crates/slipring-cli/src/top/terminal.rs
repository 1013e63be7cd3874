//! The terminal, which is given back as it was: at the end, after an error or a panic, before a signal
//! ends or stops the program. In the background, where it is another job's, nothing is drawn.

use std::io::{self, IsTerminal, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{DefaultTerminal, Frame, Terminal, backend::CrosstermBackend};
use rustix::process::{Signal, getpgrp, getpid, kill_current_process_group};
use rustix::termios::tcgetpgrp;
use signal_hook::consts::{SIGCONT, SIGTSTP};

use crate::error::Error;
use crate::signals::{self, About};
use crate::sys;

/// Held while the screen is drawn, so that the thread of signals does not give the terminal back in the
/// middle of that.
static DRAWING: Mutex<()> = Mutex::new(());

/// Whether the terminal has to be given back.
static IS_ENTERED: AtomicBool = AtomicBool::new(false);

/// How long a signal that ends or stops the program waits for what is drawn.
const PATIENCE: Duration = Duration::from_secs(1);

fn lock() -> MutexGuard<'static, ()> {
    // A panic has given the terminal back already.
    DRAWING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lock, before a signal ends or stops the program; `None` if it is held for long, because nothing takes what is
/// written to the terminal.
fn last_lock() -> Option<MutexGuard<'static, ()>> {
    let until = Instant::now() + PATIENCE;
    loop {
        match DRAWING.try_lock() {
            Ok(held) => return Some(held),
            Err(TryLockError::Poisoned(held)) => return Some(held.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() > until => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(PATIENCE / 100),
        }
    }
}

/// The terminal as a screen.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    /// Whether this process was continued after a stop. The shell has set the terminal meanwhile.
    is_continued: Arc<AtomicBool>,
}

impl Screen {
    /// `wake` is called when there is something to draw.
    pub(super) fn open(wake: impl Fn() + Send + 'static) -> Result<Self, Error> {
        check(stdout().is_terminal(), std::env::var("TERM").ok().as_deref())?;
        let failed = |e: io::Error| Error::failure(format!("cannot use the terminal: {e}"));
        let is_continued = Arc::new(AtomicBool::new(true));
        signal_hook::flag::register(SIGCONT, Arc::clone(&is_continued)).map_err(failed)?;
        let goes_on = Arc::clone(&is_continued);
        let act = move |about| match about {
            About::End => {
                // The lock is kept: nothing is drawn any more.
                std::mem::forget(last_leave());
            }
            About::Stop => {
                let held = last_leave();
                signals::stop();
                goes_on.store(true, Ordering::Relaxed);
                drop(held);
                wake();
            }
            About::GoOn => wake(),
        };
        signals::around_stops(act).map_err(failed)?;
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            leave();
            hook(info);
        }));
        let terminal = Terminal::new(CrosstermBackend::new(stdout())).map_err(failed)?;
        Ok(Self { terminal, is_continued })
    }

    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        let _held = lock();
        if !is_in_the_foreground() {
            return Ok(());
        }
        let is_continued = self.is_continued.swap(false, Ordering::Relaxed);
        if !is_continued && !IS_ENTERED.load(Ordering::Relaxed) {
            // It is about to stop.
            return Ok(());
        }
        if is_continued {
            // Sets the modes of the terminal anew, whatever they are.
            let _ = disable_raw_mode();
            enter()?;
            // A new one draws all cells. Clearing the old one would ask the terminal where its cursor is.
            self.terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        }
        self.terminal.draw(draw).map(drop)
    }

    /// Gives the terminal back and stops this job, as the terminal does where it handles the keys itself:
    /// other processes of the job would wait for this one.
    pub(super) fn suspend() {
        // The first process of a namespace is not stopped.
        if sys::is_ignored(SIGTSTP) || getpid().is_init() {
            return;
        }
        let _held = lock();
        // Before the shell takes the terminal, which it does when the first process of the job is stopped.
        leave();
        let _ = kill_current_process_group(Signal::TSTP);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _held = lock();
        leave();
    }
}

/// Whether the terminal is this job's; also if it is no terminal of jobs.
pub(super) fn is_in_the_foreground() -> bool {
    tcgetpgrp(stdout()).ok().is_none_or(|group| group == getpgrp())
}

/// Refuses what cannot show a screen.
fn check(is_terminal: bool, name: Option<&str>) -> Result<(), Error> {
    let why = match name {
        _ if !is_terminal => "standard output is no terminal",
        Some("dumb") => "a terminal of TERM=dumb cannot show a screen",
        _ => return Ok(()),
    };
    Err(Error::failure(format!("{why}: --once prints the table once")))
}

/// Whether colours are shown: not if the user does not want them, and not on terminals without.
pub(super) fn has_colours() -> bool {
    let variable = |name| std::env::var(name).ok();
    shows_colours(variable("NO_COLOR").as_deref(), variable("TERM").as_deref())
}

fn shows_colours(no_color: Option<&str>, name: Option<&str>) -> bool {
    let is_without = |name: &str| {
        let is_old = name
            .strip_prefix("vt")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        is_old || name.ends_with("-m") || name.ends_with("-mono") || name == "dumb"
    };
    no_color.is_none_or(str::is_empty) && !name.is_some_and(is_without)
}

fn enter() -> io::Result<()> {
    IS_ENTERED.store(true, Ordering::Relaxed);
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, Clear(ClearType::All), Hide)
}

/// What fails cannot be reported anywhere. The second call in a row does nothing: it would put the cursor
/// back to where it was, into what was written since.
fn leave() {
    if !IS_ENTERED.swap(false, Ordering::Relaxed) {
        return;
    }
    let _ = execute!(stdout(), Show, LeaveAlternateScreen);
    // Another job has modes of its own.
    if is_in_the_foreground() {
        let _ = disable_raw_mode();
    }
}

/// Gives the terminal back before a signal has its effect. While the lock is kept nothing is drawn.
fn last_leave() -> Option<MutexGuard<'static, ()>> {
    let held = last_lock();
    match held {
        Some(_) => leave(),
        // Nor can anything be written. The modes are set without that.
        None if is_in_the_foreground() => drop(disable_raw_mode()),
        None => {}
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_that_has_a_screen_is_used() {
        for (is_terminal, name) in [(false, Some("xterm")), (true, Some("dumb")), (false, None)] {
            let error = check(is_terminal, name).unwrap_err().to_string();
            assert!(error.contains("--once"), "{error}");
        }
        for name in [Some("xterm"), Some("vt100"), None] {
            assert!(check(true, name).is_ok());
        }
    }

    #[test]
    fn colours_are_off_where_they_are_not_wanted_or_not_there() {
        for (no_color, name) in
            [(Some("1"), Some("xterm")), (None, Some("vt100")), (None, Some("xterm-mono"))]
        {
            assert!(!shows_colours(no_color, name), "{no_color:?} {name:?}");
        }
        for (no_color, name) in [
            (None, Some("xterm")),
            (Some(""), Some("screen-256color")),
            (None, None),
            (None, Some("vte")),
        ] {
            assert!(shows_colours(no_color, name), "{no_color:?} {name:?}");
        }
    }
}
