//! `slipring inspect`: the channels of one host, and their memory if the host lets it be looked at.
//! [`channel`] says what the status page tells of a channel, [`memory`] what lies in its memory.

mod channel;
mod memory;
mod text;

use slipring::inspect::{self, ChannelMemory, Inspection, Verdict};
use slipring::named::{self, Present};
use slipring::status_page::{Host, Numbers};

use crate::args::number;
use crate::error::Error;
use crate::shown;
use crate::stdio::Stdout;
use text::Text;

/// The options of `inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Process id of the host
    #[arg(value_name = "PID")]
    pid: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Frames of each ring to list, and requests of each worker; the oldest first
    #[arg(long, value_name = "N", default_value = "16", allow_hyphen_values = true,
          value_parser = number("--frames", 0, 65_536))]
    frames: usize,
    /// Show the start of each listed frame's payload in hexadecimal, BYTES at most (64 if not
    /// given). Payloads can be private
    #[arg(long, value_name = "BYTES", num_args = 0..=1, require_equals = true,
          default_value = "0", default_missing_value = "64", hide_default_value = true,
          value_parser = number("--payloads", 0, 65_536))]
    payloads: usize,
}

/// Prints what is found of a host. Fails if nothing is, if a check fails, and if a part cannot be read.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let mut limits = inspect::Options::default();
    limits.frames = options.frames;
    limits.payload_bytes = options.payloads;
    let found = inspect::process(options.pid, &limits);
    let found = found.map_err(|e| Error::failure(format!("{e:#}")))?;
    let named = named_channels(options.pid, &limits);
    if found.host.is_none() && found.channels.is_empty() && named.is_empty() {
        return Err(Error::failure(why_nothing(&found)));
    }
    let text = match options.json {
        true => {
            json(&found, &named).map_err(|e| Error::failure(format!("cannot write JSON: {e}")))?
        }
        false => description(&found, &named),
    };
    Stdout::open()?.print(&text)?;
    let of_named = named.iter().filter_map(|named| named.memory.as_ref());
    let checks = found.channels.iter().chain(of_named).flat_map(|channel| &channel.checks);
    let wrong = checks.filter(|check| check.verdict == Verdict::Wrong).count();
    let pid = found.pid;
    match (wrong, found.refused.len()) {
        (0, 0) if found.has_ended => {
            Err(Error::partly(format!("process {pid} ended while it was looked at")))
        }
        (0, 0) => Ok(()),
        (0, refused) => Err(Error::partly(format!("process {pid}: {refused} parts are not read"))),
        (wrong, _) => Err(Error::failure(format!("process {pid}: {wrong} checks fail"))),
    }
}

/// A named channel that the process has made or is attached to.
struct Named {
    channel: Present,
    memory: Option<ChannelMemory>,
}

/// The named channels of a process. Where they cannot be listed there are none to show.
fn named_channels(pid: u32, limits: &inspect::Options) -> Vec<Named> {
    let all = named::present().unwrap_or_default().into_iter();
    let of_it = all.filter(|it| it.host_pid == pid || it.worker_pid == Some(pid));
    of_it.map(|channel| Named { memory: channel.inspect(limits), channel }).collect()
}

fn json(found: &Inspection, named: &[Named]) -> serde_json::Result<String> {
    let mut value = serde_json::to_value(found)?;
    if let Some(object) = value.as_object_mut() {
        let named = named.iter().map(
            |Named { channel, memory }| serde_json::json!({ "channel": channel, "memory": memory }),
        );
        object.insert("named".to_owned(), named.collect());
    }
    Ok(shown::json(&value))
}

/// Why there is nothing to show.
fn why_nothing(found: &Inspection) -> String {
    let pid = found.pid;
    if found.refused.is_empty() {
        return format!(
            "process {pid} has no status page and keeps no memory open: it has no channels, or does \
             not want to be seen (SLIPRING_STATUS_PAGE, SLIPRING_INSPECT)"
        );
    }
    let refused = found.refused.iter().map(|each| format!("{}: {}", each.what, each.why));
    format!("nothing of process {pid} can be read: {}", refused.collect::<Vec<_>>().join("; "))
}

fn description(found: &Inspection, named: &[Named]) -> String {
    let mut text = Text::default();
    match &found.host {
        Some(host) => title(&mut text, host),
        None => text.line(0, format!("process {}, which has no status page", found.pid)),
    }
    if found.has_ended {
        text.line(0, "it ended while it was looked at");
    }
    for refused in &found.refused {
        text.line(0, format!("not read: {}: {}", refused.what, refused.why));
    }
    let rows = found.host.iter().flat_map(|host| &host.rows);
    let mut shown = Vec::new();
    for row in rows {
        text.line(0, "");
        match &row.numbers {
            Numbers::Channel(numbers) => {
                channel::describe(&mut text, row, numbers);
                let id = numbers.channel_id;
                let by_name = named.iter().find(|named| named.channel.id == id);
                let kept = found.channels.iter().find(|memory| memory.id == id);
                if let Some(named) = by_name {
                    text.line(1, format!("name        {}", channel::name(&named.channel)));
                }
                match kept.or(by_name.and_then(|named| named.memory.as_ref())) {
                    Some(memory) => {
                        shown.push(id);
                        memory::describe(&mut text, memory, found.pid);
                    }
                    None => text.line(1, NOT_KEPT),
                }
            }
            Numbers::Role(numbers) => channel::describe_role(&mut text, row, numbers),
            _ => {}
        }
    }
    let is_left = |memory: &&ChannelMemory| !shown.contains(&memory.id);
    for memory in found.channels.iter().filter(is_left) {
        text.line(0, "");
        text.line(0, "a channel that is not on the status page");
        memory::describe(&mut text, memory, found.pid);
    }
    for Named { channel, memory } in named.iter().filter(|it| !shown.contains(&it.channel.id)) {
        text.line(0, "");
        text.line(0, format!("named channel {}", channel::name(channel)));
        if let Some(memory) = memory {
            memory::describe(&mut text, memory, channel.host_pid);
        }
    }
    text.done()
}

/// What is said of a channel whose memory cannot be found.
const NOT_KEPT: &str = "memory      not kept open for others: the host was not asked to, by \
                        SLIPRING_INSPECT=1 or Spawner::inspectable";

fn title(text: &mut Text, host: &Host) {
    let state = match (host.is_stopped, host.is_stale) {
        (true, _) => ", stopped",
        (false, true) => ", no heartbeat",
        (false, false) => "",
    };
    text.line(0, format!("process {}{state}: {}", host.pid, host.command));
    let age = text::seconds(host.heartbeat_age);
    text.line(0, format!("{}, page written {age} ago", host.library));
    if host.omitted > 0 {
        text.line(0, format!("{} channels and roles found no room in the page", host.omitted));
    }
}
