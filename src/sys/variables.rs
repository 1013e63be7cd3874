//! The variables of the environment by which a host that cannot be changed is told something.
//!
//! They are read once, all together, when the first spawner or channel is made. Code that the standard
//! library does not know of, such as that of another language, may change the environment at other times,
//! and must not while it is read: a host in Python makes its spawners under the interpreter's lock.

use std::ffi::{OsStr, OsString};
use std::sync::OnceLock;

use super::process::has_more_rights;

/// The directory of crash reports.
pub(crate) const CRASH_REPORTS: &str = "SLIPRING_CRASH_REPORTS";
/// Makes all channels inspectable, if it is 1.
pub(crate) const INSPECT: &str = "SLIPRING_INSPECT";
/// The directory of recordings, what they keep of payloads, and how long they get.
pub(crate) const RECORD: &str = "SLIPRING_RECORD";
pub(crate) const RECORD_PAYLOADS: &str = "SLIPRING_RECORD_PAYLOADS";
pub(crate) const RECORD_MAX_BYTES: &str = "SLIPRING_RECORD_MAX_BYTES";
/// Keeps the process from having a status page, if it is 0.
pub(crate) const STATUS_PAGE: &str = "SLIPRING_STATUS_PAGE";

const NAMES: [&str; 6] =
    [CRASH_REPORTS, INSPECT, RECORD, RECORD_PAYLOADS, RECORD_MAX_BYTES, STATUS_PAGE];

/// Returns what the variable said; `None` if it was not set, or empty. A program that has more rights than
/// the one that started it heeds only that it is to have no status page.
pub(crate) fn value(name: &str) -> Option<&'static OsStr> {
    static VALUES: OnceLock<[Option<OsString>; NAMES.len()]> = OnceLock::new();
    let values = VALUES.get_or_init(|| {
        let is_heeded = |name| name == STATUS_PAGE || !has_more_rights();
        NAMES.map(|name| is_heeded(name).then(|| std::env::var_os(name)).flatten())
    });
    let at = NAMES.iter().position(|known| *known == name)?;
    values.get(at)?.as_deref().filter(|value| !value.is_empty())
}
