//! Reports and kinds of errors as a host logs or stores them.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use slipring::payload::ElementType;
use slipring::{
    ErrorCounts, ErrorKind, ExitCause, HandlerFailure, Health, RequestId, Stats, WaitStrategy,
    WorkerState,
};

/// Reads a value from its text, and expects the same text of the value.
#[track_caller]
fn read<T: Serialize + DeserializeOwned + PartialEq + Debug>(text: &str) -> T {
    let value: T = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&value).unwrap(), text);
    value
}

#[test]
fn a_health_report_is_written_with_the_names_of_its_fields() {
    let health: Health = read(
        r#"{"state":"awaiting_credit","current_request":7,"busy_for":{"secs":1,"nanos":5},"progress":3,"taken":1,"begun":1,"requests":[{"id":7,"stage":"begun","since":{"secs":1,"nanos":5},"progress":3}],"requests_served":9,"bytes_received":10,"bytes_sent":11,"last_error":"no model"}"#,
    );
    assert_eq!((health.state, health.progress), (WorkerState::AwaitingCredit, 3));
    assert_eq!(health.last_error.as_deref(), Some("no model"));
    assert_eq!((health.taken, health.begun, health.requests[0].id.get()), (1, 1, 7));
}

#[test]
fn causes_kinds_and_numbers_are_written_by_name_and_value() {
    assert_eq!(read::<ExitCause>(r#"{"exited":3}"#), ExitCause::Exited(3));
    assert_eq!(read::<ExitCause>(r#"{"signaled":9}"#), ExitCause::Signaled(9));
    assert_eq!(read::<ErrorKind>(r#""too_many_in_flight""#), ErrorKind::TooManyInFlight);
    assert_eq!(read::<RequestId>("12").get(), 12);
    assert_eq!(read::<ElementType>(r#""bf16""#), ElementType::BF16);
    assert_eq!(read::<WaitStrategy>(r#""park""#), WaitStrategy::Park);
    let failure: HandlerFailure =
        read(r#"{"type_name":"Bad","message":"no","sources":["why"],"backtrace":""}"#);
    assert_eq!(failure.to_string(), "Bad: no: why");
}

#[test]
fn counters_of_a_channel_come_out_as_they_went_in() {
    let text = serde_json::to_string(&Stats::default()).unwrap();
    assert!(text.contains(r#""late_frames":0"#), "{text}");
    assert_eq!(read::<Stats>(&text), Stats::default());
    let errors: ErrorCounts = read(r#"{"timeout":3}"#);
    assert_eq!((errors.get(ErrorKind::Timeout), errors.total()), (3, 3));
    // What was written before a counter was added.
    let old: Stats = serde_json::from_str(r#"{"late_frames":4,"errors":{"os":1}}"#).unwrap();
    assert_eq!((old.late_frames, old.errors.get(ErrorKind::Os), old.requests), (4, 1, 0));
    assert_eq!(old.call_latency.count(), 0);
}

#[test]
fn the_name_of_a_kind_is_what_is_written() {
    for (kind, _) in ErrorCounts::default().iter() {
        assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{}\"", kind.name()));
        assert_eq!(ErrorKind::from_code(kind.code()), kind);
    }
    // Of a newer version.
    let newer: ErrorKind = serde_json::from_str(r#""too_newfangled""#).unwrap();
    assert_eq!(newer, ErrorKind::Unknown);
}
