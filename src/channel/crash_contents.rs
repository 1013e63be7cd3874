//! What is in a worker's crash report: `docs/CRASH_REPORTS.md` has the format.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::channel::core::Core;
use crate::channel::crash_frames::last_frames;
use crate::channel::crash_sent::{Sent, SentRequest};
use crate::channel::requests::Unfinished;
use crate::channel::state::ChannelState;
use crate::channel::stats::{LatencyHistogram, Stats};
use crate::config::Config;
use crate::crash_report::json::{Json, hex, object};
use crate::crash_report::{self, Wants};
use crate::error::{Error, ErrorKind, ExitCause, Mark, Stage};
use crate::process::child::Child;
use crate::process::log::Log;
use crate::process::oom::OomEvidence;
use crate::process::spawn::Program;
use crate::process::worker_process::WorkerProcess;
use crate::protocol::handshake::Limits;
use crate::protocol::{Health, Kind, RoleConfig};
use crate::shm::layout::as_u64;
use crate::sys::clock::Deadline;

/// The most requests that a report lists.
const MOST_REQUESTS: usize = 256;

/// What is known of a worker when it is started.
pub(super) struct Facts {
    pub(super) program: Program,
    /// The names of its environment's variables.
    pub(super) environment: Vec<OsString>,
    /// What it is told, without its blob.
    pub(super) role: RoleConfig,
    pub(super) limits: Limits,
    pub(super) config: Config,
    pub(super) started: SystemTime,
}

/// What a pool knows of a worker.
pub(crate) trait PoolRow: Send + Sync {
    /// Describes the worker's place and its role.
    fn describe(&self) -> Json;

    /// The name that the host has given to a kind of request.
    fn kind_name(&self, kind: Kind) -> Option<String>;

    /// Whether the pool has killed the worker because a request made no progress.
    fn has_killed(&self) -> bool;
}

/// What has happened.
pub(super) enum Trouble {
    /// The worker has ended.
    Died,
    /// It wrote garbage, or has no session.
    Failed(Error),
    /// It could not be started.
    Start(Error),
}

/// What a report is made of.
pub(super) struct Contents<'a> {
    pub(super) facts: &'a Facts,
    pub(super) trouble: Trouble,
    /// When the end was noticed, also in nanoseconds of the monotonic clock.
    pub(super) at: SystemTime,
    pub(super) at_ns: u64,
    pub(super) process: Option<&'a Child>,
    pub(super) state: Option<&'a ChannelState>,
    pub(super) core: Option<&'a Core>,
    pub(super) requests: &'a [Unfinished],
    pub(super) last_pong: Option<(Instant, Health)>,
    pub(super) pool: Option<&'a dyn PoolRow>,
    /// The file of the channel's recording, in which all is by now.
    pub(super) recording: Option<&'a Path>,
    pub(super) wants: Wants,
}

impl Contents<'_> {
    /// Makes the report.
    pub(super) fn collect(&self) -> Json {
        let mut report = crash_report::head(self.at);
        report.add("summary", self.error().map(|error| error.to_string()));
        report.add("cause", self.cause());
        report.add("worker", self.worker());
        report.add("pool", self.pool.map(PoolRow::describe));
        let listed = self.listed();
        let mut ids: Vec<_> = listed.iter().map(|(each, _)| each.request).collect();
        ids.sort_unstable();
        let sent = self.core.map(|core| Sent::look(&core.sender, &ids, self.wants.payload));
        let sent = sent.unwrap_or_default();
        let requests = listed.iter().map(|(each, mark)| {
            self.request(*each, mark.as_ref(), sent.requests.get(&each.request))
        });
        report.add("requests", requests.collect::<Json>());
        let left_out = self.requests.len().saturating_sub(MOST_REQUESTS);
        report.add("requests_left_out", left_out);
        report.add("health", self.core.map(|core| health(&core.status.health())));
        report.add(
            "last_pong",
            self.last_pong.as_ref().map(|(at, health_then)| {
                let mut pong = health(health_then);
                pong.add("age_ms", at.elapsed());
                pong
            }),
        );
        report.add("rings", self.core.map(rings));
        report.add("counters", self.core.map(|core| counters(&core.stats())));
        report.add("config", config(&self.facts.config));
        report.add("last_requests_sent", self.frames(&sent));
        let name = |kind| self.kind_name(kind);
        let recorded = |path| last_frames(path, self.wants.payload, name);
        report.add("recording", self.recording.map(|path| path.display().to_string()));
        report.add("last_frames", self.recording.map(recorded));
        let tail = self.process.and_then(|child| child.log()).and_then(Log::tail);
        report.add("log", self.process.and_then(|child| child.log()).map(path_of));
        report.add("log_tail", tail.map(|tail| tail.lines().collect::<Json>()));
        let names = &self.facts.environment;
        report.add("environment_names", names.iter().map(text_of).collect::<Json>());
        report
    }

    /// What the host is told.
    fn error(&self) -> Option<Error> {
        match &self.trouble {
            Trouble::Start(error) | Trouble::Failed(error) => Some(error.clone()),
            Trouble::Died => self.state.map(|state| state.why_over_now(None)),
        }
    }

    fn cause(&self) -> Json {
        let status = self.process.and_then(|child| child.cause().get().copied());
        let kind = match (&self.trouble, status) {
            (Trouble::Start(error), _) if error.kind() == ErrorKind::Timeout => "start timed out",
            (Trouble::Start(_), _) => "start failed",
            (Trouble::Failed(error), _) if error.kind() == ErrorKind::Session => "no session",
            (Trouble::Failed(_), _) => "corrupt",
            _ if self.pool.is_some_and(PoolRow::has_killed) => "hung",
            (Trouble::Died, Some(ExitCause::Signaled(_))) => "signal",
            (Trouble::Died, Some(ExitCause::Exited(_))) => "exit",
            (Trouble::Died, _) => "unknown",
        };
        let (signal, code) = match status {
            Some(ExitCause::Signaled(number)) => (Some(number), None),
            Some(ExitCause::Exited(code)) => (None, Some(code)),
            _ => (None, None),
        };
        let has_dumped = self.process.and_then(|child| child.has_dumped_core());
        let pattern = || std::fs::read_to_string("/proc/sys/kernel/core_pattern").ok();
        let is_oom_suspected =
            self.process.is_some_and(|child| child.oom_suspected().get().copied().unwrap_or(false));
        object! {
            "kind": kind,
            "error_kind": self.error().map(|error| error.kind().name()),
            "signal": signal,
            "signal_name": status.and_then(ExitCause::signal_name),
            "exit_code": code,
            "has_dumped_core": has_dumped,
            "core_pattern": has_dumped.filter(|it| *it).and_then(|_| pattern()).map(|it| it.trim().to_owned()),
            "is_oom_suspected": is_oom_suspected,
            "oom_kills": self.process.and_then(|child| child.oom_evidence()).map(oom_kills),
        }
    }

    fn worker(&self) -> Json {
        let Facts { program, role, limits, started, .. } = self.facts;
        let arguments =
            self.wants.arguments.then(|| program.args.iter().map(text_of).collect::<Json>());
        let own = Path::new("/proc/self/exe");
        let file = if program.is_own { own } else { program.path.as_path() };
        let uptime = self.at.duration_since(*started).unwrap_or_default();
        object! {
            "role": role.role.as_str(),
            "pid": self.process.map(WorkerProcess::pid),
            "started": crash_report::moment(*started),
            "uptime_ms": uptime,
            "has_ended": self.process.map(|child| child.cause().get().is_some()),
            "program": program.path.display().to_string(),
            "build": crash_report::program(file),
            "is_own_program": program.is_own,
            "argument_count": program.args.len(),
            "arguments": arguments,
            "directory": program.current_dir.as_ref().map(|path| path.display().to_string()),
            "model": role.model.as_ref().map(|path| path.display().to_string()),
            "mode": role.mode.as_deref(),
            "extra_names": role.extras.iter().map(|(name, _)| name.as_str()).collect::<Json>(),
            "blob_bytes": role.blob.len(),
            "nice": limits.nice,
            "memory_limit_bytes": limits.memory,
            "cpus": limits.cpus.iter().copied().collect::<Json>(),
            "allows_core_dumps": limits.allow_core_dumps,
        }
    }

    /// What the worker had marked: as errors are told, if that is known.
    fn marks(&self) -> BTreeMap<u64, Mark> {
        let told = self.state.and_then(|state| state.end_of_service.marks().map(<[_]>::to_vec));
        let marks = told.or_else(|| self.core.map(Core::marks)).unwrap_or_default();
        marks.into_iter().map(|mark| (mark.request, mark)).collect()
    }

    /// The requests that were in flight, with their marks: those first that the worker had begun.
    fn listed(&self) -> Vec<(Unfinished, Option<Mark>)> {
        let mut marks = self.marks();
        let mut mark = |each: &Unfinished| marks.remove(&each.request);
        let mut listed: Vec<_> = self.requests.iter().map(|each| (*each, mark(each))).collect();
        listed.sort_by_key(|(each, mark)| {
            let order = match mark.as_ref().map(|mark| mark.stage) {
                Some(Stage::Begun) => 0,
                Some(Stage::Taken) => 1,
                None => 2,
                Some(Stage::Answered | Stage::Done) => 3,
            };
            (order, each.request)
        });
        listed.truncate(MOST_REQUESTS);
        listed
    }

    fn request(&self, each: Unfinished, mark: Option<&Mark>, sent: Option<&SentRequest>) -> Json {
        let first = sent.filter(|sent| sent.has_begin);
        let deadline = first.and_then(|sent| self.until(sent.header.aux));
        let age = |mark: &Mark| Duration::from_nanos(self.at_ns.saturating_sub(mark.since));
        let stage = match mark.map(|mark| mark.stage) {
            None => "queued",
            Some(Stage::Taken) => "taken",
            Some(Stage::Begun) => "begun",
            Some(Stage::Answered | Stage::Done) => "answered",
        };
        let mut request = object! {
            "id": each.request,
            "kind": sent.map(|sent| self.kind_name(Kind::from_code(sent.header.kind))),
            "kind_code": sent.map(|sent| u64::from(sent.header.kind)),
            "length": first.filter(|sent| sent.has_end).map(|sent| sent.len),
            "stage": stage,
            "stage_ms": mark.map(age),
            "progress": mark.filter(|mark| mark.stage == Stage::Begun).map(|mark| mark.progress),
            "is_stream": each.is_stream,
            "is_awaited": each.is_awaited,
            "deadline_in_ms": deadline.map(Json::Number),
        };
        if self.wants.payload > 0 {
            let bytes = first.map(|sent| hex(sent.payload.iter().copied()));
            request.add("payload_hex", bytes);
        }
        request
    }

    /// How many milliseconds were left of a request's time; none if it had no limit.
    fn until(&self, deadline: u64) -> Option<i128> {
        let left = i128::from(deadline) - i128::from(self.at_ns);
        (!Deadline::from_word(deadline).is_endless()).then_some(left / 1_000_000)
    }

    fn kind_name(&self, kind: Kind) -> String {
        self.pool.and_then(|pool| pool.kind_name(kind)).unwrap_or_else(|| kind.to_string())
    }

    /// The frames that were sent last, without what is in them.
    fn frames(&self, sent: &Sent) -> Json {
        let head = self.core.and_then(|core| core.sender.positions().1);
        let listed = sent.last.iter();
        listed
            .map(|(position, header)| {
                let is_released = head.map(|head| head.wrapping_sub(*position).cast_signed() > 0);
                object! {
                    "position": *position,
                    "request": header.request,
                    "kind": self.kind_name(Kind::from_code(header.kind)),
                    "length": header.len,
                    "flags": u64::from(header.flags),
                    "is_released": is_released,
                }
            })
            .collect()
    }
}

fn path_of(log: &Log) -> String {
    log.path().display().to_string()
}

fn text_of(text: &OsString) -> String {
    text.to_string_lossy().into_owned()
}

fn oom_kills(evidence: OomEvidence) -> Json {
    let OomEvidence { source, kills_before, kills_now } = evidence;
    let source: PathBuf = source;
    object! {
        "source": source.display().to_string(),
        "at_start": kills_before,
        "now": kills_now,
    }
}

fn health(health: &Health) -> Json {
    object! {
        "state": format!("{:?}", health.state),
        "begun": health.begun,
        "taken": health.taken,
        "current_request": health.current_request.map(|id| id.get()),
        "busy_ms": health.busy_for,
        "progress": health.progress,
        "requests_served": health.requests_served,
        "bytes_received": health.bytes_received,
        "bytes_sent": health.bytes_sent,
        "last_error": health.last_error.as_deref(),
    }
}

fn rings(core: &Core) -> Json {
    let (stats, (tail, head)) = (core.stats(), core.sender.positions());
    object! {
        "request": object! {
            "capacity": core.config.down.capacity,
            "used": stats.request_ring_used,
            "high_water": stats.request_ring_high_water,
            "tail": tail,
            "head": head,
        },
        "reply": object! {
            "capacity": core.config.up.capacity,
            "used": stats.reply_ring_used,
            "high_water": stats.reply_ring_high_water,
            "leases": stats.leases_held,
        },
    }
}

fn counters(stats: &Stats) -> Json {
    let errors = stats.errors.iter().filter(|(_, count)| *count > 0);
    object! {
        "requests": stats.requests,
        "completed": stats.completed,
        "in_flight": stats.in_flight,
        "streams": stats.streams,
        "chunks": stats.chunks,
        "bytes_sent": stats.bytes_sent,
        "bytes_received": stats.bytes_received,
        "late_frames": stats.late_frames,
        "unknown_frames": stats.unknown_frames,
        "cancels": stats.cancels,
        "copied_frames": stats.copied_frames,
        "recorded_frames": stats.recorded_frames,
        "unrecorded_frames": stats.unrecorded_frames,
        "spins": stats.spins,
        "parks": stats.parks,
        "wakes": stats.wakes,
        "errors": Json::Object(errors.map(|(kind, count)| (kind.name(), count.into())).collect()),
        "call_latency": times(&stats.call_latency),
        "first_chunk_latency": times(&stats.first_chunk_latency),
    }
}

fn times(histogram: &LatencyHistogram) -> Json {
    let sum = u64::try_from(histogram.sum().as_micros()).unwrap_or(u64::MAX);
    object! { "count": histogram.count(), "sum_us": sum }
}

fn config(config: &Config) -> Json {
    object! {
        "request_ring": config.down.capacity,
        "max_request_frame": config.down.max_frame,
        "reply_ring": config.up.capacity,
        "max_reply_frame": config.up.max_frame,
        "max_message": config.max_message,
        "max_in_flight": config.max_in_flight,
        "stream_window": as_u64(config.stream_window),
        "wait_strategy": format!("{:?}", config.wait_strategy()),
    }
}
