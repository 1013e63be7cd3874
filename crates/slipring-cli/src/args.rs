//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use lexopt::prelude::{Long, Short, Value, ValueExt};

use crate::bench::Request;
use crate::error::Error;
use crate::input::Input;
use crate::output::Target;
use crate::soak;

pub(crate) const HELP: &str = "\
Turn lines of text into vectors, in worker processes.

Usage: slipring embed [OPTIONS] [FILE]...
       slipring soak [--seconds N] [--kill-every MS] [--workers N] [--frames N]
                     [--json]
       slipring bench [--quick] [--json] [--only W1,...] [--plot FILE]

Every line of the FILEs (UTF-8; standard input without FILE, or for -) becomes
one row. An empty line becomes a row of zeros.

The built-in embedder hashes words, pairs of words and parts of words
(Weinberger et al. 2009, \"Feature Hashing for Large Scale Multitask Learning\").
It is lexical, not semantic: texts are near when they share words or parts of
words. It needs no model file.

Options:
  -o, --output FILE   where to write [default: vectors.npy]; the ending decides:
                        .npy    float32, rows x dim, for numpy.load
                        .jsonl  one JSON array of numbers a line
                        -       the same, to standard output
                      A file appears when it is complete, and not before; a
                      device or a pipe is written as the rows come (.jsonl only)
      --workers N     worker processes [default: 1]
      --batch N       texts in a request, at most [default: 64]
      --dim N         numbers in a vector, 1 to 65536 [default: 384]
      --max-line N    bytes in a line, at most [default: 1048576]; each worker
                      reserves up to four times as many for its requests
      --timeout SECS  time for a batch, from its submission [default: 60]
      --log-dir DIR   where the workers' logs go, worker-embed*.log; the end of
                      it is shown when a worker dies
  -q, --quiet         no progress and no summary
  -h, --help          print this
  -V, --version       print the version

Options of bench, which measures slipring on this machine, against its limits:
      --quick         fewer sizes and rounds, in under a minute
      --json          for programs
      --only LIST     some of W1 (round trip), W2 (after idling), W3 (stream),
                      W4 (embedding call), W5 (idle), W6 (spawn)
      --cpus A,B      the processors of the parent and of the workers
      --plot FILE     measures how cost grows with the work instead, and draws
                      it as an SVG

Options of soak, which streams checked frames while it kills, stops and restarts
the workers, and fails if one is lost, duplicated, torn or delivered to another,
if anything hangs, or is left behind:
      --seconds N     how long [default: 10]
      --kill-every MS time between two faults, on average [default: 100]
      --workers N     worker processes [default: 2]
      --frames N      small frames through raw rings before that [default: 0]
      --json          for programs

Exit codes:
    0  done (also when the reader of standard output has left early)
    1  input, output or a worker failed; an existing FILE of -o is untouched
    2  the command line is wrong
    3  a worker process died
  130  ended by SIGINT (129 by SIGHUP, 143 by SIGTERM)

NO_COLOR=1 turns colours off.
";

/// What the program is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    Help,
    Version,
    Embed(Options),
    Bench(Request),
    Soak(soak::Options),
}

/// The options of `embed`.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) inputs: Vec<Input>,
    pub(crate) output: Target,
    pub(crate) workers: usize,
    pub(crate) batch: usize,
    pub(crate) dim: usize,
    pub(crate) max_line: usize,
    pub(crate) log_dir: Option<PathBuf>,
    pub(crate) timeout: Duration,
    pub(crate) quiet: bool,
}

pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Error> {
    // `from_args` takes no program name.
    let mut parser = lexopt::Parser::from_args(args);
    match parser.next().map_err(usage)? {
        Some(Value(command)) if command == "embed" => parse_embed(&mut parser),
        Some(Value(command)) if command == "bench" => parse_bench(&mut parser),
        Some(Value(command)) if command == "soak" => parse_soak(&mut parser),
        Some(Short('h') | Long("help")) => Ok(Command::Help),
        Some(Short('V') | Long("version")) => Ok(Command::Version),
        Some(Value(other)) => Err(usage(format!("unknown command '{}'", other.to_string_lossy()))),
        Some(other) => Err(usage(other.unexpected())),
        None => Err(usage("a command is missing: slipring embed [FILE]...")),
    }
}

fn parse_embed(parser: &mut lexopt::Parser) -> Result<Command, Error> {
    let mut inputs = Vec::new();
    let mut output = PathBuf::from("vectors.npy");
    let mut options = Options {
        inputs: Vec::new(),
        output: Target::Stdout,
        workers: 1,
        batch: 64,
        dim: 384,
        max_line: 1 << 20,
        log_dir: None,
        timeout: Duration::from_secs(60),
        quiet: false,
    };
    while let Some(arg) = parser.next().map_err(usage)? {
        match arg {
            Value(path) if path == "-" => inputs.push(Input::Stdin),
            Value(path) => inputs.push(Input::File(path.into())),
            Short('o') | Long("output") => output = value(parser)?.into(),
            Long("workers") => options.workers = number(parser, "--workers", 1, 128)?,
            Long("batch") => options.batch = number(parser, "--batch", 1, 65_536)?,
            Long("dim") => options.dim = number(parser, "--dim", 1, 65_536)?,
            Long("max-line") => options.max_line = number(parser, "--max-line", 1, 1 << 28)?,
            Long("timeout") => options.timeout = seconds(parser)?,
            Long("log-dir") => options.log_dir = Some(value(parser)?.into()),
            Short('q') | Long("quiet") => options.quiet = true,
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            other => return Err(usage(other.unexpected())),
        }
    }
    if inputs.is_empty() {
        inputs.push(Input::Stdin);
    }
    options.inputs = inputs;
    options.output = Target::parse(output)?;
    Ok(Command::Embed(options))
}

fn parse_bench(parser: &mut lexopt::Parser) -> Result<Command, Error> {
    let mut request = Request::default();
    while let Some(arg) = parser.next().map_err(usage)? {
        match arg {
            Long("quick") => request.run.is_quick = true,
            Long("json") => request.json = true,
            Long("only") => request.run.only = workloads(parser)?,
            Long("cpus") => request.run.cpus = Some(cpus(parser)?),
            Long("plot") => request.plot = Some(value(parser)?.into()),
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            other => return Err(usage(other.unexpected())),
        }
    }
    Ok(Command::Bench(request))
}

fn parse_soak(parser: &mut lexopt::Parser) -> Result<Command, Error> {
    let mut options = soak::Options::default();
    while let Some(arg) = parser.next().map_err(usage)? {
        match arg {
            Long("seconds") => options.seconds = number(parser, "--seconds", 1, 10_000_000)?,
            Long("kill-every") => {
                options.kill_every = number(parser, "--kill-every", 1, 10_000_000)?;
            }
            Long("workers") => options.workers = number(parser, "--workers", 1, 128)?,
            Long("frames") => options.frames = number(parser, "--frames", 0, 1 << 50)?,
            Long("json") => options.json = true,
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            other => return Err(usage(other.unexpected())),
        }
    }
    Ok(Command::Soak(options))
}

fn workloads(parser: &mut lexopt::Parser) -> Result<Vec<String>, Error> {
    let text = value(parser)?.string().map_err(usage)?;
    let names: Vec<String> = text.split(',').map(str::to_owned).collect();
    match names.iter().find(|name| !["W1", "W2", "W3", "W4", "W5", "W6"].contains(&name.as_str())) {
        Some(name) => Err(usage(format!("--only takes some of W1 to W6, not '{name}'"))),
        None => Ok(names),
    }
}

fn cpus(parser: &mut lexopt::Parser) -> Result<(usize, usize), Error> {
    let text = value(parser)?.string().map_err(usage)?;
    let numbers = text.split_once(',').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    numbers.ok_or_else(|| usage(format!("--cpus takes two processors, as 0,1, not '{text}'")))
}

fn value(parser: &mut lexopt::Parser) -> Result<OsString, Error> {
    parser.value().map_err(usage)
}

fn number(parser: &mut lexopt::Parser, name: &str, min: usize, max: usize) -> Result<usize, Error> {
    let text = value(parser)?.string().map_err(usage)?;
    match usize::from_str(&text) {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(usage(format!("{name} takes a whole number from {min} to {max}, not '{text}'"))),
    }
}

fn seconds(parser: &mut lexopt::Parser) -> Result<Duration, Error> {
    let text = value(parser)?.string().map_err(usage)?;
    let seconds = f64::from_str(&text).unwrap_or(0.0);
    if seconds > 0.0 && seconds <= 1e6 {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(usage(format!("--timeout takes seconds, more than 0 and up to 1000000, not '{text}'")))
}

fn usage(message: impl std::fmt::Display) -> Error {
    Error::usage(format!("{message} (see slipring --help)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embed(args: &[&str]) -> Result<Options, Error> {
        let args = std::iter::once("embed").chain(args.iter().copied());
        match parse(args.map(OsString::from))? {
            Command::Embed(options) => Ok(options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_options_the_defaults_of_the_help_hold() {
        let options = embed(&[]).unwrap();
        assert_eq!(options.inputs, [Input::Stdin]);
        assert_eq!(options.output, Target::parse("vectors.npy".into()).unwrap());
        assert_eq!((options.workers, options.batch, options.dim), (1, 64, 384));
        assert_eq!((options.max_line, options.timeout.as_secs()), (1_048_576, 60));
        assert!(!options.quiet);
    }

    #[test]
    fn options_and_files_may_come_in_any_order() {
        let options = embed(&["a", "--dim=8", "-", "-o", "x.jsonl", "-q", "--", "--b"]).unwrap();
        let file = |name: &str| Input::File(name.into());
        assert_eq!(options.inputs, [file("a"), Input::Stdin, file("--b")]);
        assert_eq!((options.dim, options.quiet), (8, true));
    }

    #[test]
    fn numbers_out_of_range_are_refused_with_the_range() {
        for value in ["0", "-1", "65537", "18446744073709551616", "", "x", "1.5"] {
            let error = embed(&["--dim", value]).unwrap_err();
            assert_eq!(error.exit().code(), 2);
            let text = error.to_string();
            assert!(text.contains("--dim takes a whole number from 1 to 65536"), "{text}");
        }
        for value in ["0", "-1", "nan", "inf", "1e9", "soon"] {
            assert!(embed(&["--timeout", value]).is_err(), "{value}");
        }
        assert_eq!(embed(&["--timeout", "0.5"]).unwrap().timeout.as_millis(), 500);
    }

    #[test]
    fn what_is_unknown_is_named() {
        let error = embed(&["--frobnicate"]).unwrap_err().to_string();
        assert!(error.contains("--frobnicate"), "{error}");
        let error = parse(["fetch".into()]).unwrap_err().to_string();
        assert!(error.contains("unknown command 'fetch'"), "{error}");
        assert!(parse([]).unwrap_err().to_string().contains("a command is missing"));
        assert!(embed(&["--dim"]).unwrap_err().to_string().contains("--dim"));
    }

    #[test]
    fn bench_takes_workloads_and_processors() {
        let bench = |args: &[&str]| {
            let args = std::iter::once("bench").chain(args.iter().copied());
            match parse(args.map(OsString::from))? {
                Command::Bench(request) => Ok(request),
                other => panic!("{other:?}"),
            }
        };
        let request = bench(&["--quick", "--only", "W1,W4", "--cpus=0,1", "--json"]).unwrap();
        assert!(request.run.is_quick && request.json && request.plot.is_none());
        assert_eq!((request.run.only.len(), request.run.cpus), (2, Some((0, 1))));
        let error: Error = bench(&["--only", "W1,W9"]).unwrap_err();
        assert!(error.to_string().contains("not 'W9'"), "{error}");
        assert!(bench(&["--cpus", "1"]).is_err());
    }

    #[test]
    fn help_and_version_come_before_or_after_the_command() {
        for args in [&["--help"][..], &["-h"], &["embed", "--help"], &["embed", "x", "-h"]] {
            let parsed = parse(args.iter().map(OsString::from)).unwrap();
            assert!(matches!(parsed, Command::Help), "{args:?}");
        }
        for args in [&["--version"][..], &["embed", "-V"]] {
            let parsed = parse(args.iter().map(OsString::from)).unwrap();
            assert!(matches!(parsed, Command::Version), "{args:?}");
        }
    }
}
