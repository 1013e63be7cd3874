//! The file that is written beside the target until it takes its place.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The temporary file of this process, for the case that the program ends
/// while its main thread is blocked.
static CURRENT: Mutex<Option<PathBuf>> = Mutex::new(None);

const ATTEMPTS: usize = 16;

/// A temporary file; dropping it removes it.
#[derive(Debug)]
pub(super) struct Temporary {
    file: File,
    path: PathBuf,
    target: PathBuf,
    /// The permission bits of the file that stands at the target.
    mode: Option<u32>,
}

impl Temporary {
    /// Creates the file in the target's directory, under a name that nobody
    /// can foresee, and never by opening one that exists.
    pub(super) fn create(target: PathBuf) -> io::Result<Self> {
        let mode = match fs::metadata(&target) {
            Ok(metadata) => Some(metadata.permissions().mode() & 0o7777),
            Err(_) => None,
        };
        let directory = directory_of(&target);
        let mut attempts = 0;
        loop {
            // `RandomState` is seeded from the system's random numbers.
            let random = RandomState::new().build_hasher().finish();
            let path = directory.join(format!(".slipring-{random:016x}.tmp"));
            let mut current = current();
            let opened = OpenOptions::new()
                .write(true)
                .create_new(true)
                // Never open to more people than the target was.
                .mode(mode.map_or(0o666, |mode| mode & 0o600))
                .open(&path);
            attempts += 1;
            match opened {
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && attempts < ATTEMPTS => {}
                opened => {
                    let file = opened?;
                    *current = Some(path.clone());
                    return Ok(Self { file, path, target, mode });
                }
            }
        }
    }

    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Makes the file durable and puts it in the target's place.
    pub(super) fn persist(&mut self) -> io::Result<()> {
        if let Some(mode) = self.mode {
            self.file.set_permissions(Permissions::from_mode(mode))?;
        }
        self.file.sync_all()?;
        fs::rename(&self.path, &self.target)?;
        current().take();
        // The rename itself survives a power cut only if the directory is
        // synced, which not all file systems can; the data are safe anyway.
        if let Ok(directory) = File::open(directory_of(&self.target)) {
            let _ = directory.sync_all();
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let mut current = current();
        if current.as_deref() == Some(&*self.path) {
            let _ = fs::remove_file(&self.path);
            current.take();
        }
    }
}

/// Removes the temporary file of this process, if there is one.
pub(crate) fn remove_current() {
    if let Some(path) = current().take() {
        let _ = fs::remove_file(path);
    }
}

fn current() -> MutexGuard<'static, Option<PathBuf>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
