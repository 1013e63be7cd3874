//! The program `slipring-gateway`, as a process with workers of its own. This test is the worker, so it
//! has its own `main` in place of the test harness.

mod program {
    pub(crate) mod example;
    pub(crate) mod gateway;
    pub(crate) mod runs;
}

use std::path::Path;
use std::time::Duration;

use slipring::worker::{self, Worker};
use slipring::{Kind, RoleConfig};

/// Answers with its payload.
const ECHO: Kind = Kind::named("echo");
/// Begins a file, and answers once another one exists: `begun`, a line break, `over`.
const WAIT: Kind = Kind::named("wait");
/// Ends the worker if the file of the payload does not exist, and creates it before.
const CRASH_ONCE: Kind = Kind::named("crash-once");
/// Passes only if something hangs.
const LONG: Duration = Duration::from_secs(60);

/// The tests of these paths, with their names.
macro_rules! tests {
    ($($module:ident :: $test:ident),* $(,)?) => {
        [$((stringify!($test), $module::$test as fn())),*]
    };
}

fn main() {
    if worker::is_worker() {
        return serve();
    }
    let tests: &[(&str, fn())] = &tests![
        runs::a_role_of_another_machine_is_called,
        runs::a_kind_that_may_run_twice_is_sent_again,
        runs::without_prefetch_requests_wait_for_any_worker,
        runs::sigterm_finishes_requests_and_ends_well,
        runs::a_second_signal_ends_at_once,
        runs::a_drain_that_takes_too_long_is_a_failure,
        runs::a_used_port_is_a_clear_error,
        runs::bad_options_are_errors_of_one_line,
        runs::workers_that_cannot_start_end_the_program,
        runs::a_worker_that_does_not_start_at_first_is_started_again,
        runs::made_certificates_let_their_caller_in_and_no_other,
        runs::certificates_that_cannot_be_used_are_told_of,
        runs::metrics_and_requests_are_shown,
        runs::help_names_every_option,
        runs::callers_beyond_the_descriptors_keep_no_other_out,
        example::two_terminals_share_their_workers,
        example::two_terminals_speak_tls_by_made_certificates,
    ];
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let is_asked = |name: &str| filter.as_ref().is_none_or(|filter| name.contains(filter));
    for (name, test) in tests.iter().filter(|(name, _)| is_asked(name)) {
        test();
        println!("{name} ... ok");
    }
}

use program::{example, runs};

fn serve() {
    let worker = Worker::new(|role: &RoleConfig| match role.role.as_str() {
        "refuses" => Err(slipring::worker::HandlerError::new("Model", "there is no model")),
        _ => Ok(()),
    });
    let worker = worker
        .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?))
        .on(WAIT, |(), request, responder| {
            let text = request.text()?.to_owned();
            let (begun, over) = text.split_once('\n').unwrap();
            std::fs::write(begun, "").unwrap();
            while !Path::new(over).exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(responder.send("waited")?)
        })
        .on(CRASH_ONCE, |(), request, responder| {
            let text = request.text()?.to_owned();
            if !Path::new(&text).exists() {
                std::fs::write(&text, "").unwrap();
                eprintln!("out of luck");
                std::process::abort();
            }
            Ok(responder.send("the second time")?)
        });
    worker.serve().unwrap();
}
