//! The terminal, which is given back as it was: at the end, after an error or a panic, before a signal
//! ends the program, and while it is suspended.

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
use signal_hook::consts::{SIGCONT, SIGTSTP};

use crate::error::Error;
use crate::signals;

/// Held while the screen is drawn, so that the thread of signals does not give the terminal back in the
/// middle of that.
static DRAWING: Mutex<()> = Mutex::new(());

/// Whether the terminal has to be given back.
static IS_ENTERED: AtomicBool = AtomicBool::new(false);

/// How long a signal that ends the program waits for what is drawn.
const PATIENCE: Duration = Duration::from_secs(1);

fn lock() -> MutexGuard<'static, ()> {
    // A panic has given the terminal back already.
    DRAWING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lock, before a signal ends the program; `None` if it is held for long, because nothing takes what is
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
    pub(super) fn open() -> Result<Self, Error> {
        check(stdout().is_terminal(), std::env::var("TERM").ok().as_deref())?;
        let failed = |e: io::Error| Error::failure(format!("cannot use the terminal: {e}"));
        let is_continued = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGCONT, Arc::clone(&is_continued)).map_err(failed)?;
        let end = || match last_lock() {
            // The lock is kept: nothing is drawn any more.
            Some(held) => {
                std::mem::forget(held);
                leave();
            }
            // Nor can anything be written. The modes are set without that.
            None => drop(disable_raw_mode()),
        };
        signals::before_the_end(end).map_err(failed)?;
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            leave();
            hook(info);
        }));
        let terminal = enter().and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        match terminal {
            Ok(terminal) => Ok(Self { terminal, is_continued }),
            Err(error) => {
                leave();
                Err(failed(error))
            }
        }
    }

    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        let _held = lock();
        if self.is_continued.swap(false, Ordering::Relaxed) {
            // Sets the modes of the terminal anew, whatever they are.
            let _ = disable_raw_mode();
            enter()?;
            // A new one draws all cells. Clearing the old one would ask the terminal where its cursor is.
            self.terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        }
        self.terminal.draw(draw).map(drop)
    }

    /// Gives the terminal back and stops, until the shell continues this process.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        {
            let _held = lock();
            leave();
        }
        signal_hook::low_level::raise(SIGTSTP)?;
        // Without a shell that controls jobs there was no stop.
        self.is_continued.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _held = lock();
        leave();
    }
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
    let _ = disable_raw_mode();
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
