//! Checks of what a [`Spawner`](super::Spawner) was given, before anything is started.

use std::time::Duration;

use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::process::limits::{MAX_CPUS, check_nice};
use crate::protocol::RoleConfig;
use crate::protocol::handshake::Limits;
use crate::protocol::role::{MAX_BLOB, is_name};
use crate::shm::layout::{RegionHeader, as_u64};

pub(super) fn check_role(role: &RoleConfig) -> Result<()> {
    let name = role.role.as_str();
    if !is_name(name) {
        return Err(invalid(format!(
            "role {name:?}: it must be 1 to 32 letters, digits, `_`, `-` or `.`, and not \
             start with a dot"
        )));
    }
    if role.mode.as_ref().is_some_and(String::is_empty) {
        return Err(invalid("an empty mode: leave it out for none".to_owned()));
    }
    Ok(())
}

/// `blob` is the length of the blob that the worker gets.
pub(super) fn check_limits(limits: &Limits, config: &Config, blob: usize) -> Result<()> {
    limits.nice.map_or(Ok(()), check_nice)?;
    if let Some(bytes) = limits.memory {
        let header = RegionHeader::down(config, [0; 16], 0);
        let channel = header.own.region_len.saturating_add(header.peer.region_len);
        let needed = channel.saturating_add(as_u64(blob));
        if bytes <= needed {
            let blob = if blob == 0 { String::new() } else { " and of the blob".to_owned() };
            return Err(invalid(format!(
                "a memory limit of {bytes} bytes: the memory of the channel{blob} alone is {needed} \
                 bytes"
            )));
        }
    }
    Ok(())
}

pub(super) fn check_blob(len: usize) -> Result<()> {
    if len > MAX_BLOB {
        return Err(invalid(format!("a blob of {len} bytes: at most {MAX_BLOB} can be given")));
    }
    Ok(())
}

/// Returns the processors in order and each once. Takes no more of the iterator than there can
/// be processors.
pub(super) fn check_cpus(cpus: impl IntoIterator<Item = u32>) -> Result<Vec<u32>> {
    let mut checked: Vec<u32> = cpus.into_iter().take(MAX_CPUS + 1).collect();
    checked.sort_unstable();
    checked.dedup();
    let last = checked.last().ok_or_else(|| invalid("a worker needs a processor".to_owned()))?;
    if usize::try_from(*last).is_ok_and(|last| last >= MAX_CPUS) {
        let highest = MAX_CPUS - 1;
        return Err(invalid(format!("there is no processor {last}; the last one is {highest}")));
    }
    Ok(checked)
}

pub(super) fn check_timeout(timeout: Duration) -> Result<()> {
    if timeout.is_zero() {
        return Err(invalid("a handshake timeout of zero: no worker can attach".to_owned()));
    }
    Ok(())
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str) -> RoleConfig {
        RoleConfig { role: name.to_owned(), ..RoleConfig::default() }
    }

    #[test]
    fn roles_are_names_that_are_safe_in_a_path() {
        for good in ["embed", "re-rank_2", "v1.0"] {
            check_role(&role(good)).unwrap();
        }
        for bad in ["", "..", ".hidden", "a/b", "a b", "ü", &"x".repeat(33)] {
            let error = check_role(&role(bad)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{bad}");
        }
    }

    #[test]
    fn processors_without_end_are_not_collected() {
        assert_eq!(check_cpus([3, 1, 3]).unwrap(), [1, 3]);
        assert_eq!(check_cpus(0..65_536).unwrap().len(), 65_536);
        assert_eq!(check_cpus(0..).unwrap_err().kind(), ErrorKind::InvalidConfig);
        let same = check_cpus(std::iter::repeat(7)).unwrap();
        assert_eq!(same, [7]);
    }
}
