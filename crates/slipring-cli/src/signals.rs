//! Signals: those that end the program end it in good order.
//!
//! The inherited mask is corrected first: signals that are handled here are unblocked, because
//! a process that blocks SIGTERM for itself seldom means to block it for its children. A
//! signal that is ignored at the start stays ignored: `nohup` and shells with background jobs
//! do that on purpose.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGTSTP, SIGTTOU,
    SIGUSR1, SIGUSR2, SIGVTALRM, SIGWINCH, SIGXCPU, SIGXFSZ,
};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::output::temporary;
use crate::pipeline::Event;
use crate::sys;

/// How long the main thread has for its clean-up. It may itself be blocked,
/// for instance in a write to a pipe without a reader.
const GRACE: Duration = Duration::from_secs(1);

/// Signals whose default action ends a program, without those that report a fault of the
/// program itself. SIGPIPE is missing: the runtime ignores it, so that the write fails.
const ENDING: [i32; 13] = [
    SIGHUP,
    SIGINT,
    SIGQUIT,
    SIGUSR1,
    SIGUSR2,
    SIGALRM,
    SIGTERM,
    libc::SIGSTKFLT,
    SIGXCPU,
    SIGVTALRM,
    SIGPROF,
    SIGIO,
    libc::SIGPWR,
];

fn ending() -> impl Iterator<Item = i32> {
    ENDING.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

/// Restores the usual effect of signals, whatever was inherited. Must be called by the main
/// thread before it starts other threads.
pub(crate) fn reset() -> io::Result<()> {
    // With a handler, a file beyond the size limit is an error of `write`, which
    // is reported like any other, and not the end of the process.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    if sys::is_ignored(SIGCHLD) {
        // The handler ends the ignoring, under which the kernel keeps no exit status.
        signal_hook::flag::register(SIGCHLD, Arc::new(AtomicBool::new(false)))?;
    }
    unblock();
    Ok(())
}

/// Makes signals events for the main thread. If it does not end the program
/// soon when it should, the temporary file is removed and the program ends from
/// here; worker processes end when their parent is gone.
pub(crate) fn watch(events: Sender<Event>) -> io::Result<()> {
    on_signal(move |signal| {
        // The main thread may be past its last look at the events.
        let _ = events.send(Event::Signal(signal));
        thread::sleep(GRACE);
        temporary::remove_current();
        std::process::exit(128 + signal);
    })
}

/// From now on, a signal that ends the program removes the temporary file first.
pub(crate) fn clean_up() -> io::Result<()> {
    on_signal(|signal| {
        temporary::remove_current();
        let _ = emulate_default_handler(signal);
    })
}

/// From now on, `act` is called before a signal ends the program, by another thread.
pub(crate) fn before_the_end(mut act: impl FnMut() + Send + 'static) -> io::Result<()> {
    let act = move |what| {
        if matches!(what, About::End) {
            act()
        }
    };
    start(Signals::new(unignored(ending()))?, act)
}

/// What the program is about to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum About {
    /// A signal is about to end it.
    End,
    /// SIGTSTP was sent, which is to stop it: [`stop`].
    Stop,
    /// It goes on after a stop, or the terminal has another size.
    GoOn,
}

/// Like [`before_the_end`], for a program that uses the terminal as a screen.
pub(crate) fn around_stops(act: impl FnMut(About) + Send + 'static) -> io::Result<()> {
    for signal in unignored([SIGTSTP]).chain([SIGCONT]) {
        let number = usize::try_from(signal).map_err(io::Error::other)?;
        signal_hook::flag::register_usize(signal, Arc::clone(&LAST_STOP), number)?;
    }
    let signals = ending().chain([SIGTSTP]);
    start(Signals::new(unignored(signals).chain([SIGCONT, SIGWINCH]))?, act)?;
    // The thread that stops the program notes it itself, and so in time.
    sys::block(&[SIGCONT]);
    Ok(())
}

/// The last one of SIGTSTP and SIGCONT.
static LAST_STOP: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// Stops the program until it is continued, if it was not continued by now. For the thread of signals.
pub(crate) fn stop() {
    sys::stop_by(SIGTSTP, || usize::try_from(SIGTSTP) == Ok(LAST_STOP.load(Ordering::Relaxed)));
}

fn unignored(signals: impl IntoIterator<Item = i32>) -> impl Iterator<Item = i32> {
    signals.into_iter().filter(|signal| !sys::is_ignored(*signal))
}

fn start(mut signals: Signals, mut act: impl FnMut(About) + Send + 'static) -> io::Result<()> {
    let run = move || {
        // What it says to a terminal that is another job's does not stop the program.
        sys::block(&[SIGTTOU]);
        for signal in signals.forever() {
            match signal {
                SIGTSTP => act(About::Stop),
                SIGCONT | SIGWINCH => act(About::GoOn),
                _ => {
                    act(About::End);
                    let _ = emulate_default_handler(signal);
                }
            }
        }
    };
    unblock();
    thread::Builder::new().name("signals".into()).spawn(run).map(drop)
}

/// Starts a thread that acts on signals that end the program.
fn on_signal(mut act: impl FnMut(i32) + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new(unignored(ending()))?;
    let run = move || {
        for signal in signals.forever() {
            if signal == SIGQUIT {
                // Ctrl-\ is for looking into a program that hangs: keep the core file.
                temporary::remove_current();
                let _ = emulate_default_handler(signal);
            }
            act(signal);
        }
    };
    unblock();
    thread::Builder::new().name("signals".into()).spawn(run).map(drop)
}

fn unblock() {
    let signals: Vec<i32> = ending().chain([SIGCHLD, SIGXFSZ, SIGTSTP, SIGCONT]).collect();
    sys::unblock(&signals);
}
