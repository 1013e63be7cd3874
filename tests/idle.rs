//! An idle channel uses no processor time. These tests have a binary of their own because they
//! measure their process, in which no other test may run.

mod common;
worker_entry!();

use std::fs;
use std::time::Duration;

use common::*;
use slipring::Config;

/// Ticks of processor time that a process has used, and how often its threads went to sleep.
fn usage(pid: u32) -> (u64, u64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let mut sleeps = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        // Not the other kind of switches: those are other programs' doing.
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sleeps += line.unwrap().trim().parse::<u64>().unwrap();
    }
    (ticks, sleeps)
}

/// Whether these processes do nothing for two seconds. Says what they did.
fn are_idle(pids: [u32; 3]) -> bool {
    let before = pids.map(usage);
    std::thread::sleep(Duration::from_secs(2));
    let used = before.iter().zip(pids.map(usage)).map(|(b, a)| (a.0 - b.0, a.1 - b.1));
    // Ticks are of ten milliseconds. Of this process, one thread wakes from the sleep above, another
    // waits with a deadline and looks once a second.
    used.inspect(|(ticks, sleeps)| println!("{ticks} ticks, {sleeps} sleeps"))
        .fold(true, |idle, (ticks, sleeps)| idle && ticks <= 2 && sleeps <= 12)
}

#[test]
fn an_idle_channel_and_one_with_a_call_in_flight_use_no_processor_time() {
    if slipring::worker::is_worker() {
        return;
    }
    let idle = spawn(Config::default());
    let busy = spawn(Config::default());
    for channel in [&idle, &busy] {
        (0..100).for_each(|_| assert_usable(channel));
        channel.ping(LONG).unwrap();
    }
    let pending = busy.submit(FOR_EVER, b"", LONG).unwrap();
    let mut stream = idle.stream(COUNT, &encode(&[1 << 40, 1000]), LONG).unwrap();
    stream.next_chunk().unwrap().unwrap();
    std::thread::scope(|scope| {
        // One thread waits all the time, with a deadline.
        scope.spawn(|| pending.wait().map(drop).unwrap_err());
        // What the start leaves to do takes a while where other programs want the processors too.
        let idle = (0..15).any(|_| are_idle([std::process::id(), idle.pid(), busy.pid()]));
        busy.close(Duration::ZERO).unwrap();
        assert!(idle, "for half a minute");
    });
}
