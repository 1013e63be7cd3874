//! What the gateway serves and how full it is, told again and again.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use slipring::backend::BoxFuture;
use tokio::time::{Instant, sleep_until};

use super::{Shared, Stage};
use crate::proto::{GatewayStatus, RoleStatus};

/// How often it is looked whether something has changed, while there are requests: at most so often it
/// is told. Without a request the next one is waited for.
const LOOK: Duration = Duration::from_millis(50);
/// It is told at least so often.
const LONGEST: Duration = Duration::from_secs(1);

type Next = Pin<Box<dyn Future<Output = Option<(Teller, GatewayStatus)>> + Send>>;

/// The messages of one caller of `Watch`. They end with the gateway.
pub(super) struct Watch(Next);

struct Teller {
    shared: Arc<Shared>,
    looked: Option<Instant>,
    told: Option<(GatewayStatus, Instant)>,
}

impl Watch {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(Box::pin(Teller { shared, looked: None, told: None }.next()))
    }

    pub(super) fn poll_message(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<GatewayStatus>> {
        let next = ready!(self.0.as_mut().poll(context));
        Poll::Ready(next.map(|(teller, status)| {
            self.0 = Box::pin(teller.next());
            status
        }))
    }
}

impl Teller {
    /// Waits until there is something to tell; `None` once the gateway is over.
    async fn next(mut self) -> Option<(Self, GatewayStatus)> {
        let shared = Arc::clone(&self.shared);
        loop {
            if let Some(looked) = self.looked {
                sleep_until(looked + LOOK).await;
            }
            let stirred = shared.stirred.notified();
            tokio::pin!(stirred);
            // Before it looks, so that no change is missed.
            stirred.as_mut().enable();
            let mut elsewhere = Elsewhere::begin(&shared, self.told.as_ref()).await;
            if *shared.stage.borrow() == Stage::Over {
                return None;
            }
            let (now, status) = (Instant::now(), shared.status());
            self.looked = Some(now);
            let at = match &self.told {
                Some((told, at)) if *told == status && now < *at + LONGEST => *at,
                _ => {
                    self.told = Some((status.clone(), now));
                    return Some((self, status));
                }
            };
            let is_idle = |role: &RoleStatus| role.in_flight == 0 && role.queued == 0;
            if shared.in_flight.load(Ordering::SeqCst) == 0 && status.roles.iter().all(is_idle) {
                tokio::select! {
                    () = stirred => {}
                    () = &mut elsewhere => {}
                    () = sleep_until(at + LONGEST) => {}
                }
            }
        }
    }
}

/// Completes when workers of other machines take requests that took none, or take none any more. The
/// gateways that these go through tell each other at once, so that a chain of them does not take seconds.
struct Elsewhere {
    changes: Vec<BoxFuture<'static, ()>>,
    has_changed: bool,
}

impl Elsewhere {
    /// Looks out for changes from now on, of what was told last.
    async fn begin(shared: &Shared, told: Option<&(GatewayStatus, Instant)>) -> Self {
        let roles = told.iter().flat_map(|(status, _)| &status.roles).filter(|role| role.hops > 0);
        let backends = roles.filter_map(|role| shared.roles.get(&role.role));
        let changes = backends.map(|backend| backend.load_changed()).collect();
        let mut this = Self { changes, has_changed: false };
        poll_fn(|context| {
            this.look(context);
            Poll::Ready(())
        })
        .await;
        this
    }

    fn look(&mut self, context: &mut Context<'_>) {
        let mut changes = self.changes.iter_mut();
        self.has_changed |= changes.any(|change| change.as_mut().poll(context).is_ready());
    }
}

impl Future for Elsewhere {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if !self.has_changed {
            self.look(context);
        }
        if self.has_changed { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Shared {
    fn status(&self) -> GatewayStatus {
        let is_draining = self.is_draining();
        let roles = self.roles.iter().map(|(role, backend)| {
            let load = backend.load_for_hosts();
            RoleStatus {
                role: role.clone(),
                places: as_u64(load.places),
                in_flight: as_u64(load.in_flight),
                queued: as_u64(load.queued),
                is_ready: load.is_ready && !is_draining,
                is_draining: load.is_draining || is_draining,
                hops: load.hops,
            }
        });
        GatewayStatus { host: self.host.clone(), is_draining, roles: roles.collect() }
    }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
