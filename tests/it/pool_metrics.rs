//! What a pool counts, and what of it exporters get.

use std::time::Duration;

use crate::common::*;
use crate::pools::{close, is_begun, is_busy, patient, pool_of};
use slipring::pool::{Outcome, Role, RoleHandle, RoleMetrics};
use slipring::{ErrorKind, Kind};

fn role() -> Role {
    Role::new(|_| Ok(patient())).kind_name(ECHO, "echo").kind_name(SLOW_ECHO, "slow \"echo\"")
}

/// Kills a worker that lives: one that has begun a request, if there is one.
fn kill_one(handle: &RoleHandle) {
    let workers = handle.health().workers;
    let alive = || workers.iter().filter(|worker| worker.is_alive);
    let busy = alive().find(|worker| is_busy(worker));
    let pid = busy.or_else(|| alive().next()).and_then(|worker| worker.pid);
    send_signal(pid.unwrap(), libc::SIGKILL);
}

fn counts(metrics: &RoleMetrics) -> Vec<(Option<Kind>, Outcome, u64)> {
    metrics.requests.iter().map(|each| (each.kind, each.outcome, each.count)).collect()
}

#[test]
fn each_request_counts_once_under_its_kind_and_outcome() {
    let role = role().max_waiting(1).prefetch(0).idempotent(RAISE);
    let (pool, handle) = pool_of(role);
    let short = Duration::from_millis(50);
    (0..4).for_each(|_| drop(handle.call(ECHO, "x", LONG).unwrap()));
    (0..3).for_each(|_| drop(handle.call(FAIL, "no", LONG).unwrap_err()));

    // One runs too long, and one waits too long for its place.
    let stay = Stay::new();
    let path = stay.path();
    let error = handle.call(STAY, &path, Duration::from_secs(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(handle.call(ECHO, "", short).unwrap_err().kind(), ErrorKind::QueueTimeout);
    drop(stay);
    handle.call(ECHO, "", LONG).unwrap();

    let stay = Stay::new();
    let path = stay.path();
    std::thread::scope(|scope| {
        let calls: Vec<_> =
            (0..2).map(|_| scope.spawn(|| handle.call(STAY, &path, LONG))).collect();
        eventually("one waits", || handle.health().load.queued == 1);
        assert_eq!(handle.call(ECHO, "", LONG).unwrap_err().kind(), ErrorKind::Overloaded);
        drop(stay);
        calls.into_iter().for_each(|call| drop(call.join().unwrap().unwrap()));
    });

    let error = handle.call(RAISE, &[libc::SIGSEGV as u8], LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poison);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| handle.call(FOR_EVER, "", LONG));
        eventually("it is begun", || is_begun(&handle));
        kill_one(&handle);
        assert_eq!(call.join().unwrap().unwrap_err().kind(), ErrorKind::PeerDied);
    });

    let request = encode(&[0, 5, 8]);
    let chunks = handle.stream(TRICKLE, &request, LONG).unwrap().map(Result::unwrap).count();
    assert_eq!(chunks, 5);
    drop(handle.stream(TRICKLE, &encode(&[0, 5, 8]), LONG).unwrap());
    handle.call(ECHO, "", LONG).unwrap();
    close(&pool);
    assert_eq!(handle.call(ECHO, "", LONG).unwrap_err().kind(), ErrorKind::Closed);

    let metrics = handle.metrics();
    let failed = Outcome::Failed;
    let mut found = counts(&metrics);
    let mut wanted = vec![
        (Some(ECHO), Outcome::Answered, 7),
        (Some(ECHO), failed(ErrorKind::QueueTimeout), 1),
        (Some(ECHO), failed(ErrorKind::Overloaded), 1),
        (Some(ECHO), failed(ErrorKind::Closed), 1),
        (Some(FAIL), failed(ErrorKind::HandlerFailed), 3),
        (Some(STAY), failed(ErrorKind::Timeout), 1),
        (Some(STAY), Outcome::Answered, 2),
        (Some(RAISE), failed(ErrorKind::Poison), 1),
        (Some(FOR_EVER), failed(ErrorKind::PeerDied), 1),
        (Some(TRICKLE), Outcome::Answered, 1),
        (Some(TRICKLE), failed(ErrorKind::Cancelled), 1),
    ];
    let order = |each: &(Option<Kind>, Outcome, u64)| (each.0, each.1.name());
    found.sort_by_key(order);
    wanted.sort_by_key(order);
    assert_eq!(found, wanted);
    let all: u64 = found.iter().map(|(.., count)| count).sum();
    assert_eq!((all, metrics.refused()), (20, 2));
    assert_eq!((metrics.resent_unbegun, metrics.resent_begun), (0, 1));
    // Of all but two that were refused at once, and of one that was sent twice.
    assert_eq!(metrics.queue_times.count(), all - 2 + 1);
    // One of them never had a worker.
    assert_eq!(metrics.service_times.count(), all - 2);
    let longest = metrics.queue_times.quantile(1.0).unwrap();
    assert!(longest >= short, "the wait of the one that timed out is among them: {longest:?}");
    let workers = &metrics.workers;
    assert_eq!((workers.died_serving, workers.restarted, workers.started), (3, 3, 4));
    assert_eq!(metrics.channels.workers, 0);
}

#[test]
fn what_lies_in_the_rings_is_told_while_it_is_there() {
    let (pool, handle) = pool_of(role());
    let (bytes, config) = (pattern(1, 3000), slipring::Config::small());
    let held = handle.call(ECHO, &bytes, LONG).unwrap();
    // The worker gives the request's slot back when it has answered.
    eventually("the request is released", || handle.metrics().channels.ring_used == 0);
    let rings = handle.metrics().channels;
    assert_eq!(rings.reply_leases, 1, "{rings:?}");
    assert!(rings.reply_ring_used >= 3000, "{rings:?}");
    assert_eq!(rings.reply_ring_capacity, config.reply_ring().capacity() as u64);
    assert_eq!(rings.ring_capacity, config.request_ring().capacity() as u64);
    drop(held);
    assert_eq!(handle.metrics().channels.reply_leases, 0);
    // The next wait tells the worker what is free. On a busy machine a call may need no wait.
    eventually("it is told", || {
        handle.call(SLOW_ECHO, &encode(&[20]), LONG).unwrap();
        handle.metrics().channels.reply_ring_used < 3000
    });
    close(&pool);
    assert_eq!(handle.metrics().channels.reply_ring_capacity, 0);
}

#[test]
fn the_fullest_that_rings_were_stays_when_their_workers_are_gone() {
    let (pool, handle) = pool_of(role());
    let (bytes, ring) = (pattern(1, 3000), slipring::Config::small().reply_ring().capacity());
    // Held replies fill the reply ring, so that the worker finds no room for the last one.
    let mut held = Vec::new();
    let refused = loop {
        match handle.call(ECHO, &bytes, Duration::from_millis(200)) {
            Ok(reply) => held.push(reply),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::Timeout, "{refused}");
    let marks = |handle: &RoleHandle| handle.metrics().channels.reply_ring_high_water;
    let expected = (ring - 3000 - 128) as u64..=ring as u64;
    assert!(expected.contains(&marks(&handle)), "{} of {expected:?}", marks(&handle));
    drop(held);
    close(&pool);
    assert!(expected.contains(&marks(&handle)), "{} of {expected:?}", marks(&handle));
}

#[cfg(feature = "prometheus")]
mod prometheus {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use prometheus_client::encoding::{prometheus_text, text};
    use prometheus_client::registry::Registry;

    use slipring::pool::Pool;

    use super::*;

    /// The types of the families, and the value of each series.
    type Parsed = (BTreeMap<String, String>, BTreeMap<String, f64>);

    fn parse(text: &str) -> Parsed {
        let (mut types, mut values) = Parsed::default();
        for line in text.lines() {
            if let Some(told) = line.strip_prefix("# TYPE ") {
                let (name, kind) = told.split_once(' ').unwrap();
                let before = types.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{name} comes twice");
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let before = values.insert(series.to_owned(), value.parse().unwrap());
                assert_eq!(before, None, "{series} comes twice");
            }
        }
        (types, values)
    }

    fn registry_of(pool: &Pool) -> Registry {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(pool.collector()));
        registry
    }

    fn scrape(registry: &Registry) -> Parsed {
        let mut text = String::new();
        prometheus_text::encode(&mut text, registry).unwrap();
        parse(&text)
    }

    #[test]
    fn the_text_has_the_names_the_types_and_the_labels() {
        let (pool, handle) = pool_of(role());
        handle.call(SLOW_ECHO, &encode(&[1]), LONG).unwrap();
        handle.call(FAIL, "no", LONG).unwrap_err();
        let registry = registry_of(&pool);
        let (types, values) = scrape(&registry);
        let types_of = |name: &str| types.get(name).map(String::as_str);
        assert_eq!(types_of("slipring_requests_total"), Some("counter"));
        assert_eq!(types_of("slipring_worker_restarts_total"), Some("counter"));
        assert_eq!(types_of("slipring_parks_total"), Some("counter"));
        assert_eq!(types_of("slipring_queue_seconds"), Some("histogram"));
        assert_eq!(types_of("slipring_service_seconds"), Some("histogram"));
        assert_eq!(types_of("slipring_request_ring_used_bytes"), Some("gauge"));
        let of = |series: &str| {
            *values.get(series).unwrap_or_else(|| panic!("no {series} in {values:#?}"))
        };
        let request =
            |labels: &str| of(&format!("slipring_requests_total{{role=\"one\",{labels}}}"));
        assert_eq!(request(r#"kind="echo",outcome="ok""#), 1.0);
        assert_eq!(request(r#"kind="slow \"echo\"",outcome="ok""#), 1.0);
        let fail = FAIL.to_string().replace(' ', "_");
        assert_eq!(request(&format!("kind=\"{fail}\",outcome=\"handler_failed\"")), 1.0);
        assert_eq!(of(r#"slipring_service_seconds_count{role="one"}"#), 3.0);
        let sum = of(r#"slipring_service_seconds_sum{role="one"}"#);
        let metrics = handle.metrics();
        assert!((sum - metrics.service_times.sum().as_secs_f64()).abs() < 1e-9);
        assert_eq!(of(r#"slipring_service_seconds_bucket{role="one",le="+Inf"}"#), 3.0);
        let bucket = "slipring_service_seconds_bucket{role=\"one\",le=\"";
        let bounds = values.iter().filter_map(|(series, count)| {
            let bound = series.strip_prefix(bucket)?.strip_suffix("\"}")?;
            Some((bound.parse::<f64>().unwrap(), *count))
        });
        let mut bounds: Vec<_> = bounds.collect();
        bounds.sort_by(|one, other| one.partial_cmp(other).unwrap());
        assert_eq!((bounds.len(), bounds[0]), (28, (1.024e-6, 0.0)));
        assert_eq!(bounds[26..], [(68.719476736, 3.0), (f64::INFINITY, 3.0)]);
        assert!(values.keys().all(|series| series.contains("role=\"one\"")));
        assert!(!values.keys().any(|series| series.contains("pid")));
        let mut open = String::new();
        text::encode(&mut open, &registry).unwrap();
        assert!(open.contains("# TYPE slipring_requests counter\n") && open.ends_with("# EOF\n"));
        close(&pool);
    }

    #[test]
    fn nothing_that_grows_gets_less_when_workers_die() {
        let (pool, handle) = pool_of(role().min_idle(2).max_size(2).idempotent(SLOW_ECHO));
        let (registry, is_over) = (registry_of(&pool), AtomicBool::new(false));
        let scrapes = AtomicUsize::new(0);
        let grows = |types: &BTreeMap<String, String>, series: &str| {
            let name = series.split('{').next().unwrap();
            let is_histogram = |end| {
                let family = name.strip_suffix(end);
                family.is_some_and(|it| types.get(it).is_some_and(|kind| kind == "histogram"))
            };
            types.get(name).is_some_and(|kind| kind == "counter")
                || ["_count", "_sum", "_bucket"].into_iter().any(is_histogram)
        };
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut before = BTreeMap::new();
                let mut is_last = false;
                while !is_last {
                    // Once more after the last call.
                    is_last = is_over.load(Ordering::Relaxed);
                    let (types, values) = scrape(&registry);
                    for (series, value) in values.iter().filter(|(each, _)| grows(&types, each)) {
                        let last = before.insert(series.clone(), *value).unwrap_or(0.0);
                        assert!(*value >= last, "{series} was {last} and is {value}");
                    }
                    scrapes.fetch_add(1, Ordering::Relaxed);
                }
                before
            });
            let over = SetOnDrop(&is_over);
            for _ in 0..3 {
                for number in 0..20 {
                    let bytes = encode(&[1, number]);
                    assert_eq!(handle.call(SLOW_ECHO, &bytes, LONG).unwrap().to_vec(), bytes);
                }
                let before = lost(&handle);
                kill_one(&handle);
                eventually("its death is noticed", || before < lost(&handle));
            }
            eventually("it was read often", || scrapes.load(Ordering::Relaxed) > 3);
            drop(over);
            let last = reader.join().unwrap();
            assert!(last.len() > 70, "{}", last.len());
            let sent = last[r#"slipring_sent_bytes_total{role="one"}"#];
            assert!(sent >= 16.0 * 60.0, "what dead workers got is not lost: {sent}");
        });
        close(&pool);
    }

    fn lost(handle: &RoleHandle) -> u64 {
        let workers = handle.metrics().workers;
        // One may still be starting when it is killed.
        let started = workers.died_serving + workers.died_idle + workers.killed_idle;
        started + workers.failed_to_start
    }
}

#[cfg(feature = "metrics")]
mod facade {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata,
        Recorder, SharedString, Unit,
    };

    use super::*;

    /// What was told of each metric: its last value, or all values of a histogram.
    type Told = Arc<Mutex<BTreeMap<String, Vec<f64>>>>;

    #[derive(Default)]
    struct Fake {
        told: Told,
        described: Mutex<Vec<String>>,
    }

    struct One(Told, String);

    impl Fake {
        fn one(&self, key: &Key) -> Arc<One> {
            let labels = key.labels().map(|label| format!(" {}={}", label.key(), label.value()));
            let name = format!("{}{}", key.name(), labels.collect::<String>());
            Arc::new(One(Arc::clone(&self.told), name))
        }

        fn values(&self, name: &str) -> Vec<f64> {
            self.told.lock().unwrap().get(name).cloned().unwrap_or_default()
        }
    }

    impl One {
        fn set(&self, value: f64) {
            self.0.lock().unwrap().insert(self.1.clone(), vec![value]);
        }
    }

    impl CounterFn for One {
        fn increment(&self, _: u64) {
            panic!("the pool knows the number itself");
        }

        fn absolute(&self, value: u64) {
            self.set(value as f64);
        }
    }

    impl GaugeFn for One {
        fn increment(&self, _: f64) {
            panic!("the pool knows the number itself");
        }

        fn decrement(&self, _: f64) {
            panic!("the pool knows the number itself");
        }

        fn set(&self, value: f64) {
            One::set(self, value);
        }
    }

    impl HistogramFn for One {
        fn record(&self, value: f64) {
            self.0.lock().unwrap().entry(self.1.clone()).or_default().push(value);
        }
    }

    impl Recorder for Fake {
        fn describe_counter(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
            self.described.lock().unwrap().push(name.as_str().to_owned());
        }

        fn describe_gauge(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
            self.described.lock().unwrap().push(name.as_str().to_owned());
        }

        fn describe_histogram(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
            self.described.lock().unwrap().push(name.as_str().to_owned());
        }

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            self.one(key).into()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            self.one(key).into()
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            self.one(key).into()
        }
    }

    #[test]
    fn a_recorder_is_told_each_number_and_each_time_once() {
        let (pool, handle) = pool_of(role());
        let (fake, mut publisher) = (Fake::default(), pool.metrics_publisher());
        let mut publish = || metrics::with_local_recorder(&fake, || publisher.publish());
        publish();
        let ok = "slipring_requests_total role=one kind=echo outcome=ok";
        assert_eq!(fake.values(ok), [1.0]);
        assert_eq!(fake.values("slipring_queue_seconds role=one").len(), 1);
        (0..9).for_each(|_| drop(handle.call(ECHO, "x", LONG).unwrap()));
        publish();
        publish();
        assert_eq!(fake.values(ok), [10.0]);
        assert_eq!(fake.values("slipring_workers role=one"), [1.0]);
        let times = fake.values("slipring_service_seconds role=one");
        let sum = handle.metrics().service_times.sum().as_secs_f64();
        let told: f64 = times.iter().sum();
        assert_eq!(times.len(), 10);
        assert!(told >= sum && told <= sum * (1.0 + 1.0 / 32.0), "{told} for {sum}");
        let described = fake.described.lock().unwrap().clone();
        let times_of = |name: &str| described.iter().filter(|each| *each == name).count();
        assert_eq!(times_of("slipring_requests_total"), 1);
        assert_eq!(times_of("slipring_service_seconds"), 1);
        close(&pool);
    }
}

#[cfg(feature = "tower")]
mod tower {
    use std::task::{Context, Poll, Waker};

    use slipring::Reply;
    use slipring::pool::{RoleService, ServiceRequest};
    use tower_service::Service;

    use super::*;

    /// What a layer does with a service.
    async fn through(
        service: &mut impl Service<ServiceRequest, Response = Reply, Error = slipring::Error>,
        request: ServiceRequest,
    ) -> slipring::Result<Reply> {
        std::future::poll_fn(|context| service.poll_ready(context)).await?;
        service.call(request).await
    }

    #[test]
    fn a_service_is_always_ready_and_refuses_in_the_call() {
        let (pool, handle) = pool_of(role().max_waiting(1).prefetch(0));
        let mut service = RoleService::new(handle.to_async(), LONG);
        let reply = through(&mut service, ServiceRequest::new(ECHO, b"x".to_vec()));
        assert_eq!(pollster::block_on(reply).unwrap().to_vec(), b"x");

        let stay = Stay::new();
        let slow = ServiceRequest::new(STAY, stay.path());
        let mut busy = service.call(slow.clone());
        let mut context = Context::from_waker(Waker::noop());
        assert!(std::pin::Pin::new(&mut busy).poll(&mut context).is_pending());
        eventually("it is begun", || is_begun(&handle));
        let ready = Service::<ServiceRequest>::poll_ready(&mut service, &mut context);
        assert!(matches!(ready, Poll::Ready(Ok(()))));
        let mut waits = service.call(slow.clone());
        assert!(std::pin::Pin::new(&mut waits).poll(&mut context).is_pending());
        let refused = pollster::block_on(through(&mut service, slow.clone())).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Overloaded);
        let path = stay.path();
        drop(stay);
        assert_eq!(pollster::block_on(busy).unwrap().to_vec(), path);

        drop(waits);
        let short = ServiceRequest::new(UNTIL_ABORTED, Vec::new());
        let short = short.timeout(Duration::from_secs(1));
        let late = pollster::block_on(through(&mut service, short)).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Timeout);
        let metrics = handle.metrics();
        let kinds = [ErrorKind::Overloaded, ErrorKind::Timeout, ErrorKind::Cancelled];
        let count = |kind| metrics.requests_with(Outcome::Failed(kind));
        assert_eq!(kinds.map(count), [1, 1, 1]);
        close(&pool);
    }
}
