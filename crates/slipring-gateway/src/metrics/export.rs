//! Metrics for a registry of the crate `prometheus_client`, and for the recorder of the crate `metrics`.

use std::fmt;

#[cfg(feature = "prometheus")]
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::families::Export;
use crate::RemoteRole;
use crate::server::Gateway;

type Take = Box<dyn Fn() -> Box<dyn Export> + Send + Sync>;

fn of_gateway(gateway: Gateway) -> Take {
    Box::new(move || Box::new(gateway.metrics()))
}

fn of_role(role: RemoteRole) -> Take {
    Box::new(move || Box::new(role.metrics()))
}

/// Collects the metrics of a gateway or of a remote role each time that a registry of
/// `prometheus_client` is encoded: from [`Gateway::collector`] or [`RemoteRole::collector`]. It keeps
/// what it collects from. `docs/NETWORK.md` lists the metrics.
#[cfg(feature = "prometheus")]
pub struct RemoteCollector(Take);

#[cfg(feature = "prometheus")]
impl Collector for RemoteCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        slipring::pool::export::encode(&(self.0)().families(), encoder)
    }
}

#[cfg(feature = "prometheus")]
impl fmt::Debug for RemoteCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteCollector").finish_non_exhaustive()
    }
}

/// Tells the metrics of a gateway or of a remote role to the recorder of the crate `metrics`: from
/// [`Gateway::metrics_publisher`] or [`RemoteRole::metrics_publisher`]. As the pool's
/// `MetricsPublisher`.
#[cfg(feature = "metrics")]
pub struct RemotePublisher {
    take: Take,
    publisher: slipring::pool::export::Publisher,
}

#[cfg(feature = "metrics")]
impl RemotePublisher {
    fn new(take: Take) -> Self {
        Self { take, publisher: slipring::pool::export::Publisher::default() }
    }

    /// Tells the recorder what the numbers are now, and all times that were counted since the last
    /// call. Runs the recorder's code.
    pub fn publish(&mut self) {
        self.publisher.publish(&(self.take)().families());
    }
}

#[cfg(feature = "metrics")]
impl fmt::Debug for RemotePublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemotePublisher").finish_non_exhaustive()
    }
}

impl Gateway {
    /// Returns a collector of the gateway's metrics, to be registered in the host's registry.
    #[cfg(feature = "prometheus")]
    #[must_use]
    pub fn collector(&self) -> RemoteCollector {
        RemoteCollector(of_gateway(self.clone()))
    }

    /// Returns what tells the gateway's metrics to the recorder that the host has installed.
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn metrics_publisher(&self) -> RemotePublisher {
        RemotePublisher::new(of_gateway(self.clone()))
    }
}

impl RemoteRole {
    /// Returns a collector of the role's metrics, to be registered in the host's registry. Several
    /// roles in one registry need sub-registries with prefixes, for they have the same names.
    #[cfg(feature = "prometheus")]
    #[must_use]
    pub fn collector(&self) -> RemoteCollector {
        RemoteCollector(of_role(self.clone()))
    }

    /// Returns what tells the role's metrics to the recorder that the host has installed.
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn metrics_publisher(&self) -> RemotePublisher {
        RemotePublisher::new(of_role(self.clone()))
    }
}
