//! Whether the kernel's out-of-memory killer has killed a process while a worker ran. That is a
//! hint only: the kernel counts such kills, and does not say which process was killed.

use std::fs;
use std::path::{Path, PathBuf};

/// The number of such kills at one moment, in the narrowest scope that can be read.
#[derive(Debug)]
pub(super) struct OomCount {
    source: PathBuf,
    kills: u64,
}

/// Two counts, and where they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OomEvidence {
    pub(crate) source: PathBuf,
    /// When the worker was started.
    pub(crate) kills_before: u64,
    pub(crate) kills_now: u64,
}

impl OomCount {
    /// Reads the present count of this thread's cgroup, in which a worker starts, or else of the
    /// whole machine. `None` if the kernel shows neither.
    pub(super) fn now() -> Option<Self> {
        let own = fs::read_to_string("/proc/thread-self/cgroup").ok();
        let own = own.as_deref().and_then(events_file);
        own.into_iter().chain([PathBuf::from("/proc/vmstat")]).find_map(|source| {
            let kills = kills_in(&fs::read_to_string(&source).ok()?)?;
            Some(Self { source, kills })
        })
    }

    /// Returns this count beside the present one.
    pub(super) fn evidence(&self) -> Option<OomEvidence> {
        let kills_now = kills_in(&fs::read_to_string(&self.source).ok()?)?;
        Some(OomEvidence { source: self.source.clone(), kills_before: self.kills, kills_now })
    }

    /// Returns whether there were more kills since.
    pub(super) fn has_grown(&self) -> bool {
        let now = fs::read_to_string(&self.source).ok();
        now.as_deref().and_then(kills_in).is_some_and(|kills| kills > self.kills)
    }
}

/// Returns the events file of the cgroup (version 2) that the text of `/proc/…/cgroup` names.
fn events_file(cgroups: &str) -> Option<PathBuf> {
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new("/sys/fs/cgroup").join(path).join("memory.events"))
}

fn kills_in(counters: &str) -> Option<u64> {
    counters.lines().find_map(|line| line.strip_prefix("oom_kill "))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_both_kinds_of_counters() {
        assert_eq!(kills_in("nr_free_pages 1\noom_kill 7\nnuma_hit 2\n"), Some(7));
        assert_eq!(kills_in("low 0\noom 4\noom_kill 3\noom_group_kill 1\n"), Some(3));
        assert_eq!(kills_in("oom_kill_x 3\n"), None);
    }

    #[test]
    fn a_cgroup_is_found_by_its_version_2_line_alone() {
        let file = events_file("4:memory:/old\n0::/a/b.scope\n").unwrap();
        assert_eq!(file, Path::new("/sys/fs/cgroup/a/b.scope/memory.events"));
        assert_eq!(events_file("4:memory:/old\n"), None);
    }

    #[test]
    fn a_higher_count_than_before_is_growth() {
        let dir = crate::process::testing::TempDir::new();
        let source = dir.path().join("memory.events");
        fs::write(&source, "oom_kill 1\n").unwrap();
        let before = OomCount { source: source.clone(), kills: 1 };
        assert!(!before.has_grown());
        fs::write(&source, "oom_kill 2\n").unwrap();
        assert!(before.has_grown());
        fs::remove_file(&source).unwrap();
        assert!(!before.has_grown());
    }
}
