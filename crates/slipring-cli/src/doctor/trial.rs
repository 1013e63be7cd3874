//! Runs the trials of [`kernel`](super::kernel) in a process of its own. A filter of system calls may
//! end the process that makes a call: then the call is known to be refused, and another process goes
//! on with the next trial.

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use super::item::State;
use super::kernel::TRIALS;

/// The first argument of such a process. The second is the number of the first trial.
const ARGUMENT: &str = "doctor-trials";
/// How long all trials may take. They take milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
const GAVE_UP: u8 = 77;

/// One thing of the kernel's that is tried.
pub(super) struct Trial {
    pub(super) name: &'static str,
    /// Tries it. Returns what is worth telling of it.
    pub(super) run: fn() -> io::Result<String>,
    /// What it is for.
    pub(super) works: &'static str,
    /// How bad it is to be without it.
    pub(super) without: State,
    /// What that means.
    pub(super) lacks: &'static str,
    pub(super) change: &'static str,
}

/// How a trial went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Works(String),
    /// The error number of the system call.
    Errno(i32),
    /// Something else went wrong.
    Wrong(String),
    /// The process was ended.
    Ended(String),
}

impl Outcome {
    fn of(result: io::Result<String>) -> Self {
        match result {
            Ok(text) => Self::Works(text),
            Err(error) => match error.raw_os_error() {
                Some(number) => Self::Errno(number),
                None => Self::Wrong(error.to_string()),
            },
        }
    }

    fn line(&self) -> String {
        match self {
            Self::Works(text) => format!("works {text}"),
            Self::Errno(number) => format!("errno {number}"),
            Self::Wrong(text) | Self::Ended(text) => format!("wrong {text}"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let (kind, text) = line.split_once(' ')?;
        match kind {
            "works" => Some(Self::Works(text.to_owned())),
            "errno" => Some(Self::Errno(text.parse().ok()?)),
            "wrong" => Some(Self::Wrong(text.to_owned())),
            _ => None,
        }
    }

    /// What happened, if it does not work.
    pub(super) fn problem(&self) -> Option<String> {
        let number = match self {
            Self::Works(_) => return None,
            Self::Wrong(text) => return Some(text.clone()),
            Self::Ended(text) => return Some(format!("refused: {text}")),
            Self::Errno(number) => *number,
        };
        let error = io::Error::from_raw_os_error(number);
        Some(match number {
            libc::ENOSYS | libc::EINVAL | libc::EOPNOTSUPP => format!("not there: {error}"),
            libc::EPERM | libc::EACCES => format!("refused: {error}"),
            _ => format!("fails: {error}"),
        })
    }
}

/// If this process was started for trials, makes them.
pub(crate) fn serve_if_trials() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != ARGUMENT {
        return None;
    }
    let first = args.next().and_then(|arg| arg.to_str()?.parse().ok()).unwrap_or(0);
    // A trial that hangs must not keep the user waiting.
    std::thread::spawn(|| {
        std::thread::sleep(PATIENCE);
        std::process::exit(i32::from(GAVE_UP));
    });
    let mut stdout = io::stdout().lock();
    for trial in TRIALS.iter().skip(first) {
        let mut say = |line: String| writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        // Before the call, after which there may be no process to say anything.
        let said = say(format!("begin {}", trial.name))
            .and_then(|()| say(Outcome::of((trial.run)()).line()));
        if said.is_err() {
            break;
        }
    }
    Some(ExitCode::SUCCESS)
}

/// Makes all trials.
pub(super) fn outcomes() -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    while outcomes.len() < TRIALS.len() {
        let (done, how_it_ended) = in_a_process(outcomes.len());
        let was_begun = done.last().is_some_and(Option::is_none);
        outcomes.extend(done.into_iter().flatten());
        if outcomes.len() >= TRIALS.len() {
            break;
        }
        if was_begun {
            outcomes.push(Outcome::Ended(how_it_ended));
        } else {
            // There is no such process, so that no trial was its end.
            let rest = TRIALS.iter().skip(outcomes.len());
            outcomes.extend(rest.map(|trial| Outcome::of((trial.run)())));
        }
    }
    outcomes
}

/// Makes the trials from one on in a new process, until all are made or one is its end. Returns `None`
/// for one that was begun only, and how the process ended.
fn in_a_process(first: usize) -> (Vec<Option<Outcome>>, String) {
    let run = || {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(ARGUMENT).arg(first.to_string());
        command.stdin(Stdio::null()).stderr(Stdio::null()).output()
    };
    match run() {
        Ok(output) => {
            let ended = match (output.status.signal(), output.status.code()) {
                (Some(libc::SIGSYS), _) => "a filter kills the process that tries it".to_owned(),
                (_, Some(code)) if code == i32::from(GAVE_UP) => "it does not return".to_owned(),
                _ => format!("it ends the process that tries it: {}", output.status),
            };
            (parse(&String::from_utf8_lossy(&output.stdout), first), ended)
        }
        Err(_) => (Vec::new(), String::new()),
    }
}

fn parse(text: &str, first: usize) -> Vec<Option<Outcome>> {
    let mut done = Vec::new();
    let mut lines = text.lines().peekable();
    for trial in TRIALS.iter().skip(first) {
        match lines.next().and_then(|line| line.strip_prefix("begin ")) {
            Some(name) if name == trial.name => {}
            _ => break,
        }
        let outcome = lines.next().and_then(Outcome::parse);
        let is_cut = outcome.is_none();
        done.push(outcome);
        if is_cut {
            break;
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_says_before_its_end_is_kept() {
        let [first, second, ..] = &TRIALS;
        let text = format!("begin {}\nworks well\nbegin {}\n", first.name, second.name);
        let done = parse(&text, 0);
        assert_eq!(done, [Some(Outcome::Works("well".into())), None]);
        assert_eq!(parse("", 0), []);
        assert_eq!(parse("begin no-such\nworks x\n", 0), []);
        let cut = format!("begin {}\nerr", first.name);
        assert_eq!(parse(&cut, 0), [None]);
    }

    #[test]
    fn outcomes_read_back_and_say_whether_something_is_refused_or_missing() {
        for outcome in [
            Outcome::Works("a b".into()),
            Outcome::Works(String::new()),
            Outcome::Errno(libc::EPERM),
            Outcome::Wrong("it lies".into()),
        ] {
            assert_eq!(Outcome::parse(&outcome.line()), Some(outcome));
        }
        for (number, word) in [
            (libc::ENOSYS, "not there"),
            (libc::EINVAL, "not there"),
            (libc::EPERM, "refused"),
            (libc::EACCES, "refused"),
            (libc::EMFILE, "fails"),
        ] {
            assert!(Outcome::Errno(number).problem().unwrap().starts_with(word));
        }
        assert_eq!(Outcome::Works("x".into()).problem(), None);
    }

    #[test]
    fn every_trial_has_a_name_of_its_own() {
        let mut names: Vec<_> = TRIALS.iter().map(|trial| trial.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TRIALS.len());
    }
}
