//! Finds the memory of another process's channels among its descriptors.
//!
//! All of `/proc` is read through one descriptor of the process's folder there. That stays the folder of
//! the same process: once the process has ended it is empty, also if another one has its number.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::channel::{Source, examine};
use super::memory::RegionFile;
use super::report::{ChannelMemory, Inspection, Options, Refusal};
use crate::error::{Error, Result};
use crate::shm::memfd::NAMES;
use crate::status_page;
use crate::sys::memfd::{SEALS_DOWN, adopt};

/// The most channels whose memory is read.
const MOST_CHANNELS: usize = 4096;
/// How often descriptors are listed while channels begin and end.
const LISTINGS: usize = 3;

/// See [`process`](super::process).
pub(super) fn inspect(pid: u32, options: &Options) -> Result<Inspection> {
    let process = Process::open(pid)?;
    let mut refused = Vec::new();
    let host = status_page::host(pid).unwrap_or_else(|error| {
        refused.push(Refusal { what: "status page".to_owned(), why: format!("{error:#}") });
        None
    });
    // The page was found by the number. The process was there then if it is there now.
    process.state()?;
    let own_pid = process.own_id();
    let look = |id: u64, [down, up]: &[RegionFile; 2]| {
        examine(&Source { id, down, up, pid: own_pid }, options)
    };
    let channels = process.channels(&mut refused, look)?.into_values().collect();
    let has_ended = process.state().is_err();
    Ok(Inspection { pid, host, channels, refused, has_ended })
}

/// Looks at a channel whose regions are these files, that of the host first.
#[cfg(feature = "named")]
pub(crate) fn examine_files(
    files: [File; 2],
    id: u64,
    pid: Option<u32>,
    options: &Options,
) -> ChannelMemory {
    let [down, up] = files.map(|file| {
        let len = file.metadata().map_or(0, |found| found.len());
        RegionFile { file, len }
    });
    examine(&Source { id, down: &down, up: &up, pid }, options)
}

/// Where the files of a channel's regions can be opened, that of the host first.
type Paths = [Option<PathBuf>; 2];

/// Opens both regions of a channel.
fn open_both(paths: &Paths, id: u64) -> std::result::Result<[RegionFile; 2], Refusal> {
    let one = |side: usize| {
        let path = paths.get(side).and_then(Option::as_ref);
        path.map_or(Err(Unread::Gone), |path| open(path, id, side)).map_err(|unread| Refusal {
            what: format!("{}.{id:016x}", NAMES.get(side).unwrap_or(&"")),
            why: match unread {
                Unread::Gone => "there is no such file among the descriptors".to_owned(),
                Unread::Refused(why) => why,
            },
        })
    };
    Ok([one(0)?, one(1)?])
}

/// Why a file of a region is not read.
enum Unread {
    /// The descriptor is closed by now, or leads to something else.
    Gone,
    Refused(String),
}

/// Opens a region for reading.
fn open(path: &PathBuf, id: u64, side: usize) -> std::result::Result<RegionFile, Unread> {
    // The descriptor may lead to something else by now, which is not to be waited for.
    let how = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(how).open(path);
    let file = file.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Unread::Gone,
        _ => Unread::Refused(format!("it cannot be opened: {e}")),
    })?;
    // Such as to the region of another channel, for which the number was used again.
    let opened = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    if opened.ok().as_deref().and_then(region_of) != Some((id, side)) {
        return Err(Unread::Gone);
    }
    // Without these seals others than the two sides could write it, or cut it while it is read.
    let refused =
        |e: Error| Unread::Refused(format!("{e:#}: its worker starts, or it is no region"));
    let (file, len) = adopt(file.into(), SEALS_DOWN).map_err(refused)?;
    Ok(RegionFile { file, len })
}

/// A process that is there, or was there.
struct Process {
    pid: u32,
    folder: File,
}

impl Process {
    fn open(pid: u32) -> Result<Self> {
        let folder = File::open(format!("/proc/{pid}"));
        let folder = folder.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                Error::os(format!("there is no process {pid} here, or it is hidden"), e)
            }
            _ => Error::os(format!("cannot look at process {pid}"), e),
        })?;
        let process = Self { pid, folder };
        if process.state()? == 'Z' {
            let message = format!("process {pid} has ended; its parent has not reaped it");
            return Err(Error::os(message, io::ErrorKind::NotFound.into()));
        }
        Ok(process)
    }

    fn path(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.folder.as_raw_fd()).into()
    }

    /// The letter of its state.
    fn state(&self) -> Result<char> {
        let stat = std::fs::read_to_string(self.path("stat"))
            .map_err(|e| Error::os(format!("process {} has ended", self.pid), e))?;
        // The second field is in parentheses and can contain anything.
        let state = stat.rsplit_once(") ").and_then(|(_, fields)| fields.chars().next());
        Ok(state.unwrap_or('?'))
    }

    /// The id that the process has for itself; `None` if this kernel does not tell.
    fn own_id(&self) -> Option<u32> {
        let status = std::fs::read_to_string(self.path("status")).ok()?;
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        ids.split_ascii_whitespace().last()?.parse().ok()
    }

    /// Looks at all channels whose regions are kept, one after the other: their files may be more than this
    /// process may open together. Channels begin and end meanwhile: what is there in part only is looked for
    /// again.
    fn channels(
        &self,
        refused: &mut Vec<Refusal>,
        look: impl Fn(u64, &[RegionFile; 2]) -> ChannelMemory,
    ) -> Result<BTreeMap<u64, ChannelMemory>> {
        let mut found = BTreeMap::new();
        for left in (0..LISTINGS).rev() {
            let regions = self.regions()?;
            if regions.len() > MOST_CHANNELS && found.is_empty() {
                let (what, more) = ("channels".to_owned(), regions.len() - MOST_CHANNELS);
                refused.push(Refusal { what, why: format!("{more} more are left out") });
            }
            let mut is_whole = true;
            for (id, paths) in regions.into_iter().take(MOST_CHANNELS) {
                if found.contains_key(&id) {
                    continue;
                }
                match open_both(&paths, id) {
                    Ok(both) => drop(found.insert(id, look(id, &both))),
                    Err(Refusal { what, why }) if left == 0 => refused.push(Refusal { what, why }),
                    Err(_) => is_whole = false,
                }
            }
            if is_whole {
                break;
            }
        }
        Ok(found)
    }

    /// The descriptors of regions that are kept, by the short ids of their channels.
    fn regions(&self) -> Result<BTreeMap<u64, Paths>> {
        let entries = std::fs::read_dir(self.path("fd")).map_err(|e| self.closed(e))?;
        let mut found = BTreeMap::<u64, Paths>::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            let target = std::fs::read_link(&path).ok();
            let Some((id, side)) = target.as_deref().and_then(region_of) else { continue };
            let paths = found.entry(id).or_default();
            paths.get_mut(side).into_iter().for_each(|place| *place = Some(path.clone()));
        }
        Ok(found)
    }

    /// Why the descriptors cannot be listed.
    fn closed(&self, error: io::Error) -> Error {
        let pid = self.pid;
        if error.kind() != io::ErrorKind::PermissionDenied {
            return Error::os(format!("cannot list the descriptors of process {pid}"), error);
        }
        let owner = |path: PathBuf| std::fs::metadata(path).map(|found| found.uid()).ok();
        // The folder of a process that has forbidden to be looked into belongs to root.
        let (theirs, ours) = (owner(self.path("stat")), owner("/proc/self/stat".into()));
        let why = match (theirs, ours) {
            (Some(theirs), Some(ours)) if theirs != ours && theirs != 0 => {
                format!("it belongs to user {theirs}, and this is user {ours}")
            }
            (Some(0), Some(ours)) if ours != 0 => {
                "it belongs to root, or has forbidden it (PR_SET_DUMPABLE)".to_owned()
            }
            _ => "it has more rights than this process, or has forbidden it".to_owned(),
        };
        Error::os(format!("process {pid} cannot be looked into: {why}"), error)
    }
}

/// The short id of a channel and the side, 0 for the host's region, of a link that leads to a region.
fn region_of(target: &Path) -> Option<(u64, usize)> {
    let name = target.to_str()?.strip_prefix("/memfd:")?.strip_suffix(" (deleted)")?;
    let (name, id) = name.split_once('.')?;
    let side = NAMES.iter().position(|side| *side == name)?;
    // As the host writes it: `+` and upper case are other names.
    let is_id = id.len() == 16 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    Some((u64::from_str_radix(id, 16).ok().filter(|_| is_id)?, side))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::config::Config;
    use crate::process::testing::alone;
    use crate::shm::layout::short_id;
    use crate::shm::memfd;
    use crate::sys::process::set_limit;

    #[test]
    fn only_the_names_that_hosts_write_are_regions() {
        let link = |name: &str| region_of(Path::new(&format!("/memfd:{name} (deleted)")));
        assert_eq!(link("slipring-down.00000000000000ff"), Some((255, 0)));
        assert_eq!(link("slipring-up.ffffffffffffffff"), Some((u64::MAX, 1)));
        for other in [
            "slipring-down",
            "slipring-up",
            "slipring-status",
            "slipring-up.00ff",
            "slipring-up.+0000000000000ff",
            "slipring-up.00000000000000FF",
            "slipring-up.00000000000000ff.0",
            "other.00000000000000ff",
        ] {
            assert_eq!(link(other), None, "{other}");
        }
        assert_eq!(region_of(Path::new("/tmp/slipring-up.00000000000000ff")), None);
    }

    #[test]
    fn a_descriptor_that_leads_elsewhere_by_now_is_not_taken_for_the_region() {
        let (regions, files) = memfd::create_to_keep(&Config::small()).unwrap();
        let id = short_id(regions.header.channel);
        let [down, up] = [&files.down, &files.up]
            .map(|file| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())));
        assert!(matches!(open(&up, id, 1), Err(Unread::Refused(_))), "it is not sealed yet");
        memfd::keep(&regions.peer, files);
        let paths = [Some(down.clone()), Some(up.clone())];
        assert!(open_both(&paths, id).is_ok());
        assert!(matches!(open(&down, id ^ 1, 0), Err(Unread::Gone)), "of another channel");
        assert!(matches!(open(&down, id, 1), Err(Unread::Gone)), "of the other side");
        assert!(matches!(open(&"/dev/null".into(), id, 1), Err(Unread::Gone)));
        drop(regions);
        assert!(open_both(&paths, id).is_err(), "closed");
    }

    #[test]
    fn more_channels_are_looked_at_than_can_be_opened_together() {
        alone(|| {
            let make = || {
                let (regions, files) = memfd::create_to_keep(&Config::small()).unwrap();
                memfd::keep(&regions.peer, files);
                regions
            };
            let all: Vec<_> = (0..40).map(|_| make()).collect();
            let last = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
            let limit = u64::try_from(last).unwrap() + 10;
            set_limit(libc::RLIMIT_NOFILE, limit, limit).unwrap();
            let found = inspect(std::process::id(), &Options::default()).unwrap();
            assert_eq!((found.channels.len(), found.refused), (all.len(), Vec::new()));
        });
    }

    #[test]
    fn a_process_that_ends_is_not_taken_for_the_next_with_its_number() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        process.state().unwrap();
        assert!(process.regions().unwrap().is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.state().is_err());
        let gone = Process::open(child.id()).map(|_| ()).unwrap_err().to_string();
        assert!(gone.contains("there is no process"), "{gone}");
    }
}
