use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use proptest::option::of;
use proptest::prelude::*;

use super::*;
use crate::id::RequestId;

/// What a death is made of: as a channel makes it.
#[derive(Debug, Clone)]
struct Dead {
    text: [String; 2],
    host: Option<String>,
    request: Option<u64>,
    cause: Option<ExitCause>,
    is_oom_suspected: bool,
    log: Option<(String, String)>,
    /// `None`: a worker of raw rings.
    marks: Option<Vec<(u64, u64)>>,
    has_stopped: bool,
    /// Its path, or why it could not be written.
    crash_report: Option<Result<String, String>>,
}

/// The memory of a channel, which outlives no error.
type Memory = Option<Arc<dyn Marks>>;

fn died(dead: &Dead) -> (Error, Memory) {
    let end_of_service = EndOfService::default();
    let memory = dead.marks.as_ref().map(|marks| {
        let mark = |(since, (request, stage)): (u64, &(u64, u64))| Mark {
            request: *request,
            stage: Stage::from_code(*stage).unwrap(),
            since,
            progress: 0,
            awaits_credit: false,
        };
        let marks: Arc<dyn Marks> = Arc::new((0..).zip(marks).map(mark).collect::<Vec<_>>());
        end_of_service.set_source(Arc::downgrade(&marks));
        let has_stopped = dead.has_stopped;
        end_of_service.set_has_stopped(Box::new(move || has_stopped));
        marks
    });
    let crash_report = dead.crash_report.as_ref().map(|outcome| {
        let place = ReportPlace::default();
        place.set(outcome.clone().map(PathBuf::from));
        place
    });
    let error = Error::peer_died(WorkerDeath {
        role: dead.text[0].clone(),
        pid: 7,
        host: dead.host.clone(),
        request: dead.request,
        log_path: dead.log.as_ref().map(|(path, _)| PathBuf::from(path)),
        log_tail: dead.log.as_ref().map(|(_, tail)| tail.clone()),
        status: Arc::new(dead.cause.map_or_else(OnceLock::new, OnceLock::from)),
        oom_suspected: Arc::new(OnceLock::from(dead.is_oom_suspected && dead.cause.is_some())),
        end_of_service: Arc::new(end_of_service),
        crash_report,
    });
    let error = if dead.text[1].is_empty() { error } else { error.with_note(&dead.text[1]) };
    (error, memory)
}

fn text() -> impl Strategy<Value = String> {
    // With line breaks, escape sequences and characters of several bytes.
    "[a-zß\\n\\t\\x1b]{0,12}"
}

fn cause() -> impl Strategy<Value = ExitCause> {
    prop_oneof![
        any::<i32>().prop_map(ExitCause::Exited),
        any::<i32>().prop_map(ExitCause::Signaled),
        Just(ExitCause::Unknown),
    ]
}

fn dead() -> impl Strategy<Value = Dead> {
    let marks = proptest::collection::btree_map(1..6_u64, 1..=4_u64, 0..5);
    let marks = marks.prop_map(|marks| marks.into_iter().rev().collect());
    let known = (of(cause()), any::<bool>(), of((text(), text())), of(marks), any::<bool>());
    let crash_report = of(prop_oneof![text().prop_map(Ok), text().prop_map(Err)]);
    let rest = (of(1..6_u64), crash_report);
    ([text(), text()], of(text()), rest, known).prop_map(|(text, host, rest, known)| {
        let (request, crash_report) = rest;
        let (cause, is_oom_suspected, log, marks, has_stopped) = known;
        Dead { text, host, request, cause, is_oom_suspected, log, marks, has_stopped, crash_report }
    })
}

fn kind() -> impl Strategy<Value = ErrorKind> {
    proptest::sample::select(ErrorKind::ALL.to_vec())
}

/// An error of every kind, with every detail that one can have, and the memory that it reads.
fn without_source() -> impl Strategy<Value = (Error, Vec<Memory>)> {
    let plain = |error| (error, Vec::new());
    let failure = (text(), text(), proptest::collection::vec(text(), 0..4), text());
    let failure = failure
        .prop_map(|(type_name, message, sources, backtrace)| HandlerFailure {
            type_name,
            message,
            sources,
            backtrace,
        })
        .boxed();
    let which = proptest::sample::select(vec![
        StreamTimeout::Queue,
        StreamTimeout::FirstChunk,
        StreamTimeout::Chunk,
        StreamTimeout::Total,
    ]);
    let overload = (any::<[usize; 3]>(), any::<[u32; 2]>()).prop_map(|(counts, times)| {
        let [queued, limit, in_flight] = counts;
        let [oldest_wait, retry_after] = times.map(|ms| Duration::from_millis(ms.into()));
        Overload { queued, limit, in_flight, oldest_wait, retry_after }
    });
    prop_oneof![
        (kind(), text()).prop_map(move |(kind, text)| plain(Error::new(kind, text))),
        any::<(usize, usize)>()
            .prop_map(move |(len, cap)| plain(Error::too_large(len, cap, "more"))),
        (failure.clone(), any::<bool>())
            .prop_map(move |(failure, begun)| plain(Error::handler_failed(failure, begun))),
        failure.prop_map(move |failure| plain(Error::session_failure(failure))),
        dead().prop_map(|dead| {
            let (error, memory) = died(&dead);
            (error, vec![memory])
        }),
        (text(), which).prop_map(move |(text, which)| plain(
            Error::new(which.kind(), text).with_stream_timeout(which)
        )),
        (text(), overload).prop_map(move |(role, load)| plain(Error::overloaded(&role, load))),
    ]
}

fn error() -> impl Strategy<Value = (Error, Vec<Memory>)> {
    let around = |inner: BoxedStrategy<(Error, Vec<Memory>)>| {
        let attempt = (kind(), of(cause()), of(any::<bool>()));
        let attempt = attempt.prop_map(|(kind, cause, begun)| AttemptEnd::new(kind, cause, begun));
        let ends = proptest::collection::vec(attempt, 0..3);
        let earlier =
            (any::<u32>(), ends).prop_map(|(count, ends)| EarlierAttempts { count, ends });
        let added = (of(any::<bool>()), of(text()), of(earlier));
        (inner, added).prop_map(|((mut error, memory), (begun, tail, earlier))| {
            if let Some(begun) = begun {
                error = error.with_begun(begun);
            }
            error = error.with_log_tail(tail);
            if let Some(earlier) = earlier {
                error = error.with_earlier_attempts(earlier);
            }
            (error, memory)
        })
    };
    let leaf = around(without_source().boxed()).boxed();
    let of_text = (kind(), text(), text()).prop_map(|(kind, message, why)| {
        let inner = io::Error::other(Error::with_source(ErrorKind::Os, why, io::Error::other("x")));
        (Error::with_source(kind, message, inner), Vec::new())
    });
    let of_error = (kind(), text(), leaf.clone()).prop_map(|(kind, message, (source, memory))| {
        (Error::with_source(kind, message, source), memory)
    });
    prop_oneof![3 => leaf, 1 => around(of_text.boxed()), 2 => around(of_error.boxed())]
}

/// The sources of an error, in words.
fn sources(error: &Error) -> Vec<String> {
    let first = std::error::Error::source(error);
    std::iter::successors(first, |source| source.source()).map(ToString::to_string).collect()
}

fn assert_same_death(one: &WorkerDeath, other: &WorkerDeath) {
    assert_eq!((one.role(), one.pid(), one.host()), (other.role(), other.pid(), other.host()));
    assert_eq!((one.cause(), one.request()), (other.cause(), other.request()));
    assert_eq!((one.serving(), one.begun_requests()), (other.serving(), other.begun_requests()));
    assert_eq!((one.was_begun(), one.stage()), (other.was_begun(), other.stage()));
    assert_eq!((one.begun_alone(), one.log_path()), (other.begun_alone(), other.log_path()));
    assert_eq!(one.log_tail(), other.log_tail());
    assert_eq!(one.is_oom_suspected(), other.is_oom_suspected());
    assert_eq!(format!("{one}{one:#}{one:?}"), format!("{other}{other:#}{other:?}"));
}

/// All that can be asked of the two errors is the same.
fn assert_same(one: &Error, other: &Error) {
    assert_eq!(one.kind(), other.kind());
    assert_eq!((one.was_begun(), one.stage()), (other.was_begun(), other.stage()));
    assert_eq!(one.crash_report(), other.crash_report());
    assert_eq!((one.begun_alone(), one.log_tail()), (other.begun_alone(), other.log_tail()));
    assert_eq!(one.stream_timeout(), other.stream_timeout());
    assert_eq!(one.length_and_limit(), other.length_and_limit());
    assert_eq!(one.overload(), other.overload());
    assert_eq!(one.earlier_attempts(), other.earlier_attempts());
    assert_eq!(one.handler_failure(), other.handler_failure());
    assert_eq!(one.death().is_some(), other.death().is_some());
    if let (Some(one), Some(other)) = (one.death(), other.death()) {
        assert_same_death(one, other);
    }
    assert_eq!(format!("{one}|{one:#}|{one:?}"), format!("{other}|{other:#}|{other:?}"));
    assert_eq!(sources(one), sources(other));
    let own = |error: &Error| -> Option<Error> {
        std::error::Error::source(error)?.downcast_ref::<Error>().cloned()
    };
    assert_eq!(own(one).is_some(), own(other).is_some());
    if let (Some(one), Some(other)) = (own(one), own(other)) {
        assert_same(&one, &other);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn an_error_says_the_same_after_it_was_a_report((error, memory) in error()) {
        let report = error.report();
        let copy = Error::from_report(report.clone());
        assert_same(&error, &copy);
        prop_assert_eq!(copy.report(), report);
        drop(memory);
    }

    #[cfg(feature = "serde")]
    #[test]
    fn a_report_of_an_error_is_the_same_after_it_was_text((error, memory) in error()) {
        let report = error.report();
        let text = serde_json::to_string(&report).unwrap();
        prop_assert_eq!(serde_json::from_str::<ErrorReport>(&text).unwrap(), report);
        drop(memory);
    }
}

#[test]
fn a_report_that_contradicts_itself_makes_an_error_that_promises_nothing() {
    let mut death = DeathReport { request: Some(RequestId::from(3)), ..DeathReport::default() };
    (death.role, death.host) = ("embed".into(), Some("gpu\n2".into()));
    death.stage = Some(RequestStage::Queued);
    let error = |death: &DeathReport| {
        let mut report = ErrorReport::new(ErrorKind::PeerDied, "");
        report.death = Some(death.clone());
        Error::from_report(report)
    };
    // The cause is known before what was begun.
    assert_eq!(error(&death).was_begun(), None);
    death.cause = Some(ExitCause::Signaled(9));
    assert_eq!(error(&death).was_begun(), Some(false));
    death.begun_requests = Some(vec![RequestId::from(3)]);
    assert_eq!(error(&death).was_begun(), Some(true));
    assert_eq!(
        error(&death).to_string(),
        format!(
            "worker embed (pid 0 on gpu\\n2) died: killed by signal SIGKILL (9), while it served \
             request 3{NO_LOG}"
        )
    );
}

#[test]
fn a_report_with_any_number_of_sources_makes_an_error_with_a_few() {
    let mut report = ErrorReport::new(ErrorKind::Os, "it failed");
    report.sources = vec!["why".to_owned(); 100_000];
    assert_eq!(sources(&Error::from_report(report)), vec!["why"; 32]);
    let mut report = ErrorReport::new(ErrorKind::Os, "the innermost");
    for _ in 0..1000 {
        let source = Some(Box::new(report));
        report = ErrorReport { source, ..ErrorReport::new(ErrorKind::Degraded, "why") };
    }
    assert_eq!(sources(&Error::from_report(report)).len(), 32);
}
