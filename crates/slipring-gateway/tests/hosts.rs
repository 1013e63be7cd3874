//! Callers and gateways on hosts of their own, that are cut off, delayed, killed and stopped.
//!
//! The hosts are network namespaces on one switch. Gateways are the program `slipring-gateway`. This
//! program is all else that runs on them: worker, caller and proxy; so it has its own `main` in place of
//! the test harness. Words given to it choose faults by name. `HOSTS_REPETITIONS=20` repeats each fault.
//! Every other trial is by mutual TLS, and the others are in plain text. `HOSTS_SOAK=600` makes random faults
//! for so many seconds instead, which `HOSTS_SEED` repeats.

#![expect(unreachable_pub, reason = "modules of one program")]

#[path = "hosts/caller.rs"]
mod caller;
#[path = "hosts/events.rs"]
mod events;
#[path = "hosts/faults.rs"]
mod faults;
#[path = "hosts/figures.rs"]
mod figures;
#[path = "hosts/lines.rs"]
mod lines;
#[path = "hosts/memory.rs"]
mod memory;
#[path = "hosts/net.rs"]
mod net;
#[path = "hosts/pauses.rs"]
mod pauses;
#[path = "hosts/process.rs"]
mod process;
#[path = "hosts/proxy.rs"]
mod proxy;
#[path = "hosts/rules.rs"]
mod rules;
#[path = "hosts/soak.rs"]
mod soak;
#[path = "hosts/trial.rs"]
mod trial;
#[path = "hosts/worker.rs"]
mod worker;

use std::panic::catch_unwind;

use caller::Load;
use figures::Figures;
use proxy::Line;
use trial::Way;

fn main() {
    if slipring::worker::is_worker() {
        return worker::serve();
    }
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match *words.as_slice() {
        ["run-caller", first, chunk, request, ref gateways @ ..] => {
            caller::run(first.parse().unwrap(), Load::parse([chunk, request]), gateways);
        }
        ["run-proxy", listen, to, delay, stall, rate] => {
            proxy::run(listen, to, Line::parse([delay, stall, rate]));
        }
        _ => test(&arguments),
    }
}

/// Runs the faults whose names contain one of the words.
fn test(arguments: &[String]) {
    let words: Vec<_> = arguments.iter().filter(|word| !word.starts_with('-')).collect();
    let chosen = faults::ALL.into_iter().filter(|(name, _)| {
        words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
    });
    let chosen: Vec<_> = chosen.collect();
    if arguments.iter().any(|word| word == "--list") {
        return chosen.iter().for_each(|(name, _)| println!("{name}: test"));
    }
    rules::are_kept_and_broken();
    if let Err(reason) = net::enter() {
        let count = chosen.len();
        return println!("hosts: all {count} tests SKIPPED: no namespaces here: {reason}");
    }
    if let Ok(seconds) = std::env::var("HOSTS_SOAK") {
        let lasts = std::time::Duration::from_secs(seconds.parse().unwrap());
        let seed =
            std::env::var("HOSTS_SEED").map_or_else(|_| lines::now(), |it| it.parse().unwrap());
        return soak::run(lasts, seed, &words);
    }
    let repetitions = std::env::var("HOSTS_REPETITIONS").map_or(1, |count| count.parse().unwrap());
    pauses::measure();
    let (mut figures, mut failed) = (Figures::default(), Vec::new());
    for repetition in 1..=repetitions {
        for (at, (name, fault)) in chosen.iter().enumerate() {
            let began = std::time::Instant::now();
            pauses::longest();
            let way = if (at + repetition).is_multiple_of(2) { Way::Tls } else { Way::PlainText };
            let result = catch_unwind(|| fault(way));
            let outcome = match &result {
                Ok(recovery) => format!("ok, {recovery}"),
                Err(_) => "FAILED".to_owned(),
            };
            let (lasted, pause) = (began.elapsed(), pauses::longest());
            println!(
                "{name} ({way:?} {repetition}) ... {outcome} ({lasted:.1?}, held up {pause} ms)"
            );
            match result {
                Ok(recovery) => figures.note(name, recovery),
                Err(_) => failed.push(*name),
            }
        }
    }
    figures.print();
    assert!(failed.is_empty(), "failed: {failed:?}");
}
