//! One map of each file in this process, for ThreadSanitizer: it knows memory by its
//! address, and would take what two ends write and read for different memory.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, LazyLock, Weak};

use crate::error::{Error, Result};
use crate::shm::transport::Backing;
use crate::sync::Mutex;

#[path = "file_map.rs"]
mod file_map;

/// By inode: all memfds are of one file system.
static MAPS: LazyLock<Mutex<HashMap<u64, Weak<dyn Backing>>>> = LazyLock::new(Mutex::default);

/// The map of `file` that is there, or a new one: writable if it can be, for the one that asks
/// for it next may be the one that writes.
pub(super) fn map(file: &File, len: usize, is_writable: bool) -> Result<Arc<dyn Backing>> {
    let inode = file.metadata().map_err(|e| Error::os("cannot look at a file", e))?.ino();
    let mut maps = MAPS.lock();
    if let Some(map) = maps.get(&inode).and_then(Weak::upgrade) {
        return Ok(map);
    }
    let map = match file_map::map(file, len, true) {
        Err(_) if !is_writable => file_map::map(file, len, false)?,
        writable => writable?,
    };
    maps.insert(inode, Arc::downgrade(&map));
    Ok(map)
}
