//! What a replay has found, as lines of text or of JSON.

use serde_json::json;
use slipring::Kind;

use crate::error::Error;
use crate::shown;
use crate::stdio::Stdout;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Same,
    Differs,
    /// It was answered, and the recording has no answer to compare with.
    New,
    /// The recorded answer is cut, or depends on time.
    NotCompared,
    /// The recording does not have all of the request.
    NotSent,
    Died,
}

/// Prints what is found, and counts.
#[derive(Debug)]
pub(super) struct Report {
    out: Stdout,
    is_json: bool,
    counts: [u64; 6],
}

impl Report {
    pub(super) fn open(is_json: bool) -> Result<Self, Error> {
        Ok(Self { out: Stdout::open()?, is_json, counts: [0; 6] })
    }

    pub(super) fn count(&self, outcome: Outcome) -> u64 {
        self.counts.get(place(outcome)).copied().unwrap_or_default()
    }

    /// Tells of one request. As text, only of what is no answer as recorded.
    pub(super) fn tell(
        &mut self,
        (request, kind, len): (u64, Kind, usize),
        outcome: Outcome,
        detail: &str,
    ) -> Result<(), Error> {
        if let Some(count) = self.counts.get_mut(place(outcome)) {
            *count += 1;
        }
        let name = match outcome {
            Outcome::Same => "same",
            Outcome::Differs => "differs",
            Outcome::New => "new",
            Outcome::NotCompared => "not compared",
            Outcome::NotSent => "not sent",
            Outcome::Died => "died",
        };
        let text = match self.is_json {
            true => {
                let (kind, code) = (kind.to_string(), kind.code());
                shown::json(&json!({
                    "request": request, "kind": kind, "code": code, "len": len,
                    "outcome": name, "detail": detail,
                }))
            }
            false if outcome == Outcome::Same => return Ok(()),
            false => {
                let detail = detail.escape_debug();
                format!("request {request} ({kind}, {len} bytes) {name}: {detail}\n")
            }
        };
        self.print(&text)
    }

    /// Tells what came of all.
    pub(super) fn end(&mut self, recording: &str) -> Result<(), Error> {
        let [same, differs, new, not_compared, not_sent, died] = self.counts;
        let text = match self.is_json {
            true => {
                let summary = json!({
                    "same": same, "differs": differs, "new": new, "not_compared": not_compared,
                    "not_sent": not_sent, "died": died, "recording": recording,
                });
                shown::json(&json!({ "summary": summary }))
            }
            false => format!(
                "{same} answers are the same, {differs} differ, {new} have none in the recording, \
                 {not_compared} were not compared, {not_sent} requests were not sent; {}\n",
                recording.escape_debug()
            ),
        };
        self.print(&text)
    }

    fn print(&self, text: &str) -> Result<(), Error> {
        let written = self.out.write_all(text.as_bytes());
        written.map_err(|e| Error::write("standard output", &e))
    }
}

fn place(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Same => 0,
        Outcome::Differs => 1,
        Outcome::New => 2,
        Outcome::NotCompared => 3,
        Outcome::NotSent => 4,
        Outcome::Died => 5,
    }
}
