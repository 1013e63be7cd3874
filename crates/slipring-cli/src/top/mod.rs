//! `slipring top`: all hosts of this user, live. [`lines`] makes lines of the status pages,
//! [`screen`] shows them in the [`columns`] that fit, or the [`details`] of one, [`input`] reads the keys,
//! and [`keys`] says what they do; [`terminal`] gives the terminal back. [`once`] prints lines for scripts.

mod columns;
mod details;
mod input;
mod keys;
mod lines;
mod once;
mod screen;
mod terminal;
mod text;

use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use slipring::status_page;

use crate::error::Error;
use crate::shown;
use crate::stat::say_left_out;
use crate::stdio::Stdout;
use input::Input;
use keys::{Outcome, State};
use lines::{Look, Order};
use terminal::Screen;

/// How often the pages are read. Hosts write them as often.
const PERIOD: Duration = Duration::from_secs(1);

/// How many keys may wait while the screen is drawn. The terminal keeps the others.
const MOST_INPUT: usize = 64;

/// The options of `top`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Print the table once, with rates over two seconds, and end
    #[arg(long)]
    once: bool,
    /// With --once: print what the status pages say as JSON, at once and without rates
    #[arg(long, requires = "once")]
    json: bool,
    /// Show lines only that contain this in the role, the state, the host's process id or its command
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    filter: String,
}

/// Shows the hosts until the user ends it, or once.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    match (options.once, options.json) {
        (true, true) => print_json(&options.filter),
        (true, false) => print_table(&options.filter),
        (false, _) => show(options.filter.clone()),
    }
}

fn look() -> Result<Look, Error> {
    let hosts = status_page::hosts().map_err(|e| Error::failure(format!("{e:#}")))?;
    Ok(Look { at: Instant::now(), hosts })
}

fn print_json(filter: &str) -> Result<(), Error> {
    let Look { mut hosts, .. } = look()?;
    lines::keep(&mut hosts.hosts, filter);
    let refused = hosts.refused.iter();
    let refused: Vec<_> = refused
        .map(|(pid, error)| serde_json::json!({ "pid": pid, "why": format!("{error:#}") }))
        .collect();
    let value = serde_json::json!({ "hosts": hosts.hosts, "refused": refused });
    Stdout::open()?.print(shown::json(&value))
}

fn print_table(filter: &str) -> Result<(), Error> {
    let first = look()?;
    // Hosts write their pages once in a period, at any time in it.
    std::thread::sleep(2 * PERIOD);
    let second = look()?;
    say_left_out(&second.hosts);
    let lines = lines::lines(&second, Some(&first), Order::Host, filter);
    Stdout::open()?.print(once::table(&lines))
}

/// The live view.
fn show(filter: String) -> Result<(), Error> {
    let failed = |e: std::io::Error| Error::failure(format!("cannot use the terminal: {e}"));
    let (sender, input) = sync_channel(MOST_INPUT);
    let waker = sender.clone();
    // Where there is more to do already, the screen is drawn anyway.
    let mut screen = Screen::open(move || drop(waker.try_send(Input::Redraw)))?;
    input::start(sender).map_err(failed)?;
    // Rates are those since the look before the last: a page may be the same at two looks in a row.
    let (mut before, mut last, mut now) = (None, None, look()?);
    let mut state = State::new(filter);
    state.has_colours = terminal::has_colours();
    loop {
        let lines = lines::lines(&now, before.as_ref(), state.order, &state.filter);
        state.keep_place(&lines);
        screen.draw(|frame| screen::draw(frame, &now, &lines, &mut state)).map_err(failed)?;
        let left = PERIOD.saturating_sub(now.at.elapsed());
        if left.is_zero() {
            before = last.replace(std::mem::replace(&mut now, look()?));
            continue;
        }
        match input.recv_timeout(left) {
            Ok(Input::Key(key)) => match state.press(key, &lines) {
                Outcome::GoOn => {}
                Outcome::Suspend => Screen::suspend(),
                Outcome::End => return Ok(()),
            },
            Ok(Input::Failed(error)) => return Err(failed(error)),
            Ok(Input::Redraw) | Err(_) => {}
        }
    }
}
