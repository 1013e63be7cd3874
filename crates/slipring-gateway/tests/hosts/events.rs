//! The faults of a soak: one at a time, so that there is always a gateway that serves.

use std::thread::sleep;
use std::time::Duration;

use crate::process::{Process, send_signal};
use crate::proxy::Line;
use crate::soak::Random;
use crate::trial::{FAULTY, OTHER, Trial, worker_of};

pub const HOSTS: &[&str] = &["caller-1", "caller-2", FAULTY, OTHER, BY_PROXY, "proxy"];
const CALLERS: [&str; 2] = ["caller-1", "caller-2"];
pub const GATEWAYS: [&str; 3] = [FAULTY, OTHER, BY_PROXY];
/// The gateway that is called by way of the proxy.
pub const BY_PROXY: &str = "gateway-3";

pub type Event = fn(&mut Trial, &mut Random);

pub const ALL: [(&str, Event); 18] = [
    ("a cable is pulled", |trial, random| {
        let host = any(GATEWAYS, random).1;
        during(a_while(random), || trial.net.unplug(host), || trial.net.plug(host));
    }),
    ("a line is silent", |trial, random| {
        let host = any(GATEWAYS, random).1;
        during(a_while(random), || trial.net.silence(host), || trial.net.unsilence(host));
    }),
    ("a line carries only answers", |trial, random| {
        one_way(trial, any(CALLERS, random).1, any([FAULTY, OTHER], random).1, random);
    }),
    ("a line carries only requests", |trial, random| {
        one_way(trial, any([FAULTY, OTHER], random).1, any(CALLERS, random).1, random);
    }),
    ("a line is long and loses", |trial, random| {
        let line = Line { delay: 5 + as_u64(random.below(60)), stall: 200, rate: None };
        line_is(trial, line, random.millis(500, 3_000));
    }),
    ("a line is slow", |trial, random| {
        let line = Line { delay: 2, stall: 0, rate: Some(50 + as_u64(random.below(400))) };
        line_is(trial, line, random.millis(500, 5_000));
    }),
    ("a line loses so much that it stands", |trial, random| {
        let line = Line { delay: 30, stall: 600 + as_u64(random.below(900)), rate: None };
        line_is(trial, line, random.millis(500, 3_000));
    }),
    ("a line is cut again and again", |trial, random| {
        for _ in 0..=random.below(4) {
            trial.proxy.as_mut().unwrap().tell("cut");
            sleep(random.millis(1, 500));
        }
    }),
    ("a proxy is stopped", |trial, random| {
        stop(trial.proxy.as_ref().unwrap(), a_while(random));
    }),
    ("a gateway is stopped", |trial, random| {
        stop(&trial.gateways[random.below(GATEWAYS.len())], a_while(random));
    }),
    ("a gateway is killed", |trial, random| end_gateway(trial, "KILL", random)),
    ("a gateway is told to end", |trial, random| end_gateway(trial, "TERM", random)),
    ("a worker is killed", |trial, random| {
        send_signal("KILL", a_worker(trial, random));
    }),
    ("workers are killed one after another", |trial, random| {
        for _ in 0..3 {
            send_signal("KILL", a_worker(trial, random));
            sleep(random.millis(1, 300));
        }
    }),
    ("a worker is stopped", |trial, random| {
        let (worker, lasts) = (a_worker(trial, random), a_while(random));
        during(lasts, || send_signal("STOP", worker), || send_signal("CONT", worker));
    }),
    ("a worker is stopped, and killed then", |trial, random| {
        let (worker, lasts) = (a_worker(trial, random), a_while(random));
        during(lasts, || send_signal("STOP", worker), || send_signal("KILL", worker));
    }),
    ("a caller is stopped", |trial, random| {
        stop(&trial.callers[random.below(CALLERS.len())], a_while(random));
    }),
    ("a caller is killed", |trial, random| {
        let (which, host) = any(CALLERS, random);
        trial.replace_caller(which, host);
    }),
];

fn a_while(random: &mut Random) -> Duration {
    random.millis(50, 2_550)
}

fn as_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap()
}

fn any<const COUNT: usize>(
    hosts: [&'static str; COUNT],
    random: &mut Random,
) -> (usize, &'static str) {
    let which = random.below(COUNT);
    (which, hosts[which])
}

fn during(lasts: Duration, begin: impl FnOnce(), end: impl FnOnce()) {
    begin();
    sleep(lasts);
    end();
}

fn stop(process: &Process, lasts: Duration) {
    during(lasts, || process.signal("STOP"), || process.signal("CONT"));
}

fn one_way(trial: &Trial, from: &str, to: &str, random: &mut Random) {
    let net = &trial.net;
    during(a_while(random), || net.cut_one_way(from, to), || net.mend_one_way(from, to));
}

fn line_is(trial: &mut Trial, line: Line, lasts: Duration) {
    for line in [line, Line::default()] {
        let words = format!("line {}", line.words().join(" "));
        trial.proxy.as_mut().unwrap().tell(&words);
        if line.rate.is_some() || line.delay > 0 {
            sleep(lasts);
        }
    }
}

fn end_gateway(trial: &mut Trial, signal: &str, random: &mut Random) {
    let (which, host) = any(GATEWAYS, random);
    trial.gateways[which].signal(signal);
    trial.gateways[which].ends();
    sleep(a_while(random) / 4);
    trial.gateways[which] = trial.start_gateway(host);
}

/// A worker of any gateway that runs now.
fn a_worker(trial: &Trial, random: &mut Random) -> u32 {
    let (host, caller) = (any(GATEWAYS, random).1, &trial.callers[random.below(CALLERS.len())]);
    caller.wait_since(crate::lines::now(), "a worker answers", |line| {
        let worker = worker_of(line).filter(|(of, _)| *of == host);
        worker.map(|(_, process)| process)
    })
}
