//! `slipring stat`: every counter of every host, a line each.

use std::fmt::Write as _;
use std::path::Path;

use slipring::status_page::{self, Field, Host, Hosts, Numbers, Row, Times};

use crate::error::{Error, say};
use crate::stdio::Stdout;

/// What is said if there is nothing to show.
pub(crate) const NO_HOST: &str = "no process of this user has a status page: those with channels have \
                                  one, unless they were started with SLIPRING_STATUS_PAGE=0";

/// Prints what the hosts' status pages say: of all hosts, or of those with these process ids.
pub(crate) fn run(pids: &[u32]) -> Result<(), Error> {
    let (mut hosts, mut refused) = (Vec::new(), Vec::new());
    for pid in pids {
        match one(*pid) {
            Ok(host) => hosts.push(host),
            Err(why) => refused.push(why),
        }
    }
    if pids.is_empty() {
        let found = status_page::hosts().map_err(|e| Error::failure(format!("{e:#}")))?;
        say_left_out(&found);
        hosts = found.hosts;
    }
    let text: String = hosts.iter().map(description).collect();
    Stdout::open()?.print(&text)?;
    let Some((last, others)) = refused.split_last() else { return Ok(()) };
    others.iter().for_each(say);
    match hosts.is_empty() {
        true => Err(Error::failure(last)),
        false => Err(Error::partly(last)),
    }
}

/// Says which processes are left out, and if nothing is left. That is no failure: any process can have
/// garbage for a page.
pub(crate) fn say_left_out(found: &Hosts) {
    for (pid, error) in &found.refused {
        say(format!("process {pid} is left out: {error:#}"));
    }
    if found.hosts.is_empty() {
        say(NO_HOST);
    }
}

/// The page of one process, or why it is not shown.
fn one(pid: u32) -> Result<Host, String> {
    let found = status_page::host(pid).map_err(|e| format!("{e:#}"))?;
    found.ok_or_else(|| {
        if !Path::new(&format!("/proc/{pid}")).exists() {
            return format!("there is no process {pid} here, or it is hidden");
        }
        if has_ended(pid) {
            return format!("process {pid} has ended; its parent has not reaped it");
        }
        let why = "it has no channel, or was started with SLIPRING_STATUS_PAGE=0";
        format!("process {pid} has no status page: {why}")
    })
}

/// Whether a process that is there is what is left of one.
fn has_ended(pid: u32) -> bool {
    // The state stands behind the name, which may have any characters.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
}

/// The lines of one host.
pub(crate) fn description(host: &Host) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let Host { pid, command, library, heartbeat_age, omitted, torn, .. } = host;
    let state = match (host.is_stopped, host.is_stale) {
        (true, _) => ", stopped",
        (false, true) => ", no heartbeat",
        (false, false) => "",
    };
    let _ = writeln!(text, "# process {pid}{state}: {command}");
    let _ = writeln!(text, "# {library}, up to date {:.1} s ago", heartbeat_age.as_secs_f64());
    if *omitted > 0 {
        let _ = writeln!(text, "# {omitted} channels and roles found no room in the page");
    }
    if *torn > 0 {
        let _ = writeln!(text, "# {torn} channels and roles were being written when it stopped");
    }
    for row in &host.rows {
        let name = format!("{pid}/{}", name(row));
        for Counter { field, value, unit, help } in counters(row) {
            let _ = writeln!(text, "{name} {field} {value}\t{unit}: {help}");
        }
        if !row.note.is_empty() {
            let _ = writeln!(text, "{name} last_error {:?}", row.note);
        }
    }
    text
}

/// One counter of a channel or a role.
pub(crate) struct Counter {
    pub(crate) field: String,
    /// `inf` for a bound of times that have none.
    pub(crate) value: String,
    pub(crate) unit: &'static str,
    pub(crate) help: &'static str,
}

/// All counters of a channel or a role.
pub(crate) fn counters(row: &Row) -> Vec<Counter> {
    let numbers: Vec<(&Field, u64)> = match &row.numbers {
        Numbers::Channel(numbers) => numbers.iter().collect(),
        Numbers::Role(numbers) => numbers.iter().collect(),
        _ => return Vec::new(),
    };
    let counter = |field: String, value: u64, unit, help| {
        let value = value.to_string();
        Counter { field, value, unit, help }
    };
    let mut all: Vec<Counter> = worker(row).into_iter().collect();
    let numbers = numbers
        .into_iter()
        .map(|(field, value)| counter(field.name.to_owned(), value, field.unit, field.help));
    all.extend(numbers);
    all.extend(row.errors.iter().map(|(kind, count)| {
        counter(format!("errors_{}", kind.name()), *count, "errors", "Errors of this kind.")
    }));
    for (prefix, help, times) in times(row) {
        all.push(counter(format!("{prefix}_count"), times.count(), "times", help));
        all.push(counter(format!("{prefix}_sum"), times.sum_ns, "ns", help));
        for (part, percent) in [(0.5, "p50"), (0.99, "p99")] {
            let value = match times.quantile(part) {
                Some(bound) => bound.as_nanos().to_string(),
                None if times.count() == 0 => "0".to_owned(),
                None => "inf".to_owned(),
            };
            all.push(Counter { field: format!("{prefix}_{percent}"), value, unit: "ns", help });
        }
    }
    all
}

/// The worker's process id: `-` if it is not known.
fn worker(row: &Row) -> Option<Counter> {
    let is_channel = matches!(row.numbers, Numbers::Channel(_));
    let value = row.pid.map_or("-".to_owned(), |pid| pid.to_string());
    is_channel.then(|| Counter {
        field: "pid".to_owned(),
        value,
        unit: "process id",
        help: "The worker's process.",
    })
}

/// `embed#3`, and `embed:` for a role of a pool.
fn name(row: &Row) -> String {
    match &row.numbers {
        Numbers::Channel(_) => format!("{}#{}", row.role, row.id),
        _ => format!("{}:", row.role),
    }
}

/// What the two histograms of a row are.
fn times(row: &Row) -> [(&'static str, &'static str, &Times); 2] {
    match &row.numbers {
        Numbers::Channel(_) => [
            (
                "call_time",
                "How long calls took; p50 and p99 are bounds; inf is over 67 s.",
                &row.first_times,
            ),
            (
                "first_chunk_time",
                "How long streams took to their first chunk; p50 and p99 are bounds; inf is over 67 s.",
                &row.second_times,
            ),
        ],
        _ => [
            (
                "queue_time",
                "How long requests waited; p50 and p99 are bounds; inf is over 67 s.",
                &row.first_times,
            ),
            (
                "service_time",
                "How long requests had a worker; p50 and p99 are bounds; inf is over 67 s.",
                &row.second_times,
            ),
        ],
    }
}
