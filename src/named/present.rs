//! Named channels that are there: for `slipring inspect` and other tools.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result};
use crate::inspect::{ChannelMemory, Options, examine_files};
use crate::named::layout::{
    ATTACHED, CLAIM, CLAIM_STATE, CLOSED, DETACHED, MAKER_STATE, MakerLine, OPEN,
};
use crate::named::names::{self, channel_of};
use crate::named::peer::Process;
use crate::named::segment_file::{DIRECTORY, file_of, path};
use crate::named::stale::{line_of, process_of};
use crate::shm::layout::{as_u64, short_id};

/// A named channel whose maker lives.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Present {
    /// Its name.
    pub name: String,
    /// The process that has made it.
    pub host_pid: u32,
    /// The process that has attached to it, or has begun to; `None` if none has.
    pub worker_pid: Option<u32>,
    /// What becomes of it.
    pub state: PresentState,
    /// The start of its random id, as on the status page.
    pub id: u64,
    /// The lengths of its segments together.
    pub bytes: u64,
}

/// How far a named channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum PresentState {
    /// Its host still makes it.
    InTheMaking,
    /// It waits for its worker.
    Waiting,
    /// Its worker is attached.
    Attached,
    /// Its worker has ended.
    Detached,
    /// Its host has closed it.
    Closed,
    /// Its segments say something else.
    Unknown,
}

impl PresentState {
    /// Returns its name: `in the making`, `waiting`, `attached`, `detached`, `closed` or `unknown`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InTheMaking => "in the making",
            Self::Waiting => "waiting",
            Self::Attached => "attached",
            Self::Detached => "detached",
            Self::Closed => "closed",
            Self::Unknown => "unknown",
        }
    }
}

/// Finds the named channels of this user whose makers live, by name. Those of other pid namespaces are not
/// listed. Blocks only while `/dev/shm` and `/proc` are read; what others have written there is not trusted.
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os) if `/dev/shm` cannot be read;
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) without `/proc`.
pub fn present() -> Result<Vec<Present>> {
    let this = Process::this()?;
    let unreadable = |e| Error::os(format!("cannot list {DIRECTORY}"), e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(DIRECTORY).map_err(unreadable)?.flatten() {
        let file = entry.file_name();
        let name = file.to_str().and_then(channel_of);
        let Some(name) = name.filter(|name| file.to_str() == Some(&names::down_id(name))) else {
            continue;
        };
        found.extend(look(name, &this));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// `None` too if the segments are no more there, or are none of this version.
fn look(name: &str, this: &Process) -> Option<Present> {
    let [down, up] = open(name)?;
    let line = line_of(&down);
    let maker = process_of(&line)?;
    if maker.namespace != this.namespace || !maker.is_alive() {
        return None;
    }
    let worker = u32_at(&up, CLAIM);
    let state = match (u32_at(&down, MAKER_STATE), u32_at(&up, CLAIM_STATE)) {
        (CLOSED, _) => PresentState::Closed,
        (0, _) => PresentState::InTheMaking,
        (OPEN, 0) => PresentState::Waiting,
        (OPEN, ATTACHED) => PresentState::Attached,
        (OPEN, DETACHED) => PresentState::Detached,
        _ => PresentState::Unknown,
    };
    let len = |file: &File| file.metadata().map_or(0, |found| found.len());
    Some(Present {
        name: name.to_owned(),
        host_pid: maker.pid,
        worker_pid: Some(worker).filter(|pid| *pid != 0),
        state,
        id: short_id(line.channel),
        bytes: len(&down).saturating_add(len(&up)),
    })
}

/// Both segments of a channel, if they are this user's.
fn open(name: &str) -> Option<[File; 2]> {
    let open = |id: String| file_of(&path(&id)).ok().flatten();
    Some([open(names::down_id(name))?, open(names::up_id(name))?])
}

/// A word of a segment; 0 if the file is too short.
fn u32_at(file: &File, offset: usize) -> u32 {
    let mut bytes = [0; 4];
    let read = file.read_exact_at(&mut bytes, as_u64(offset));
    read.map_or(0, |()| u32::from_le_bytes(bytes))
}

impl Present {
    /// Looks at its memory, as [`inspect::process`](crate::inspect::process) does at that of channels whose
    /// hosts were asked for it: the files of a named channel can be read by every process of its user. `None`
    /// if it is gone, or another one has its name by now.
    #[must_use]
    pub fn inspect(&self, options: &Options) -> Option<ChannelMemory> {
        let files = open(&self.name)?;
        let line: MakerLine = line_of(files.first()?);
        let is_it = short_id(line.channel) == self.id;
        is_it.then(|| examine_files(files, self.id, Some(self.host_pid), options))
    }
}
