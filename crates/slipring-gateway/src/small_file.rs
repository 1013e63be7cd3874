//! Reads short files whose paths a person has written, so that other things can be there by mistake.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The longest file that is read, in bytes. A bundle of all public authorities is a quarter of it.
pub(crate) const MOST_BYTES: u64 = 1 << 20;

/// Reads a whole file. Blocks no longer than the file system does: not for what is no regular file, such
/// as a pipe without a writer, or a device without an end.
///
/// # Errors
///
/// [`io::ErrorKind::FileTooLarge`] for more than [`MOST_BYTES`]; [`io::ErrorKind::InvalidInput`] for what
/// is no regular file; what the system says.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    // The open of a pipe waits for a writer, and that of a terminal can make it this process's own.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    // One byte more, to see that the file does not end at the limit.
    let len = file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(len).is_ok_and(|len| len <= MOST_BYTES) {
        return Ok(bytes);
    }
    let message = format!("it is longer than {MOST_BYTES} bytes");
    Err(io::Error::new(io::ErrorKind::FileTooLarge, message))
}
