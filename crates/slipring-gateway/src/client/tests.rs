//! A remote role over gateways without a network. The clock stands still while anything can run.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use slipring::backend::{BackendRequest, BoxChunks};
use slipring::{
    Error, ErrorKind, Kind, Reply, RequestStage, Result, StreamTimeout, StreamTimeouts,
};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

use super::discovery::Discovery;
use super::fake::{Act, Net, ROLE};
use super::fleet::{FleetLimits, GatewayState};
use super::random::Random;
use super::retry::RetryLimits;
use super::role::Role;
use super::shared::Shared;

const KIND: Kind = Kind::named("kind");
const TWICE: Kind = Kind::named("twice");
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

const REFUSED: Act = Act::Fail(ErrorKind::Disconnected, Some(false));
const FULL: Act = Act::Fail(ErrorKind::Overloaded, Some(false));

fn role_with(net: &Net, addresses: &[&str], retry: RetryLimits) -> Arc<Role<Net>> {
    let discovery = Discovery::list(addresses.iter().copied()).check().unwrap();
    let limits = (FleetLimits { slow_start: 0, ..FleetLimits::default() }, retry);
    let shared = Shared::new(ROLE.into(), net.clone(), 3 * SECOND, Handle::current(), limits, 7);
    Role::start(shared, vec![TWICE], crate::trace::Joined::default(), discovery)
}

/// A role of two gateways.
async fn pair() -> (Net, Arc<Role<Net>>) {
    let net = Net::new(&["a:1", "b:1"]);
    let role = role_with(&net, &["a:1", "b:1"], RetryLimits::default());
    ready(&role, 2).await;
    (net, role)
}

async fn ready(role: &Role<Net>, count: usize) {
    let is_ready = || {
        let states = role.shared.gateways();
        states.iter().filter(|(_, state, ..)| *state == GatewayState::Ready).count() == count
    };
    let began = Instant::now();
    while !is_ready() {
        assert!(began.elapsed() < MINUTE, "{:?}", role.shared.gateways());
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a gateway that was cut off is back.
async fn back(role: &Role<Net>) {
    sleep(SECOND).await;
    ready(role, 2).await;
}

fn state(role: &Role<Net>, address: &str) -> GatewayState {
    let states = role.shared.gateways();
    states.iter().find(|(at, ..)| at.authority() == address).unwrap().1
}

/// A key of the gateway at `a:1`, which so is chosen first.
fn key_of_first(role: &Role<Net>) -> u64 {
    let first = |key| match role.shared.pick(Some(key), false, &[]) {
        super::shared::Picked::Has(permit) => permit.wire.address() == "a:1",
        _ => false,
    };
    (0..1000).find(|key| first(*key)).expect("it takes no requests")
}

fn request(role: &Role<Net>, kind: Kind) -> BackendRequest {
    BackendRequest::new(kind, "text").key(key_of_first(role))
}

async fn call(role: &Arc<Role<Net>>, kind: Kind) -> Result<String> {
    role.call(request(role, kind), MINUTE).await.and_then(|reply: Reply| reply.text())
}

fn executions(net: &Net) -> Vec<String> {
    net.executed().into_iter().map(|(address, _)| address).collect()
}

fn in_flight(role: &Role<Net>) -> usize {
    role.shared.gateways().iter().map(|(_, _, count, _)| count).sum()
}

async fn next(chunks: &mut BoxChunks) -> Option<Result<Reply>> {
    std::future::poll_fn(|context| chunks.as_mut().poll_next(context)).await
}

#[tokio::test(start_paused = true)]
async fn what_was_surely_not_begun_goes_to_another_gateway_at_once() {
    let (net, role) = pair().await;
    for kind in [
        ErrorKind::Disconnected,
        ErrorKind::Overloaded,
        ErrorKind::Closed,
        ErrorKind::Degraded,
        ErrorKind::Session,
    ] {
        let began = Instant::now();
        net.next("a:1", &[Act::Fail(kind, Some(false))]);
        assert_eq!(call(&role, KIND).await.unwrap(), "b:1", "{kind:?}");
        assert_eq!(began.elapsed(), Duration::ZERO);
        net.next("a:1", &[Act::Fail(kind, Some(false))]);
        let stream = role.stream(request(&role, KIND), StreamTimeouts::new());
        let mut chunks = stream.await.unwrap();
        assert_eq!(next(&mut chunks).await.unwrap().unwrap().text().unwrap(), "b:1");
        assert!(next(&mut chunks).await.unwrap().is_ok() && next(&mut chunks).await.is_none());
        assert_eq!(call(&role, KIND).await.unwrap(), "a:1");
    }
    assert_eq!((executions(&net).len(), in_flight(&role)), (15, 0));
}

#[tokio::test(start_paused = true)]
async fn what_another_gateway_would_not_change_is_told_at_once() {
    let (net, role) = pair().await;
    for (kind, was_begun) in [
        (ErrorKind::HandlerFailed, Some(true)),
        (ErrorKind::HandlerFailed, Some(false)),
        (ErrorKind::PeerDied, Some(true)),
        (ErrorKind::Poison, Some(true)),
        (ErrorKind::TooLarge, Some(false)),
        (ErrorKind::QueueTimeout, Some(false)),
        (ErrorKind::Timeout, None),
    ] {
        net.next("a:1", &[Act::Fail(kind, was_begun)]);
        let error = call(&role, TWICE).await.unwrap_err();
        assert_eq!((error.kind(), error.was_begun()), (kind, was_begun));
        assert!(error.earlier_attempts().is_none());
    }
    assert!(!executions(&net).contains(&"b:1".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_all_gateways_are_too_full_for_is_refused() {
    let (net, role) = pair().await;
    net.usually("a:1", FULL);
    net.usually("b:1", FULL);
    let began = Instant::now();
    let error = call(&role, KIND).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Overloaded, Some(false)));
    assert_eq!((began.elapsed(), executions(&net).len()), (Duration::ZERO, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_all_gateways_refuse_waits_for_one_that_takes_it() {
    let (net, role) = pair().await;
    net.usually("a:1", REFUSED);
    net.usually("b:1", REFUSED);
    let waits = tokio::spawn(role.call(BackendRequest::new(KIND, "text"), MINUTE));
    sleep(10 * SECOND).await;
    net.usually("b:1", Act::Answer);
    assert_eq!(waits.await.unwrap().unwrap().text().unwrap(), "b:1");
    net.usually("b:1", REFUSED);
    let error = role.call(BackendRequest::new(KIND, "text"), SECOND).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::QueueTimeout, Some(false)));
    assert!(format!("{error:#}").contains("fails"), "{error:#}");
    assert_eq!(executions(&net), ["b:1"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_begun_or_may_have_been_is_not_sent_again_unasked() {
    for (act, was_begun) in [(Act::CutAfterSend, None), (Act::CutAfterBegin, Some(true))] {
        let (net, role) = pair().await;
        net.next("a:1", &[act]);
        let error = call(&role, KIND).await.unwrap_err();
        assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, was_begun));
        assert!(error.to_string().ends_with("and is not declared idempotent"), "{error}");
        back(&role).await;
        net.next("a:1", &[act]);
        let unlike = request(&role, TWICE).idempotent(false);
        let error = role.call(unlike, MINUTE).await.unwrap_err();
        assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, was_begun));
        back(&role).await;
        net.next("a:1", &[act]);
        let mut chunks = role.stream(request(&role, KIND), StreamTimeouts::new()).await.unwrap();
        let error = next(&mut chunks).await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, was_begun));
        assert!(next(&mut chunks).await.is_none());
        drop(chunks);
        assert_eq!((executions(&net), in_flight(&role)), (vec!["a:1".to_owned(); 3], 0));
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_be_served_twice_is_sent_again() {
    for act in [Act::CutAfterSend, Act::CutAfterBegin] {
        let (net, role) = pair().await;
        net.next("a:1", &[act]);
        assert_eq!(call(&role, TWICE).await.unwrap(), "b:1");
        back(&role).await;
        net.next("a:1", &[act]);
        let asked = request(&role, KIND).idempotent(true);
        assert_eq!(role.call(asked, MINUTE).await.unwrap().text().unwrap(), "b:1");
        back(&role).await;
        net.next("a:1", &[act]);
        let stream = role.stream(request(&role, TWICE), StreamTimeouts::new());
        let mut chunks = stream.await.unwrap();
        assert_eq!(next(&mut chunks).await.unwrap().unwrap().text().unwrap(), "b:1");
        assert_eq!(executions(&net), ["a:1", "b:1"].repeat(3));
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_error_tells_of_the_attempts_before() {
    let (net, role) = pair().await;
    net.next("a:1", &[Act::CutAfterBegin]);
    net.next("b:1", &[Act::CutAfterSend, Act::CutAfterSend]);
    net.at_up("a:1", false);
    let error = call(&role, TWICE).await.unwrap_err();
    // The last attempt may have been begun, and the first one was.
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, Some(true)));
    let earlier = error.earlier_attempts().unwrap();
    let ends: Vec<_> = earlier.ends.iter().map(|end| (end.kind, end.was_begun)).collect();
    assert_eq!(
        ends[..2],
        [(ErrorKind::Disconnected, Some(true)), (ErrorKind::Disconnected, None),]
    );
    assert!(error.to_string().contains("sent twice before"), "{error}");
    assert_eq!(executions(&net), ["a:1", "b:1", "b:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_begun_no_more_often_than_allowed() {
    let net = Net::new(&["a:1", "b:1"]);
    let role = role_with(&net, &["a:1", "b:1"], RetryLimits::default());
    ready(&role, 2).await;
    net.usually("a:1", Act::CutAfterBegin);
    net.usually("b:1", Act::CutAfterBegin);
    let error = call(&role, TWICE).await.unwrap_err();
    assert!(error.to_string().contains("it was begun as often as allowed"), "{error}");
    assert_eq!((executions(&net).len(), error.earlier_attempts().unwrap().count), (3, 2));
    let limits = RetryLimits { percent: 0, least: 1, ..RetryLimits::default() };
    let net = Net::new(&["a:1", "b:1"]);
    let role = role_with(&net, &["a:1", "b:1"], limits);
    ready(&role, 2).await;
    net.usually("a:1", Act::CutAfterBegin);
    net.usually("b:1", Act::CutAfterBegin);
    let error = call(&role, TWICE).await.unwrap_err();
    assert!(error.to_string().contains("too many requests are sent again"), "{error}");
    assert_eq!(executions(&net).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_has_delivered_a_chunk_is_never_sent_again() {
    let (net, role) = pair().await;
    net.next("a:1", &[Act::CutAfterChunks(1)]);
    let mut chunks = role.stream(request(&role, TWICE), StreamTimeouts::new()).await.unwrap();
    assert_eq!(next(&mut chunks).await.unwrap().unwrap().text().unwrap(), "a:1");
    let error = next(&mut chunks).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, Some(true)));
    assert!(error.to_string().ends_with("a part of it was delivered"), "{error}");
    assert!(next(&mut chunks).await.is_none());
    // Without a chunk it is.
    back(&role).await;
    net.next("a:1", &[Act::CutAfterChunks(0)]);
    let mut chunks = role.stream(request(&role, TWICE), StreamTimeouts::new()).await.unwrap();
    assert_eq!(next(&mut chunks).await.unwrap().unwrap().text().unwrap(), "b:1");
    assert_eq!(executions(&net), ["a:1", "a:1", "b:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_first_gateway_until_its_deadline() {
    let net = Net::new(&["a:1"]);
    net.stop("a:1");
    let role = role_with(&net, &["a:1"], RetryLimits::default());
    let began = Instant::now();
    let early = BackendRequest::new(KIND, "text");
    let error = role.call(early.clone(), 2 * SECOND).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, Some(false)));
    assert!(format!("{error:#}").contains("a:1 refuses"), "{error:#}");
    assert_eq!(began.elapsed(), 2 * SECOND);
    // A stream waits for its queue timeout, or its whole one.
    let queue = StreamTimeouts::new().queue(SECOND);
    let error = role.stream(early.clone(), queue).await.err().unwrap();
    assert_eq!((error.kind(), began.elapsed()), (ErrorKind::Disconnected, 3 * SECOND));
    let waits = tokio::spawn(role.call(early.clone(), MINUTE));
    sleep(10 * SECOND).await;
    assert_eq!(role.shared.load(false).queued, 1);
    let started = Instant::now();
    net.start("a:1");
    assert_eq!(waits.await.unwrap().unwrap().text().unwrap(), "a:1");
    assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
    // It is connected, and takes nothing.
    net.set_draining("a:1", true);
    sleep(SECOND).await;
    let error = role.call(early.clone(), SECOND).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::QueueTimeout, Some(false)));
    let total = StreamTimeouts::new().total(SECOND);
    for (timeouts, which) in [(queue, StreamTimeout::Queue), (total, StreamTimeout::Total)] {
        let error = role.stream(early.clone(), timeouts).await.err().unwrap();
        assert_eq!(error.stream_timeout(), Some(which));
        assert_eq!((error.kind(), error.was_begun()), (ErrorKind::QueueTimeout, Some(false)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_must_not_wait_is_refused_while_no_gateway_takes_any() {
    let net = Net::new(&["a:1"]);
    let role = role_with(&net, &["a:1"], RetryLimits::default());
    ready(&role, 1).await;
    let asked = BackendRequest::new(KIND, "text").must_not_wait(true);
    role.call(asked.clone(), MINUTE).await.unwrap();
    net.set_draining("a:1", true);
    sleep(SECOND).await;
    let began = Instant::now();
    let error = role.call(asked.clone(), MINUTE).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::QueueTimeout, Some(false)));
    net.stop("a:1");
    sleep(SECOND).await;
    let error = role.call(asked.clone(), MINUTE).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, Some(false)));
    let error = role.stream(asked, StreamTimeouts::new()).await.err().unwrap();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, Some(false)));
    assert_eq!(began.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_tells_what_an_earlier_attempt_has_begun() {
    let net = Net::new(&["a:1"]);
    for (act, was_begun) in [(Act::CutAfterBegin, Some(true)), (Act::CutAfterSend, None)] {
        let role = role_with(&net, &["a:1"], RetryLimits::default());
        ready(&role, 1).await;
        net.next("a:1", &[act]);
        let sent = tokio::spawn(role.call(BackendRequest::new(TWICE, "text"), 5 * SECOND));
        net.at_up("a:1", false);
        let error = sent.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, was_begun));
        assert_eq!(error.earlier_attempts().unwrap().count, 1);
        net.start("a:1");
    }
    assert_eq!(executions(&net).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_drains_costs_no_request() {
    let (net, role) = pair().await;
    net.next("a:1", &[Act::AnswerAfter(3 * SECOND)]);
    let old = tokio::spawn(role.call(request(&role, KIND), MINUTE));
    sleep(Duration::from_millis(1)).await;
    // It refuses before its clients know that it drains.
    net.usually("a:1", REFUSED);
    for _ in 0..4 {
        assert_eq!(call(&role, KIND).await.unwrap(), "b:1");
    }
    for _ in 0..20 {
        let asked = role.call(BackendRequest::new(KIND, "text"), SECOND);
        assert_eq!(asked.await.unwrap().text().unwrap(), "b:1");
    }
    net.set_draining("a:1", true);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(state(&role, "a:1"), GatewayState::Draining);
    assert_eq!(
        role.call(BackendRequest::new(KIND, "text"), SECOND).await.unwrap().text().unwrap(),
        "b:1"
    );
    assert_eq!(old.await.unwrap().unwrap().text().unwrap(), "a:1");
    net.stop("a:1");
    net.usually("a:1", Act::Answer);
    sleep(10 * SECOND).await;
    assert_eq!(state(&role, "a:1"), GatewayState::Connecting);
    let started = Instant::now();
    net.start("a:1");
    ready(&role, 2).await;
    assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_is_silent_is_not_used_and_its_late_reply_arrives_once() {
    let (net, role) = pair().await;
    net.next("a:1", &[Act::AnswerAfter(10 * SECOND)]);
    let late = tokio::spawn(role.call(request(&role, KIND), MINUTE));
    sleep(Duration::from_millis(1)).await;
    net.at_silent("a:1", true);
    sleep(5 * SECOND).await;
    assert_ne!(state(&role, "a:1"), GatewayState::Ready);
    net.at_silent("a:1", false);
    ready(&role, 2).await;
    assert_eq!(in_flight(&role), 1);
    // Its connection of now has nothing to do with the one that the request is on.
    assert_eq!(call(&role, KIND).await.unwrap(), "a:1");
    assert_eq!(late.await.unwrap().unwrap().text().unwrap(), "a:1");
    assert_eq!((in_flight(&role), executions(&net)), (0, vec!["a:1".to_owned(); 2]));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_fails_again_and_again_is_left_out_for_a_while() {
    let (net, role) = pair().await;
    net.usually("a:1", Act::Fail(ErrorKind::Degraded, Some(false)));
    for _ in 0..5 {
        let key = key_of_first(&role);
        let asked = BackendRequest::new(KIND, "text").key(key);
        assert_eq!(role.call(asked, MINUTE).await.unwrap().text().unwrap(), "b:1");
    }
    assert_eq!(state(&role, "a:1"), GatewayState::Ejected);
    net.usually("a:1", Act::Answer);
    sleep(SECOND).await;
    assert_eq!(call(&role, KIND).await.unwrap(), "a:1");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_dropped_is_cancelled() {
    let (net, role) = pair().await;
    net.usually("a:1", Act::Hang);
    let asked = request(&role, KIND);
    let progress = asked.progress();
    let call = tokio::spawn(role.call(asked, MINUTE));
    sleep(SECOND).await;
    assert_eq!((in_flight(&role), progress.stage()), (1, Some(RequestStage::Begun)));
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!((in_flight(&role), net.cancelled()), (0, 1));
    // One that was submitted goes on by itself until it is dropped.
    let submitted = role.submit(request(&role, KIND), MINUTE);
    sleep(SECOND).await;
    assert_eq!((in_flight(&role), executions(&net).len()), (1, 2));
    drop(submitted);
    sleep(SECOND).await;
    assert_eq!((in_flight(&role), net.cancelled()), (0, 2));
    net.next("a:1", &[Act::Answer]);
    let submitted = role.submit(request(&role, KIND), MINUTE);
    sleep(SECOND).await;
    assert_eq!((in_flight(&role), executions(&net).len()), (0, 3));
    assert_eq!(submitted.await.unwrap().text().unwrap(), "a:1");
}

#[tokio::test(start_paused = true)]
async fn a_place_that_comes_is_told_to_those_that_watch() {
    let (net, role) = pair().await;
    for address in ["a:1", "b:1"] {
        net.set_places(address, 1);
        net.usually(address, Act::Hang);
    }
    sleep(SECOND).await;
    let call = || tokio::spawn(role.call(BackendRequest::new(KIND, "text"), MINUTE * 9));
    let watch = || tokio::spawn(Arc::clone(&role.shared).load_changed());
    let is_full = || role.shared.load(false).in_flight == role.shared.load(false).places;
    let (first, _second) = (call(), call());
    sleep(SECOND).await;
    let told = watch();
    sleep(SECOND).await;
    assert!(is_full() && !told.is_finished());
    // A request of this client's ends.
    first.abort();
    timeout(MINUTE, told).await.unwrap().unwrap();
    let _third = call();
    sleep(SECOND).await;
    // A gateway has more workers, without a request of this client's.
    let told = watch();
    sleep(SECOND).await;
    assert!(is_full() && !told.is_finished());
    net.set_places("b:1", 2);
    timeout(MINUTE, told).await.unwrap().unwrap();
    assert!(!is_full());
    // A gateway is there again.
    net.stop("b:1");
    sleep(SECOND).await;
    let told = watch();
    sleep(SECOND).await;
    assert!(is_full() && !told.is_finished(), "{:?}", role.shared.load(false));
    net.start("b:1");
    timeout(MINUTE, told).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_close_waits_for_requests_and_cuts_what_is_left() {
    let (net, role) = pair().await;
    net.next("a:1", &[Act::AnswerAfter(SECOND)]);
    let slow = tokio::spawn(role.call(request(&role, KIND), MINUTE));
    sleep(Duration::from_millis(1)).await;
    let closing = tokio::spawn(role.close(MINUTE));
    sleep(Duration::from_millis(1)).await;
    let error = role.call(BackendRequest::new(KIND, "text"), SECOND).await.unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Closed, Some(false)));
    assert!(!role.shared.load(false).is_ready && role.shared.load(false).is_draining);
    closing.await.unwrap().unwrap();
    assert!(slow.await.unwrap().is_ok());
    role.close(SECOND).await.unwrap();

    let (net, role) = pair().await;
    net.usually("a:1", Act::Hang);
    let stuck = tokio::spawn(role.call(request(&role, TWICE), MINUTE));
    net.usually("b:1", FULL);
    sleep(SECOND).await;
    let error = role.close(SECOND).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let error = stuck.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Closed, Some(true)));
    let connects = net.connects();
    sleep(MINUTE).await;
    assert_eq!((net.connects(), in_flight(&role)), (connects, 0), "no task runs any more");
}

#[tokio::test(start_paused = true)]
async fn all_tasks_end_with_the_last_handle_and_the_last_request() {
    let (net, role) = pair().await;
    net.next("a:1", &[Act::AnswerAfter(SECOND)]);
    let last = role.call(request(&role, KIND), MINUTE);
    drop(role);
    assert_eq!(last.await.unwrap().text().unwrap(), "a:1");
    net.cut("a:1");
    let connects = net.connects();
    sleep(MINUTE).await;
    assert_eq!(net.connects(), connects);
}

#[tokio::test(start_paused = true)]
async fn workers_of_all_gateways_are_asked_and_aborted() {
    let (net, role) = pair().await;
    net.set_places("a:1", 4);
    sleep(Duration::from_millis(1)).await;
    let load = role.shared.load(false);
    assert_eq!((load.places, load.in_flight, load.queued, load.is_ready), (12, 0, 0, true));
    assert_eq!(role.ping(SECOND).await.into_iter().filter(Result::is_ok).count(), 2);
    role.set_abort(true);
    sleep(Duration::from_millis(1)).await;
    role.set_abort(false);
    sleep(Duration::from_millis(1)).await;
    let mut asked: Vec<_> = net.executed().into_iter().map(|(_, what)| what).collect();
    asked.sort_unstable();
    assert_eq!(asked, ["abort false", "abort false", "abort true", "abort true"]);
    net.stop("a:1");
    net.stop("b:1");
    sleep(SECOND).await;
    let answers = role.ping(SECOND).await;
    assert_eq!(answers[0].as_ref().unwrap_err().kind(), ErrorKind::Disconnected);
    assert_eq!(answers.len(), 1);
}

/// Random faults: each request has exactly one outcome, and is executed once unless it may be twice.
#[tokio::test(start_paused = true)]
async fn no_schedule_executes_a_request_twice_unasked() {
    const ADDRESSES: [&str; 4] = ["a:1", "b:1", "c:1", "d:1"];
    let acts = [
        Act::Answer,
        Act::AnswerAfter(Duration::from_millis(30)),
        Act::CutAfterSend,
        Act::CutAfterBegin,
        REFUSED,
        FULL,
        Act::Fail(ErrorKind::HandlerFailed, Some(true)),
        Act::Fail(ErrorKind::Disconnected, None),
    ];
    let mut random = Random::new(11);
    let net = Net::new(&ADDRESSES);
    let role = role_with(&net, &ADDRESSES, RetryLimits::default());
    let mut sent = Vec::new();
    for number in 0..2000_u64 {
        let address = ADDRESSES[random.below(4) as usize];
        match random.below(12) {
            0 => net.stop(address),
            1..=3 => net.start(address),
            4 => net.set_draining(address, true),
            _ => net.next(address, &[acts[random.below(acts.len() as u64) as usize]]),
        }
        let kind = if number.is_multiple_of(2) { KIND } else { TWICE };
        let asked = BackendRequest::new(kind, number.to_string());
        sent.push(tokio::spawn(role.call(asked, 2 * SECOND)));
        sleep(Duration::from_millis(random.below(100))).await;
    }
    let mut outcomes: Vec<Result<Reply, Error>> = Vec::new();
    for sent in sent {
        outcomes.push(sent.await.unwrap());
    }
    let mut executed: HashMap<u64, usize> = HashMap::new();
    for (_, payload) in net.executed() {
        *executed.entry(payload.parse().unwrap()).or_default() += 1;
    }
    let answered = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(answered > 1000, "{answered}");
    for (number, outcome) in (0..).zip(&outcomes) {
        let count = executed.get(&number).copied().unwrap_or(0);
        let most = if number % 2 == 0 { 1 } else { 3 };
        assert!(count <= most, "{number} was executed {count} times: {outcome:?}");
        match outcome {
            Ok(_) => assert!(count >= 1, "{number}"),
            Err(error) if error.was_begun() == Some(false) => assert_eq!(count, 0, "{error}"),
            Err(error) => assert!(count >= 1, "{number}: {error}"),
        }
    }
    let again = executed.values().filter(|count| **count > 1).count();
    assert!(again > 10, "{again} were sent again");
    assert_eq!(in_flight(&role), 0);
}
