//! How cost grows with the work: longer messages, more channels, more threads, a larger
//! parent, a slower handler. Measured without limits beside it, and drawn by [`crate::drawing`].

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use slipring::{Config, WaitStrategy};

use crate::drawing::{self, Panel, Series};
use crate::figures::median;
use crate::limits::sys;
use crate::machine::{self, Machine};
use crate::report::bytes;
use crate::work::Work;
use crate::{Options, own};

const MIB: usize = 1 << 20;

/// Measures all panels and draws them.
///
/// # Errors
///
/// If a worker cannot be started, or gives a wrong answer.
pub fn plot(options: &Options, mut progress: impl FnMut(&str)) -> io::Result<String> {
    let quick = options.is_quick;
    let mut panels = Vec::new();
    progress("longer messages");
    panels.push(messages(quick, options.cpus)?);
    progress("more channels");
    panels.push(channels(quick, options.cpus)?);
    progress("more threads");
    panels.push(threads(quick)?);
    progress("a larger parent");
    panels.push(parents(quick)?);
    progress("slower handlers");
    panels.extend(handlers(quick)?);
    Ok(drawing::svg(&format!("slipring: cost as work grows. {}", Machine::read()), &panels))
}

/// Measures the rate of streams in one direction, by the length of a message.
fn messages(quick: bool, cpus: Option<(usize, usize)>) -> io::Result<Panel> {
    let all = sys::allowed_cpus();
    let (parent, worker) = machine::processors(cpus, &all)?;
    let slice = Duration::from_millis(if quick { 20 } else { 100 });
    let mut raw = own::raw(&own::busy(), own::Publishing::Lazily)?;
    raw.pin(worker)?;
    // The worker spins: only one of the two workers may run at a time.
    sys::set_stopped(raw.pid(), true);
    let mut channel = own::channel(&own::busy())?;
    channel.pin(worker)?;
    sys::set_stopped(channel.pid(), true);
    sys::run_on(&[parent])?;
    let mut ticks = Vec::new();
    let (mut by_raw, mut by_channel) = (Vec::new(), Vec::new());
    for shift in (6..=26).step_by(2) {
        let len = 1_usize << shift;
        let work = Work::Stream { len, piece: len.min(256 << 10) };
        let count = (512 * MIB / len).clamp(2, 200_000) as u64;
        ticks.push(bytes(len));
        for (session, rates) in [(&mut raw, &mut by_raw), (&mut channel, &mut by_channel)] {
            sys::set_stopped(session.pid(), false);
            session.run(work, 2)?;
            let start = Instant::now();
            let mut times = Vec::new();
            while times.len() < 3 || (start.elapsed() < slice && times.len() < 25) {
                times.push(session.run(work, (count / 16).max(1))?.typical_ns());
            }
            sys::set_stopped(session.pid(), true);
            rates.push(len as f64 / median(&mut times));
        }
    }
    sys::run_on(&all)?;
    // Dropping the channels ends their workers.
    sys::set_stopped(raw.pid(), false);
    sys::set_stopped(channel.pid(), false);
    Ok(Panel {
        title: "One stream, copied in, by message length".to_owned(),
        unit: "GB/s",
        ticks,
        series: vec![
            Series { name: "raw ring, 256 KiB at most at a time", values: by_raw },
            Series { name: "Channel::stream, whole", values: by_channel },
        ],
    })
}

/// Measures the microseconds of a call on one channel while others are idle.
fn channels(quick: bool, cpus: Option<(usize, usize)>) -> io::Result<Panel> {
    let length = Duration::from_millis(if quick { 20 } else { 200 });
    let all = sys::allowed_cpus();
    let (parent, worker) = machine::processors(cpus, &all)?;
    let mut open = Vec::new();
    let (mut ticks, mut times) = (Vec::new(), Vec::new());
    for count in [1, 2, 4, 8, 16, 32, 64] {
        while open.len() < count {
            // Workers inherit the processors of this thread.
            sys::run_on(&all)?;
            open.push(own::spawn_channel(&Config::small())?);
        }
        let mut samples = Vec::new();
        if let Some(busy) = open.first() {
            own::pin(busy, worker)?;
            sys::run_on(&[parent])?;
            let begun = Instant::now();
            while begun.elapsed() < length {
                let start = Instant::now();
                own::echo(busy, &[7; 64])?;
                samples.push(start.elapsed().as_nanos() as f64 / 1e3);
            }
        }
        ticks.push(count.to_string());
        times.push(median(&mut samples));
    }
    sys::run_on(&all)?;
    for channel in &open {
        channel.close(Duration::from_secs(2))?;
    }
    Ok(Panel {
        title: "A call on one channel among idle ones, by channels".to_owned(),
        unit: "us",
        ticks,
        series: vec![Series { name: "Channel::call, 64 B, default wait", values: times }],
    })
}

/// Measures the calls, in thousands a second, of threads that share one channel.
fn threads(quick: bool) -> io::Result<Panel> {
    let length = Duration::from_millis(if quick { 100 } else { 1000 });
    let channel = own::spawn_channel(&Config::default())?;
    let (mut ticks, mut rates) = (Vec::new(), Vec::new());
    for count in 1..=8_u64 {
        let done = AtomicU64::new(0);
        let start = Instant::now();
        let call = |message: [u8; 64]| {
            while start.elapsed() < length {
                own::echo(&channel, &message)?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            io::Result::Ok(())
        };
        std::thread::scope(|scope| {
            let call = &call;
            let callers: Vec<_> =
                (0..count).map(|n| scope.spawn(move || call([n as u8; 64]))).collect();
            let panicked = |_| io::Error::other("a caller panicked");
            callers.into_iter().try_for_each(|caller| caller.join().map_err(panicked)?)
        })?;
        ticks.push(count.to_string());
        rates.push(done.into_inner() as f64 / start.elapsed().as_secs_f64() / 1e3);
    }
    channel.close(Duration::from_secs(2))?;
    Ok(Panel {
        title: "Calls of all threads on one channel, by threads".to_owned(),
        unit: "1000/s",
        ticks,
        series: vec![Series { name: "Channel::call, 64 B", values: rates }],
    })
}

/// Measures the milliseconds from spawning to the first answer, by the parent's resident memory.
fn parents(quick: bool) -> io::Result<Panel> {
    let rounds = if quick { 5 } else { 25 };
    let mut held: Vec<Vec<u8>> = Vec::new();
    let (mut ticks, mut times) = (Vec::new(), Vec::new());
    // At most half of the free memory: with swapping, the figures would be of something else.
    let most = crate::machine::available_memory() / 2;
    for mib in [0, 256, 1024, 4096].into_iter().filter(|mib| mib * MIB <= most) {
        while held.len() * 256 < mib {
            // Filled, so that every page is resident.
            held.push(vec![1; 256 * MIB]);
        }
        let mut samples = Vec::new();
        for _ in 0..rounds {
            let start = Instant::now();
            let channel = own::spawn_channel(&Config::default())?;
            samples.push(start.elapsed().as_secs_f64() * 1e3);
            channel.close(Duration::from_secs(2))?;
        }
        ticks.push(format!("{mib} MiB"));
        times.push(median(&mut samples));
    }
    drop(held);
    Ok(Panel {
        title: "Spawn to first answer, by the parent's resident memory".to_owned(),
        unit: "ms",
        ticks,
        series: vec![Series { name: "Spawner::spawn, wait_ready", values: times }],
    })
}

/// Measures what a call costs beside its handler's own time, by that time and by the wait
/// strategy of both sides: microseconds until the reply, and of the parent's processor.
fn handlers(quick: bool) -> io::Result<[Panel; 2]> {
    let micros = |count| WaitStrategy::SpinThenPark(Duration::from_micros(count));
    let strategies = [
        ("park at once", WaitStrategy::Park),
        ("spin 5 us, then park", micros(5)),
        ("spin 20 us, then park: the default", micros(20)),
        ("spin 100 us, then park", micros(100)),
        ("spin without end", WaitStrategy::Spin),
    ];
    let busy_for = [0, 2, 10, 30, 100, 300, 1000].map(Duration::from_micros);
    let (mut latency, mut processor) = (Vec::new(), Vec::new());
    for (name, wait) in strategies {
        let config = Config::builder().wait_strategy(wait).build()?;
        let channel = own::spawn_channel(&config)?;
        let (mut times, mut shares) = (Vec::new(), Vec::new());
        for busy in busy_for {
            let rounds = if quick { 60 } else { 600 };
            let before = sys::cpu_time(std::process::id());
            let mut samples = Vec::new();
            for _ in 0..rounds {
                let start = Instant::now();
                own::work(&channel, busy)?;
                samples.push((start.elapsed().saturating_sub(busy)).as_nanos() as f64 / 1e3);
            }
            let used = sys::cpu_time(std::process::id()).saturating_sub(before);
            times.push(median(&mut samples));
            shares.push(used.as_nanos() as f64 / 1e3 / f64::from(rounds));
        }
        channel.close(Duration::from_secs(2))?;
        latency.push(Series { name, values: times });
        processor.push(Series { name, values: shares });
    }
    let panel = |title: &str, series| Panel {
        title: title.to_owned(),
        unit: "us",
        ticks: busy_for.iter().map(|busy| format!("{} us", busy.as_micros())).collect(),
        series,
    };
    Ok([
        panel("A call beside its handler's time, by that time", latency),
        panel("The parent's processor for a call, by the handler's time", processor),
    ])
}
