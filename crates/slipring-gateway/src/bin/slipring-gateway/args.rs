//! The command line.

use std::error::Error as _;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::error::Failure;
use crate::kinds::{Kinds, NamedKind, kinds, named_kind};

const AFTER: &str = "\
Examples:
  slipring gateway --role embed --workers 4 -- ./embedder --model small.bin
  slipring gateway --make-certs certs --cert-name 10.0.0.7
  slipring gateway --role embed --listen 10.0.0.7:7411 \\
    --cert certs/server.pem --key certs/server-key.pem \\
    --client-ca certs/ca.pem -- ./embedder

The first SIGTERM or SIGINT refuses new requests, in a way that callers send
them elsewhere, and finishes those that there are. A second one, half a second
later or more, ends the program at once.

Exit codes:
    0  ended by a signal, with all requests answered
    1  an address or a file cannot be used, or requests were not finished in
       time
    2  the command line is wrong
    3  no worker starts
  143  ended by a second SIGTERM (130 by SIGINT)";

/// Serve this machine's workers to hosts on other machines, over gRPC
///
/// Starts workers of one role, and takes connections once the first of them is ready. A line on
/// standard output says where.
#[derive(Debug, Parser)]
#[command(
    name = "slipring gateway",
    version,
    args_override_self = true,
    max_term_width = 80,
    after_help = AFTER
)]
pub(crate) struct Options {
    /// The name by which hosts ask for these workers: letters, digits, -, _ and ., at most 32
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) role: String,
    /// Worker processes
    #[arg(long, value_name = "N", default_value = "1", allow_hyphen_values = true,
          value_parser = number("--workers", 1, 4096))]
    pub(crate) workers: usize,
    /// Requests that a worker serves at the same time: more than 1 for workers with threads,
    /// tasks or batches
    #[arg(long, value_name = "N", default_value = "1", allow_hyphen_values = true,
          value_parser = number("--concurrency", 1, 65_536))]
    pub(crate) concurrency: usize,
    /// Requests that lie ready for a worker that is busy, so that it need not wait for the next. They
    /// wait for that worker, also if its call takes long and others are free: 0 for such calls, 16
    /// for calls of some microseconds
    #[arg(long, value_name = "N", default_value = "1", allow_hyphen_values = true,
          value_parser = number("--prefetch", 0, 65_536))]
    pub(crate) prefetch: usize,
    /// Requests that wait for a worker, at most; more are refused as overloaded
    #[arg(long, value_name = "N", default_value = "1024", allow_hyphen_values = true,
          value_parser = number("--max-waiting", 0, 1 << 20))]
    pub(crate) max_waiting: usize,
    /// Bytes of a request or of a reply, at most
    #[arg(long, value_name = "BYTES", default_value = "67108864", allow_hyphen_values = true,
          value_parser = number("--max-message", 1 << 20, (1 << 32) - 1))]
    pub(crate) max_message: usize,
    /// Connections, at most: one of each process that calls the role. One more takes the place of
    /// one that does nothing, or is closed. Each needs a file descriptor: see ulimit -n
    #[arg(long, value_name = "N", default_value = "1024", allow_hyphen_values = true,
          value_parser = number("--max-connections", 1, 1 << 20))]
    pub(crate) max_connections: usize,
    /// Bytes of requests and replies in memory that are on their way, at most, of all connections;
    /// requests beyond that are refused as overloaded
    #[arg(long, value_name = "BYTES", default_value = "2147483648", allow_hyphen_values = true,
          value_parser = number("--max-buffered", 1 << 20, 1 << 50))]
    pub(crate) max_buffered: usize,
    /// The same of one connection
    #[arg(long, value_name = "BYTES", default_value = "536870912", allow_hyphen_values = true,
          value_parser = number("--max-buffered-per-connection", 1 << 20, 1 << 50))]
    pub(crate) max_buffered_per_connection: usize,
    /// Seconds until a request is cancelled whose caller takes no part of its answer
    #[arg(long, value_name = "SECS", default_value = "300", allow_hyphen_values = true,
          value_parser = seconds("--unread-timeout"))]
    pub(crate) unread_timeout: Duration,
    /// Requests of this kind may be served twice, so that one is sent again whose worker died: a
    /// name, or a number. May be given again. embed, chat, rerank and vision are also the kinds 32
    /// to 35
    #[arg(long, value_name = "KIND", action = clap::ArgAction::Append, allow_hyphen_values = true,
          value_parser = kinds)]
    pub(crate) idempotent: Vec<Kinds>,
    /// Name this kind of requests in metrics and crash reports, which have a number otherwise:
    /// NAME for one that has that name, NAME=NUMBER for one that has none. May be given again. A
    /// name that is given to --idempotent is known
    #[arg(long, value_name = "NAME[=NUMBER]", action = clap::ArgAction::Append,
          allow_hyphen_values = true, value_parser = named_kind)]
    pub(crate) kind: Vec<NamedKind>,
    /// An IP address and a port, 0 for any that is free. May be given again
    #[arg(long, value_name = "ADDRESS", action = clap::ArgAction::Append,
          default_value = "127.0.0.1:7411", value_parser = address)]
    pub(crate) listen: Vec<SocketAddr>,
    /// The gateway's certificate, then those between it and its authority, in PEM. With this
    /// option, --key and --client-ca, all connections are by mutual TLS. The files can be replaced
    /// while the program runs
    #[arg(long, value_name = "FILE", requires_all = ["key", "client_ca"])]
    pub(crate) cert: Option<PathBuf>,
    /// The private key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// The certificates of the authorities that sign those of callers, in PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) client_ca: Option<PathBuf>,
    /// Take only callers whose certificate has this name: a DNS name, an IP address or a URI. May
    /// be given again. Otherwise all are taken that an authority has signed
    #[arg(long, value_name = "NAME", action = clap::ArgAction::Append)]
    pub(crate) allow_client: Vec<String>,
    /// Write certificates and keys for trying it into this directory, for a gateway and for a
    /// caller, valid for 30 days, and end
    #[arg(long, value_name = "DIR")]
    pub(crate) make_certs: Option<PathBuf>,
    /// A DNS name or an IP address of this machine, for --make-certs. May be given again.
    /// Otherwise localhost, 127.0.0.1 and ::1
    #[arg(long, value_name = "NAME", action = clap::ArgAction::Append, requires = "make_certs")]
    pub(crate) cert_name: Vec<String>,
    /// Speak plain text on addresses other than loopback, too. All machines that reach them can
    /// use the workers, and all between can read along
    #[arg(long)]
    pub(crate) plain_text_anywhere: bool,
    /// Have the metrics of the gateway and its workers at http://ADDRESS/metrics, in plain text: an
    /// IP address and a port, or a port of the loopback interface
    #[arg(long, value_name = "ADDRESS", value_parser = metrics_address)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Write a line to standard error for each request: its role, its outcome, how long it took,
    /// and the ids of its trace if its caller has sent a traceparent
    #[arg(long)]
    pub(crate) log_requests: bool,
    /// Directory of the workers' logs. Without it, workers write to the standard output and error
    /// of this program, and errors show no log
    #[arg(long, value_name = "DIR")]
    pub(crate) log_dir: Option<PathBuf>,
    /// Directory for a crash report of each worker that ends by itself, without payloads: the newest 20
    #[arg(long, value_name = "DIR")]
    pub(crate) crash_reports: Option<PathBuf>,
    /// Seconds that requests may take to finish after the first signal
    #[arg(long, value_name = "SECS", default_value = "25", allow_hyphen_values = true,
          value_parser = seconds("--drain-timeout"))]
    pub(crate) drain_timeout: Duration,
    /// The program that each worker runs, with its arguments
    #[arg(value_name = "WORKER", required_unless_present = "make_certs", last = true)]
    pub(crate) command: Vec<OsString>,
}

/// The result of parsing.
pub(crate) enum Parsed {
    /// The text of `--help` or `--version`.
    Text(String),
    Options(Box<Options>),
}

pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, Failure> {
    let args = std::iter::once(OsString::from("slipring gateway")).chain(args);
    let error = match Options::try_parse_from(args) {
        Ok(options) => {
            options.check()?;
            return Ok(Parsed::Options(Box::new(options)));
        }
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::DisplayHelp => Ok(Parsed::Text(error.render().to_string())),
        ErrorKind::DisplayVersion => {
            Ok(Parsed::Text(format!("slipring gateway {}\n", env!("CARGO_PKG_VERSION"))))
        }
        _ => Err(translate(&error)),
    }
}

impl Options {
    fn check(&self) -> Result<(), Failure> {
        if self.make_certs.is_some() {
            return Ok(());
        }
        if self.role.is_empty() {
            return Err(Failure::usage("--role <NAME> is missing"));
        }
        self.kind_names()?;
        let is_tls = self.cert.is_some();
        if !self.allow_client.is_empty() && !is_tls {
            return Err(Failure::usage("--allow-client is of use only with --cert"));
        }
        let is_open = |address: &&SocketAddr| !address.ip().is_loopback();
        match self.listen.iter().find(is_open) {
            Some(address) if !self.plain_text_anywhere && !is_tls => Err(Failure::usage(format!(
                "--listen {address} is not the loopback interface: give --cert, --key and \
                 --client-ca, or --plain-text-anywhere if all machines that reach it are trusted"
            ))),
            _ => Ok(()),
        }
    }
}

/// Makes a one-line message of an error of the parser.
fn translate(error: &clap::Error) -> Failure {
    if let Some(error) = error.source().and_then(|source| source.downcast_ref::<Failure>()) {
        return error.clone();
    }
    let of = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let argument = of(ContextKind::InvalidArg).unwrap_or_default();
    let mut message = match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            format!("invalid option '{argument}'; the worker's own follow after --")
        }
        ErrorKind::UnknownArgument => {
            format!("unexpected argument '{argument}': the worker's program follows after --")
        }
        ErrorKind::MissingRequiredArgument if argument.contains("WORKER") => {
            "the worker's program is missing: slipring gateway --role NAME -- WORKER [ARG]..."
                .to_owned()
        }
        ErrorKind::MissingRequiredArgument => format!("{argument} is missing"),
        _ => {
            let text = error.render().to_string();
            let line = text.lines().next().unwrap_or_default();
            line.trim_start_matches("error: ").to_owned()
        }
    };
    if let Some(meant) = of(ContextKind::SuggestedArg) {
        message = format!("invalid option '{argument}'; did you mean '{meant}'?");
    }
    Failure::usage(message)
}

fn address(text: &str) -> Result<SocketAddr, Failure> {
    text.parse().map_err(|_| {
        Failure::usage(format!(
            "--listen takes an IP address and a port, as 127.0.0.1:7411, not '{text}'"
        ))
    })
}

fn metrics_address(text: &str) -> Result<SocketAddr, Failure> {
    crate::metrics::address(text).ok_or_else(|| {
        Failure::usage(format!(
            "--metrics takes an IP address and a port, as 127.0.0.1:9464, or a port, not '{text}'"
        ))
    })
}

/// Returns a parser of whole numbers in this range.
fn number(
    name: &'static str,
    min: usize,
    max: usize,
) -> impl Fn(&str) -> Result<usize, Failure> + Clone {
    move |text| match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(Failure::usage(format!(
            "{name} takes a whole number from {min} to {max}, not '{text}'"
        ))),
    }
}

/// Returns a parser of seconds.
fn seconds(name: &'static str) -> impl Fn(&str) -> Result<Duration, Failure> + Clone {
    move |text| {
        let seconds = text.parse().unwrap_or(-1.0);
        if (0.0..=1e6).contains(&seconds) {
            return Ok(Duration::from_secs_f64(seconds));
        }
        Err(Failure::usage(format!("{name} takes seconds, 0 to 1000000, not '{text}'")))
    }
}
