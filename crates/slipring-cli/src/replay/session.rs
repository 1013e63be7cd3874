//! Goes through a recording, and does with a new worker what the host did.
//!
//! The order of the records is kept: a request is sent at its record, and its answer is waited for at the
//! record of the answer. So as many requests are in flight as there were, and a stream is read as far as it
//! had been read.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use slipring::recording::{
    AnswerKind, ChannelEnd, EndKind, Event, Frame, FramePayload, RecordingReader,
};
use slipring::{Channel, ErrorKind, ExitCause, Kind, Spawner};

use super::answer::{Answer, Step};
use super::compare::{Recorded, difference};
use super::list::said_end;
use super::report::{Outcome, Report};
use super::{Options, Speed, failed};
use crate::error::Error;

/// A request of which a part was read.
struct Incoming {
    kind: Kind,
    is_stream: bool,
    /// How long it had until its deadline.
    time_left: Option<Duration>,
    payload: Vec<u8>,
    /// All of it up to here is there.
    is_whole: bool,
}

/// A request that was sent.
struct Sent {
    kind: Kind,
    len: usize,
    answer: Answer,
    /// When it was sent, by the recording.
    at: Duration,
    /// The frames of the recorded message that is not whole yet.
    message: Recorded,
    messages: u64,
    differs: Option<String>,
    /// Records are missing since it was sent.
    is_uncertain: bool,
}

/// A worker, and the requests that it has.
pub(super) struct Session<'a> {
    options: &'a Options,
    channel: Channel,
    incoming: BTreeMap<u64, Incoming>,
    sent: BTreeMap<u64, Sent>,
    start: Instant,
    /// How the recorded channel has ended.
    end: Option<ChannelEnd>,
}

/// Why the worker can answer no further request.
struct Death(slipring::Error);

/// What ends a replay early.
enum Stop {
    Died(Death),
    Error(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl<'a> Session<'a> {
    pub(super) fn start(spawner: &Spawner, options: &'a Options) -> Result<Self, Error> {
        let start = || {
            let channel = spawner.spawn()?;
            channel.wait_ready(options.timeout).map(|()| channel)
        };
        let channel = start().map_err(|error| {
            let message = format!("the worker did not start: {error}");
            Error::worker_died(message, error.log_tail().unwrap_or_default())
        })?;
        Ok(Self {
            options,
            channel,
            incoming: BTreeMap::new(),
            sent: BTreeMap::new(),
            start: Instant::now(),
            end: None,
        })
    }

    /// Goes through the recording.
    pub(super) fn run(
        &mut self,
        mut reader: RecordingReader,
        report: &mut Report,
        file: &Path,
    ) -> Result<(), Error> {
        let stop = self.send_all(&mut reader, report, file);
        let death = match stop {
            Ok(()) => None,
            Err(Stop::Died(Death(error))) => Some(error),
            Err(Stop::Error(error)) => return Err(error),
        };
        if let Some(error) = death {
            return Err(self.died(&error, reader, report)?);
        }
        report.end(&self.said_end(&reader))?;
        // It has nothing to do any more, unless it is still at a request that was cancelled.
        let ended = self.channel.close(Duration::from_secs(2));
        if let Ok(cause @ ExitCause::Signaled(signal)) = ended
            && ![libc::SIGTERM, libc::SIGKILL].contains(&signal)
        {
            let message = format!("the worker died after the last answer: {cause}");
            return Err(Error::worker_died(message, String::new()));
        }
        let [differ, unsent] = [report.count(Outcome::Differs), report.count(Outcome::NotSent)];
        let sent = report.count(Outcome::Same)
            + report.count(Outcome::New)
            + differ
            + report.count(Outcome::NotCompared);
        match (differ, sent) {
            (0, 0) if unsent > 0 => Err(Error::failure("no request could be sent")),
            (0, _) => Ok(()),
            _ => Err(Error::failure(format!("{differ} of {sent} answers differ"))),
        }
    }

    fn send_all(
        &mut self,
        reader: &mut RecordingReader,
        report: &mut Report,
        file: &Path,
    ) -> Result<(), Stop> {
        while let Some(record) = reader.next() {
            let record = record.map_err(|e| failed(file, &e))?;
            if record.missing > 0 {
                self.note_gap();
            }
            match record.event {
                Event::Request(frame) => self.request(frame, record.at, report)?,
                Event::Reply(frame) => self.reply(reader, frame, report)?,
                Event::Cancel(request) => self.cancel(request.get(), record.at, report)?,
                Event::Gap { .. } => self.note_gap(),
                Event::End(end) => self.end = Some(end),
                _ => {}
            }
        }
        while let Some((number, mut sent)) = self.sent.pop_first() {
            // The recording has no end of its answer.
            loop {
                match sent.answer.next() {
                    Some(Step::Error(error)) if is_death(&error) => {
                        self.sent.insert(number, sent);
                        return Err(Stop::Died(Death(error)));
                    }
                    Some(Step::Error(error)) => {
                        sent.differs.get_or_insert(error.to_string());
                        break;
                    }
                    Some(_) => {}
                    None => break,
                }
            }
            tell(report, number, &sent, Outcome::New, "answered now")?;
        }
        Ok(())
    }

    /// Takes a frame of a request, and sends the request if it is the last one.
    fn request(&mut self, frame: Frame, at: Duration, report: &mut Report) -> Result<(), Stop> {
        let number = frame.request.get();
        // Others are the library's own, such as the one that waits until a worker is ready.
        let is_asked = Kind::from_request_code(frame.kind.code()).is_some();
        if !is_asked || self.options.only.is_some_and(|only| only != frame.kind) {
            return Ok(());
        }
        let fresh = Incoming {
            kind: frame.kind,
            is_stream: frame.is_stream,
            time_left: frame.time_left,
            payload: Vec::new(),
            is_whole: !frame.is_continued,
        };
        let mut incoming = match self.incoming.remove(&number) {
            Some(begun) if frame.is_continued => begun,
            _ => fresh,
        };
        if frame.is_abandoned {
            return Ok(());
        }
        match frame.payload {
            FramePayload::Whole(bytes) => incoming.payload.extend(bytes),
            _ => incoming.is_whole = false,
        }
        if frame.has_more {
            self.incoming.insert(number, incoming);
            return Ok(());
        }
        let Incoming { kind, is_stream, time_left, payload, is_whole } = incoming;
        if !is_whole {
            let what = (number, kind, payload.len());
            let why = "the recording does not have all of it";
            return Ok(report.tell(what, Outcome::NotSent, why)?);
        }
        self.wait_until(at);
        let timeout = time_left.filter(|_| self.options.deadlines).unwrap_or(self.options.timeout);
        self.send(number, (kind, is_stream, timeout), &payload, at, report)
    }

    fn send(
        &mut self,
        number: u64,
        (kind, is_stream, timeout): (Kind, bool, Duration),
        payload: &[u8],
        at: Duration,
        report: &mut Report,
    ) -> Result<(), Stop> {
        let asks = (is_stream, timeout);
        let answer = loop {
            match Answer::ask(&self.channel, kind, payload, asks) {
                Ok(answer) => break answer,
                Err(error) if is_death(&error) => return Err(Stop::Died(Death(error))),
                Err(error) if error.kind() == ErrorKind::TooManyInFlight => {
                    // Those whose answers the recording has lost: it is not known for how long they ran.
                    let Some((oldest, mut sent)) = self.sent.pop_first() else {
                        return Err(Stop::Error(Error::failure(error.to_string())));
                    };
                    if let Some(error) = sent.answer.collect().filter(is_death) {
                        self.sent.insert(oldest, sent);
                        return Err(Stop::Died(Death(error)));
                    }
                    tell(report, oldest, &sent, Outcome::New, "answered now")?;
                }
                Err(error) => {
                    let what = (number, kind, payload.len());
                    return Ok(report.tell(what, Outcome::NotSent, &error.to_string())?);
                }
            }
        };
        let sent = Sent {
            kind,
            len: payload.len(),
            answer,
            at,
            message: Vec::new(),
            messages: 0,
            differs: None,
            is_uncertain: false,
        };
        let sent = self.sent.entry(number).insert_entry(sent).into_mut();
        if self.options.one_by_one {
            match sent.answer.collect() {
                Some(error) if is_death(&error) => return Err(Stop::Died(Death(error))),
                Some(error) => sent.differs = Some(error.to_string()),
                None => {}
            }
        }
        Ok(())
    }

    /// Takes a frame of a recorded answer, and compares with what comes now.
    fn reply(
        &mut self,
        reader: &RecordingReader,
        frame: Frame,
        report: &mut Report,
    ) -> Result<(), Stop> {
        let number = frame.request.get();
        let Some(sent) = self.sent.get_mut(&number) else { return Ok(()) };
        let failure = frame.failure().ok().flatten();
        let Some(kind) = frame.answer_kind().filter(|kind| *kind != AnswerKind::Nothing) else {
            return Ok(());
        };
        if !frame.is_continued {
            sent.message.clear();
        } else if sent.message.is_empty() {
            sent.is_uncertain = true;
        }
        sent.message.push((frame.len, frame.payload));
        if frame.has_more {
            return Ok(());
        }
        let message = std::mem::take(&mut sent.message);
        let fits = match kind {
            AnswerKind::Result => !sent.answer.is_stream,
            AnswerKind::Chunk | AnswerKind::End => sent.answer.is_stream,
            AnswerKind::Failed => true,
            // These depend on when the request was cancelled, or on how long others took.
            _ => false,
        };
        if !fits || sent.is_uncertain {
            let Some(sent) = self.sent.remove(&number) else { return Ok(()) };
            let why = match kind {
                AnswerKind::Cancelled | AnswerKind::Expired => "it was cancelled, or came too late",
                _ => "the recording does not have all of the answer",
            };
            return tell(report, number, &sent, Outcome::NotCompared, why);
        }
        if sent.differs.is_none() {
            let tolerance = self.options.tolerance;
            let step = sent.answer.next();
            if let Some(Step::Error(error)) = &step
                && is_death(error)
            {
                return Err(Stop::Died(Death(error.clone())));
            }
            let place = match sent.answer.is_stream {
                true => format!("chunk {}: ", sent.messages),
                false => String::new(),
            };
            let found = match (kind, step) {
                (AnswerKind::Result | AnswerKind::Chunk, Some(Step::Message(bytes))) => {
                    difference(reader, &message, &bytes, tolerance)
                }
                (AnswerKind::End, Some(Step::End)) => None,
                (AnswerKind::Failed, Some(Step::Failed(now))) => match failure {
                    // Backtraces have addresses.
                    Some(was)
                        if (&was.type_name, &was.message, &was.sources)
                            != (&now.type_name, &now.message, &now.sources) =>
                    {
                        Some(format!("the failure is {now}, was {was}"))
                    }
                    _ => None,
                },
                (kind, Some(now)) => {
                    Some(format!("{} came, {} was recorded", now.say(), said(kind)))
                }
                (kind, None) => Some(format!("nothing came, {} was recorded", said(kind))),
            };
            sent.differs = found.map(|found| format!("{place}{found}"));
            sent.messages += 1;
        }
        if kind == AnswerKind::Chunk {
            return Ok(());
        }
        let Some(sent) = self.sent.remove(&number) else { return Ok(()) };
        tell(report, number, &sent, Outcome::Same, "")
    }

    /// Does what the host did with a request that it had no use for any more.
    fn cancel(&mut self, number: u64, at: Duration, report: &mut Report) -> Result<(), Stop> {
        self.incoming.remove(&number);
        self.wait_until(at);
        let Some(mut sent) = self.sent.remove(&number) else { return Ok(()) };
        if self.options.speed == Speed::AsFast {
            // As long as it had, so that a handler comes as far.
            let longest = at.saturating_sub(sent.at).min(self.options.timeout);
            if let Some(error) = sent.answer.wait_before_cancel(longest).filter(is_death) {
                self.sent.insert(number, sent);
                return Err(Stop::Died(Death(error)));
            }
        }
        // Dropped with the answer.
        tell(report, number, &sent, Outcome::NotCompared, "it was cancelled")
    }

    fn note_gap(&mut self) {
        self.sent.values_mut().for_each(|sent| sent.is_uncertain = true);
        // A piece may be missing.
        self.incoming.values_mut().for_each(|incoming| incoming.is_whole = false);
    }

    fn wait_until(&self, at: Duration) {
        if self.options.speed == Speed::AsRecorded {
            std::thread::sleep(at.saturating_sub(self.start.elapsed()));
        }
    }

    /// How the recording ends.
    fn said_end(&self, reader: &RecordingReader) -> String {
        let end = match &self.end {
            Some(end) if end.kind == EndKind::Died => format!("its worker died: {}", end.message),
            Some(end) if end.kind == EndKind::Closed => "its worker was closed".to_owned(),
            Some(end) => format!("its channel failed: {}", end.message),
            None => "it has no end".to_owned(),
        };
        let lost = match reader.overwritten() {
            0 => String::new(),
            count => format!(", and {count} records of its begin are overwritten"),
        };
        format!("the recording is {}, {end}{lost}", said_end(reader.end()))
    }

    /// The worker has died: says at which request, and what the recording says of it.
    fn died(
        &mut self,
        error: &slipring::Error,
        mut reader: RecordingReader,
        report: &mut Report,
    ) -> Result<Error, Error> {
        let death = error.death();
        let serving = death.and_then(|death| death.serving());
        let found = self.sent.iter().find(|(_, sent)| Some(sent.answer.id) == serving);
        let is_served = found.is_some();
        // It may say so of none, or of one that was given up.
        let found = found.or_else(|| self.sent.iter().next());
        let cause = match death.and_then(|death| death.cause()) {
            Some(cause) => cause.to_string(),
            None => error.to_string(),
        };
        let (culprit, text) = match found {
            Some((number, sent)) => {
                let what = format!("request {number} ({}, {} bytes)", sent.kind, sent.len);
                report.tell((*number, sent.kind, sent.len), Outcome::Died, &cause)?;
                let when = if is_served { "at" } else { "before it had answered" };
                (Some(*number), format!("the worker died {when} {what}: {cause}"))
            }
            None => (None, format!("the worker died: {cause}")),
        };
        let mut was_answered = false;
        for record in reader.by_ref() {
            match record.map(|record| record.event) {
                Ok(Event::Reply(frame)) => was_answered |= Some(frame.request.get()) == culprit,
                Ok(Event::End(end)) => self.end = Some(end),
                _ => {}
            }
        }
        let end = self.said_end(&reader);
        report.end(&end)?;
        let answered = match (culprit, was_answered) {
            (Some(_), true) => "; the recording has an answer to it",
            (Some(_), false) => "; the recording has no answer to it",
            (None, _) => "",
        };
        let message = format!("{text}{answered}; {end}");
        Ok(Error::worker_died(message, error.log_tail().unwrap_or_default()))
    }
}

/// Whether the worker can answer nothing any more.
fn is_death(error: &slipring::Error) -> bool {
    error.is_peer_dead() || error.is_fatal()
}

fn said(kind: AnswerKind) -> &'static str {
    match kind {
        AnswerKind::Result => "an answer",
        AnswerKind::Chunk => "a chunk",
        AnswerKind::End => "the end of the stream",
        AnswerKind::Failed => "a failure",
        _ => "something else",
    }
}

/// Tells of a request that is over: of its difference, if there is one.
fn tell(
    report: &mut Report,
    number: u64,
    sent: &Sent,
    outcome: Outcome,
    detail: &str,
) -> Result<(), Stop> {
    let what = (number, sent.kind, sent.len);
    match &sent.differs {
        Some(differs) => report.tell(what, Outcome::Differs, differs)?,
        None => report.tell(what, outcome, detail)?,
    }
    Ok(())
}
