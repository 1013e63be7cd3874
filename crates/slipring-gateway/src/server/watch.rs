//! What the gateway serves and how full it is, told again and again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::{Shared, Stage};
use crate::proto::{GatewayStatus, RoleStatus};

/// How often it is looked whether something has changed: at most so often it is told.
const LOOK: Duration = Duration::from_millis(50);
/// It is told at least so often.
const LONGEST: Duration = Duration::from_secs(1);

/// The messages of one caller of `Watch`. They end with the gateway.
pub(super) struct Watch {
    shared: Arc<Shared>,
    told: Option<(GatewayStatus, Instant)>,
    pause: Pin<Box<Sleep>>,
}

impl Watch {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, told: None, pause: Box::pin(sleep(Duration::ZERO)) }
    }

    pub(super) fn poll_message(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<GatewayStatus>> {
        loop {
            // The first time it passes at once.
            ready!(self.pause.as_mut().poll(context));
            let now = Instant::now();
            self.pause.as_mut().reset(now + LOOK);
            if *self.shared.stage.borrow() == Stage::Over {
                return Poll::Ready(None);
            }
            let status = self.shared.status();
            let is_new = self.told.as_ref().is_none_or(|(told, at)| {
                *told != status || now.duration_since(*at) >= LONGEST - LOOK / 2
            });
            if is_new {
                self.told = Some((status.clone(), now));
                return Poll::Ready(Some(status));
            }
        }
    }
}

impl Shared {
    fn status(&self) -> GatewayStatus {
        let is_draining = self.is_draining();
        let roles = self.roles.iter().map(|(role, backend)| {
            let load = backend.load();
            RoleStatus {
                role: role.clone(),
                places: as_u64(load.places),
                in_flight: as_u64(load.in_flight),
                queued: as_u64(load.queued),
                is_ready: load.is_ready && !is_draining,
                is_draining: load.is_draining || is_draining,
            }
        });
        GatewayStatus { host: self.host.clone(), is_draining, roles: roles.collect() }
    }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
