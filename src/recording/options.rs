//! What is recorded, and where.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::sys::variables::{self, RECORD, RECORD_MAX_BYTES, RECORD_PAYLOADS};

const FILE_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 40;
const QUEUE_BYTES: std::ops::RangeInclusive<usize> = 64 << 10..=1 << 30;
const FILES: std::ops::RangeInclusive<usize> = 1..=10_000;

/// What a recording keeps of payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Payloads {
    /// All bytes. Only a recording with whole requests can be sent again.
    #[default]
    Whole,
    /// A hash of 128 bits, under a key that the recording has. It tells equal payloads from different
    /// ones; a payload that can be guessed is not hidden by it.
    Hashed,
    /// The length only.
    Omitted,
}

impl Payloads {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "whole" => Some(Self::Whole),
            "hashed" => Some(Self::Hashed),
            "omitted" => Some(Self::Omitted),
            _ => None,
        }
    }
}

/// Has the frames of a channel recorded, for [`Spawner::record`](crate::Spawner::record).
///
/// Each worker gets a file of its own in the directory, `<role>-<host>-<number>.sliprec` with the
/// process id of the host, so that the recording of a worker that has died stays when it is replaced.
/// `slipring replay` sends its requests to another worker and compares the answers.
///
/// Threads that send and receive only copy into a queue in memory, which a thread of the library's
/// writes to the file. If the file system is slow or full, frames are left out and counted; no call waits
/// or fails for that.
///
/// ```
/// use slipring::Spawner;
/// use slipring::recording::{Payloads, Recording};
///
/// let recording = Recording::in_dir("recordings").max_bytes(16 << 20).replies(Payloads::Hashed);
/// let spawner = Spawner::program("/usr/lib/app/embedder").record(recording);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Recording {
    pub(crate) directory: PathBuf,
    pub(crate) max_bytes: u64,
    pub(crate) queue_bytes: usize,
    pub(crate) max_files: usize,
    pub(crate) requests: Payloads,
    pub(crate) replies: Payloads,
}

impl Recording {
    /// Records into this directory, which is made if it is missing. A relative path is resolved now.
    pub fn in_dir(directory: impl Into<PathBuf>) -> Self {
        let directory = directory.into();
        Self {
            // Where the working directory is not known, the path is resolved later.
            directory: std::path::absolute(&directory).unwrap_or(directory),
            max_bytes: 64 << 20,
            queue_bytes: 8 << 20,
            max_files: 16,
            requests: Payloads::Whole,
            replies: Payloads::Whole,
        }
    }

    /// Sets the most bytes of a file: 64 MiB by default, from 1 MiB to 1 TiB. A recording that gets
    /// longer loses its oldest frames; the last half of these bytes is always kept.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets the most bytes that wait in memory to be written: 8 MiB by default, from 64 KiB to 1 GiB.
    /// Frames that find no room are left out and counted.
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// Sets how many recordings of a role the directory keeps: 16 by default, from 1 to 10,000. The
    /// oldest ones that no host writes any more are removed when another one begins.
    pub fn max_files(mut self, files: usize) -> Self {
        self.max_files = files;
        self
    }

    /// Sets what is kept of all payloads; [`Payloads::Whole`] by default. Unless those of requests are
    /// kept whole, the arguments and extras of the worker are left out as well.
    pub fn payloads(self, payloads: Payloads) -> Self {
        self.requests(payloads).replies(payloads)
    }

    /// Sets what is kept of the payloads of requests.
    pub fn requests(mut self, payloads: Payloads) -> Self {
        self.requests = payloads;
        self
    }

    /// Sets what is kept of the payloads of replies and chunks.
    pub fn replies(mut self, payloads: Payloads) -> Self {
        self.replies = payloads;
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        let Self { max_bytes, queue_bytes, max_files, .. } = self;
        let refuse = |message: String| Err(Error::invalid_config(message));
        if !FILE_BYTES.contains(max_bytes) {
            return refuse(format!("a recording of {max_bytes} bytes: from 1 MiB to 1 TiB"));
        }
        if !QUEUE_BYTES.contains(queue_bytes) {
            return refuse(format!("a recording's queue of {queue_bytes} bytes: 64 KiB to 1 GiB"));
        }
        if !FILES.contains(max_files) {
            return refuse(format!("{max_files} recordings of a role: from 1 to 10,000"));
        }
        Ok(())
    }

    /// What the environment asks for: see `docs/RECORDING.md`.
    pub(crate) fn of_environment() -> Result<Option<Self>> {
        Self::of_variables(variables::value)
    }

    fn of_variables(get: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<Option<Self>> {
        let Some(directory) = get(RECORD) else { return Ok(None) };
        let mut recording = Self::in_dir(directory);
        let text = |name| get(name).map(|value| value.to_string_lossy().into_owned());
        if let Some(value) = text(RECORD_PAYLOADS) {
            let payloads = Payloads::parse(&value).ok_or_else(|| {
                let message =
                    format!("{RECORD_PAYLOADS} is '{value}': it must be whole, hashed or omitted");
                Error::invalid_config(message)
            })?;
            recording = recording.payloads(payloads);
        }
        if let Some(value) = text(RECORD_MAX_BYTES) {
            let bytes = value.parse().map_err(|_| {
                Error::invalid_config(format!(
                    "{RECORD_MAX_BYTES} is '{value}': it must be a number"
                ))
            })?;
            recording = recording.max_bytes(bytes);
        }
        recording.check().map(|()| Some(recording))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Recording>> {
        Recording::of_variables(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).into())
        })
    }

    #[test]
    fn the_environment_says_what_is_recorded() {
        assert_eq!(of(&[(RECORD_PAYLOADS, "hashed")]).unwrap(), None);
        let plain = of(&[(RECORD, "/tmp/x")]).unwrap().unwrap();
        assert_eq!(plain, Recording::in_dir("/tmp/x"));
        let all = of(&[(RECORD, "d"), (RECORD_PAYLOADS, "hashed"), (RECORD_MAX_BYTES, "2097152")]);
        let wanted = Recording::in_dir("d").payloads(Payloads::Hashed).max_bytes(2 << 20);
        assert_eq!(all.unwrap(), Some(wanted));
        for (name, value) in
            [(RECORD_PAYLOADS, "all"), (RECORD_MAX_BYTES, "1G"), (RECORD_MAX_BYTES, "4096")]
        {
            let error = of(&[(RECORD, "d"), (name, value)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        }
    }

    #[test]
    fn limits_that_cannot_be_are_refused() {
        let base = || Recording::in_dir("d");
        assert!(base().check().is_ok());
        for wrong in [base().max_bytes(1), base().queue_bytes(1), base().max_files(0)] {
            assert_eq!(wrong.check().unwrap_err().kind(), ErrorKind::InvalidConfig);
        }
    }
}
