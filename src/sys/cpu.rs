//! Which processor this thread runs on, and how many there are. Both decide whether spinning
//! can help.
#![allow(unsafe_code, reason = "sched_getcpu and sysconf are C functions")]

use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

/// The number of this thread's processor plus one; zero if it is not known.
pub(crate) fn current() -> u32 {
    // SAFETY: takes no arguments and only reports.
    let cpu = unsafe { libc::sched_getcpu() };
    u32::try_from(cpu.saturating_add(1)).unwrap_or(0)
}

/// Whether this process gets the time of less than two processors: the machine has one, or a
/// control group allows no more. Time that a thread spins away is then taken from the peer.
///
/// That a thread is bound to one processor does not count, as the peer may be bound to another.
///
/// The first call reads files, which takes some 30 microseconds.
#[inline]
pub(crate) fn are_scarce() -> bool {
    match ARE_SCARCE.load(Ordering::Relaxed) {
        UNKNOWN => find_out(),
        known => known == YES,
    }
}

/// Whether processors are scarce, once that is known.
static ARE_SCARCE: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

#[cold]
fn find_out() -> bool {
    // The smallest of what the thread is bound to, what is allowed, and what there is.
    let parallel = std::thread::available_parallelism().map_or(1, usize::from);
    let are_scarce =
        parallel == 1 && (online() == 1 || quota().is_some_and(|processors| processors < 2));
    ARE_SCARCE.store(if are_scarce { YES } else { NO }, Ordering::Relaxed);
    are_scarce
}

fn online() -> i64 {
    // SAFETY: takes an integer and only reports.
    unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }
}

/// The number of whole processors that control groups allow this process; `None` if they set no
/// limit.
fn quota() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    quota_of(&groups, |path| std::fs::read_to_string(path).ok())
}

/// The smallest limit of the groups in this list and of the groups around them.
fn quota_of(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let limit = |group: &Path, name: &str| -> Option<Vec<u64>> {
        let text = read(&group.join(name))?;
        // "max" and -1 stand for no limit, and do not parse.
        text.split_ascii_whitespace().map(|number| number.parse().ok()).collect()
    };
    let of_group = |group: &Path| -> Option<u64> {
        let (quota, period) = match limit(group, "cpu.max").as_deref() {
            Some(&[quota, period]) => (quota, period),
            _ => {
                let one = |name| limit(group, name)?.first().copied();
                (one("cpu.cfs_quota_us")?, one("cpu.cfs_period_us")?)
            }
        };
        quota.checked_div(period)
    };
    let mut least = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let is_one = controllers.is_empty() || controllers.split(',').any(|name| name == "cpu");
        let root = Path::new("/sys/fs/cgroup").join(controllers);
        let path = Path::new(path.trim_start_matches('/'));
        for group in path.ancestors().filter(|_| is_one) {
            least = least.into_iter().chain(of_group(&root.join(group))).min();
        }
    }
    least
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// The quota of a process in these groups, where these files are.
    fn quota_with(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        let files: Vec<_> = files.iter().map(|(path, text)| (Path::new(path), *text)).collect();
        quota_of(groups, |path| {
            files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn the_least_quota_of_a_group_and_those_around_it_counts() {
        let groups = "0::/user/task\n";
        let inner = ("/sys/fs/cgroup/user/task/cpu.max", "max 100000\n");
        assert_eq!(quota_with(groups, &[inner]), None);
        let outer = ("/sys/fs/cgroup/user/cpu.max", "150000 100000\n");
        assert_eq!(quota_with(groups, &[inner, outer]), Some(1));
        let root = ("/sys/fs/cgroup/cpu.max", "50000 100000\n");
        assert_eq!(quota_with(groups, &[inner, outer, root]), Some(0));
    }

    #[test]
    fn a_quota_of_the_first_version_of_control_groups_counts() {
        let groups = "4:memory:/a\n3:cpu,cpuacct:/a\n0::/\n";
        let at = "/sys/fs/cgroup/cpu,cpuacct/a";
        let (quota, period) = (format!("{at}/cpu.cfs_quota_us"), format!("{at}/cpu.cfs_period_us"));
        let with = |value| quota_with(groups, &[(&quota, value), (&period, "100000\n")]);
        assert_eq!((with("350000\n"), with("-1\n")), (Some(3), None));
    }

    #[test]
    fn a_thread_that_is_bound_to_one_processor_has_the_others_beside_it() {
        let here = current();
        assert!(here > 0 && i64::from(here) <= online());
        if online() > 1 && quota().is_none() {
            assert!(!are_scarce());
        }
    }
}
