//! Anonymous files in memory: creating, reserving, sealing and checking them.
#![allow(unsafe_code, reason = "system calls")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::check;
use super::descriptor::one_above_stdio;
use crate::error::{Error, ErrorKind, Result};

/// The seals of a region that only its creator may ever map writable.
pub(crate) const SEALS_DOWN: i32 =
    libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
/// The seals of memory that keeps its length for good.
pub(crate) const SEALS_LEN: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
/// The seals of a region that the peer maps writable.
pub(crate) const SEALS_UP: i32 = SEALS_LEN | libc::F_SEAL_SEAL;

/// Enough for two rings of the largest size and the lines beside them.
const LARGEST: u64 = 3 << 30;

/// Makes an anonymous file of `len` bytes, all of them reserved, so that a lack of memory is an
/// error here and never a SIGBUS later.
pub(crate) fn create(name: &CStr, len: u64) -> Result<File> {
    let file = create_sparse(name, len)?;
    reserve(&file, 0, len)?;
    Ok(file)
}

/// Makes an anonymous file of `len` bytes, none of them reserved.
pub(crate) fn create_sparse(name: &CStr, len: u64) -> Result<File> {
    // The kernel has no limit below the machine's memory: an absurd size would not fail, but
    // call the out-of-memory killer.
    if len > LARGEST {
        return Err(Error::invalid_config(format!(
            "region of {len} bytes, at most {LARGEST} can be mapped"
        )));
    }
    check_file_size(len)?;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let file = match memfd_create(name, flags | libc::MFD_NOEXEC_SEAL) {
        // Kernels before 6.3 do not know MFD_NOEXEC_SEAL.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => memfd_create(name, flags),
        other => other,
    }
    .map_err(|e| Error::os("cannot create a memfd", e))?;
    file.set_len(len).map_err(|e| Error::os(format!("cannot make a memfd of {len} bytes"), e))?;
    Ok(file)
}

fn memfd_create(name: &CStr, flags: libc::c_uint) -> io::Result<File> {
    one_above_stdio(|| {
        // SAFETY: `name` is a NUL-terminated string that outlives the call.
        let fd = check(unsafe { libc::memfd_create(name.as_ptr(), flags) })?;
        // SAFETY: the kernel has just made this descriptor; no other code knows its number.
        Ok(unsafe { File::from_raw_fd(fd) })
    })
}

/// Reserves the pages of a part of a file.
pub(crate) fn reserve(file: &File, offset: u64, len: u64) -> Result<()> {
    let failed = |e| Error::os(format!("cannot reserve {len} bytes of shared memory"), e);
    let sizes = i64::try_from(offset).and_then(|offset| Ok((offset, i64::try_from(len)?)));
    let (offset, size) = sizes.map_err(|e| failed(io::Error::other(e)))?;
    loop {
        // SAFETY: a system call on a descriptor that `file` keeps open.
        match check(unsafe { libc::fallocate(file.as_raw_fd(), 0, offset, size) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            reserved => return reserved.map(drop).map_err(failed),
        }
    }
}

/// Checks that this process may make files of `len` bytes. Shared memory is a file to the kernel,
/// which ends a process that makes a longer one with a signal.
///
/// # Errors
///
/// [`ErrorKind::Os`] with both values.
pub(crate) fn check_file_size(len: u64) -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` has room for what the call writes.
    check(unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) })
        .map_err(|e| Error::os("cannot see the limit on the size of files", e))?;
    if len > limit.rlim_cur {
        let most = limit.rlim_cur;
        return Err(Error::os(
            format!("{len} bytes of shared memory, files of this process may have {most}"),
            io::Error::from_raw_os_error(libc::EFBIG),
        ));
    }
    Ok(())
}

/// Adds seals, which can never be removed.
pub(crate) fn seal(file: &File, seals: i32) -> Result<()> {
    // SAFETY: a system call on a descriptor that `file` keeps open.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })
        .map_err(|e| Error::os("cannot seal a memfd", e))?;
    Ok(())
}

/// Whether a process has opened this memfd for writing since it was made, as by `/proc`, and has it open or
/// mapped still. The descriptor that its maker has got, and the maps of that, do not count.
///
/// The kernel tells it when it is asked for a lease, which a file that is open for writing does not get.
///
/// # Errors
///
/// That of the system call. Some sandboxes know no leases.
pub(crate) fn is_open_for_writing(file: &File) -> io::Result<bool> {
    let fcntl = |command, argument: libc::c_int| {
        // SAFETY: a system call on a descriptor that `file` keeps open.
        check(unsafe { libc::fcntl(file.as_raw_fd(), command, argument) })
    };
    // If a process opens the file while the lease is held, the kernel sends this one a signal. The usual one
    // ends a process without a handler for it; SIGURG does nothing there.
    fcntl(F_SETSIG, libc::SIGURG)?;
    match fcntl(libc::F_SETLEASE, libc::F_RDLCK) {
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Ok(true),
        other => other?,
    };
    fcntl(libc::F_SETLEASE, libc::F_UNLCK)?;
    Ok(false)
}

/// From the kernel's `fcntl.h`.
const F_SETSIG: libc::c_int = 10;

/// Checks that `fd` has all of these seals.
///
/// # Errors
///
/// [`ErrorKind::Mismatch`], with both values, if one is missing, or if `file` is no memfd.
pub(crate) fn check_seals(file: &File, wanted: i32) -> Result<()> {
    // SAFETY: a system call on a descriptor that `file` keeps open.
    let found = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) })
        .map_err(|e| Error::with_source(ErrorKind::Mismatch, "region is not a memfd", e))?;
    if found & wanted != wanted {
        return Err(Error::mismatch(format!(
            "region has seals {found:#x}, expected at least {wanted:#x}"
        )));
    }
    Ok(())
}

/// The file of a descriptor that a peer has sent, and its size in bytes. The seals are checked before
/// the size is read: with those of a region it cannot shrink any more.
///
/// # Errors
///
/// As [`check_seals`]; [`ErrorKind::Os`].
pub(crate) fn adopt(fd: OwnedFd, wanted: i32) -> Result<(File, u64)> {
    let file = File::from(fd);
    check_seals(&file, wanted)?;
    let len = file.metadata().map_err(|e| Error::os("cannot stat a region", e))?.len();
    Ok((file, len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_sealed_region_can_neither_shrink_nor_grow_nor_be_written_anew() {
        let mut file = create(c"test", 8192).unwrap();
        seal(&file, SEALS_DOWN).unwrap();
        check_seals(&file, SEALS_DOWN).unwrap();
        assert!(file.set_len(4096).is_err());
        assert!(file.set_len(16384).is_err());
        assert!(file.write_all(b"x").is_err());
        assert!(seal(&file, libc::F_SEAL_WRITE).is_err());
    }

    #[test]
    fn missing_seals_are_told_with_both_values() {
        let file = create(c"test", 4096).unwrap();
        let error = check_seals(&file, SEALS_UP).unwrap_err().to_string();
        assert!(error.contains("expected at least 0x7"), "{error}");
        let other = File::open("/dev/null").unwrap();
        assert_eq!(check_seals(&other, SEALS_UP).unwrap_err().kind(), ErrorKind::Mismatch);
    }

    #[test]
    fn an_opening_for_writing_is_seen_also_by_its_map_alone() {
        let file = create(c"test", 8192).unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let _read = File::open(&path).unwrap();
        let _own = memmap2::MmapRaw::map_raw(&file).unwrap();
        assert!(!is_open_for_writing(&file).unwrap());
        let opened = File::options().read(true).write(true).open(&path).unwrap();
        assert!(is_open_for_writing(&file).unwrap());
        let map = memmap2::MmapRaw::map_raw(&opened).unwrap();
        drop(opened);
        assert!(is_open_for_writing(&file).unwrap());
        drop(map);
        assert!(!is_open_for_writing(&file).unwrap());
    }

    #[test]
    fn an_absurd_size_is_refused_before_the_kernel_is_asked() {
        assert_eq!(create(c"test", u64::MAX >> 2).unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
}
