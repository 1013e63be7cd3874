//! What processes use.

use std::fs;

use crate::process::Process;

/// What a process uses.
#[derive(Debug)]
pub struct Used {
    descriptors: usize,
    threads: usize,
    mebibytes: usize,
}

impl Used {
    pub fn by(process: &Process) -> Self {
        let of = format!("/proc/{}", process.id());
        let status = fs::read_to_string(format!("{of}/status")).unwrap();
        let number = |name: &str| -> usize {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let (threads, kibibytes) = (number("Threads:"), number("VmRSS:"));
        let descriptors = fs::read_dir(format!("{of}/fd")).unwrap().count();
        Self { descriptors, threads, mebibytes: kibibytes / 1024 }
    }

    /// Connections that are being made or closed, and what an allocator keeps, are no growth.
    pub fn has_grown_to(&self, end: &Self) -> bool {
        end.descriptors > self.descriptors + 12
            || end.threads > self.threads + 4
            || end.mebibytes > self.mebibytes + 32
    }

    /// Whether a fault has let it use more than what it may hold at any time.
    pub fn has_swollen_to(&self, now: &Self) -> bool {
        now.descriptors > self.descriptors + 100
            || now.threads > self.threads + 16
            || now.mebibytes > self.mebibytes + 128
    }
}
