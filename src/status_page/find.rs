//! Finds the status pages of this machine's hosts, without asking them: each host has a descriptor of
//! its page, which `/proc` shows to processes of the same user, and which can be opened for reading
//! only.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layout::NAME;
use super::row::Row;
use super::{process, reader};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::clock::now_ns;
use crate::sys::memfd::{SEALS_DOWN, check_seals};

/// A host without a heartbeat for so many of its periods counts as stale.
const STALE_PERIODS: u64 = 3;

/// A process that has channels or pools, as its status page describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Host {
    /// Its process id.
    pub pid: u32,
    /// Its command line.
    pub command: String,
    /// The library that it has, and the version.
    pub library: String,
    /// How long ago it wrote its page. It does so once a second.
    pub heartbeat_age: Duration,
    /// Whether it has missed three heartbeats: it is stopped, or gets no processor.
    pub is_stale: bool,
    /// Whether it is stopped by a signal or a debugger.
    pub is_stopped: bool,
    /// Channels and roles that found no room in the page.
    pub omitted: u64,
    /// Its channels and roles.
    pub rows: Vec<Row>,
}

/// The hosts that were found, and the pages that were refused.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Hosts {
    /// By process id.
    pub hosts: Vec<Host>,
    /// Processes that seem to have a page, and why it is not read.
    pub refused: Vec<(u32, Error)>,
}

/// Finds and reads the pages of all hosts whose processes this one may look into: those of the same
/// user, in this pid namespace and those below it. Blocks only while `/proc` is read; needs nothing of
/// the hosts, which may be stopped.
///
/// # Errors
///
/// [`ErrorKind::Os`] if `/proc` cannot be listed.
pub fn hosts() -> Result<Hosts> {
    let unreadable = |e| Error::os("cannot list /proc", e);
    let mut found = Hosts::default();
    for entry in std::fs::read_dir("/proc").map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        match host(pid) {
            Ok(host) => found.hosts.extend(host),
            Err(error) => found.refused.push((pid, error)),
        }
    }
    found.hosts.sort_by_key(|host| host.pid);
    found.refused.sort_by_key(|(pid, _)| *pid);
    Ok(found)
}

/// Reads the page of one process; `None` if it has none, has ended, or is another user's.
///
/// # Errors
///
/// [`ErrorKind::Mismatch`] for a page that is not as it must be; [`ErrorKind::Os`] if a page that is there
/// cannot be opened.
pub fn host(pid: u32) -> Result<Option<Host>> {
    for path in pages(pid) {
        let file = match File::open(&path) {
            Ok(file) => file,
            // It has ended or closed the page.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::os(format!("cannot open {}", path.display()), e)),
        };
        match read(pid, &file)? {
            Some(host) => return Ok(Some(host)),
            None => continue,
        }
    }
    Ok(None)
}

/// The descriptors of a process that lead to a memfd with the name of status pages. One of a process
/// that has ended, or that this one may not look into, has none.
fn pages(pid: u32) -> Vec<PathBuf> {
    let wanted = [b"/memfd:", NAME.to_bytes(), b" (deleted)"].concat();
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let is_page = |path: &PathBuf| {
        let target = std::fs::read_link(path);
        target.is_ok_and(|target| target == Path::new(OsStr::from_bytes(&wanted)))
    };
    entries.flatten().map(|entry| entry.path()).filter(is_page).collect()
}

/// `None` for a page of another process, such as of the one that this one was forked from.
fn read(pid: u32, file: &File) -> Result<Option<Host>> {
    check_seals(file, SEALS_DOWN)?;
    let (header, library) = reader::header(file)?;
    let gone = |e| Error::with_source(ErrorKind::Mismatch, "the process has ended", e);
    let number = pid.to_string();
    let start_time = process::start_time(&number).map_err(gone)?;
    if header.pid != process::own_id(pid).map_err(gone)? || header.start_time != start_time {
        return Ok(None);
    }
    let age = now_ns().saturating_sub(header.heartbeat);
    Ok(Some(Host {
        pid,
        command: process::command(pid).map_err(gone)?,
        library,
        heartbeat_age: Duration::from_nanos(age),
        is_stale: age > header.period.saturating_mul(STALE_PERIODS),
        is_stopped: process::is_stopped(&number).map_err(gone)?,
        omitted: header.omitted,
        rows: reader::rows(file, header.blocks)?,
    }))
}
