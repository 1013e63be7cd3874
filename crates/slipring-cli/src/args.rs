//! The command line: one definition, of which the parser, the help, the completions and the
//! manual are made.

use std::error::Error as _;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, PathBufValueParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};

use crate::bench::Request;
use crate::error::Error;
use crate::input::Input;
use crate::output::{Place, Target};
use crate::{doctor, inspect, replay, soak, top};

const EXIT_CODES: &str = "\
Exit codes:
    0  done (also when the reader of standard output has left early)
    1  input, output or a worker failed; an existing FILE of -o is untouched
    2  the command line is wrong
    3  worker processes cannot live: they do not start, or a batch ends them
    4  some of what was asked for is shown, and some cannot be read
  130  ended by SIGINT (129 by SIGHUP, 143 by SIGTERM, 128+N by signal N)

Environment:
  NO_COLOR=1  turns colours off";

const EXAMPLE: &str = "\
Example:
  slipring embed texts.txt -o vectors.npy

";

const EMBED_EXAMPLES: &str = "\
Examples:
  slipring embed texts.txt -o vectors.npy
  slipring embed --workers 2 a.txt b.txt -o vectors.jsonl
  gzip -dc texts.gz | slipring embed -o - | head -1

";

const BENCH_EXAMPLES: &str = "\
Examples:
  slipring bench --quick
  slipring bench --only W1,W4 --json > figures.json
  slipring bench --compare before.json after.json
  slipring bench --plot cost.svg";

const SOAK_EXAMPLES: &str = "\
Examples:
  slipring soak --seconds 60 --workers 2
  slipring soak --pool --seconds 60 --kill-every 20";

const DOCTOR_EXAMPLES: &str = "\
Exit codes:
  0  slipring works here, notes and warnings or not
  1  something that slipring needs is missing

Examples:
  slipring doctor
  slipring doctor --json | jq '.items[] | select(.state != \"ok\")'";

const TOP_EXAMPLES: &str = "\
Keys: Up, Down, PageUp, PageDown, Home, End; Enter for all of a line's counters,
s to sort, / to filter, Ctrl-Z to suspend, q to quit. Wide terminals show more.

Examples:
  slipring top
  slipring top --once --filter embed
  slipring top --once --json";

const PRUNE_EXAMPLES: &str = "\
Examples:
  slipring prune
  slipring prune --remove";

const INSPECT_EXAMPLES: &str = "\
Examples:
  SLIPRING_INSPECT=1 slipring embed texts.txt -o vectors.npy
  slipring inspect 4711
  slipring inspect 4711 --frames 100 --payloads=32";

const REPLAY_EXAMPLES: &str = "\
A host records with Spawner::record, or if it was started with
SLIPRING_RECORD=DIR; SLIPRING_RECORD_PAYLOADS=hashed or omitted keeps less.

Exit codes: 0 all answers are as recorded, 1 one differs, 3 the worker died.

Examples:
  slipring replay --list recordings/embed-4711-1.sliprec
  slipring replay recordings/embed-4711-1.sliprec -- ./embedder
  slipring replay --tolerance 1e-4 FILE -- ./embedder --threads 2";

const STAT_EXAMPLES: &str = "\
Examples:
  slipring stat
  slipring stat 4711 | grep requests";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  slipring completions bash > ~/.local/share/bash-completion/completions/slipring
  slipring completions zsh > ~/.zfunc/_slipring
  slipring completions fish > ~/.config/fish/completions/slipring.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  slipring man | man -l -
  slipring man embed > slipring-embed.1";

/// Turn lines of text into vectors, in worker processes
#[derive(Debug, Parser)]
#[command(
    name = "slipring",
    version,
    propagate_version = true,
    args_override_self = true,
    max_term_width = 80,
    after_help = joined(EXAMPLE, EXIT_CODES)
)]
pub(crate) struct Program {
    #[command(subcommand)]
    command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Turn lines of text into vectors
    ///
    /// Every line of the FILEs (UTF-8) becomes one row. An empty line becomes a row of zeros.
    ///
    /// The built-in embedder hashes words, pairs of words and parts of words (Weinberger et
    /// al. 2009, "Feature Hashing for Large Scale Multitask Learning"). It is lexical, not
    /// semantic: texts are near when they share words or parts of words. It needs no model
    /// file.
    ///
    /// A worker that dies is replaced, and its batches are sent again: the result is the same.
    /// A batch that ends two workers by itself ends the program, which names its lines.
    #[command(after_help = joined(EMBED_EXAMPLES, EXIT_CODES))]
    Embed(Options),
    /// Measure slipring on this machine, against the machine's limits
    ///
    /// Each figure is compared with the least code that does the same work, which is measured
    /// in the same rounds. A verdict in words follows the table: which figures are good, what
    /// this machine does well, which routine copies best, and what to set.
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(BenchArgs),
    /// Look for faults under load: kill, stop and restart workers
    ///
    /// Streams checked frames while it kills, stops and restarts the workers. Fails if a frame
    /// is lost, duplicated, torn or delivered to the wrong caller, if a call hangs, or if a
    /// process, descriptor or mapping is left behind.
    ///
    /// With --pool, a pool restarts the workers, which are also recycled and replaced by
    /// others, and some requests end their workers. Fails as well if a request is run twice
    /// that is not idempotent, or counts as poison without having ended a worker.
    #[command(after_help = SOAK_EXAMPLES)]
    Soak(soak::Options),
    /// Say what this machine gives slipring, and what to change
    ///
    /// Tries what slipring needs of the kernel, starts a worker, reads the limits of this process, of
    /// its control groups and of the machine, and measures how far apart the processors are and which
    /// routine copies best. Each line says what that means for slipring: ok, note, warn (works, but
    /// will fail or be slow under load) or fail (slipring needs it).
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(doctor::Options),
    /// Show every counter of the programs that use slipring
    ///
    /// Reads the status pages of this user's hosts (for root: of all users'), which need not do anything
    /// for it and may be stopped. A host that was started with SLIPRING_STATUS_PAGE=0 has none. One line for each counter: host/role#channel for a worker, host/role: for a role of a
    /// pool, the counter, its value, its unit and what it means.
    #[command(after_help = STAT_EXAMPLES)]
    Stat {
        /// Process ids of hosts; all hosts without any
        #[arg(value_name = "PID")]
        pids: Vec<u32>,
    },
    /// Look into the channels of a program that uses slipring
    ///
    /// Prints the layout and the state of each channel, as the status page of the host says.
    ///
    /// If the host was started with SLIPRING_INSPECT=1, or asked for it (Spawner::inspectable),
    /// also reads the memory of its channels: headers, cursors and frames of all rings, what
    /// each side waits for, and how far the worker is with each request. Each check is named,
    /// with what is wrong. The host may be busy, stopped or hung; it does not notice, and no
    /// right to trace it is needed. Fails if a check does.
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(inspect::Options),
    /// Watch the programs that use slipring
    ///
    /// A line for each worker and for each role of a pool, of all hosts of this user (for root: of all
    /// users), from their status pages; brought up to date once a second.
    #[command(after_help = TOP_EXAMPLES)]
    Top(top::Options),
    /// Send the requests of a recording to a worker, and compare the answers
    ///
    /// Starts WORKER as the recorded one was set up: role, model, mode, extras and the sizes of the
    /// channel. Sends the requests in the order of the recording, and says which answers differ and
    /// where. If the worker dies, says at which request, why, and what its log has at the end: a
    /// crash becomes a test.
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(Box<replay::Options>),
    /// List the memory of named channels that killed processes have left behind
    #[command(after_help = PRUNE_EXAMPLES)]
    Prune {
        /// Remove it
        #[arg(long)]
        remove: bool,
    },
    /// Serve this machine's workers to hosts on other machines
    ///
    /// Runs the program slipring-gateway, a package of its own, which lies beside this program or
    /// on the PATH.
    #[command(disable_help_flag = true, disable_version_flag = true)]
    Gateway {
        /// Options of slipring-gateway, which --help lists
        #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Print a script that completes the command line in a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page of the program or of a command
    #[command(after_help = MAN_EXAMPLES)]
    Man {
        /// The command; the program itself without it
        command: Option<String>,
    },
}

/// The options of `embed`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Files with one text a line; standard input if there is none, or for -
    #[arg(value_name = "FILE", hide_default_value = true, default_value = "-",
          value_parser = OsStringValueParser::new().map(|path| Input::named(path.into())))]
    pub(crate) inputs: Vec<Input>,
    /// Where to write. The ending chooses the format: .npy is float32, rows x dim, for
    /// numpy.load; .jsonl is one JSON array of numbers a line; - is standard output, in the
    /// format of .jsonl. A file appears when it is complete, and not before. A device or a
    /// pipe is written as the rows come (.jsonl only)
    #[arg(short, long, value_name = "FILE", default_value = "vectors.npy",
          value_parser = PathBufValueParser::new().try_map(Target::parse))]
    pub(crate) output: Target,
    /// Worker processes
    #[arg(long, value_name = "N", default_value = "1", allow_hyphen_values = true,
          value_parser = number("--workers", 1, 128))]
    pub(crate) workers: usize,
    /// Texts in a request, at most
    #[arg(long, value_name = "N", default_value = "64", allow_hyphen_values = true,
          value_parser = number("--batch", 1, 65_536))]
    pub(crate) batch: usize,
    /// Numbers in a vector, 1 to 65536
    #[arg(long, value_name = "N", default_value = "384", allow_hyphen_values = true,
          value_parser = number("--dim", 1, 65_536))]
    pub(crate) dim: usize,
    /// Bytes in a line, at most; each worker reserves up to four times as many for its
    /// requests
    #[arg(long, value_name = "N", default_value = "1048576", allow_hyphen_values = true,
          value_parser = number("--max-line", 1, 1 << 28))]
    pub(crate) max_line: usize,
    /// Seconds that a batch may take, from its submission, by all workers that it is sent to
    #[arg(long, value_name = "SECS", default_value = "60", allow_hyphen_values = true,
          value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Directory of the workers' logs, worker-embed*.log. The end of a log is shown when its
    /// worker's death ends the program
    #[arg(long, value_name = "DIR")]
    pub(crate) log_dir: Option<PathBuf>,
    /// Write a result without rows if there is no text. Without this option, that is an error
    #[arg(long)]
    pub(crate) allow_empty: bool,
    /// Show no progress, hints or summary
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// The options of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Measure fewer sizes and rounds, in under a minute
    #[arg(long)]
    quick: bool,
    /// Print JSON, of a run or of a comparison
    #[arg(long)]
    json: bool,
    /// Workloads: some of W1 (round trip), W2 (after idling), W3 (stream), W4 (embedding call), W5
    /// (idle), W6 (spawn)
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = workload)]
    only: Vec<String>,
    /// Processors of the parent and of the workers, such as 0,1
    #[arg(long, value_name = "A,B", value_parser = cpus)]
    cpus: Option<(usize, usize)>,
    /// Measure how cost grows with the work instead, and draw it as an SVG
    #[arg(long, value_name = "FILE",
          value_parser = PathBufValueParser::new().map(Place::of))]
    plot: Option<Place>,
    /// Measure nothing, and say what has changed between two results of --json: per row and
    /// placement, better, worse or within noise
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"],
          conflicts_with_all = ["quick", "only", "cpus", "plot"])]
    compare: Vec<PathBuf>,
}

impl From<BenchArgs> for Request {
    fn from(args: BenchArgs) -> Self {
        let BenchArgs { quick, json, only, cpus, plot, compare } = args;
        let run = slipring_bench::Options { is_quick: quick, only, cpus };
        Self { run, json, plot, compare: <[PathBuf; 2]>::try_from(compare).ok() }
    }
}

/// The result of parsing.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// The text of `--help` or `--version`.
    Text(String),
    Command(Command),
}

pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, Error> {
    let args = std::iter::once(OsString::from("slipring")).chain(args);
    let error = match Program::try_parse_from(args) {
        Ok(Program { command }) => return Ok(Parsed::Command(command)),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::DisplayHelp => Ok(Parsed::Text(error.render().to_string())),
        ErrorKind::DisplayVersion => {
            Ok(Parsed::Text(format!("slipring {}\n", env!("CARGO_PKG_VERSION"))))
        }
        _ => Err(translate(&error)),
    }
}

/// Makes a one-line message of an error of the parser.
fn translate(error: &clap::Error) -> Error {
    if let Some(error) = error.source().and_then(|source| source.downcast_ref::<Error>()) {
        return error.clone();
    }
    let of = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let argument = of(ContextKind::InvalidArg).unwrap_or_default();
    // The parser names an option as in the help: `--dim <N>`.
    let option = argument.split([' ', '=']).next().unwrap_or_default();
    let value = of(ContextKind::InvalidValue);
    let command = of(ContextKind::InvalidSubcommand);
    let mut message = match (error.kind(), value) {
        (ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, _) => {
            "a command is missing: slipring embed [FILE]...".to_owned()
        }
        (ErrorKind::InvalidSubcommand, _) => {
            format!("unknown command '{}'", command.unwrap_or_default())
        }
        (ErrorKind::UnknownArgument, _) if argument.starts_with('-') => {
            format!("invalid option '{argument}'")
        }
        (ErrorKind::UnknownArgument, _) => format!("unexpected argument '{argument}'"),
        (ErrorKind::InvalidValue, Some(value)) if !value.is_empty() => {
            format!("{option} cannot be '{value}'")
        }
        (ErrorKind::InvalidValue, _) => format!("{option} takes a value"),
        (ErrorKind::MissingRequiredArgument, _) => format!("{argument} is missing"),
        (ErrorKind::TooManyValues, Some(value)) => {
            format!("{option} takes no value, and '{value}' was given")
        }
        _ => {
            let text = error.render().to_string();
            let line = text.lines().next().unwrap_or_default();
            line.trim_start_matches("error: ").to_owned()
        }
    };
    let kinds =
        [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue];
    if let Some(meant) = kinds.into_iter().find_map(of) {
        message.push_str(&format!("; did you mean '{meant}'?"));
    }
    usage(message)
}

fn workload(text: &str) -> Result<String, Error> {
    match ["W1", "W2", "W3", "W4", "W5", "W6"].contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(usage(format!("--only takes some of W1 to W6, not '{text}'"))),
    }
}

fn cpus(text: &str) -> Result<(usize, usize), Error> {
    let numbers = text.split_once(',').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    numbers.ok_or_else(|| usage(format!("--cpus takes two processors, as 0,1, not '{text}'")))
}

/// Returns a parser of whole numbers in this range.
pub(crate) fn number(
    name: &'static str,
    min: usize,
    max: usize,
) -> impl Fn(&str) -> Result<usize, Error> + Clone {
    move |text| match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(usage(format!("{name} takes a whole number from {min} to {max}, not '{text}'"))),
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration, Error> {
    let seconds = text.parse().unwrap_or(0.0);
    if seconds > 0.0 && seconds <= 1e6 {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(usage(format!("--timeout takes seconds, more than 0 and up to 1000000, not '{text}'")))
}

pub(crate) fn usage(message: impl std::fmt::Display) -> Error {
    Error::usage(format!("{message} (see slipring --help)"))
}

/// Joins two texts.
fn joined(first: &str, second: &str) -> String {
    format!("{first}{second}")
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
