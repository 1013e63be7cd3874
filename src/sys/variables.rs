//! The variables of the environment by which a host that cannot be changed is told something.
//!
//! They are read once, all together, when the first spawner or channel is made. Code that the standard
//! library does not know of, such as that of another language, may change the environment at other times,
//! and must not while it is read: a host in Python makes its spawners under the interpreter's lock.

use std::borrow::Cow;
use std::ffi::OsString;

use super::fork_once::ForkOnce;
use super::process::has_more_rights;

/// The directory of crash reports. A relative path is resolved when it is read, as is the next one.
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

type Values = [Option<OsString>; NAMES.len()];

/// Returns what the variable said; `None` if it was not set, or empty. A program that has more rights than
/// the one that started it heeds only that it is to have no status page.
pub(crate) fn value(name: &str) -> Option<OsString> {
    static VALUES: ForkOnce<Values> = ForkOnce::new();
    let at = NAMES.iter().position(|known| *known == name)?;
    let values = VALUES.get_or_init(read).map_or_else(|| Cow::Owned(read()), Cow::Borrowed);
    values.get(at)?.clone().filter(|value| !value.is_empty())
}

fn read() -> Values {
    let is_heeded = |name| name == STATUS_PAGE || !has_more_rights();
    let read = |name| {
        let value = std::env::var_os(name)?;
        let is_path = [CRASH_REPORTS, RECORD].contains(&name);
        // An empty path has no place, and where there is no working directory there is none either.
        Some(match is_path.then(|| std::path::absolute(&value)) {
            Some(Ok(path)) => path.into(),
            _ => value,
        })
    };
    NAMES.map(|name| is_heeded(name).then(|| read(name)).flatten())
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;
    use crate::process::testing::TempDir;

    /// Set for the program that tells what it heeds.
    const TELLS: &str = "SLIPRING_TEST_TELLS";
    /// No process has these users' ids.
    const OWNER: u32 = 64_997;
    const STARTER: u32 = 64_998;

    #[test]
    fn a_set_user_id_program_heeds_only_that_it_is_to_have_no_status_page() {
        if env::var_os(TELLS).is_some() {
            let heeded: Vec<&str> =
                NAMES.into_iter().filter(|name| value(name).is_some()).collect();
            println!("heeded: {heeded:?}, with more rights: {}", has_more_rights());
            return;
        }
        let directory = TempDir::new();
        let program = directory.path().join("program");
        fs::copy(env::current_exe().unwrap(), &program).unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        // As a user of its own, which drops the bit: set last.
        if let Err(error) = chown(&program, Some(OWNER), Some(OWNER)) {
            println!("not tested: this process may not give files to other users: {error}");
            return;
        }
        fs::set_permissions(&program, Permissions::from_mode(0o4755)).unwrap();
        let name = thread_name();
        let run = |user: u32| {
            let mut command = Command::new(&program);
            command.args([&name, "--exact", "--nocapture"]).env(TELLS, "1").uid(user).gid(user);
            command.envs(NAMES.map(|name| (name, "0")));
            let output = command.output().ok()?;
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).ok()
        };
        let Some(text) = run(OWNER) else {
            println!("not tested: another user cannot run {}", program.display());
            return;
        };
        let all = format!("heeded: {NAMES:?}, with more rights: false");
        assert!(text.contains(&all), "its owner has no more rights with it: {text}");
        let text = run(STARTER).unwrap();
        if text.contains(&all) {
            println!("not tested: there are no set-user-id programs in {}", program.display());
            return;
        }
        assert!(text.contains(&format!("heeded: {:?}, with more", [STATUS_PAGE])), "{text}");
    }

    /// The name of the test that runs.
    fn thread_name() -> String {
        std::thread::current().name().unwrap().to_owned()
    }
}
