//! What the tasks and the requests of one remote role share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slipring::Result;
use slipring::backend::BackendLoad;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::Span;

use super::address::Address;
use super::discovery::Update;
use super::fleet::{
    Change, ConnectionId, Ending, Fleet, FleetLimits, GatewayId, GatewayState, Grant, Report,
};
use super::link;
use super::retry::{RetryBudget, RetryLimits};
use super::runner;
use super::wire::{Connect, Wire as _};
use crate::metrics::RemoteRoleMetrics;

/// What the tasks and the requests of one remote role share.
pub(super) struct Shared<C: Connect> {
    pub(super) role: Arc<str>,
    pub(super) connector: C,
    pub(super) connect_timeout: Duration,
    pub(super) runtime: Handle,
    /// When the clock of the fleet began.
    began: Instant,
    state: Mutex<State<C::Wire>>,
    /// A gateway takes requests that took none before, or the role is closed.
    changed: Notify,
    /// A gateway has a place, and this is watched for.
    has_room: Notify,
    /// The last request has ended.
    emptied: Notify,
}

struct State<W> {
    fleet: Fleet<Address>,
    wires: HashMap<GatewayId, (ConnectionId, Arc<W>)>,
    tasks: HashMap<GatewayId, AbortHandle>,
    discovery: Option<AbortHandle>,
    budget: RetryBudget,
    /// Requests that were taken and have not ended, also those that wait here.
    requests: usize,
    waiting: usize,
    counts: Counts,
    /// It is to be told that a gateway has a place.
    is_watched: bool,
    /// How far the nearest workers were.
    hops: Option<u32>,
    stage: Stage,
    /// The last thing that went wrong.
    problem: Option<String>,
}

/// Numbers that only grow.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    requests: u64,
    resent_unbegun: u64,
    resent_begun: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    /// It takes no more requests.
    Closing,
    /// Its connections were cut.
    Closed,
    /// So were they, since its runtime was shut down: no task and no timer of it goes on.
    ShutDown,
}

impl Stage {
    /// Whether all connections were cut.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::Closed | Self::ShutDown)
    }
}

/// What a request that asks for a gateway is told.
pub(super) enum Picked<C: Connect> {
    Has(Permit<C>),
    /// No gateway takes it; `None` if nothing is known that will change it.
    Waits {
        until: Option<Instant>,
        are_all_tried: bool,
    },
    Closed,
}

impl<C: Connect> Shared<C> {
    pub(super) fn new(
        role: Arc<str>,
        connector: C,
        connect_timeout: Duration,
        runtime: Handle,
        (fleet, retry): (FleetLimits, RetryLimits),
        seed: u64,
    ) -> Self {
        Self {
            role,
            connector,
            connect_timeout,
            runtime,
            began: Instant::now(),
            state: Mutex::new(State {
                fleet: Fleet::new(fleet, seed),
                wires: HashMap::new(),
                tasks: HashMap::new(),
                discovery: None,
                budget: RetryBudget::new(retry),
                requests: 0,
                waiting: 0,
                counts: Counts::default(),
                is_watched: false,
                hops: None,
                stage: Stage::Open,
                problem: None,
            }),
            changed: Notify::new(),
            has_room: Notify::new(),
            emptied: Notify::new(),
        }
    }

    /// Runs a task of the role.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.runtime.spawn(task).abort_handle()
    }

    /// Runs `wait`, which blocks this thread until the role's tasks have gone on.
    pub(super) fn block(&self, wait: &mut dyn FnMut()) -> Result<()> {
        runner::block(&self.role, &self.runtime, wait)
    }

    fn lock(&self) -> MutexGuard<'_, State<C::Wire>> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Changes the fleet, and wakes requests that wait if one more gateway takes some, and others that
    /// watch for a place if there is one, or if no gateway takes requests any more, or those are further.
    fn change<R>(&self, change: impl FnOnce(&mut State<C::Wire>, u64) -> R) -> R {
        let now = self.now();
        let mut state = self.lock();
        let result = change(&mut state, now);
        let has_grown = state.fleet.take_has_grown() && state.waiting > 0;
        let has_room = state.is_watched && (state.has_moved(now) || state.has_room(now));
        if has_room {
            state.is_watched = false;
        }
        drop(state);
        if has_grown {
            self.changed.notify_waiters();
        }
        if has_room {
            self.has_room.notify_waiters();
        }
        result
    }

    /// Keeps the task that finds gateways, to end it with the others.
    pub(super) fn keep_discovery(&self, task: AbortHandle) {
        self.lock().discovery = Some(task);
    }

    /// Takes what is known of the gateways' addresses.
    pub(super) fn note_addresses(self: &Arc<Self>, update: Update) {
        let addresses = match update {
            Ok(addresses) => addresses,
            Err(problem) => {
                self.lock().problem = Some(problem);
                return;
            }
        };
        self.change(|state, now| {
            if state.stage != Stage::Open {
                return;
            }
            for change in state.fleet.set_addresses(now, &addresses) {
                match change {
                    Change::Connect(id, address) => {
                        let seed = super::seed();
                        let task = link::keep(Arc::clone(self), id, address, seed);
                        state.tasks.insert(id, self.spawn(task));
                    }
                    Change::Leave(id) => {
                        state.wires.remove(&id);
                        if let Some(task) = state.tasks.remove(&id) {
                            task.abort();
                        }
                    }
                }
            }
        });
    }

    pub(super) fn note_problem(&self, address: &Address, problem: String) {
        self.lock().problem = Some(format!("{address}: {problem}"));
    }

    pub(super) fn note_connected(
        &self,
        gateway: GatewayId,
        wire: &Arc<C::Wire>,
    ) -> Option<ConnectionId> {
        self.change(|state, _| {
            let connection = state.fleet.note_connected(gateway)?;
            state.wires.insert(gateway, (connection, Arc::clone(wire)));
            Some(connection)
        })
    }

    pub(super) fn note_status(&self, connection: ConnectionId, report: Report) {
        self.change(|state, now| state.fleet.note_status(now, connection, report));
    }

    pub(super) fn note_lost(&self, connection: ConnectionId) {
        self.change(|state, now| {
            state.fleet.note_lost(now, connection);
            let is_this = |(found, _): &(ConnectionId, _)| *found == connection;
            if state.wires.get(&connection.gateway).is_some_and(is_this) {
                state.wires.remove(&connection.gateway);
            }
        });
    }

    /// Takes a new request, unless the role is closed.
    pub(super) fn admit(&self) -> bool {
        let mut state = self.lock();
        if state.stage != Stage::Open {
            return false;
        }
        state.requests += 1;
        state.counts.requests += 1;
        state.budget.note_request();
        true
    }

    /// A request that was admitted has ended.
    pub(super) fn note_over(&self) {
        let mut state = self.lock();
        state.requests = state.requests.saturating_sub(1);
        if state.requests == 0 && state.stage != Stage::Open {
            self.emptied.notify_waiters();
        }
    }

    pub(super) fn pick(
        self: &Arc<Self>,
        key: Option<u64>,
        only_nearest: bool,
        tried: &[GatewayId],
    ) -> Picked<C> {
        let now = self.now();
        let mut state = self.lock();
        if state.stage.is_over() {
            return Picked::Closed;
        }
        if let Some(grant) = state.fleet.pick(now, key, only_nearest, tried) {
            let found = state.wires.get(&grant.connection.gateway);
            if let Some((_, wire)) = found.filter(|(connection, _)| *connection == grant.connection)
            {
                let (wire, shared) = (Arc::clone(wire), Arc::clone(self));
                return Picked::Has(Permit {
                    shared,
                    grant,
                    wire,
                    ending: Ending::Neutral,
                    span: Span::none(),
                });
            }
            // The fleet is told of a lost connection before it is taken away, so this never happens.
            state.fleet.finish(now, grant, Ending::Neutral);
        }
        let until = state.fleet.next_return(now).map(|at| self.began + Duration::from_nanos(at));
        Picked::Waits { until, are_all_tried: state.fleet.has_usable(now, &[]) }
    }

    /// Takes a retry out of the budget, or returns why there is none.
    pub(super) fn take_retry(&self, begun: u32) -> Result<(), &'static str> {
        let now = self.now();
        let mut state = self.lock();
        state.budget.take(now, begun)?;
        state.counts.resent_begun += 1;
        Ok(())
    }

    /// A request that this gateway has not begun is sent to another one.
    pub(super) fn note_refusal(&self, gateway: GatewayId) {
        let mut state = self.lock();
        state.counts.resent_unbegun += 1;
        state.fleet.note_refusal(gateway);
    }

    /// Counts a request that waits until the returned value is dropped. Only then it is woken.
    pub(super) fn wait(&self) -> Waiting<'_, C> {
        self.lock().waiting += 1;
        Waiting(self)
    }

    /// Waits until a gateway takes requests that took none, or until the end of the role.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub(super) fn stage(&self) -> Stage {
        self.lock().stage
    }

    /// Whether any gateway is connected, and why requests may wait for ever: what went wrong last if none
    /// is connected, or that one does not know the role.
    pub(super) fn reachability(&self) -> (bool, Option<String>) {
        let state = self.lock();
        if !state.fleet.is_connected() {
            return (false, state.problem.clone());
        }
        let lacks_role = |address: &Address| format!("{address} has no role {:?}", &*self.role);
        (true, state.fleet.without_role().map(lacks_role))
    }

    /// The connections that there are.
    pub(super) fn wires(&self) -> Vec<Arc<C::Wire>> {
        self.lock().wires.values().map(|(_, wire)| Arc::clone(wire)).collect()
    }

    /// Waits until something has changed after which a gateway has a place.
    pub(super) async fn load_changed(self: Arc<Self>) {
        let told = self.has_room.notified();
        tokio::pin!(told);
        told.as_mut().enable();
        self.lock().is_watched = true;
        told.await;
    }

    /// `only_nearest`: of the gateways to which requests of other machines go.
    pub(super) fn load(&self, only_nearest: bool) -> BackendLoad {
        let now = self.now();
        let state = self.lock();
        let totals = state.fleet.totals(now, only_nearest);
        let mut load = BackendLoad::default();
        load.places = totals.places;
        load.in_flight = totals.in_flight;
        load.queued = totals.queued + state.waiting;
        load.is_ready = totals.ready > 0 && state.stage == Stage::Open;
        load.is_draining = state.stage != Stage::Open;
        load.hops = state.fleet.nearest(now).map_or(1, |hops| hops.saturating_add(1));
        load
    }

    pub(super) fn gateways(&self) -> Vec<(Address, GatewayState, usize, usize)> {
        let now = self.now();
        self.lock().fleet.states(now)
    }

    pub(super) fn metrics(&self) -> RemoteRoleMetrics {
        let now = self.now();
        let state = self.lock();
        RemoteRoleMetrics {
            role: self.role.to_string(),
            requests: state.counts.requests,
            in_flight: state.requests,
            waiting: state.waiting,
            resent_unbegun: state.counts.resent_unbegun,
            resent_begun: state.counts.resent_begun,
            gateways: state.fleet.metrics(now),
        }
    }

    /// Takes no more requests, and waits until the last one has ended. Returns how many are left.
    pub(super) async fn close(&self, timeout: Duration) -> usize {
        let emptied = self.emptied.notified();
        tokio::pin!(emptied);
        emptied.as_mut().enable();
        let left = {
            let mut state = self.lock();
            if state.stage == Stage::Open {
                state.stage = Stage::Closing;
            }
            if state.stage == Stage::ShutDown { 0 } else { state.requests }
        };
        if left > 0 {
            _ = tokio::time::timeout(timeout, emptied).await;
        }
        self.end(Stage::Closed)
    }

    /// Ends all tasks and cuts all connections, unless that was done. Returns how many requests are left.
    pub(super) fn end(&self, stage: Stage) -> usize {
        let (left, wires, tasks) = {
            let mut state = self.lock();
            if !state.stage.is_over() {
                state.stage = stage;
            }
            let mut tasks: Vec<_> = state.tasks.drain().map(|(_, task)| task).collect();
            tasks.extend(state.discovery.take());
            (state.requests, std::mem::take(&mut state.wires), tasks)
        };
        self.changed.notify_waiters();
        for (_, wire) in wires.into_values() {
            wire.cut();
        }
        tasks.into_iter().for_each(|task| task.abort());
        left
    }
}

impl<W> State<W> {
    /// Whether the nearest workers are further or nearer than when this was called last.
    fn has_moved(&mut self, now: u64) -> bool {
        if !self.fleet.take_is_other() {
            return false;
        }
        let hops = self.fleet.nearest(now);
        std::mem::replace(&mut self.hops, hops) != hops
    }

    fn has_room(&self, now: u64) -> bool {
        let totals = self.fleet.totals(now, false);
        let is_open = totals.ready > 0 && self.stage == Stage::Open;
        is_open && totals.in_flight + totals.queued + self.waiting < totals.places
    }
}

/// Counts a request as one that waits until this is dropped.
pub(super) struct Waiting<'a, C: Connect>(&'a Shared<C>);

impl<C: Connect> Drop for Waiting<'_, C> {
    fn drop(&mut self) {
        self.0.change(|state, _| state.waiting = state.waiting.saturating_sub(1));
    }
}

/// A gateway that a request was given. Dropped, the request has ended there.
pub(super) struct Permit<C: Connect> {
    shared: Arc<Shared<C>>,
    grant: Grant,
    pub(super) wire: Arc<C::Wire>,
    ending: Ending,
    pub(super) span: Span,
}

impl<C: Connect> Permit<C> {
    pub(super) fn gateway(&self) -> GatewayId {
        self.grant.connection.gateway
    }

    /// The request has ended there so.
    pub(super) fn end(mut self, ending: Ending) {
        self.ending = ending;
    }
}

impl<C: Connect> Drop for Permit<C> {
    fn drop(&mut self) {
        let (grant, ending) = (self.grant, self.ending);
        tracing::debug!(target: "slipring", parent: &self.span, ?ending, "ended");
        self.shared.change(|state, now| state.fleet.finish(now, grant, ending));
    }
}
