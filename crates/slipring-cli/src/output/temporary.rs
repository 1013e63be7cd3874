//! The temporary file, which is written in the target's directory and then replaces the target.
//!
//! While it grows it has no name, if the file system supports that (`O_TMPFILE`): then nothing
//! is left of it, however the program ends. Otherwise its name begins with `.slipring-`, and
//! every signal that can be handled removes it.
//!
//! Once the file is complete, only loss of data is an error. If permissions cannot be kept, if
//! the file system cannot sync, or if the target cannot be replaced atomically, the next best
//! is done.

use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, ErrorKind, Seek};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, Mode, fallocate};
use rustix::io::Errno;

use super::keep::keep;
use super::spot::{Named, Spot};
use crate::sys;

/// The named temporary file of this process. A signal's thread removes it if the main thread
/// is blocked.
static CURRENT: Mutex<Option<Named>> = Mutex::new(None);

const ATTEMPTS: usize = 16;

/// A temporary file; dropping it removes it.
#[derive(Debug)]
pub(super) struct Temporary {
    file: File,
    spot: Spot,
    /// The temporary name, if the file has one.
    named: Option<Named>,
}

/// The error that kept a complete file from its place, and where the file is now, if it still
/// exists.
#[derive(Debug)]
pub(super) struct Misplaced {
    pub(super) error: io::Error,
    pub(super) kept: Option<PathBuf>,
}

impl From<io::Error> for Misplaced {
    fn from(error: io::Error) -> Self {
        Self { error, kept: None }
    }
}

impl Temporary {
    pub(super) fn create(spot: Spot) -> io::Result<Self> {
        let mode = mode_for(&spot);
        match spot.unnamed(mode) {
            Ok(file) => Ok(Self { file, spot, named: None }),
            // File systems without unnamed files return various errors. Any other reason
            // makes the next call fail too.
            Err(_) => {
                let (file, named) = create_named(&spot)?;
                Ok(Self { file, spot, named: Some(named) })
            }
        }
    }

    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Makes the file durable and puts it in the target's place.
    pub(super) fn persist(mut self) -> Result<(), Misplaced> {
        if let Some(existing) = self.spot.existing() {
            let _ = keep(existing, &self.file);
        }
        sync(&self.file)?;
        if self.named.is_none() && self.spot.existing().is_none() {
            // The link fails if a file has appeared there meanwhile: it is replaced below.
            if self.spot.link(&self.file, None).is_ok() {
                self.spot.sync_directory();
                return Ok(());
            }
        }
        let named = match self.named.clone().map_or_else(|| self.give_name(), Ok) {
            Ok(named) => named,
            Err(error) => return self.write_in_place().map_err(|_| error.into()),
        };
        if let Err(error) = self.spot.replace_by(&named) {
            // The target is a mount point, or another user's file in a sticky directory, or on
            // another layer of the file system: all can be written to.
            if self.write_in_place().is_err() {
                // The file holds the result, so it is not removed.
                self.named = None;
                current().take();
                return Err(Misplaced { error, kept: Some(self.spot.path_of(&named)) });
            }
            named.remove();
        }
        self.named = None;
        current().take();
        self.spot.sync_directory();
        Ok(())
    }

    /// Gives the unnamed file a temporary name. If that is impossible, copies it to a file
    /// that has one.
    fn give_name(&mut self) -> io::Result<Named> {
        {
            let mut current = current();
            let name = random_name();
            if let Ok(named) = self.spot.link(&self.file, Some(&name)) {
                *current = Some(named.clone());
                self.named = Some(named.clone());
                return Ok(named);
            }
        }
        // Linking needs /proc.
        let (mut file, named) = create_named(&self.spot)?;
        self.named = Some(named.clone());
        copy(&mut self.file, &mut file)?;
        if let Some(existing) = self.spot.existing() {
            let _ = keep(existing, &file);
        }
        self.file = file;
        Ok(named)
    }

    /// Overwrites the file at the target with the content.
    fn write_in_place(&mut self) -> io::Result<()> {
        let mut target = self.spot.file()?;
        copy(&mut self.file, &mut target)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(named) = self.named.take() {
            let mut current = current();
            // If a signal's thread has removed it, another file could have its name now.
            if current.take().is_some() {
                named.remove();
            }
        }
    }
}

/// Removes the named temporary file of this process, if there is one.
pub(crate) fn remove_current() {
    if let Some(named) = current().take() {
        named.remove();
    }
}

fn current() -> MutexGuard<'static, Option<Named>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the mode of the temporary file, which never grants more than the target's.
fn mode_for(spot: &Spot) -> Mode {
    Mode::from_raw_mode(if spot.existing().is_some() { 0o600 } else { 0o666 })
}

/// Creates a file under an unpredictable name. Never opens an existing file.
fn create_named(spot: &Spot) -> io::Result<(File, Named)> {
    let mut attempts = 0;
    loop {
        let mut current = current();
        attempts += 1;
        match spot.create(&random_name(), mode_for(spot)) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && attempts < ATTEMPTS => {}
            created => {
                let (file, named) = created?;
                *current = Some(named.clone());
                return Ok((file, named));
            }
        }
    }
}

fn random_name() -> OsString {
    // `RandomState` is seeded from the system's random numbers.
    let random = RandomState::new().build_hasher().finish();
    format!(".slipring-{random:016x}.tmp").into()
}

/// Overwrites one file with the content of another, and makes it durable.
fn copy(from: &mut File, to: &mut File) -> io::Result<()> {
    from.rewind()?;
    let len = from.metadata()?.len();
    // Find out whether there is room before anything is overwritten. Not every file system
    // can tell.
    let reserved = fallocate(&*to, FallocateFlags::KEEP_SIZE, 0, len);
    if let Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) = reserved {
        return Err(error.into());
    }
    let written = io::copy(from, to)?;
    to.set_len(written)?;
    sync(to)
}

/// Makes the file's content durable. If the file system does not support that, closing at
/// least reports failed writes.
fn sync(file: &File) -> io::Result<()> {
    match rustix::fs::fsync(file) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS | Errno::ROFS) => {
            sys::flush_by_closing(file)
        }
        Err(error) => Err(error.into()),
    }
}
