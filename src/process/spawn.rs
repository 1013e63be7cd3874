//! Starting a worker's program without a copy of the host's address space.
//!
//! The new process has three descriptors, whatever descriptors the host has. It leads a process
//! group of its own, blocks no signal, and has the default action for every signal.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::own_exe;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::descriptor::open_above_stdio;
use crate::sys::fd::duplicate_above_stdio;
use crate::sys::posix_spawn::{self as system, Actions, Attributes};

/// The search path if the environment has no `PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// A program to start, with its arguments and surroundings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Program {
    /// A path without a slash is looked up in the `PATH` of the program's environment. A
    /// relative path, and a relative entry of `PATH`, is resolved against `current_dir`, or else
    /// against `search_from`.
    pub(crate) path: PathBuf,
    /// The program is that of this process, and `path` is what it is called.
    pub(crate) is_own: bool,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: EnvChanges,
    /// An absolute path, as is `search_from`.
    pub(crate) current_dir: Option<PathBuf>,
    pub(crate) search_from: Option<PathBuf>,
    /// Standard output and error are this process's, or `/dev/null` where those are closed.
    pub(crate) inherits_output: bool,
}

impl Program {
    /// The directory against which relative paths are resolved.
    fn here(&self) -> &Path {
        let here = self.current_dir.as_deref().or(self.search_from.as_deref());
        here.unwrap_or(Path::new(""))
    }
}

/// The differences between the program's environment and this process's.
#[derive(Debug, Clone, Default)]
pub(crate) struct EnvChanges {
    cleared: bool,
    changes: BTreeMap<OsString, Option<OsString>>,
}

impl EnvChanges {
    pub(crate) fn set(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.changes.insert(name.into(), Some(value.into()));
    }

    pub(crate) fn remove(&mut self, name: impl Into<OsString>) {
        self.changes.insert(name.into(), None);
    }

    /// Makes the program inherit no variable, and drops the changes so far.
    pub(crate) fn clear(&mut self) {
        self.cleared = true;
        self.changes.clear();
    }

    /// Returns the names of the variables that the program has, and no value.
    pub(crate) fn names(&self) -> Vec<OsString> {
        self.resolve().into_keys().collect()
    }

    fn resolve(&self) -> BTreeMap<OsString, OsString> {
        let mut all = BTreeMap::new();
        if !self.cleared {
            for (name, value) in env::vars_os() {
                // If a name occurs twice, this process sees the first value.
                all.entry(name).or_insert(value);
            }
        }
        for (name, value) in &self.changes {
            match value {
                Some(value) => all.insert(name.clone(), value.clone()),
                None => all.remove(name),
            };
        }
        all
    }
}

/// Starts `program` and returns its process id. Its standard input is `stdin`. Its standard
/// output and error are `output` if that is given, else this process's if the program inherits
/// them, else `/dev/null`. Blocks until the program runs.
///
/// # Errors
///
/// [`ErrorKind::Spawn`], with the program's path and the cause;
/// [`ErrorKind::InvalidConfig`] for an empty path, and for a text with a NUL byte.
pub(crate) fn spawn(
    program: &Program,
    stdin: BorrowedFd<'_>,
    output: Option<BorrowedFd<'_>>,
) -> Result<u32> {
    let failed = |e| cannot_start(&program.path, e);
    // If a source had the number 0, 1 or 2, an earlier action could overwrite it.
    let stdin = duplicate_above_stdio(stdin).map_err(failed)?;
    let [output, errors] = match output {
        Some(output) => {
            let both = duplicate_above_stdio(output).and_then(|fd| Ok([fd.try_clone()?, fd]));
            both.map_err(failed)?
        }
        None if program.inherits_output => {
            [own_or_null(io::stdout().as_fd())?, own_or_null(io::stderr().as_fd())?]
        }
        None => [open_null()?, open_null()?],
    };
    let directory = program.current_dir.as_deref();
    let directory = directory.map(|d| c_string(d.as_os_str(), "working directory")).transpose()?;
    let environment = program.env.resolve();
    let candidates = candidates(program, environment.get(OsStr::new("PATH")))?;
    let arguments = arguments(program)?;
    let environment = environment.into_iter().map(variable).collect::<Result<Vec<_>>>()?;

    let actions = || {
        let mut actions = Actions::new()?;
        actions.duplicate(stdin.as_fd(), 0)?;
        actions.duplicate(output.as_fd(), 1)?;
        actions.duplicate(errors.as_fd(), 2)?;
        if let Some(directory) = &directory {
            actions.change_directory(directory)?;
        }
        actions.close_from(3)?;
        Ok(actions)
    };
    let actions = actions().map_err(failed)?;
    let attributes = Attributes::detached().map_err(failed)?;

    let mut first_failure = None;
    for candidate in candidates {
        let path = c_string(candidate.as_os_str(), "program path")?;
        match system::spawn(&path, &arguments, &environment, &actions, &attributes) {
            Ok(pid) => return Ok(pid),
            Err(e) if tries_next_entry(&e) => {
                first_failure.get_or_insert_with(|| explain(program, &candidate, e));
            }
            Err(e) => return Err(explain(program, &candidate, e)),
        }
    }
    Err(first_failure.unwrap_or_else(|| not_found(program)))
}

/// Returns a copy of a standard stream of this process, or `/dev/null` if it is closed.
fn own_or_null(stream: BorrowedFd<'_>) -> Result<OwnedFd> {
    match duplicate_above_stdio(stream) {
        Err(e) if e.raw_os_error() == Some(libc::EBADF) => open_null(),
        copied => copied.map_err(|e| Error::os("cannot copy a standard stream for a worker", e)),
    }
}

fn open_null() -> Result<OwnedFd> {
    let null = open_above_stdio(fs::File::options().write(true), "/dev/null");
    let null = null.map_err(|e| {
        Error::with_source(ErrorKind::Spawn, "cannot open /dev/null for a worker's output", e)
    })?;
    Ok(null.into())
}

/// Returns the files to try, in order. Files that do not exist are left out, as each attempt
/// starts a process.
fn candidates(program: &Program, search_path: Option<&OsString>) -> Result<Vec<PathBuf>> {
    if program.is_own {
        // Looked up at each start, as the file can be replaced in between.
        return Ok(vec![own_exe::path().map_err(|e| cannot_start(&program.path, e))?]);
    }
    let name = program.path.as_os_str();
    if name.is_empty() {
        return Err(Error::invalid_config("the path of the worker's program is empty"));
    }
    c_string(name, "program path")?;
    if name.as_bytes().contains(&b'/') {
        return Ok(vec![program.path.clone()]);
    }
    let search_path = search_path.map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str);
    let entries = env::split_paths(search_path).map(|entry| {
        // An empty entry stands for the working directory. Without the dot, the result would be
        // a name without a slash.
        let entry = if entry.as_os_str().is_empty() { Path::new(".").into() } else { entry };
        program.here().join(entry).join(name)
    });
    let is_there = |path: &PathBuf| match fs::metadata(path) {
        Ok(meta) => !meta.is_dir(),
        Err(e) => e.kind() == io::ErrorKind::PermissionDenied,
    };
    Ok(entries.filter(is_there).collect())
}

/// Returns whether the next entry of `PATH` is tried after this error, as shells do.
fn tries_next_entry(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::NotFound | K::PermissionDenied | K::NotADirectory)
}

fn arguments(program: &Program) -> Result<Vec<CString>> {
    let all =
        [program.path.as_os_str()].into_iter().chain(program.args.iter().map(OsString::as_os_str));
    all.map(|argument| c_string(argument, "argument")).collect()
}

fn variable((name, value): (OsString, OsString)) -> Result<CString> {
    // An inherited name may begin with `=`. A later `=` would end the name.
    if name.is_empty() || name.as_bytes().iter().skip(1).any(|&b| b == b'=') {
        return Err(Error::invalid_config(format!(
            "{name:?} cannot be the name of an environment variable"
        )));
    }
    let mut pair = name;
    pair.push("=");
    pair.push(value);
    c_string(&pair, "environment variable")
}

fn c_string(text: &OsStr, what: &str) -> Result<CString> {
    CString::new(text.to_owned().into_vec()).map_err(|e| {
        let message = format!("the {what} {text:?} of a worker has a NUL byte");
        Error::with_source(ErrorKind::InvalidConfig, message, io::Error::from(e))
    })
}

fn cannot_start(path: &Path, error: io::Error) -> Error {
    Error::with_source(ErrorKind::Spawn, format!("cannot start {}", path.display()), error)
}

fn not_found(program: &Program) -> Error {
    let message = format!("cannot start {}: there is none in PATH", program.path.display());
    let error = io::Error::from_raw_os_error(libc::ENOENT);
    explain_directory(program, &program.path)
        .unwrap_or_else(|| Error::with_source(ErrorKind::Spawn, message, error))
}

/// Tells a missing program, a missing directory and a missing interpreter apart, for which the
/// kernel has the same error number.
fn explain(program: &Program, candidate: &Path, error: io::Error) -> Error {
    if let Some(cause) = explain_directory(program, candidate) {
        return cause;
    }
    if error.kind() == io::ErrorKind::NotFound && program.here().join(candidate).exists() {
        let shown = candidate.display();
        let message = format!("cannot start {shown}: its interpreter or loader is missing");
        return Error::with_source(ErrorKind::Spawn, message, error);
    }
    cannot_start(candidate, error)
}

fn explain_directory(program: &Program, candidate: &Path) -> Option<Error> {
    let directory = program.current_dir.as_deref()?;
    // The trailing dot makes this fail if the directory may not be entered.
    let cause = fs::metadata(directory.join(".")).err()?;
    let message = format!(
        "cannot start {} in the working directory {}",
        candidate.display(),
        directory.display()
    );
    Some(Error::with_source(ErrorKind::Spawn, message, cause))
}

#[cfg(test)]
#[path = "spawn_tests.rs"]
mod tests;
