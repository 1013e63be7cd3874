//! The transport over sealed memfds: the parent makes two, and sends the worker descriptors of
//! both.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;

use super::file_map;
use super::file_map::can_make_pages;
use super::layout::{Geometry, PAGE, RegionHeader, Side, as_usize, channel_id};
use super::region::{OwnRegion, PeerRegion, Regions};
use super::second_map::SecondMap;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::sys::memfd::{self, SEALS_DOWN, SEALS_UP};

/// The descriptors that the worker needs.
#[derive(Debug)]
pub(crate) struct RegionFiles {
    pub(crate) down: File,
    pub(crate) up: File,
}

/// Makes, maps and seals both regions, for the parent.
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os) if memory or descriptors run out; nothing is left behind
/// then.
pub(crate) fn create(config: &Config) -> Result<(Regions, RegionFiles)> {
    let header = RegionHeader::down(config, channel_id(), std::process::id());
    let down = file_for(c"slipring-down", &header.own)?;
    let up = file_for(c"slipring-up", &header.peer)?;
    let own = map_own(&down, header.own.region_len)?;
    memfd::seal(&down, SEALS_DOWN)?;
    memfd::seal(&up, SEALS_UP)?;
    let peer = map_peer_twice(&up, header.peer.region_len)?;
    own.write_header(&header);
    Ok((Regions { own, peer, header }, RegionFiles { down, up }))
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
    let (up, up_len) = memfd::adopt(up, SEALS_UP)?;
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
