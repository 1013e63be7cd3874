//! The parent's side of a hostile worker: how it is started, what it is asked, and what must hold
//! whatever it does.
#![allow(unreachable_pub, missing_docs, reason = "a module of tests")]

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use slipring::{Channel, Config, Error, ErrorKind, Kind, Pending, Spawner, StreamTimeouts};

use crate::common::*;
use crate::hostile::script;

pub const FORGE: Kind = Kind::app(script::FORGE - 0x100);
pub const RESTORE: Kind = Kind::app(script::RESTORE - 0x100);
pub const CASE: Kind = Kind::app(script::CASE - 0x100);
pub const HOLD: Kind = Kind::app(script::HOLD - 0x100);
pub const HOSTILE_ECHO: Kind = Kind::app(script::ECHO - 0x100);
pub const HOSTILE_COUNT: Kind = Kind::app(script::COUNT - 0x100);

/// The timeout of a handshake that fails.
pub const HANDSHAKE: Duration = Duration::from_millis(500);
/// The timeout of an operation on a hostile channel.
pub const SHORT: Duration = Duration::from_millis(40);

pub fn hostile_spawner() -> Spawner {
    Spawner::current_exe()
        .unwrap()
        .args(["hostile_entry", "--exact", "--nocapture", "--test-threads=1"])
        .role("hostile")
        .config(tiny(4 << 10).max_in_flight(16).build().unwrap())
}

pub fn with_case(mode: &str) -> Spawner {
    hostile_spawner().mode(mode)
}

pub fn hostile() -> Channel {
    hostile_spawner().spawn().unwrap()
}

/// Checks that a channel of this process with an honest worker has not noticed anything.
pub fn assert_others_are_untouched() {
    static HONEST: OnceLock<Channel> = OnceLock::new();
    // One at a time: a reply that another test is reading would count as held.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let honest = HONEST.get_or_init(|| spawn(Config::small()));
    assert_usable(honest);
    honest.ping(LONG).unwrap();
    let stats = honest.stats();
    assert_eq!((stats.unknown_frames, stats.late_frames, stats.leases_held), (0, 0, 0));
}

/// The longest time that an operation took beyond its timeout.
#[derive(Default)]
pub struct Overtime(pub Duration);

impl Overtime {
    /// Runs an operation with a timeout of [`SHORT`]. It hangs if it takes some seconds more.
    pub fn in_time<T: Send>(&mut self, what: &str, run: impl FnOnce() -> T + Send) -> T {
        let start = Instant::now();
        let result = within_long(what, run);
        let over = start.elapsed().saturating_sub(SHORT);
        assert!(over < Duration::from_secs(5), "{what}: {over:?} over its timeout");
        self.0 = self.0.max(over);
        result
    }
}

pub fn is_one_of(error: &Error, kinds: &[ErrorKind]) -> bool {
    kinds.contains(&error.kind())
}

/// Checks that a poisoned channel stays poisoned, and that operations fail in time.
pub fn assert_poisoned_for_good(channel: &Channel, what: &str, over: &mut Overtime) {
    for _ in 0..3 {
        let kinds = [ErrorKind::PeerCorrupt];
        let called = over.in_time(what, || channel.call(HOSTILE_ECHO, b"x", SHORT).map(drop));
        let error = called.unwrap_err();
        assert!(is_one_of(&error, &kinds), "{what}: {error}");
        assert!(error.is_fatal() && !channel.is_alive(), "{what}");
        let error = channel.stream(HOSTILE_COUNT, b"x", SHORT).unwrap_err();
        assert!(is_one_of(&error, &kinds), "{what}: {error}");
        let error = over.in_time(what, || channel.ping(SHORT).map(drop)).unwrap_err();
        assert!(is_one_of(&error, &kinds), "{what}: {error}");
    }
    assert_eq!(channel.in_flight(), 0, "{what}");
}

pub fn end(channel: &Channel, what: &str) {
    let pid = channel.pid();
    within_long(what, || channel.close(Duration::from_millis(50))).unwrap();
    eventually("it is reaped", || !is_in_the_table(pid));
}

/// The outcome that a case must have.
pub enum Comes {
    /// The call that starts the attack is answered, and the channel stays usable.
    Harmless,
    /// The call that starts the attack fails so, and the channel stays usable.
    Fails(ErrorKind),
    /// The call that starts the attack fails so. Later operations are typed and in time.
    Ends(ErrorKind),
    /// That call, or a later one, fails as corrupt, for good.
    Corrupt,
    /// Any outcome that is typed and in time.
    Anything,
}

pub const ANY: [ErrorKind; 9] = [
    ErrorKind::PeerCorrupt,
    ErrorKind::PeerDied,
    ErrorKind::Protocol,
    ErrorKind::Timeout,
    ErrorKind::Stalled,
    ErrorKind::Cancelled,
    ErrorKind::HandlerFailed,
    ErrorKind::Session,
    ErrorKind::TooManyInFlight,
];

/// Makes calls, streams and pings. Each must come back right, or fail with a known error and in
/// time.
pub fn exercise(channel: &Channel, what: &str, over: &mut Overtime) -> Vec<Error> {
    exercise_with(channel, what, over, true)
}

pub fn exercise_with(
    channel: &Channel,
    what: &str,
    over: &mut Overtime,
    tells_the_truth: bool,
) -> Vec<Error> {
    let mut errors = Vec::new();
    // Enough calls to fill the ring, so that the parent looks at the worker's head.
    for i in 0..6_u64 {
        let bytes = pattern(i, 900);
        let called = over.in_time(what, || channel.call(HOSTILE_ECHO, &bytes, SHORT));
        match called {
            Ok(reply) if tells_the_truth => {
                assert!(reply.to_vec() == bytes, "{what}: another call's reply");
            }
            Ok(reply) => assert!(reply.to_vec().len() <= channel.config().max_reply_frame()),
            Err(error) => errors.push(error),
        }
        if !errors.is_empty() {
            break;
        }
    }
    errors.extend(over.in_time(what, || channel.ping(SHORT).map(drop)).err());
    if !errors.is_empty() && !tells_the_truth {
        return errors;
    }
    let counted = over.in_time(what, || {
        // A hostile worker may claim to be busy with another request, without end.
        let timeouts = StreamTimeouts::from(SHORT).queue(SHORT);
        let stream = channel.stream(HOSTILE_COUNT, &encode(&[3, 100]), timeouts)?;
        stream.map(|chunk| chunk.map(|chunk| chunk.to_vec())).collect::<Result<Vec<_>, _>>()
    });
    match counted {
        Ok(chunks) if !tells_the_truth => assert!(chunks.len() <= 3, "{what}"),
        Ok(chunks) => {
            assert!(chunks.iter().enumerate().all(|(i, c)| *c == [i as u8; 100]), "{what}");
            assert_eq!(chunks.len(), 3, "{what}");
        }
        Err(error) => errors.push(error),
    }
    drop(channel.submit(HOLD, b"", SHORT).map(Pending::cancel_and_drop));
    let _ = (channel.health(), channel.stats(), channel.in_flight(), channel.exit_cause());
    for error in &errors {
        assert!(is_one_of(error, &ANY), "{what}: {error}");
    }
    errors
}

pub trait CancelAndDrop {
    fn cancel_and_drop(self);
}

impl CancelAndDrop for Pending {
    fn cancel_and_drop(self) {
        self.cancel();
    }
}

pub fn run(case: &str, comes: Comes, over: &mut Overtime) {
    let channel = hostile();
    channel.call(HOSTILE_ECHO, b"before", LONG).unwrap();
    let before = resident_kib();
    let timeout = match comes {
        Comes::Harmless | Comes::Corrupt => LONG,
        Comes::Fails(kind) if kind != ErrorKind::Timeout => LONG,
        _ => SHORT,
    };
    let called = over.in_time(case, || channel.call(CASE, case, timeout).map(|r| r.to_vec()));
    match (&comes, &called) {
        (Comes::Harmless, Ok(_)) | (Comes::Corrupt | Comes::Anything, _) => {}
        (Comes::Harmless, Err(error)) => panic!("{case}: {error}"),
        (Comes::Fails(kind) | Comes::Ends(kind), Err(error)) => {
            assert_eq!(error.kind(), *kind, "{case}: {error}");
        }
        (Comes::Fails(kind) | Comes::Ends(kind), Ok(bytes)) => {
            panic!("{case}: {bytes:?} and not {kind:?}")
        }
    }
    if let Err(error) = &called {
        assert!(is_one_of(error, &ANY), "{case}: {error}");
    }
    // An attack that goes on keeps the worker from serving for a while.
    let is_usable = || {
        let usable =
            channel.call(HOSTILE_ECHO, b"after", LONG).is_ok_and(|r| r.to_vec() == b"after");
        usable && channel.ping(LONG).is_ok()
    };
    match comes {
        Comes::Harmless | Comes::Fails(_) => {
            assert!(within_long(case, is_usable), "{case}: the channel is not usable any more");
        }
        Comes::Corrupt => {
            let errors = exercise(&channel, case, over);
            let corrupt = [ErrorKind::PeerCorrupt];
            let seen = called.as_ref().err().into_iter().chain(&errors);
            assert!(seen.clone().any(|e| is_one_of(e, &corrupt)), "{case}: {:?}", seen.last());
            assert_poisoned_for_good(&channel, case, over);
        }
        Comes::Anything | Comes::Ends(_) => {
            exercise(&channel, case, over);
        }
    }
    end(&channel, case);
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 32 << 10, "{case}: {grown} KiB more");
    assert_others_are_untouched();
}

pub fn run_all<'a>(cases: impl IntoIterator<Item = (&'a str, Comes)>) {
    let _alone = one_at_a_time();
    let mut over = Overtime::default();
    for (case, comes) in cases {
        let start = Instant::now();
        run(case, comes, &mut over);
        if start.elapsed() > Duration::from_millis(300) {
            println!("{case}: {:?}", start.elapsed());
        }
    }
    println!("at most {:?} over a timeout", over.0);
}
