//! Gateways without a network, each of which does with its requests what a test says.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use slipring::backend::BackendRequest;
use slipring::{
    Error, ErrorKind, ErrorReport, Health, Reply, RequestId, RequestStage, Result, StreamTimeouts,
    WorkerState,
};
use tokio::sync::watch;

use super::address::Address;
use super::wire::{Arriving, BoxArriving, Connect, Statuses, Wire};
use crate::proto::{GatewayStatus, RoleStatus};

pub(super) const ROLE: &str = "echo";

/// What a gateway does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Executes it, and answers with its own name.
    Answer,
    /// Executes it, and answers after this time.
    AnswerAfter(Duration),
    /// Answers with this error, and whether the request was begun; executes it if that is not
    /// `Some(false)`.
    Fail(ErrorKind, Option<bool>),
    /// Gets it, and loses the connection. It may have been executed: here it was.
    CutAfterSend,
    /// Executes it, says so, and loses the connection.
    CutAfterBegin,
    /// Executes it, sends so many chunks, and loses the connection.
    CutAfterChunks(usize),
    /// Begins it, and never answers.
    Hang,
}

/// All gateways of a test.
#[derive(Clone, Default)]
pub(super) struct Net(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    gateways: HashMap<String, Gateway>,
    /// Which gateway executed which request.
    executed: Vec<(String, String)>,
    cancelled: usize,
    connects: usize,
}

struct Gateway {
    is_up: bool,
    acts: VecDeque<Act>,
    usual: Act,
    status: watch::Sender<GatewayStatus>,
    is_silent: bool,
    /// Ends its connections.
    cut: watch::Sender<u64>,
}

impl Net {
    /// Gateways at these addresses that answer, with eight places each.
    pub(super) fn new(addresses: &[&str]) -> Self {
        let net = Self::default();
        addresses.iter().for_each(|address| net.add(address));
        net
    }

    pub(super) fn add(&self, address: &str) {
        let role = RoleStatus {
            role: ROLE.to_owned(),
            places: 8,
            is_ready: true,
            ..RoleStatus::default()
        };
        let status = GatewayStatus { roles: vec![role], ..GatewayStatus::default() };
        let gateway = Gateway {
            is_up: true,
            acts: VecDeque::new(),
            usual: Act::Answer,
            status: watch::channel(status).0,
            is_silent: false,
            cut: watch::channel(0).0,
        };
        self.lock().gateways.insert(address.to_owned(), gateway);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn at<R>(&self, address: &str, change: impl FnOnce(&mut Gateway) -> R) -> R {
        change(self.lock().gateways.get_mut(address).unwrap())
    }

    /// What a gateway does with its next requests.
    pub(super) fn next(&self, address: &str, acts: &[Act]) {
        self.at(address, |gateway| gateway.acts.extend(acts));
    }

    /// What a gateway does with requests if nothing else is said.
    pub(super) fn usually(&self, address: &str, act: Act) {
        self.at(address, |gateway| gateway.usual = act);
    }

    /// Ends a gateway, and its connections.
    pub(super) fn stop(&self, address: &str) {
        self.at(address, |gateway| gateway.is_up = false);
        self.cut(address);
    }

    /// Starts it again.
    pub(super) fn start(&self, address: &str) {
        self.set_draining(address, false);
        self.at(address, |gateway| gateway.is_up = true);
    }

    /// Whether it can be connected to. Connections that there are stay.
    pub(super) fn at_up(&self, address: &str, is_up: bool) {
        self.at(address, |gateway| gateway.is_up = is_up);
    }

    pub(super) fn cut(&self, address: &str) {
        self.at(address, |gateway| gateway.cut.send_modify(|cuts| *cuts += 1));
    }

    pub(super) fn set_draining(&self, address: &str, is_draining: bool) {
        self.at(address, |gateway| {
            gateway.status.send_modify(|status| status.is_draining = is_draining);
        });
    }

    pub(super) fn set_places(&self, address: &str, places: u64) {
        self.at(address, |gateway| {
            gateway.status.send_modify(|status| status.roles[0].places = places);
        });
    }

    /// Whether new reports of it do not come.
    pub(super) fn at_silent(&self, address: &str, is_silent: bool) {
        self.at(address, |gateway| gateway.is_silent = is_silent);
    }

    /// Which gateway executed which request, in order.
    pub(super) fn executed(&self) -> Vec<(String, String)> {
        self.lock().executed.clone()
    }

    /// How many requests were dropped before their end.
    pub(super) fn cancelled(&self) -> usize {
        self.lock().cancelled
    }

    /// How often a connection was asked for.
    pub(super) fn connects(&self) -> usize {
        self.lock().connects
    }
}

impl Connect for Net {
    type Wire = FakeWire;

    async fn connect(&self, address: &Address) -> Result<FakeWire> {
        let address = address.authority();
        let mut state = self.lock();
        state.connects += 1;
        match state.gateways.get(&address).filter(|gateway| gateway.is_up) {
            Some(gateway) => {
                let cut = gateway.cut.subscribe();
                let cuts = *cut.borrow();
                let own = watch::channel(false).0;
                Ok(FakeWire { net: self.clone(), address, cut, cuts, own })
            }
            None => Err(Error::disconnected(format!("{address} refuses"), Some(false))),
        }
    }
}

/// One connection to one gateway of a test.
#[derive(Clone)]
pub(super) struct FakeWire {
    net: Net,
    address: String,
    cut: watch::Receiver<u64>,
    /// How often the gateway's connections were cut when this one was made.
    cuts: u64,
    /// It was cut from this side.
    own: watch::Sender<bool>,
}

/// Counts a request as cancelled unless it was over.
struct Sent<'a>(&'a Net, bool);

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.lock().cancelled += 1;
        }
    }
}

impl FakeWire {
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Waits until the connection is lost.
    async fn lost(&self) {
        let (mut cut, mut own) = (self.cut.clone(), self.own.subscribe());
        tokio::select! {
            _ = cut.wait_for(|cuts| *cuts != self.cuts) => {}
            _ = own.wait_for(|is_cut| *is_cut) => {}
        }
    }

    fn disconnected(&self, was_begun: Option<bool>) -> Error {
        Error::disconnected(format!("the connection to {} was lost", self.address), was_begun)
    }

    fn begin(&self, request: &BackendRequest) -> Act {
        request.progress().set(None);
        let mut state = self.net.lock();
        let gateway = state.gateways.get_mut(&self.address).unwrap();
        let act = gateway.acts.pop_front().unwrap_or(gateway.usual);
        if !matches!(act, Act::Fail(_, Some(false))) {
            let [payload, ..] = request.payload().as_parts().unwrap();
            let payload = String::from_utf8(payload.to_vec()).unwrap();
            state.executed.push((self.address.clone(), payload));
        }
        act
    }

    fn reply(&self) -> Reply {
        Reply::from_owner(RequestId::from(1), self.address.clone())
    }

    /// Does with a request what it is to do until its first chunk. Returns what comes then.
    async fn act(&self, request: &BackendRequest, timeout: Duration) -> Result<Act> {
        if !self.is_open() {
            return Err(self.disconnected(Some(false)));
        }
        let act = self.begin(request);
        let mut sent = Sent(&self.net, false);
        let begun = || request.progress().set(Some(RequestStage::Begun));
        let result = match act {
            Act::Answer | Act::CutAfterChunks(_) => {
                begun();
                Ok(act)
            }
            Act::AnswerAfter(time) => {
                begun();
                // The answer of a connection that seems to be lost comes, too, if it was on its way.
                tokio::time::sleep(time).await;
                Ok(act)
            }
            Act::Fail(kind, was_begun) => {
                let mut report = ErrorReport::new(kind, format!("{} fails", self.address));
                report.stage = was_begun.map(|begun| match begun {
                    true => RequestStage::Begun,
                    false => RequestStage::Queued,
                });
                Err(Error::from_report(report))
            }
            Act::CutAfterSend => {
                self.net.cut(&self.address);
                Err(self.disconnected(None))
            }
            Act::CutAfterBegin => {
                begun();
                self.net.cut(&self.address);
                Err(self.disconnected(Some(true)))
            }
            Act::Hang => {
                begun();
                match tokio::time::timeout(timeout, self.lost()).await {
                    Ok(()) => Err(self.disconnected(Some(true))),
                    Err(_) => {
                        let mut report = ErrorReport::new(ErrorKind::Timeout, "too late");
                        report.stage = Some(RequestStage::Begun);
                        Err(Error::from_report(report))
                    }
                }
            }
        };
        sent.1 = true;
        result
    }
}

impl Wire for FakeWire {
    fn call(
        &self,
        role: &Arc<str>,
        request: BackendRequest,
        timeout: Duration,
    ) -> impl Future<Output = Result<Reply>> + Send + 'static {
        assert_eq!(&**role, ROLE);
        let wire = self.clone();
        async move {
            wire.act(&request, timeout).await?;
            Ok(wire.reply())
        }
    }

    fn stream(
        &self,
        _: &Arc<str>,
        request: BackendRequest,
        timeouts: StreamTimeouts,
    ) -> impl Future<Output = Result<BoxArriving>> + Send + 'static {
        let wire = self.clone();
        async move {
            let act = wire.act(&request, timeouts.total_timeout()).await;
            let mut items: VecDeque<Result<Reply>> = VecDeque::new();
            match act {
                // A refusal comes at once, other errors with the stream.
                Err(error) if error.was_begun() == Some(false) => return Err(error),
                Err(error) => items.push_back(Err(error)),
                Ok(Act::CutAfterChunks(count)) => {
                    items.extend((0..count).map(|_| Ok(wire.reply())));
                    items.push_back(Err(wire.disconnected(Some(true))));
                    wire.net.cut(&wire.address);
                }
                Ok(_) => items.extend([Ok(wire.reply()), Ok(wire.reply())]),
            }
            let chunks: BoxArriving = Box::pin(Items(items));
            Ok(chunks)
        }
    }

    fn watch(&self) -> impl Future<Output = Result<impl Statuses>> + Send + 'static {
        let wire = self.clone();
        async move {
            let mut status = wire.net.at(&wire.address, |gateway| gateway.status.subscribe());
            status.mark_changed();
            Ok(FakeStatuses { wire, status })
        }
    }

    fn ping(
        &self,
        _: &Arc<str>,
        _: Duration,
    ) -> impl Future<Output = Result<Vec<Result<Health>>>> + Send + 'static {
        std::future::ready(Ok(vec![Ok(Health::new(WorkerState::Idle))]))
    }

    fn set_abort(
        &self,
        _: &Arc<str>,
        is_set: bool,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let (net, address) = (self.net.clone(), self.address.clone());
        async move {
            net.lock().executed.push((address, format!("abort {is_set}")));
            Ok(())
        }
    }

    fn peer(&self) -> &str {
        &self.address
    }

    fn is_open(&self) -> bool {
        *self.cut.borrow() == self.cuts && !*self.own.borrow()
    }

    fn cut(&self) {
        self.own.send_replace(true);
    }
}

struct FakeStatuses {
    wire: FakeWire,
    status: watch::Receiver<GatewayStatus>,
}

impl Statuses for FakeStatuses {
    async fn next(&mut self) -> Option<Result<GatewayStatus>> {
        if self.wire.net.at(&self.wire.address, |gateway| gateway.is_silent) {
            self.wire.lost().await;
        }
        tokio::select! {
            biased;
            () = self.wire.lost() => Some(Err(self.wire.disconnected(None))),
            _ = self.status.changed() => Some(Ok(self.status.borrow_and_update().clone())),
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                Some(Ok(self.status.borrow_and_update().clone()))
            }
        }
    }
}

struct Items(VecDeque<Result<Reply>>);

impl Arriving for Items {}

impl Stream for Items {
    type Item = Result<Reply>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.pop_front())
    }
}
