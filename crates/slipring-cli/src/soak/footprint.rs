//! The resources of this process: descriptors, mappings of regions, children.

use std::fs;

/// How many of each there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footprint {
    fds: usize,
    maps: usize,
    children: usize,
}

impl Footprint {
    pub(super) fn now() -> Self {
        let entries = |path: &str| fs::read_dir(path).into_iter().flatten().flatten();
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let children = entries("/proc/self/task").map(|task| {
            let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            list.split_whitespace().count()
        });
        Self {
            fds: entries("/proc/self/fd").count(),
            maps: maps.lines().filter(|line| line.contains("memfd:slipring")).count(),
            children: children.sum(),
        }
    }

    /// Returns by how much this exceeds the other.
    pub(super) fn beyond(self, baseline: &Self) -> [usize; 3] {
        [
            self.fds.saturating_sub(baseline.fds),
            self.maps.saturating_sub(baseline.maps),
            self.children.saturating_sub(baseline.children),
        ]
    }
}
