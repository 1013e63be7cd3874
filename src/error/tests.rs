use std::path::Path;
use std::str::Utf8Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::id::RequestId;

#[test]
fn an_error_is_one_pointer_wide_and_so_is_its_option() {
    assert_eq!(size_of::<Error>(), size_of::<usize>());
    assert_eq!(size_of::<Option<Error>>(), size_of::<usize>());
}

#[test]
fn a_payload_over_the_cap_is_told_with_both_numbers_and_the_option() {
    let error = Error::too_large(70, 64, "raise max_frame");
    assert_eq!(error.length_and_limit(), Some((70, 64)));
    assert_eq!(
        error.to_string(),
        "payload of 70 bytes is over the cap of 64 bytes; raise max_frame"
    );
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
}

impl Marks for Vec<Mark> {
    fn all(&self) -> Vec<Mark> {
        self.clone()
    }
}

fn mark(request: u64, stage: Stage) -> Mark {
    Mark { request, stage, since: request, progress: 0, awaits_credit: false }
}

#[test]
fn a_death_names_signal_log_and_last_lines_once_they_are_known() {
    let death = WorkerDeath {
        role: "embed".into(),
        pid: 7,
        host: None,
        request: Some(3),
        log_path: Some("/tmp/worker-embed.log".into()),
        log_tail: Some("loading\nboom\n".into()),
        status: Arc::default(),
        oom_suspected: Arc::default(),
        end_of_service: Arc::default(),
        crash_report: None,
    };
    let error = Error::peer_died(death.clone());
    assert!(error.to_string().contains("exit status not known yet"));
    assert_eq!(error.was_begun(), None);
    death.status.set(ExitCause::Signaled(9)).unwrap();
    let marks: Arc<dyn Marks> = Arc::new(vec![mark(3, Stage::Begun)]);
    death.end_of_service.set_source(Arc::downgrade(&marks));
    let has_stopped = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&has_stopped);
    death.end_of_service.set_has_stopped(Box::new(move || asked.load(Ordering::Relaxed)));
    assert_eq!(error.was_begun(), None, "a thread of it may still begin something");
    has_stopped.store(true, Ordering::Relaxed);
    assert_eq!(
        error.to_string(),
        "worker embed (pid 7) died: killed by signal SIGKILL (9), while it served request 3; \
         log /tmp/worker-embed.log"
    );
    assert_eq!(format!("{error:#}"), format!("{error}; the log ends:\nloading\nboom"));
    assert_eq!(format!("{:#}", error.death().unwrap()), format!("{error:#}"));
    assert_eq!(format!("{error:?}"), format!("PeerDied({error:#})"));
    assert_eq!(error.log_tail(), Some("loading\nboom\n"));
    assert!(error.is_peer_dead() && error.is_fatal());
    let death = error.death().unwrap();
    assert_eq!((death.role(), death.pid()), ("embed", 7));
    assert_eq!((death.request(), death.serving()), (Some(RequestId::new(3)), death.request()));
    assert_eq!(death.log_path(), Some(Path::new("/tmp/worker-embed.log")));
    let shown = format!("{death:?}");
    assert!(shown.contains("cause: Some(Signaled(9))") && !shown.contains("status"), "{shown}");
}

#[test]
fn a_death_tells_how_far_each_request_was_and_with_how_many_others() {
    use RequestStage::{Begun, Queued, Taken};
    let death_of = |request, marks: Vec<Mark>| {
        let death = WorkerDeath {
            role: "chat".into(),
            pid: 7,
            host: None,
            request: Some(request),
            log_path: None,
            log_tail: None,
            status: Arc::default(),
            oom_suspected: Arc::default(),
            end_of_service: Arc::default(),
            crash_report: None,
        };
        death.status.set(ExitCause::Signaled(11)).unwrap();
        let marks: Arc<dyn Marks> = Arc::new(marks);
        death.end_of_service.set_source(Arc::downgrade(&marks));
        death.end_of_service.set_has_stopped(Box::new(|| true));
        let _ = death.begun_requests();
        death
    };
    let many = || {
        let begun = [2, 1, 5].map(|request| mark(request, Stage::Begun));
        let others = [mark(3, Stage::Taken), mark(9, Stage::Done), mark(8, Stage::Answered)];
        begun.into_iter().chain(others).collect::<Vec<_>>()
    };
    let cases = [
        (1, many(), Begun, false, "while it served request 1 and 2 others; it has"),
        (3, many(), Taken, false, "request 1 and 2 others; request 3 had been taken and not begun"),
        (4, many(), Queued, false, "request 1 and 2 others; request 4 had not been begun"),
        (8, many(), Begun, false, "while it served request 8 and 3 others"),
        (1, vec![mark(1, Stage::Begun)], Begun, true, "while it served request 1; it has"),
        (1, vec![mark(1, Stage::Answered)], Begun, true, "while it served request 1; it has"),
        (1, vec![mark(1, Stage::Begun), mark(2, Stage::Begun)], Begun, false, "and another one"),
        (1, vec![mark(1, Stage::Taken)], Taken, false, "no request; request 1 had been taken"),
    ];
    for (request, marks, stage, is_alone, text) in cases {
        let error = Error::peer_died(death_of(request, marks));
        assert_eq!(error.stage(), Some(stage), "{error}");
        assert_eq!(error.was_begun(), Some(stage == Begun), "{error}");
        assert_eq!(error.begun_alone(), Some(is_alone), "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    let begun = death_of(1, many()).begun_requests();
    assert_eq!(begun, [1, 2, 5].map(RequestId::new), "in the order in which they were begun");
}

#[test]
fn no_text_is_told_with_the_offset_of_its_first_bad_byte() {
    let utf8 = String::from_utf8(b"gr\xfc\xdfe".to_vec()).unwrap_err().utf8_error();
    let error = Error::not_utf8(5, utf8);
    assert_eq!(error.kind(), ErrorKind::InvalidPayload);
    assert_eq!(error.to_string(), "a payload of 5 bytes is not UTF-8 from byte 2 on");
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.downcast_ref::<Utf8Error>().unwrap().valid_up_to(), 2);
}

#[test]
fn no_kind_becomes_one_after_which_loops_of_std_try_again() {
    use ErrorKind as K;
    let kinds = [
        (K::InvalidConfig, io::ErrorKind::InvalidInput),
        (K::InvalidInput, io::ErrorKind::InvalidInput),
        (K::InvalidPayload, io::ErrorKind::InvalidData),
        (K::Timeout, io::ErrorKind::TimedOut),
        (K::Stalled, io::ErrorKind::TimedOut),
        (K::Cancelled, io::ErrorKind::ConnectionAborted),
        (K::Closed, io::ErrorKind::NotConnected),
        (K::TooManyInFlight, io::ErrorKind::ResourceBusy),
        (K::PeerDied, io::ErrorKind::BrokenPipe),
        (K::Disconnected, io::ErrorKind::ConnectionReset),
        (K::Unsupported, io::ErrorKind::Unsupported),
        (K::Session, io::ErrorKind::Other),
    ];
    for (kind, io_kind) in kinds {
        assert_eq!(io::Error::from(Error::new(kind, "")).kind(), io_kind, "{kind:?}");
    }
    let of = |source: io::ErrorKind| io::Error::from(Error::os("", source.into())).kind();
    assert_eq!(of(io::ErrorKind::NotFound), io::ErrorKind::NotFound);
    assert_eq!(of(io::ErrorKind::Interrupted), io::ErrorKind::Other);
    assert_eq!(of(io::ErrorKind::WouldBlock), io::ErrorKind::Other);
}

#[test]
fn a_message_is_one_line_and_only_the_long_form_has_the_source() {
    let source = io::Error::new(io::ErrorKind::NotFound, "no such\nfile");
    let error = Error::with_source(ErrorKind::Spawn, "cannot start a\u{1b}[31mb", source);
    assert_eq!(error.to_string(), "cannot start a\\u{1b}[31mb");
    assert_eq!(format!("{error:#}"), "cannot start a\\u{1b}[31mb: no such\\nfile");
    assert_eq!(format!("{error:?}"), format!("Spawn({error:#})"));
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.downcast_ref::<io::Error>().unwrap().kind(), io::ErrorKind::NotFound);
    let failure = HandlerFailure {
        type_name: "Bad".into(),
        message: "two\nlines".into(),
        sources: vec!["why".into()],
        ..HandlerFailure::default()
    };
    let error = Error::handler_failed(failure, true);
    assert_eq!(error.to_string(), "handler failed: Bad: two\\nlines: why");
    let tail = Some("loading\nboom\n".to_owned());
    let error = Error::new(ErrorKind::Handshake, "it did not attach").with_log_tail(tail);
    assert_eq!(error.to_string(), "it did not attach");
    assert_eq!(format!("{error:#}"), "it did not attach; the log ends:\nloading\nboom");
}

/// The kind after this one, in the order of their declaration.
fn next(kind: ErrorKind) -> Option<ErrorKind> {
    use ErrorKind as K;
    // No arm for all others: a new kind has to be added here, and to `ErrorKind::ALL`.
    Some(match kind {
        K::InvalidConfig => K::InvalidInput,
        K::InvalidInput => K::TooLarge,
        K::TooLarge => K::InvalidPayload,
        K::InvalidPayload => K::Timeout,
        K::Timeout => K::Stalled,
        K::Stalled => K::Cancelled,
        K::Cancelled => K::Interrupted,
        K::Interrupted => K::Closed,
        K::Closed => K::TooManyInFlight,
        K::TooManyInFlight => K::PeerDied,
        K::PeerDied => K::PeerCorrupt,
        K::PeerCorrupt => K::Protocol,
        K::Protocol => K::HandlerFailed,
        K::HandlerFailed => K::Session,
        K::Session => K::Spawn,
        K::Spawn => K::Handshake,
        K::Handshake => K::Mismatch,
        K::Mismatch => K::Forked,
        K::Forked => K::Overloaded,
        K::Overloaded => K::QueueTimeout,
        K::QueueTimeout => K::Degraded,
        K::Degraded => K::Poison,
        K::Poison => K::Disconnected,
        K::Disconnected => K::Unsupported,
        K::Unsupported => K::Os,
        K::Os => K::Unknown,
        K::Unknown => return None,
    })
}

#[test]
fn every_kind_of_error_is_in_the_list_of_all() {
    let all: Vec<_> =
        std::iter::successors(Some(ErrorKind::InvalidConfig), |kind| next(*kind)).collect();
    assert_eq!(all, ErrorKind::ALL);
}

#[test]
fn a_lost_connection_says_whether_the_request_was_begun_if_that_is_known() {
    for was_begun in [Some(false), Some(true), None] {
        let error = Error::disconnected("no route to gpu-2", was_begun);
        assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, was_begun));
        assert!(!error.is_fatal() && error.to_string() == "no route to gpu-2");
    }
}

#[test]
fn a_recipe_fails_with_the_error_of_its_own() {
    let why = io::Error::other("no device is free");
    let error = Error::spawn_failed(why);
    assert_eq!(error.kind(), ErrorKind::Spawn);
    assert!(format!("{error:#}").contains("no device is free"));
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.downcast_ref::<io::Error>().is_some());
}
