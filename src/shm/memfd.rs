//! The transport over sealed memfds: the parent makes two, and sends the worker descriptors of
//! both.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::OwnedFd;

use super::file_map;
use super::file_map::can_make_pages;
use super::layout::{Geometry, PAGE, RegionHeader, Side, as_usize, channel_id, short_id};
use super::region::{OwnRegion, PeerRegion, Regions};
use super::second_map::SecondMap;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::sys::memfd::{self, SEALS_DOWN, SEALS_LEN, SEALS_UP};

/// The names of the files of regions, as `/proc/PID/fd` shows them. Of a channel that other processes
/// may look at, a dot and the short id of the channel follow.
pub(crate) const NAMES: [&str; 2] = ["slipring-down", "slipring-up"];

/// The descriptors that the worker needs.
#[derive(Debug)]
pub(crate) struct RegionFiles {
    pub(crate) down: File,
    pub(crate) up: File,
}

impl RegionFiles {
    /// Other descriptors of the same files.
    pub(crate) fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Self { down: self.down.try_clone()?, up: self.up.try_clone()? })
    }
}

/// Makes, maps and seals both regions, for the parent.
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os) if memory or descriptors run out; nothing is left behind
/// then.
pub(crate) fn create(config: &Config) -> Result<(Regions, RegionFiles)> {
    create_with(config, SEALS_UP, |_| String::new())
}

/// Does the same for a channel whose memory other processes may look at: [`keep`] must follow once the
/// worker has attached. Until then seals can still be added to the worker's region.
///
/// # Errors
///
/// As [`create`].
pub(crate) fn create_to_keep(config: &Config) -> Result<(Regions, RegionFiles)> {
    create_with(config, SEALS_LEN, |header| format!(".{:016x}", short_id(header.channel)))
}

fn create_with(
    config: &Config,
    seals_up: i32,
    suffix: impl FnOnce(&RegionHeader) -> String,
) -> Result<(Regions, RegionFiles)> {
    let header = RegionHeader::down(config, channel_id(), std::process::id());
    let suffix = suffix(&header);
    // Never empty: the names have no NUL.
    let [name_down, name_up] =
        NAMES.map(|name| CString::new(format!("{name}{suffix}")).unwrap_or_default());
    let down = file_for(&name_down, &header.own)?;
    let up = file_for(&name_up, &header.peer)?;
    let own = map_own(&down, header.own.region_len)?;
    memfd::seal(&down, SEALS_DOWN)?;
    memfd::seal(&up, seals_up)?;
    let peer = map_peer_twice(&up, header.peer.region_len)?;
    own.write_header(&header);
    Ok((Regions { own, peer, header }, RegionFiles { down, up }))
}

/// Keeps the descriptors of a channel's files open for as long as the regions are mapped here, so that
/// other processes can open the files and read them. Both sides must have mapped the worker's region:
/// it is sealed here against all other maps that can be written, as the parent's is from the start. If
/// that fails, because the worker has sealed it in another way, both descriptors are closed.
pub(crate) fn keep(peer: &PeerRegion, files: RegionFiles) {
    let RegionFiles { down, up } = files;
    let is_sealed = memfd::seal(&up, SEALS_DOWN).and_then(|()| memfd::check_seals(&up, SEALS_DOWN));
    if is_sealed.is_ok() {
        peer.keep_open([down, up]);
    }
}

/// Checks and maps the two descriptors that the parent sent, for the worker.
///
/// # Errors
///
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming both values, for the first of seals,
/// magic, layout version, side, features, size, geometry and size of the other region that is not
/// as it must be, and if another process is attached already.
pub(crate) fn attach(down: OwnedFd, up: OwnedFd) -> Result<Regions> {
    let (down, down_len) = memfd::adopt(down, SEALS_DOWN)?;
    // Its last seals may come later: see `keep`.
    let (up, up_len) = memfd::adopt(up, SEALS_LEN)?;
    let peer = map_peer(&down, down_len)?;
    let header = RegionHeader::parse(&peer.header_bytes(), Side::Down, down_len)?;
    if up_len != header.peer.region_len {
        return Err(Error::mismatch(format!(
            "up region of {up_len} bytes, expected {}",
            header.peer.region_len
        )));
    }
    let before = map_peer(&up, up_len)?.header_bytes();
    if before.iter().any(|byte| *byte != 0) {
        return Err(Error::mismatch(
            "another process is attached to this channel already, expected none",
        ));
    }
    Ok(Regions { own: map_own(&up, up_len)?, peer, header })
}

/// Makes the file of a region. All of it is reserved but the data ring, of which there is the first
/// page: the ring's ends have the kernel make the others in their first lap.
fn file_for(name: &CStr, region: &Geometry) -> Result<File> {
    if !can_make_pages() {
        return memfd::create(name, region.region_len);
    }
    let file = memfd::create_sparse(name, region.region_len)?;
    memfd::reserve(&file, 0, region.data.offset + PAGE)?;
    memfd::reserve(&file, region.health.offset, region.region_len - region.health.offset)?;
    Ok(file)
}

/// Maps a file for reading and writing. The caller seals it afterwards.
pub(crate) fn map_own(file: &File, len: u64) -> Result<OwnRegion> {
    OwnRegion::over(file_map::map(file, as_usize(len), true)?)
}

/// Maps a file read-only, and once more for what is kept of it.
pub(crate) fn map_peer_twice(file: &File, len: u64) -> Result<PeerRegion> {
    // The first map comes first: without the second, for want of addresses, what is kept is copied.
    let region = map_peer(file, len)?;
    Ok(region.with_second(SecondMap::of(file, as_usize(len)).ok()))
}

/// Maps a file read-only.
pub(crate) fn map_peer(file: &File, len: u64) -> Result<PeerRegion> {
    Ok(PeerRegion::over(file_map::map(file, as_usize(len), false)?))
}

#[cfg(all(test, not(slipring_tsan)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// How many descriptors of this process lead to the regions of a channel.
    fn descriptors(header: &RegionHeader) -> usize {
        let id = format!(".{:016x}", short_id(header.channel));
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let targets = links.filter_map(|link| std::fs::read_link(link.path()).ok());
        targets.filter(|target| target.to_string_lossy().contains(&id)).count()
    }

    #[test]
    fn what_is_kept_is_open_as_long_as_the_regions_are_mapped() {
        let (regions, files) = create_to_keep(&Config::small()).unwrap();
        let header = regions.header;
        keep(&regions.peer, files);
        assert_eq!(descriptors(&header), 2);
        drop(regions);
        assert_eq!(descriptors(&header), 0);
    }

    #[test]
    fn nothing_is_kept_that_the_worker_has_sealed_in_its_own_way() {
        let (regions, files) = create_to_keep(&Config::small()).unwrap();
        memfd::seal(&files.up, libc::F_SEAL_SEAL).unwrap();
        keep(&regions.peer, files);
        assert_eq!(descriptors(&regions.header), 0);
    }
}
