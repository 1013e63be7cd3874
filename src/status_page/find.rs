//! Finds the status pages of this machine's hosts, without asking them: each host has a descriptor of
//! its page, which `/proc` shows to processes of the same user, and which can be opened for reading
//! only.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layout::NAME;
use super::namespace::Processes;
use super::row::Row;
use super::{namespace, process, reader};
use crate::error::{Error, Result};
use crate::process::proc_stat::ProcStat;
use crate::sys::clock::now_ns;
use crate::sys::memfd::{SEALS_DOWN, check_seals};

/// A host without a heartbeat for so many of its periods counts as stale.
const STALE_PERIODS: u64 = 3;

/// So many descriptors of a process are tried. A host has one, and that of its parent if it was forked.
const MOST_PAGES: usize = 16;

/// A process that has channels or pools, as its status page describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Host {
    /// Its process id.
    pub pid: u32,
    /// Its process id in its own pid namespace, which is another one if it runs in a container.
    pub pid_inside: u32,
    /// Its command line.
    pub command: String,
    /// The library that it has, and the version.
    pub library: String,
    /// How long ago it looked whether its page is up to date.
    pub heartbeat_age: Duration,
    /// Until when after that it will look again, if nothing happens: a second, and up to a minute while
    /// nothing does.
    pub heartbeat_period: Duration,
    /// Whether it has missed three heartbeats: it is stopped, or gets no processor.
    pub is_stale: bool,
    /// Whether it is stopped by a signal or a debugger.
    pub is_stopped: bool,
    /// Channels and roles that found no room in the page.
    pub omitted: u64,
    /// Channels and roles that could not be read: the host was stopped while it wrote them.
    pub torn: u64,
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
/// user, and with the right to trace (`CAP_SYS_PTRACE`) of all users, in this pid namespace and those
/// below it. Blocks only while `/proc` is read; needs nothing of the hosts, which may be stopped.
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os) if `/proc` is not mounted or cannot be listed.
pub fn hosts() -> Result<Hosts> {
    let unreadable = |e| Error::os("cannot list /proc", e);
    // A directory that is empty, or the processes of another namespace, would look as if there were none.
    std::fs::metadata("/proc/self/stat")
        .map_err(|e| Error::os("/proc is not mounted, or is that of other processes", e))?;
    let (mut found, mut processes) = (Hosts::default(), None);
    for entry in std::fs::read_dir("/proc").map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // It is not known of a process that this one may not look into whether it is a host.
        let Ok(paths) = pages(pid) else { continue };
        match first(pid, paths, &mut processes) {
            Ok(host) => found.hosts.extend(host),
            Err(error) => found.refused.push((pid, error)),
        }
    }
    found.hosts.sort_by_key(|host| host.pid);
    found.refused.sort_by_key(|(pid, _)| *pid);
    Ok(found)
}

/// Reads the page of one process; `None` if it has none, or has ended.
///
/// # Errors
///
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for a page that is not as it must be;
/// [`ErrorKind::Os`](crate::ErrorKind::Os) if this process may not
/// look into that one, which is another user's or has made itself undumpable, or if a page that is there
/// cannot be opened.
pub fn host(pid: u32) -> Result<Option<Host>> {
    let message = || format!("process {pid} is another user's, or lets no process look into it");
    first(pid, pages(pid).map_err(|e| Error::os(message(), e))?, &mut None)
}

/// The descriptors of a process that lead to a memfd with the name of status pages. One of a process
/// that has ended has none.
///
/// # Errors
///
/// If this process may not look into that one.
fn pages(pid: u32) -> io::Result<Vec<PathBuf>> {
    let wanted = [b"/memfd:", NAME.to_bytes(), b" (deleted)"].concat();
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Err(e),
        entries => entries.into_iter().flatten(),
    };
    for entry in entries.flatten() {
        match std::fs::read_link(entry.path()) {
            Ok(target) if target == Path::new(OsStr::from_bytes(&wanted)) => {
                found.push(entry.path())
            }
            // The list may be read with other rights than what the links say.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Err(e),
            // Another file, or one that was closed meanwhile.
            _ => {}
        }
    }
    Ok(found)
}

/// The first page that is the process's own. What is refused does not hide what is behind it.
fn first(pid: u32, paths: Vec<PathBuf>, processes: &mut Processes) -> Result<Option<Host>> {
    let mut refused = None;
    for path in paths.into_iter().take(MOST_PAGES) {
        match open(&path).and_then(|file| file.map_or(Ok(None), |file| read(pid, &file, processes)))
        {
            Ok(None) => {}
            Ok(host) => return Ok(host),
            Err(error) => refused = Some(error),
        }
    }
    refused.map_or(Ok(None), Err)
}

/// Opens a page for reading; `None` if the process has closed it, or has ended. Whatever another process
/// has given the name of a page is not opened: to open a pipe may take for ever, and to open a device may
/// have effects.
fn open(path: &Path) -> Result<Option<File>> {
    let failed = |e| Error::os(format!("cannot open {}", path.display()), e);
    let place = match OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    if !place.metadata().map_err(failed)?.is_file() {
        return Err(Error::mismatch(format!("{} is no file", path.display())));
    }
    let link = format!("/proc/self/fd/{}", place.as_raw_fd());
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags).open(link).map(Some).map_err(failed)
}

/// `None` for a page that was not written yet, or is of another process, such as of the one that this one was forked from.
fn read(pid: u32, file: &File, processes: &mut Processes) -> Result<Option<Host>> {
    check_seals(file, SEALS_DOWN)?;
    let Some((header, library)) = reader::header(file)? else { return Ok(None) };
    // None of it can be read of a process that has ended.
    let Ok(Some(stat)) = ProcStat::of(&pid.to_string()) else { return Ok(None) };
    let (Ok(ids), Ok(command)) = (process::ids(pid), process::command(pid)) else {
        return Ok(None);
    };
    if Some(&header.pid) != ids.last() || header.start_time != stat.start_time {
        return Ok(None);
    }
    let now = now_ns();
    let age = now.saturating_sub(header.heartbeat);
    let (mut rows, torn) = reader::rows(file, header.blocks, now)?;
    namespace::find_workers(&mut rows, pid, ids.len(), processes);
    Ok(Some(Host {
        pid,
        pid_inside: header.pid,
        command,
        library,
        heartbeat_age: Duration::from_nanos(age),
        heartbeat_period: Duration::from_nanos(header.period),
        is_stale: age > header.period.saturating_mul(STALE_PERIODS),
        is_stopped: matches!(stat.state, 'T' | 't'),
        omitted: header.omitted,
        torn,
        rows,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_the_name_of_a_page_and_is_none_is_not_waited_for() {
        let place = std::env::temp_dir().join(format!("slipring-pages-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&place);
        std::fs::create_dir_all(&place).unwrap();
        let pipe = place.join("pipe");
        // A pipe that no process writes: to open it would take for ever.
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        for other in [&pipe, Path::new("/dev/null"), &place] {
            let error = open(other).unwrap_err();
            assert!(error.to_string().contains("is no file"), "{error}");
        }
        let file = place.join("file");
        std::fs::write(&file, [0; 4096]).unwrap();
        let file = open(&file).unwrap().unwrap();
        let error = read(std::process::id(), &file, &mut None).unwrap_err();
        assert!(error.to_string().contains("not a memfd"), "{error}");
        assert!(open(&place.join("none")).unwrap().is_none());
        // One that is refused does not hide that there is none behind it.
        assert!(first(std::process::id(), vec![pipe, place.join("none")], &mut None).is_err());
        assert!(first(std::process::id(), vec![place.join("none")], &mut None).unwrap().is_none());
        std::fs::remove_dir_all(&place).unwrap();
    }
}
