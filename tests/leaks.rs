//! Channels leave no descriptors, mappings, threads or children behind. These tests have a binary
//! of their own because they count those of their process, in which no other test may run.

mod common;
worker_entry!();

use std::time::Duration;

use common::*;
use slipring::Spawner;

fn spawn_call_close() {
    let channel = in_4_kib().spawn().unwrap();
    assert_eq!(channel.call(ECHO, b"x", LONG).unwrap().to_vec(), b"x");
    channel.close(LONG).unwrap();
}

#[test]
fn no_way_in_which_a_channel_ends_or_never_begins_leaves_anything() {
    if slipring::worker::is_worker() {
        return;
    }
    // The first workers start the library's own threads, which stay, and warm the allocator up.
    (0..20).for_each(|_| spawn_call_close());
    // The thread that notes a worker's end may look at its memory for a moment after the close.
    eventually("the memory of the last one is gone", || footprint().maps == 0);
    let baseline = footprint();
    assert_eq!((baseline.maps, baseline.children.len()), (0, 0), "{baseline:?}");
    let before = resident_kib();
    (0..repetitions("SLIPRING_TEST_LEAKS", 1000)).for_each(|_| spawn_call_close());
    baseline.assert_restored("1,000 times spawn, call, close");
    let grown = resident_kib().saturating_sub(before);
    println!("resident memory grew by {grown} KiB over 1,000 workers");
    assert!(grown < 4096, "{grown} KiB");

    let dir = temp_dir("leaks");
    let cases: [(&str, &dyn Fn()); 16] = [
        ("a drop", &|| drop(in_4_kib().spawn().unwrap())),
        ("a drop with a log", &|| drop(in_4_kib().log_dir(&dir).spawn().unwrap())),
        ("a drop of a stuck worker", &|| drop(stuck(&in_4_kib()))),
        ("a kill", &|| {
            let channel = in_4_kib().spawn().unwrap();
            send_signal(channel.pid(), libc::SIGKILL);
            eventually("it is noticed", || !channel.is_alive());
        }),
        ("a death in a call", &|| {
            let channel = in_4_kib().log_dir(&dir).spawn().unwrap();
            channel.call(EXIT, &[3], LONG).unwrap_err();
        }),
        ("a death in a stream", &|| {
            let channel = in_4_kib().spawn().unwrap();
            let stream = channel.stream(COUNT, &encode(&[1 << 40, 10]), LONG).unwrap();
            send_signal(channel.pid(), libc::SIGKILL);
            assert!(stream.last().unwrap().is_err());
        }),
        ("a session that fails", &|| {
            let channel = in_4_kib().mode("fail").spawn().unwrap();
            channel.wait_ready(LONG).unwrap_err();
        }),
        ("a missing program", &|| drop(Spawner::program("/no/such").spawn().unwrap_err())),
        ("no program", &|| drop(Spawner::program("/etc/passwd").spawn().unwrap_err())),
        ("a program that exits", &|| drop(Spawner::program("/bin/true").spawn().unwrap_err())),
        ("a program that stays silent", &|| {
            let sleep = Spawner::program("/bin/sleep").arg("1000");
            sleep.handshake_timeout(Duration::from_millis(30)).spawn().unwrap_err();
        }),
        ("a bad role", &|| drop(in_4_kib().role("a/b").spawn().unwrap_err())),
        ("a bad log directory", &|| drop(in_4_kib().log_dir("/dev/null/x").spawn().unwrap_err())),
        ("a pending reply that outlives its channel", &|| {
            let channel = in_4_kib().spawn().unwrap();
            let pending = channel.submit(ECHO, b"x", LONG).unwrap();
            drop(channel);
            assert!(pending.wait().is_err());
        }),
        ("a reply that outlives its channel", &|| {
            let channel = in_4_kib().spawn().unwrap();
            let reply = channel.call(ECHO, b"x", LONG).unwrap();
            drop(channel);
            assert_eq!(reply.to_vec(), b"x");
        }),
        ("timeouts and cancels", &|| {
            let channel = in_4_kib().spawn().unwrap();
            for i in 0..5 {
                let _ = channel.call(NAP, &encode(&[300, i]), Duration::from_micros(100));
                channel.submit(NAP, &encode(&[10, i]), LONG).unwrap().cancel();
                drop(channel.stream(COUNT, &encode(&[100, 10]), LONG).unwrap());
            }
            channel.close(LONG).unwrap();
        }),
    ];
    for (what, case) in cases {
        (0..3).for_each(|_| case());
        baseline.assert_restored(what);
    }
    std::fs::remove_dir_all(dir).unwrap();
}
