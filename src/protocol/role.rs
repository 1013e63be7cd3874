//! What a worker is told when it is started.

use std::fmt;
use std::ops::DerefMut;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::sync::plain::Mutex;

/// The most descriptors that a worker can be passed.
pub(crate) const MAX_FDS: usize = 16;
/// The most bytes of a blob.
pub(crate) const MAX_BLOB: usize = 64 << 20;
/// The most bytes of a name.
const MAX_NAME: usize = 32;

/// What a worker is to be: all that the parent has told it with a
/// [`Spawner`](crate::Spawner).
///
/// The function that builds the worker's session gets it, see
/// [`Worker::new`](crate::worker::Worker::new), and
/// [`worker::attach_raw`](crate::worker::attach_raw) returns it. To start a worker thread in
/// a test, fill one in:
///
/// ```
/// # use slipring::RoleConfig;
/// let mut config = RoleConfig::default();
/// config.role = "embed".to_owned();
/// config.extras.push(("dim".to_owned(), "384".to_owned()));
/// assert_eq!(config.extra("dim"), Some("384"));
/// ```
#[derive(Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RoleConfig {
    /// The worker's role, such as `embed` or `chat`. Set by
    /// [`Spawner::role`](crate::Spawner::role); `worker` by default.
    pub role: String,
    /// The model to load. Set by [`Spawner::model`](crate::Spawner::model); none by default.
    pub model: Option<PathBuf>,
    /// How to run the model. Set by [`Spawner::mode`](crate::Spawner::mode); none by default.
    pub mode: Option<String>,
    /// Names and values, in the order in which [`Spawner::extra`](crate::Spawner::extra) was
    /// called; none by default. See [`extra`](Self::extra).
    pub extras: Vec<(String, String)>,
    /// Bytes of any format. Set by [`Spawner::blob`](crate::Spawner::blob); empty by default.
    pub blob: Arc<[u8]>,
    /// All clones have these descriptors in common.
    pub(crate) fds: PassedFds,
}

impl RoleConfig {
    /// Returns the value of an extra; of the first, if several have this name.
    #[must_use]
    pub fn extra(&self, name: &str) -> Option<&str> {
        self.extras.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Takes a descriptor that was passed with [`Spawner::pass_fd`](crate::Spawner::pass_fd).
    ///
    /// The descriptor is close-on-exec and its number is 3 or higher. It leads to the same open
    /// file as the parent's, so that both have one file offset and one set of status flags,
    /// `O_NONBLOCK` among them.
    ///
    /// Each descriptor can be taken once, also through clones of this value. In a
    /// [`Worker`](crate::worker::Worker), take descriptors while the session is built: those
    /// that are left are closed after that. Otherwise they are closed when the last clone of
    /// this value is dropped. Never blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) if no descriptor of this name
    /// was passed, or if it was taken or closed before. Nothing changes then.
    ///
    /// ```
    /// use slipring::{ErrorKind, RoleConfig};
    /// use std::fs::File;
    /// use std::io::Read;
    ///
    /// let mut config = RoleConfig::default();
    /// config.pass_fd("zeros", File::open("/dev/zero")?)?;
    ///
    /// // In the worker:
    /// let mut zeros = File::from(config.take_fd("zeros")?);
    /// let mut byte = [1];
    /// zeros.read_exact(&mut byte)?;
    /// assert_eq!(byte, [0]);
    /// assert_eq!(config.take_fd("zeros").unwrap_err().kind(), ErrorKind::InvalidConfig);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn take_fd(&self, name: &str) -> Result<OwnedFd> {
        let mut fds = self.fds.lock();
        let names = fds.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        let Some((_, fd)) = fds.iter_mut().find(|(key, _)| key == name) else {
            let passed = if names.is_empty() { "none at all" } else { &names };
            return Err(invalid(format!("no descriptor {name:?} was passed, but {passed}")));
        };
        fd.take().ok_or_else(|| invalid(format!("descriptor {name:?} was taken or closed before")))
    }

    /// Returns the names of the descriptors that can be taken, in the order in which they were
    /// passed. Never blocks.
    #[must_use]
    pub fn fd_names(&self) -> Vec<String> {
        let fds = self.fds.lock();
        fds.iter().filter(|(_, fd)| fd.is_some()).map(|(name, _)| name.clone()).collect()
    }

    /// Adds a descriptor for [`take_fd`](Self::take_fd), for a worker thread in a test. A worker
    /// process gets its descriptors with [`Spawner::pass_fd`](crate::Spawner::pass_fd), which
    /// has the same limits. Never blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) if the name is not valid or
    /// was passed before, or if there are 16 descriptors already. The descriptor is closed then.
    pub fn pass_fd(&mut self, name: impl Into<String>, fd: impl Into<OwnedFd>) -> Result<()> {
        let (name, fd) = (name.into(), fd.into());
        let mut fds = self.fds.lock();
        check_fd_name(&name, fds.iter().map(|(name, _)| name.as_str()))?;
        fds.push((name, Some(fd)));
        Ok(())
    }

    /// Closes the descriptors that were not taken.
    pub(crate) fn close_fds(&self) {
        let left: Vec<_> = self.fds.lock().iter_mut().map(|(_, fd)| fd.take()).collect();
        drop(left);
    }
}

impl fmt::Debug for RoleConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, model, mode, extras, blob, fds: _ } = self;
        let mut debug = f.debug_struct("RoleConfig");
        debug.field("role", role).field("model", model).field("mode", mode);
        debug.field("extras", extras).field("blob", &format_args!("{} bytes", blob.len()));
        debug.field("fds", &self.fd_names()).finish()
    }
}

/// A name and a descriptor; `None` once it is taken or closed.
type NamedFd = (String, Option<OwnedFd>);

/// Descriptors by name.
#[derive(Clone, Default)]
pub(crate) struct PassedFds(Arc<Mutex<Vec<NamedFd>>>);

impl PassedFds {
    fn lock(&self) -> impl DerefMut<Target = Vec<NamedFd>> {
        self.0.lock()
    }

    fn names(&self) -> Vec<String> {
        self.lock().iter().map(|(name, _)| name.clone()).collect()
    }
}

/// Equal if the same names were passed.
impl PartialEq for PassedFds {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.names() == other.names()
    }
}

impl Eq for PassedFds {}

/// Returns whether `name` can be a role or the name of a descriptor: 1 to 32 letters, digits,
/// `_`, `-` or `.`, not starting with a dot.
pub(crate) fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (1..=MAX_NAME).contains(&name.len()) && !name.starts_with('.') && name.chars().all(is_plain)
}

/// Checks the name of a thing that `what` says: see [`is_name`].
///
/// # Errors
///
/// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig).
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    Err(invalid(format!(
        "{what} {name:?}: its name must be 1 to {MAX_NAME} letters, digits, `_`, `-` or `.`, and \
         not start with a dot"
    )))
}

/// Checks the name of a descriptor that is passed beside `others`.
///
/// # Errors
///
/// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig).
pub(crate) fn check_fd_name<'a>(
    name: &str,
    others: impl Iterator<Item = &'a str> + Clone,
) -> Result<()> {
    check_name("descriptor", name)?;
    if others.clone().any(|other| other == name) {
        return Err(invalid(format!("descriptor {name:?} is passed twice")));
    }
    if others.count() >= MAX_FDS {
        let message = format!("descriptor {name:?} is one too many: at most {MAX_FDS} are passed");
        return Err(invalid(message));
    }
    Ok(())
}

fn invalid(message: String) -> Error {
    Error::invalid_config(message)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::error::ErrorKind;

    fn null() -> File {
        File::open("/dev/null").unwrap()
    }

    #[test]
    fn a_descriptor_is_taken_once_whichever_clone_is_asked() {
        let mut config = RoleConfig::default();
        config.pass_fd("a", null()).unwrap();
        config.pass_fd("b", null()).unwrap();
        let clone = config.clone();
        assert!(clone.take_fd("a").is_ok() && config.fd_names() == ["b"]);
        let again = config.take_fd("a").unwrap_err();
        assert_eq!(again.kind(), ErrorKind::InvalidConfig);
        assert!(again.to_string().contains("taken or closed before"), "{again}");
        let unknown = config.take_fd("c").unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::InvalidConfig);
        assert!(unknown.to_string().contains("was passed, but a, b"), "{unknown}");
        config.close_fds();
        assert!(clone.take_fd("b").is_err() && clone.fd_names().is_empty());
        assert_eq!(config, clone);
        assert_ne!(config, RoleConfig::default());
    }

    #[test]
    fn names_are_valid_and_unique_and_there_are_at_most_sixteen() {
        let mut config = RoleConfig::default();
        for name in ["", ".a", "a b", "ä", "a\0", &"x".repeat(33)] {
            let error = config.pass_fd(name, null()).unwrap_err();
            assert!(error.to_string().contains("its name must be"), "{error}");
        }
        for number in 0..16 {
            config.pass_fd(format!("fd-{number}.x_"), null()).unwrap();
        }
        let error = config.pass_fd("fd-3.x_", null()).unwrap_err();
        assert!(error.to_string().contains("twice"), "{error}");
        let error = config.pass_fd("more", null()).unwrap_err();
        assert!(error.to_string().contains("at most 16"), "{error}");
        assert_eq!(config.fd_names().len(), 16);
    }

    #[test]
    fn a_blob_is_shown_by_its_length_alone() {
        let config = RoleConfig { blob: vec![7; 1000].into(), ..RoleConfig::default() };
        let text = format!("{config:?}");
        assert!(text.contains("blob: 1000 bytes") && text.len() < 200, "{text}");
    }
}
