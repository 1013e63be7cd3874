//! Starts one worker and calls it: what all the rest is for.

use std::time::{Duration, Instant};

use slipring::{Kind, Spawner};
use slipring_bench::links::WORKER;

use super::item::{Item, State};

const NAME: &str = "kernel.worker";
/// The worker of `bench` answers it with what it was sent.
const ECHO: Kind = Kind::named("echo");
const CALLS: usize = 200;
/// Far longer than a worker takes on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts and calls one, unless there is a reason not to.
pub(super) fn item(why_not: Option<&str>) -> Item {
    let done = match why_not {
        Some(why) => Err(format!("not tried: {why}")),
        None => start_and_call().map_err(|error| format!("fails: {error:#}")),
    };
    match done {
        Ok((start, call)) => {
            let (start_ms, call_us) = (start.as_secs_f64() * 1e3, call.as_secs_f64() * 1e6);
            let data = serde_json::json!({
                "start_ns": nanos(start), "call_ns": nanos(call),
            });
            let value =
                format!("answers {start_ms:.1} ms after its start, then in {call_us:.1} us");
            Item::ok(NAME, value, "A worker was started, called and closed.").with(data)
        }
        Err(problem) => Item::ok(NAME, problem, "").but(
            State::Fail,
            "A worker cannot be started and called.",
            "Look for the cause among the other failures and warnings.",
        ),
    }
}

fn start_and_call() -> slipring::Result<(Duration, Duration)> {
    let started = Instant::now();
    let spawner = Spawner::current_exe()?.args([WORKER, "channel"]).role("doctor");
    let channel = spawner.spawn()?;
    let call = || channel.call(ECHO, "0123456789abcdef", PATIENCE).map(drop);
    channel.wait_ready(PATIENCE)?;
    call()?;
    let start = started.elapsed();
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begun = Instant::now();
        call()?;
        times.push(begun.elapsed());
    }
    channel.close(Duration::from_secs(5))?;
    times.sort_unstable();
    Ok((start, times.get(CALLS / 2).copied().unwrap_or_default()))
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
