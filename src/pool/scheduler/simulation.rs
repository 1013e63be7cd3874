//! Random schedules of crashes, hangs, slow starts, deadlines and overload, against an oracle.
//!
//! Time is a number, and workers are queues. A schedule follows from its seed. If one fails, its
//! seed is printed, and `SLIPRING_SEED=<seed> cargo test --lib replays` runs that one alone.

mod actors;
mod always;
mod callers;
mod elsewhere;
mod oracle;
mod state;
mod workers;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use state::World;

const SCHEDULES: u64 = 10_000;

fn run(seed: u64) {
    let mut world = World::new(seed);
    world.run();
    world.end();
}

#[test]
fn ten_thousand_schedules_end_as_the_oracle_says() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for first in 0..threads {
            scope.spawn(move || {
                for seed in (0..SCHEDULES).skip(first).step_by(threads) {
                    if catch_unwind(AssertUnwindSafe(|| run(seed))).is_err() {
                        panic!("schedule {seed} failed: SLIPRING_SEED={seed} runs it alone");
                    }
                }
            });
        }
    });
}

/// Without a seed it runs the first schedule.
#[test]
fn a_schedule_replays_from_its_seed() {
    let seed = std::env::var("SLIPRING_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(0);
    run(seed);
    let trace = |seed| {
        let mut world = World::new(seed);
        world.run();
        world.end();
        world.trace()
    };
    assert_eq!(trace(seed), trace(seed), "the same seed, the same schedule");
}
