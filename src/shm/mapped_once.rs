//! One map of each file in this process, for ThreadSanitizer: it knows memory by its
//! address, and would take what two ends write and read for different memory.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, LazyLock, Weak};

use super::mapped::Backing;
use crate::error::{Error, Result};
use crate::sync::Mutex;

/// By inode: all memfds are of one file system.
static MAPS: LazyLock<Mutex<HashMap<u64, Weak<Backing>>>> = LazyLock::new(Mutex::default);

/// The map of `file` that is there, or a new one: writable if it can be, for whoever comes
/// next may be the one who writes.
pub(super) fn map(file: &File, len: usize, is_writable: bool) -> Result<Arc<Backing>> {
    let inode = file.metadata().map_err(|e| Error::os("cannot look at a file", e))?.ino();
    let mut maps = MAPS.lock();
    if let Some(map) = maps.get(&inode).and_then(Weak::upgrade) {
        return Ok(map);
    }
    let map = match Backing::map(file, len, true) {
        Err(_) if !is_writable => Backing::map(file, len, false)?,
        writable => writable?,
    };
    let map = Arc::new(map);
    maps.insert(inode, Arc::downgrade(&map));
    Ok(map)
}
