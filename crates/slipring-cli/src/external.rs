//! Commands that are programs of their own, so that what they need is built only where they are used.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use crate::error::Error;

/// Turns this process into the program of this name: the one beside this program, or else the first on
/// the PATH. Returns only if that fails.
pub(crate) fn become_program(name: &str, args: &[OsString]) -> Error {
    let program = beside(name).unwrap_or_else(|| PathBuf::from(name));
    let error = Command::new(program).args(args).exec();
    match error.kind() {
        io::ErrorKind::NotFound => Error::failure(format!(
            "the program {name} is neither beside slipring nor on the PATH: cargo install {name}"
        )),
        _ => Error::failure(format!("cannot run {name}: {error}")),
    }
}

fn beside(name: &str) -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name(name);
    path.is_file().then_some(path)
}
