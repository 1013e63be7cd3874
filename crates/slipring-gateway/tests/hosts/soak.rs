//! Random faults, one after another, for as long as asked. All of them follow from a seed.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::lines::now;
use crate::process::{Process, send_signal};
use crate::trial::{FAULTY, OTHER, Plan, Trial, Way, is_answer, worker_of};

const HOSTS: &[&str] = &["caller-1", "caller-2", FAULTY, OTHER];
const GATEWAYS: [&str; 2] = [FAULTY, OTHER];

/// What a process uses.
#[derive(Debug)]
struct Used {
    descriptors: usize,
    threads: usize,
    mebibytes: usize,
}

impl Used {
    fn by(process: &Process) -> Self {
        let of = format!("/proc/{}", process.id());
        let status = fs::read_to_string(format!("{of}/status")).unwrap();
        let number = |name: &str| -> usize {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let (threads, kibibytes) = (number("Threads:"), number("VmRSS:"));
        let descriptors = fs::read_dir(format!("{of}/fd")).unwrap().count();
        Self { descriptors, threads, mebibytes: kibibytes / 1024 }
    }

    /// Connections that are being made or closed, and what an allocator keeps, are no growth.
    fn has_grown_to(&self, end: &Self) -> bool {
        end.descriptors > self.descriptors + 12
            || end.threads > self.threads + 4
            || end.mebibytes > self.mebibytes + 32
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

pub fn run(way: Way, lasts: Duration, seed: u64) {
    println!("soak: {lasts:?}, {way:?}, HOSTS_SEED={seed}");
    let (mut random, began) = (Random(seed | 1), Instant::now());
    let mut trial = Trial::start(Plan::new(way, HOSTS));
    trial.warm();
    sleep(Duration::from_secs(2));
    let all = |trial: &Trial| -> Vec<_> {
        trial.callers.iter().chain(&trial.gateways).map(Used::by).collect()
    };
    let (before, mut faults) = (all(&trial), 0);
    while began.elapsed() < lasts {
        let which = usize::try_from(random.below(2)).unwrap();
        let for_a_while = Duration::from_millis(50 + random.below(2_500));
        fault(&mut trial, which, random.below(9), for_a_while);
        faults += 1;
        // All gateways serve all callers again.
        let since = now();
        for caller in &trial.callers {
            for host in GATEWAYS {
                caller.said("it serves again", |at, says| at >= since && is_answer(says, host));
            }
        }
    }
    sleep(Duration::from_secs(2));
    for (before, after) in before.iter().zip(all(&trial)) {
        assert!(!before.has_grown_to(&after), "{before:?} has grown to {after:?}");
    }
    let failed = trial.finish_any(&["Disconnected", "PeerDied"]);
    println!("soak: {faults} faults, which {} requests have met, all as they may", failed.len());
}

/// One fault at a time, so that there is always a gateway that serves.
fn fault(trial: &mut Trial, which: usize, what: u64, lasts: Duration) {
    let host = GATEWAYS[which];
    match what {
        0 => during(lasts, || trial.net.unplug(host), || trial.net.plug(host)),
        1 => during(lasts, || trial.net.silence(host), || trial.net.unsilence(host)),
        2 => {
            let net = &trial.net;
            let cut = || net.cut_one_way("caller-1", host);
            during(lasts, cut, || net.mend_one_way("caller-1", host));
        }
        3 => {
            let net = &trial.net;
            let cut = || net.cut_one_way(host, "caller-1");
            during(lasts, cut, || net.mend_one_way(host, "caller-1"));
        }
        4 => stop(&trial.gateways[which], lasts),
        5 => stop(&trial.callers[which], lasts),
        6 | 7 => {
            trial.gateways[which].signal(if what == 6 { "KILL" } else { "TERM" });
            trial.gateways[which].ends();
            sleep(lasts / 4);
            trial.gateways[which] = trial.start_gateway(host);
        }
        _ => {
            let lines = trial.callers[0].lines();
            let worker = lines.iter().rev().filter_map(worker_of).find(|it| it.0 == host);
            // It may be gone already.
            worker.into_iter().for_each(|(_, process)| send_signal("KILL", process));
        }
    }
}

fn during(lasts: Duration, begin: impl Fn(), end: impl Fn()) {
    begin();
    sleep(lasts);
    end();
}

fn stop(process: &Process, lasts: Duration) {
    during(lasts, || process.signal("STOP"), || process.signal("CONT"));
}
