//! Bytes that are too long for a message of the handshake: they travel in a sealed memfd.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::shm::layout::{as_u64, as_usize};
use crate::sys::memfd;

/// Returns a file with these bytes. Blocks while the kernel finds the memory.
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os) if memory or descriptors run out.
pub(crate) fn write(bytes: &[u8]) -> Result<File> {
    let file = memfd::create(c"slipring-blob", as_u64(bytes.len()))?;
    file.write_all_at(bytes, 0).map_err(|e| Error::os("cannot write a blob", e))?;
    // No process can write to it any more, as none has mapped it. `F_SEAL_WRITE` would say no more, and
    // fails with `EBUSY` while the kernel itself holds one of the pages for a moment.
    memfd::seal(&file, memfd::SEALS_DOWN)?;
    Ok(file)
}

/// Reads the bytes of a file that another process has sent, and said to be `len` bytes long.
///
/// # Errors
///
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) if it is no file of [`write`], or has
/// another length; [`ErrorKind::Os`](crate::ErrorKind::Os) if memory runs out or it cannot be read.
pub(crate) fn read(fd: OwnedFd, len: u64) -> Result<Arc<[u8]>> {
    let (file, found) = memfd::adopt(fd, memfd::SEALS_DOWN)?;
    if found != len {
        return Err(Error::mismatch(format!("blob of {found} bytes, the parent says {len}")));
    }
    let failed = |e| Error::os(format!("cannot read a blob of {len} bytes"), e);
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(as_usize(len)).map_err(|e| failed(e.into()))?;
    bytes.resize(as_usize(len), 0);
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_blob_reads_back_and_cannot_change() {
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
        let file = write(&bytes).unwrap();
        assert!(file.write_all_at(b"x", 0).is_err() && file.set_len(5).is_err());
        assert!(*read(file.into(), 1_000_000).unwrap() == *bytes);
    }

    #[test]
    fn what_is_no_blob_of_that_length_is_refused() {
        let cases: [(OwnedFd, u64); 4] = [
            (write(b"four").unwrap().into(), 5),
            (memfd::create(c"test", 4096).unwrap().into(), 4096),
            (File::open("/dev/zero").unwrap().into(), 4096),
            (std::io::pipe().unwrap().0.into(), 0),
        ];
        for (fd, len) in cases {
            assert_eq!(read(fd, len).unwrap_err().kind(), ErrorKind::Mismatch);
        }
    }
}
