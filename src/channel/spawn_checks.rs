//! What a [`Spawner`](super::Spawner) can be asked for: checked before anything is started.

use std::time::Duration;

use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::process::limits::{MAX_CPUS, check_nice};
use crate::protocol::handshake::{Limits, RoleConfig};
use crate::shm::layout::RegionHeader;

pub(super) fn check_role(role: &RoleConfig) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let name = role.role.as_str();
    if name.is_empty() || name.len() > 32 || name.starts_with('.') || !name.chars().all(is_plain) {
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

pub(super) fn check_limits(limits: &Limits, config: &Config) -> Result<()> {
    limits.nice.map_or(Ok(()), check_nice)?;
    if let Some(bytes) = limits.memory {
        let header = RegionHeader::down(config, [0; 16], 0);
        let channel = header.own.region_len.saturating_add(header.peer.region_len);
        if bytes <= channel {
            return Err(invalid(format!(
                "a memory limit of {bytes} bytes: the memory of the channel alone is {channel} bytes"
            )));
        }
    }
    Ok(())
}

/// Processors without an order; at most as many are taken as there can be.
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
