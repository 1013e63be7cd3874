//! A channel that is recorded: what the recording is told of it.

use std::sync::Arc;
use std::time::Duration;

use crate::channel::start::Options;
use crate::channel::state::{ChannelState, Phase};
use crate::channel::tap::FrameTap;
use crate::channel::worker_handle::WorkerHandle;
use crate::config::Config;
use crate::error::{ExitCause, Result};
use crate::recording::{self, AskEnd, EndKind, Ending, Payloads, Recorder, Recording};
use crate::ring::Header;
use crate::shm::bytes::PeerBytes;
use crate::sys::clock::Deadline;

/// How long a close waits for the recording to be written.
pub(super) const LAST_FRAMES: Duration = Duration::from_secs(1);

/// Shows the frames of a channel to its recorder.
#[derive(Debug)]
struct RecorderTap {
    recorder: Arc<Recorder>,
    state: Arc<ChannelState>,
}

impl FrameTap for RecorderTap {
    fn sent(&self, header: Header, payload: &[u8]) {
        self.recorder.sent(header, payload);
    }

    fn received(&self, header: Header, payload: PeerBytes<'_>) {
        self.recorder.received(header, payload);
    }

    fn cancelled(&self, request: u64) {
        // The owners of requests that the worker's death has ended drop them, which cancels nothing.
        if self.state.is_open() {
            self.recorder.cancelled(request);
        }
    }

    fn ended(&self) {
        self.recorder.ended();
    }

    fn counts(&self) -> [u64; 2] {
        self.recorder.counts()
    }
}

/// Begins to record a worker that was started.
pub(super) fn begin(
    recording: &Recording,
    options: &Options,
    worker: &WorkerHandle,
    state: &Arc<ChannelState>,
) -> Result<Arc<Recorder>> {
    let name = match options.instance {
        Some(number) => format!("{}-{number}", worker.role()),
        None => worker.role().to_owned(),
    };
    let fields = fields(options, recording.requests == Payloads::Whole);
    start(recording, (&name, worker.pid()), &options.config, fields, state)
}

/// Begins to record a worker that this process has not started.
#[cfg(feature = "named")]
pub(crate) fn begin_external(
    recording: &Recording,
    (role, pid): (&str, u32),
    config: &Config,
    state: &Arc<ChannelState>,
) -> Result<Arc<Recorder>> {
    let fields = vec![("role".to_owned(), role.to_owned())];
    start(recording, (role, pid), config, fields, state)
}

fn start(
    recording: &Recording,
    (name, worker): (&str, u32),
    config: &Config,
    mut fields: Vec<(String, String)>,
    state: &Arc<ChannelState>,
) -> Result<Arc<Recorder>> {
    fields.push(("worker_pid".to_owned(), worker.to_string()));
    let ask = ask_end(Arc::clone(state));
    let recorder = Arc::new(recording::begin(recording, name, config, fields, ask)?);
    // The recording's thread has the state, so that this must not keep the recorder.
    let weak = Arc::downgrade(&recorder);
    state.set_flush(move |deadline: Deadline| {
        if let Some(recorder) = weak.upgrade() {
            recorder.flush(deadline.at_most(LAST_FRAMES).instant());
        }
    });
    Ok(recorder)
}

/// What shows the channel's frames to its recorder.
pub(super) fn tap(
    recorder: Option<&Arc<Recorder>>,
    state: &Arc<ChannelState>,
) -> Option<Arc<dyn FrameTap>> {
    let tap = recorder
        .map(|recorder| RecorderTap { recorder: Arc::clone(recorder), state: Arc::clone(state) })?;
    Some(Arc::new(tap))
}

/// What the recording says of the worker. Arguments and extras can have secrets, as payloads can.
fn fields(options: &Options, with_values: bool) -> Vec<(String, String)> {
    let Options { program, role, fds, .. } = options;
    let text = |name: &str, value: &dyn std::fmt::Display| (name.to_owned(), value.to_string());
    let mut fields = vec![text("role", &role.role), text("program", &program.path.display())];
    if with_values {
        fields.extend(program.args.iter().map(|arg| text("arg", &arg.display())));
        fields.extend(role.model.iter().map(|model| text("model", &model.display())));
        fields.extend(role.mode.iter().map(|mode| text("mode", mode)));
        let extras = role.extras.iter();
        fields.extend(extras.map(|(name, value)| text(&format!("extra.{name}"), value)));
    }
    if !role.blob.is_empty() {
        fields.push(text("blob", &role.blob.len()));
    }
    fields.extend(fds.iter().map(|(name, _)| text("fd", name)));
    fields
}

fn ask_end(state: Arc<ChannelState>) -> AskEnd {
    Box::new(move |gives_up| {
        let cause = state.exit().and_then(|exit| exit.process.cause().get().copied());
        let how = match state.phase() {
            Phase::Open | Phase::Closing | Phase::Closed => EndKind::Closed,
            Phase::Dead => EndKind::Died,
            Phase::Failed => EndKind::Failed,
        };
        // A worker that has written garbage may live on.
        if cause.is_none() && how != EndKind::Failed && !gives_up {
            return None;
        }
        let ended = cause.map_or("how it ended is not known".to_owned(), |c| c.to_string());
        let message = match how {
            EndKind::Failed => state.failure().map_or(ended, |error| error.to_string()),
            _ => ended,
        };
        let exit = match cause {
            Some(ExitCause::Exited(code)) => (1, code),
            Some(ExitCause::Signaled(signal)) => (2, signal),
            Some(ExitCause::Unknown) => (3, 0),
            None => (0, 0),
        };
        Some(Ending { how, exit, message })
    })
}
