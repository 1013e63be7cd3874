//! An idle channel uses no processor time. These tests have a binary of their own because they
//! measure their process, in which no other test may run.

mod common;
worker_entry!();

use std::fs;
use std::time::Duration;

use common::*;
use slipring::Config;

/// Ticks of processor time that a process has used, and context switches of all its threads.
fn usage(pid: u32) -> (u64, u64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let mut switches = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        for line in status.lines().filter(|line| line.contains("ctxt_switches")) {
            switches += line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
        }
    }
    (ticks, switches)
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
        std::thread::sleep(Duration::from_millis(300));
        let pids = [std::process::id(), idle.pid(), busy.pid()];
        let before: Vec<_> = pids.into_iter().map(usage).collect();
        std::thread::sleep(Duration::from_secs(2));
        let after: Vec<_> = pids.into_iter().map(usage).collect();
        for (before, after) in before.iter().zip(&after) {
            println!("{} ticks, {} switches", after.0 - before.0, after.1 - before.1);
            assert!(after.0 - before.0 <= 2, "ticks of ten milliseconds");
            // Switches of the sleep of this thread, and of the waiting thread, which looks once a
            // second.
            assert!(after.1 - before.1 <= 12, "{} switches", after.1 - before.1);
        }
        busy.close(Duration::ZERO).unwrap();
    });
}
