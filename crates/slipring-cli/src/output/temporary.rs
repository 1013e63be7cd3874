//! The file that is written in the target's directory until it takes its place.
//!
//! It has no name while it grows, where the file system has such files: then nothing is left
//! of it however the program ends. Elsewhere it has a name that tells whose it is, and is
//! removed by every signal that can be handled.
//!
//! Once it is complete, only real loss is an error: what cannot be made as good as usual
//! (permissions, durability, an exchange that is seen all at once) is made as good as can be.

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

/// The temporary file of this process if it has a name, for the case that the program ends
/// while its main thread is blocked.
static CURRENT: Mutex<Option<Named>> = Mutex::new(None);

const ATTEMPTS: usize = 16;

/// A temporary file; dropping it removes it.
#[derive(Debug)]
pub(super) struct Temporary {
    file: File,
    spot: Spot,
    /// Its name, if it has one; that of the target in the end.
    named: Option<Named>,
}

/// Why a complete file did not take its place, and where it is instead, if that is.
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
            // There are many ways to say that there are no such files. If it is something
            // else it is found again.
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
            // The usual case: a new file appears, whole. If one has appeared there
            // meanwhile it is replaced, below.
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
            // A file that is mounted on its own, one in a directory where only owners may
            // replace files, one that is on another layer of the file system.
            if self.write_in_place().is_err() {
                // Not removed: the work is in it.
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

    /// Gives the unnamed file a name, or its content to one that has.
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
        // Without /proc there is no way to.
        let (mut file, named) = create_named(&self.spot)?;
        self.named = Some(named.clone());
        copy(&mut self.file, &mut file)?;
        if let Some(existing) = self.spot.existing() {
            let _ = keep(existing, &file);
        }
        self.file = file;
        Ok(named)
    }

    /// Writes the content into the file that stands at the target.
    fn write_in_place(&mut self) -> io::Result<()> {
        let mut target = self.spot.file()?;
        copy(&mut self.file, &mut target)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(named) = self.named.take() {
            let mut current = current();
            // Not if it was removed already, and another could have its name.
            if current.take().is_some() {
                named.remove();
            }
        }
    }
}

/// Removes the temporary file of this process, if there is one that has a name.
pub(crate) fn remove_current() {
    if let Some(named) = current().take() {
        named.remove();
    }
}

fn current() -> MutexGuard<'static, Option<Named>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Never open to more people than the target is.
fn mode_for(spot: &Spot) -> Mode {
    Mode::from_raw_mode(if spot.existing().is_some() { 0o600 } else { 0o666 })
}

/// Creates a file under a name that nobody can foresee, and never by opening one that exists.
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

/// Writes all of one file over another, and makes it durable.
fn copy(from: &mut File, to: &mut File) -> io::Result<()> {
    from.rewind()?;
    let len = from.metadata()?.len();
    // Whether there is room is found out before anything is overwritten; not all file systems
    // can say.
    let reserved = fallocate(&*to, FallocateFlags::KEEP_SIZE, 0, len);
    if let Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) = reserved {
        return Err(error.into());
    }
    let written = io::copy(from, to)?;
    to.set_len(written)?;
    sync(to)
}

/// Waits until the file's content is safe. Where the file system has no such thing, what
/// closing says has to do.
fn sync(file: &File) -> io::Result<()> {
    match rustix::fs::fsync(file) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS | Errno::ROFS) => {
            sys::flush_by_closing(file)
        }
        Err(error) => Err(error.into()),
    }
}
