//! Where the gateways of a role are: a list, a file that is watched, or a name that is asked again.
//!
//! Each way tells the whole set of addresses, at first and after each change. A set that cannot be
//! read for a while stays as it was: gateways that are gone are found out by their connections.

mod dns;
mod file;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::address::Address;

/// How a client finds the gateways of a role.
///
/// ```
/// use slipring_gateway::Discovery;
///
/// let two_hosts = Discovery::list(["gpu-1:7000", "gpu-2:7000"]);
/// // One address a line; it is read again when it changes.
/// let from_file = Discovery::file("/etc/embed-gateways");
/// // All addresses of the name, such as that of a headless service of Kubernetes.
/// let from_dns = Discovery::dns("embed.models.svc.cluster.local:7000");
/// # let _ = (two_hosts, from_file, from_dns);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Discovery(Way);

#[derive(Debug, Clone)]
enum Way {
    List(Vec<String>),
    File(PathBuf),
    Dns { name: String, period: Duration },
}

/// What is known of the addresses now: all of them, or why they cannot be told.
pub(super) type Update = Result<Vec<Address>, String>;

impl Discovery {
    /// Gateways at these addresses, each `host:port`. A host name is looked up at each attempt to
    /// connect. It, or the IP address, is the name that the gateway's certificate must have.
    pub fn list(addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(Way::List(addresses.into_iter().map(Into::into).collect()))
    }

    /// Gateways at the addresses in a file, one `host:port` a line. Empty lines, and what follows a
    /// `#`, do not count. It takes up to 250 ms until a change of the file is used.
    ///
    /// If the file is missing, has no address, or has a line that is none, the addresses of before
    /// stay. It is best replaced by a rename, so that it is never seen half written.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Way::File(path.into()))
    }

    /// Gateways at all addresses that a name leads to, as `name:port`. The name is asked again each
    /// second, see [`Discovery::period`]. It is also the name that the gateways' certificates must
    /// have.
    ///
    /// If the answer fails or is empty, the addresses of before stay.
    pub fn dns(name: impl Into<String>) -> Self {
        Self(Way::Dns { name: name.into(), period: Duration::from_secs(1) })
    }

    /// Sets how often a name is asked again. A list and a file have no period.
    pub fn period(mut self, asked_each: Duration) -> Self {
        if let Way::Dns { period, .. } = &mut self.0 {
            *period = asked_each.max(Duration::from_millis(10));
        }
        self
    }

    /// Checks what can be checked at once, or else says what is wrong.
    pub(super) fn check(self) -> Result<Checked, String> {
        Ok(match self.0 {
            Way::List(texts) => {
                let list: Result<Vec<_>, _> = texts.iter().map(|at| Address::parse(at)).collect();
                let list = list?;
                if list.is_empty() {
                    return Err("a list of gateways is to have one at least".to_owned());
                }
                Checked::List(list)
            }
            Way::File(path) => Checked::File(path.into()),
            Way::Dns { name, period } => Checked::Dns(Address::parse(&name)?, period),
        })
    }
}

/// A way that can be followed.
#[derive(Debug, Clone)]
pub(super) enum Checked {
    List(Vec<Address>),
    File(Arc<std::path::Path>),
    Dns(Address, Duration),
}

impl Checked {
    /// Tells each update. Ends only if nothing can change.
    pub(super) async fn follow(self, tell: impl FnMut(Update)) {
        match self {
            Self::List(list) => once(list, tell),
            Self::File(path) => file::follow(path, tell).await,
            Self::Dns(name, period) => dns::follow(name, period, tell).await,
        }
    }
}

fn once(list: Vec<Address>, mut tell: impl FnMut(Update)) {
    tell(Ok(list));
}

/// Tells an update if it differs from the one of before.
struct Teller<F> {
    tell: F,
    addresses: Option<Vec<Address>>,
    problem: Option<String>,
}

impl<F: FnMut(Update)> Teller<F> {
    fn new(tell: F) -> Self {
        Self { tell, addresses: None, problem: None }
    }

    fn note(&mut self, update: Update) {
        match update {
            Ok(mut addresses) => {
                addresses.sort_unstable();
                addresses.dedup();
                let is_solved = self.problem.take().is_some();
                if is_solved || self.addresses.as_ref() != Some(&addresses) {
                    self.addresses = Some(addresses.clone());
                    (self.tell)(Ok(addresses));
                }
            }
            Err(problem) => {
                if self.problem.as_ref() != Some(&problem) {
                    self.problem = Some(problem.clone());
                    (self.tell)(Err(problem));
                }
            }
        }
    }
}
