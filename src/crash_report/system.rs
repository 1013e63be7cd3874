//! What the library, the kernel and the machine are.

use std::fs;
use std::path::Path;

use super::json::{Json, object};

/// The library: its version, the target that it was compiled for, and its features.
pub(super) fn library() -> Json {
    let features = [
        ("async", cfg!(feature = "async")),
        ("tokio", cfg!(feature = "tokio")),
        ("named", cfg!(feature = "named")),
        ("tracing", cfg!(feature = "tracing")),
        ("serde", cfg!(feature = "serde")),
    ];
    let libc = if cfg!(target_env = "gnu") { "gnu" } else { "unknown" };
    object! {
        "version": env!("CARGO_PKG_VERSION"),
        "target": format!("{}-{}-{libc}", std::env::consts::ARCH, std::env::consts::OS),
        "features": features.iter().filter(|(_, is_on)| *is_on).map(|(name, _)| *name).collect::<Json>(),
        "has_debug_assertions": cfg!(debug_assertions),
    }
}

/// The machine, as this process sees it now.
pub(super) fn machine() -> Json {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = |name| number_of(&memory, name).map(|kib| kib * 1024);
    object! {
        "kernel": one_line_of("/proc/sys/kernel/osrelease"),
        "kernel_version": one_line_of("/proc/sys/kernel/version"),
        "cpu": processor(),
        "cpus": std::thread::available_parallelism().ok().map(usize::from),
        "memory_bytes": memory("MemTotal:"),
        "memory_available_bytes": memory("MemAvailable:"),
        "swap_free_bytes": memory("SwapFree:"),
        "cgroup_memory": cgroup_memory(),
    }
}

/// Limit and use of the memory of this process's control group (version 2), in which workers are, too.
fn cgroup_memory() -> Json {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Json::Null;
    };
    let folder = Path::new("/sys/fs/cgroup").join(path);
    let value = |name| {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let (max, current, peak) = (value("memory.max"), value("memory.current"), value("memory.peak"));
    if max.is_none() && current.is_none() {
        return Json::Null;
    }
    object! { "limit_bytes": max, "used_bytes": current, "peak_bytes": peak }
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    // Of the two, machines of ARM have the second alone.
    value("model name").or_else(|| {
        Some(format!("implementer {} part {}", value("CPU implementer")?, value("CPU part")?))
    })
}

fn one_line_of(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The number behind a name.
fn number_of(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}
