//! `slipring replay`: sends the requests of a recording to another worker, and compares the answers.
//!
//! [`run`] reads the recording once, in order. [`session`] does what each record says and keeps the requests
//! in flight; [`answer`] is what the worker answers; [`compare`] finds the first difference; [`list`] prints
//! records instead; [`report`] says what was found.

mod answer;
mod compare;
mod list;
mod report;
mod session;

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use slipring::recording::{Payloads, RecordingInfo, RecordingReader};
use slipring::{Kind, Spawner};

use crate::args::{seconds, usage};
use crate::error::{Error, say};
use crate::signals;
use report::Report;
use session::Session;

/// More names for the directory of logs are not tried.
const MOST_DIRECTORIES: u32 = 100;

/// The options of `replay`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The recording
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print the records instead, a line each; no WORKER is started
    #[arg(long)]
    list: bool,
    /// Print JSON, a line for each request or record
    #[arg(long)]
    json: bool,
    /// Only requests of this kind: embed, chat, rerank, vision, app:N, the number of a kind such
    /// as 0x9b2c, or the name that the programs have given it
    #[arg(long, value_name = "KIND", value_parser = kind)]
    only: Option<Kind>,
    /// When requests are sent: as soon as the ones before allow it, or not before the time that
    /// the recording has
    #[arg(long, value_name = "SPEED", value_enum, default_value = "as-fast")]
    speed: Speed,
    /// Wait for each answer before the next request is sent. Without it, a request waits for
    /// those whose answers the recording has before it, so that as many are in flight as were
    #[arg(long)]
    one_by_one: bool,
    /// Seconds that a request may take, from when it is sent, and a start
    #[arg(long, value_name = "SECS", default_value = "60", allow_hyphen_values = true,
          value_parser = seconds)]
    timeout: Duration,
    /// Give each request the time until its deadline that it had in the recording. Those without a
    /// deadline have --timeout, as all have without this option
    #[arg(long)]
    deadlines: bool,
    /// How far a number of float32 in an answer may be off: this much, or this part of the
    /// larger one. Without it, answers are compared byte by byte
    #[arg(long, value_name = "X", allow_hyphen_values = true, value_parser = tolerance)]
    tolerance: Option<f32>,
    /// Directory of the worker's log; one for the moment without it
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// The blob that the worker is given; a recording has only its length
    #[arg(long, value_name = "FILE")]
    blob: Option<PathBuf>,
    /// The program of the worker, and its arguments
    #[arg(last = true, value_name = "WORKER")]
    worker: Vec<OsString>,
}

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Speed {
    AsFast,
    AsRecorded,
}

pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let reader = RecordingReader::open(&options.file).map_err(|e| failed(&options.file, &e))?;
    if options.list {
        return list::run(reader, options);
    }
    let info = reader.info();
    check(options, info)?;
    let logs = Logs::new(options)?;
    let spawner = spawner(options, info, &logs)?;
    let mut session = Session::start(&spawner, options)?;
    let mut report = Report::open(options.json)?;
    session.run(reader, &mut report, &options.file)
}

/// Refuses what cannot work.
fn check(options: &Options, info: &RecordingInfo) -> Result<(), Error> {
    let Some(_) = options.worker.first() else {
        let recorded: Vec<&str> =
            info.field("program").into_iter().chain(info.all("arg")).collect();
        return Err(usage(format!("give the worker behind --; recorded was {recorded:?}")));
    };
    if info.requests != Payloads::Whole {
        return Err(Error::failure(format!(
            "{}: the payloads of its requests were left out, so that they cannot be sent again; \
             --list shows what there is",
            options.file.display()
        )));
    }
    if options.tolerance.is_some() && info.replies != Payloads::Whole {
        return Err(Error::failure("--tolerance needs a recording that has whole answers"));
    }
    if let Some(len) = info.field("blob")
        && options.blob.is_none()
    {
        say(format!("the recorded worker had a blob of {len} bytes: --blob gives one"));
    }
    for name in info.all("fd") {
        say(format!("the recorded worker had a descriptor {name:?}, which this one does not get"));
    }
    Ok(())
}

/// A worker that is set up as the recorded one was, with another program.
fn spawner(options: &Options, info: &RecordingInfo, logs: &Logs) -> Result<Spawner, Error> {
    let mut words = options.worker.iter();
    let program = words.next().cloned().unwrap_or_default();
    let config = info.config().map_err(|e| failed(&options.file, &e))?;
    let mut spawner = Spawner::program(program)
        .args(words.cloned())
        .config(config)
        .handshake_timeout(options.timeout)
        .log_dir(&logs.directory);
    if let Some(role) = info.field("role") {
        spawner = spawner.role(role);
    }
    if let Some(model) = info.field("model") {
        spawner = spawner.model(model);
    }
    if let Some(mode) = info.field("mode") {
        spawner = spawner.mode(mode);
    }
    for (name, value) in &info.fields {
        if let Some(name) = name.strip_prefix("extra.") {
            spawner = spawner.extra(name, value);
        }
    }
    if let Some(path) = &options.blob {
        let blob = fs::read(path)
            .map_err(|e| Error::failure(format!("cannot read {}: {e}", path.display())))?;
        spawner = spawner.blob(blob);
    }
    Ok(spawner)
}

/// The directory of the worker's log; removed at the end if it is one for the moment.
struct Logs {
    directory: PathBuf,
    is_for_the_moment: bool,
}

impl Logs {
    fn new(options: &Options) -> Result<Self, Error> {
        if let Some(directory) = &options.log_dir {
            return Ok(Self { directory: directory.clone(), is_for_the_moment: false });
        }
        let directory = temporary()?;
        let at_the_end = directory.clone();
        signals::before_the_end(move || remove_while_used(&at_the_end))
            .map_err(|e| Error::failure(format!("cannot handle signals: {e}")))?;
        Ok(Self { directory, is_for_the_moment: true })
    }
}

/// Removes a directory in which another thread may be about to make a file: then once more.
fn remove_while_used(directory: &Path) {
    for _ in 0..MOST_DIRECTORIES {
        match fs::remove_dir_all(directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            _ => {}
        }
    }
}

/// Makes a directory that only this user can look into: a log can have what requests have.
fn temporary() -> Result<PathBuf, Error> {
    for number in 0..MOST_DIRECTORIES {
        let name = format!("slipring-replay-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => return Ok(directory),
            // Of an earlier process with this id, or put there by another user.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => {
                let directory = directory.display();
                return Err(Error::failure(format!("cannot make the directory {directory}: {e}")));
            }
        }
    }
    Err(Error::failure("no directory for the worker's log can be made: --log-dir gives one"))
}

impl Drop for Logs {
    fn drop(&mut self) {
        if self.is_for_the_moment {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

fn failed(file: &Path, error: &slipring::Error) -> Error {
    Error::failure(format!("{}: {error:#}", file.display()))
}

fn kind(text: &str) -> Result<Kind, Error> {
    let number = text
        .strip_prefix("0x")
        .map_or_else(|| text.parse().ok(), |hex| u16::from_str_radix(hex, 16).ok());
    let found = match (text, number) {
        ("embed", _) => Some(Kind::EMBED),
        ("chat", _) => Some(Kind::CHAT),
        ("rerank", _) => Some(Kind::RERANK),
        ("vision", _) => Some(Kind::VISION),
        (_, Some(code)) => Kind::from_request_code(code),
        _ => match text.strip_prefix("app:").map(str::parse::<u16>) {
            Some(Ok(number)) if number < 32_512 => Some(Kind::app(number)),
            Some(_) => None,
            None => Some(Kind::named(text)),
        },
    };
    found.ok_or_else(|| usage(format!("--only takes a kind of request, not '{text}'")))
}

fn tolerance(text: &str) -> Result<f32, Error> {
    match text.parse::<f32>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err(usage(format!("--tolerance takes a number from 0 on, not '{text}'"))),
    }
}
