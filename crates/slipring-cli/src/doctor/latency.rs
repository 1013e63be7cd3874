//! How long a cache line takes from one processor to another: what the fastest call could take.
//!
//! Two threads, each bound to a processor, take turns at one word: the first stores an odd number, the
//! second answers with the next even one. Samples are of some turns, because reading the clock takes
//! about as long as one.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::json;

use super::cores::{Cores, Relation};
use super::item::{Item, State};

const NAME: &str = "cores.latency";
/// The most pairs that are measured. 12 processors have 66.
const MOST_PAIRS: usize = 66;
/// How long all pairs may take together. A pair takes some milliseconds, or its share of this if its
/// processors are busy with something else, but not less than this.
const BUDGET: Duration = Duration::from_millis(1500);
const LEAST: Duration = Duration::from_millis(60);
/// Turns there and back in a sample, samples, and samples that are thrown away first.
const TURNS: u64 = 8;
const SAMPLES: usize = 2000;
const WARM_UP: usize = 100;
/// Fewer than this tell nothing of the 99th percentile.
const FEWEST: usize = 100;
/// So many looks at the word are made before one at the clock.
const LOOKS: u32 = 1024;

/// What was measured of two processors.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) cpus: (usize, usize),
    pub(super) relation: Relation,
    /// Nanoseconds one way.
    pub(super) median: f64,
    pub(super) p99: f64,
}

/// What is told of all pairs.
pub(super) struct Measured {
    pub(super) item: Item,
    pub(super) pairs: Vec<Pair>,
}

impl From<Item> for Measured {
    fn from(item: Item) -> Self {
        Self { item, pairs: Vec::new() }
    }
}

/// Measures the pairs, unless there is a reason not to.
pub(super) fn measure(cores: &Cores, why_not: Option<&str>) -> Measured {
    const MEANING: &str = "How far apart processors are is open.";
    if let Some(why) = why_not {
        return Item::unknown(NAME, why, MEANING).into();
    }
    if cores.allowed.len() < 2 {
        return Item::unknown(NAME, "one processor has no other", MEANING).into();
    }
    let chosen = choose(cores);
    let begun = Instant::now();
    let mut pairs = Vec::new();
    let (mut failed, mut silent) = (None, 0_usize);
    let share = BUDGET / u32::try_from(chosen.len().max(1)).unwrap_or(u32::MAX);
    for (one, other) in &chosen {
        let left = BUDGET.saturating_sub(begun.elapsed());
        if left.is_zero() {
            break;
        }
        match ping_pong(*one, *other, left.min(share.max(LEAST))) {
            Ok(Some((median, p99))) => {
                let relation = cores.relation(*one, *other);
                pairs.push(Pair { cpus: (*one, *other), relation, median, p99 });
            }
            Ok(None) => silent += 1,
            Err(error) => failed = Some(error),
        }
    }
    let count = cores.allowed.len();
    let all = count * (count - 1) / 2;
    match (pairs.is_empty(), failed) {
        (true, Some(error)) => {
            Item::unknown(NAME, format!("cannot be measured: {error}"), MEANING).into()
        }
        (true, None) => Item::unknown(
            NAME,
            format!("{silent} pairs got no answer in time"),
            "The processors are busy with something else, or are taken away by a limit.",
        )
        .into(),
        _ => Measured { item: summary(&pairs, all), pairs },
    }
}

/// All pairs, or some of each relation if there are too many.
fn choose(cores: &Cores) -> Vec<(usize, usize)> {
    let cpus = &cores.allowed;
    let all = cpus
        .iter()
        .enumerate()
        .flat_map(|(place, one)| cpus.iter().skip(place + 1).map(move |other| (*one, *other)));
    let mut by_relation: Vec<Vec<(usize, usize)>> = Relation::ALL.map(|_| Vec::new()).into();
    for pair in all {
        let relation = cores.relation(pair.0, pair.1);
        let place = Relation::ALL.iter().position(|other| *other == relation).unwrap_or(0);
        if let Some(list) = by_relation.get_mut(place) {
            list.push(pair);
        }
    }
    let kinds = by_relation.iter().filter(|list| !list.is_empty()).count().max(1);
    let most = match by_relation.iter().map(Vec::len).sum::<usize>() {
        count if count <= MOST_PAIRS => count,
        _ => MOST_PAIRS / kinds,
    };
    let spread = |list: Vec<(usize, usize)>| {
        // Spread over all of them: neighbours are often alike.
        let step = list.len().div_ceil(most.max(1)).max(1);
        list.into_iter().step_by(step)
    };
    let mut chosen: Vec<_> = by_relation.into_iter().flat_map(spread).collect();
    chosen.sort_unstable();
    chosen
}

fn summary(pairs: &[Pair], all: usize) -> Item {
    let kinds = Relation::ALL.into_iter().filter_map(|relation| {
        let of_it = pairs.iter().filter(|pair| pair.relation == relation);
        let medians: Vec<f64> = of_it.map(|pair| pair.median).collect();
        let least = medians.iter().copied().reduce(f64::min)?;
        let most = medians.iter().copied().reduce(f64::max)?;
        Some((relation, least, most))
    });
    let kinds: Vec<_> = kinds.collect();
    let texts = kinds.iter().map(|(relation, least, most)| match most - least {
        difference if difference < 1.0 => format!("{least:.0} ns ({})", relation.name()),
        _ => format!("{least:.0} to {most:.0} ns ({})", relation.name()),
    });
    let value = texts.collect::<Vec<_>>().join(", ");
    let nearest = pairs.iter().min_by(|a, b| a.median.total_cmp(&b.median));
    // Two threads of one core are near, but share its units.
    let cores = pairs.iter().filter(|pair| pair.relation != Relation::Siblings);
    let nearest = cores.min_by(|a, b| a.median.total_cmp(&b.median)).or(nearest);
    let place = nearest.map(|pair| {
        let (one, other) = pair.cpus;
        format!(" Processors {one} and {other} are the nearest on cores of their own.")
    });
    let counted = match pairs.len() {
        count if count < all => format!("{count} of {all} pairs, one way"),
        _ => "One way".to_owned(),
    };
    let meaning = format!(
        "{counted}. A call of two sides that are awake takes some of them.{}",
        place.filter(|_| pairs.len() > 1).unwrap_or_default()
    );
    let far = kinds.iter().map(|(.., most)| *most).reduce(f64::max).unwrap_or(0.0);
    let near = kinds.iter().map(|(_, least, _)| *least).reduce(f64::min).unwrap_or(0.0);
    let data = json!({ "pairs": pairs.len(), "all_pairs": all, "least_ns": near, "most_ns": far });
    let item = Item::ok(NAME, value, meaning.clone()).with(data);
    if pairs.len() > 1 && far > 2.0 * near {
        let change = "Bind a host and its busiest workers to processors that are near each other \
                      (Spawner::cpus).";
        return item.but(State::Note, meaning, change);
    }
    item
}

/// The median and the 99th percentile of nanoseconds one way; `None` if the other side did not answer in
/// time. The error is that a thread cannot be bound, or not be started.
fn ping_pong(one: usize, other: usize, longest: Duration) -> io::Result<Option<(f64, f64)>> {
    let table = Table::default();
    let gone = |_| io::Error::other("a thread has ended");
    // Each is done when the other is, however that ends.
    let side = |cpu: usize, play: &dyn Fn() -> Vec<f64>| {
        let samples = bind(cpu).map(|()| play());
        table.is_over.store(true, Ordering::Release);
        samples
    };
    let until = Instant::now() + longest;
    let samples = thread::scope(|scope| {
        let answerer = thread::Builder::new().spawn_scoped(scope, || {
            side(other, &|| {
                table.answer();
                Vec::new()
            })
        })?;
        let asker = thread::Builder::new()
            .spawn_scoped(scope, || side(one, &|| table.ask(until)))
            .inspect_err(|_| table.is_over.store(true, Ordering::Release));
        let samples = asker.and_then(|asker| asker.join().map_err(gone)?);
        answerer.join().map_err(gone)??;
        samples
    })?;
    Ok(figures(samples))
}

fn bind(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// The word that two sides play at, in a line of its own: the first stores odd numbers, the second the
/// next even ones. Processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Word(AtomicU64);

#[derive(Debug, Default)]
struct Table {
    word: Word,
    is_over: AtomicBool,
}

impl Table {
    /// Answers until it is over.
    fn answer(&self) {
        let mut next = 1;
        let mut looks = 0_u32;
        loop {
            if self.word.0.load(Ordering::Acquire) == next {
                self.word.0.store(next + 1, Ordering::Release);
                next += 2;
                continue;
            }
            std::hint::spin_loop();
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(LOOKS) && self.is_over.load(Ordering::Acquire) {
                return;
            }
        }
    }

    /// The times of samples in nanoseconds, until there are enough, time is up, or it is over.
    fn ask(&self, until: Instant) -> Vec<f64> {
        let mut samples = Vec::with_capacity(WARM_UP + SAMPLES);
        let mut next = 1;
        let mut looks = 0_u32;
        while samples.len() < WARM_UP + SAMPLES {
            let begun = Instant::now();
            if begun > until {
                break;
            }
            for _ in 0..TURNS {
                self.word.0.store(next, Ordering::Release);
                while self.word.0.load(Ordering::Acquire) != next + 1 {
                    std::hint::spin_loop();
                    looks = looks.wrapping_add(1);
                    let is_over = || self.is_over.load(Ordering::Acquire) || Instant::now() > until;
                    if looks.is_multiple_of(LOOKS) && is_over() {
                        return samples;
                    }
                }
                next += 2;
            }
            samples.push(begun.elapsed().as_secs_f64() * 1e9);
        }
        samples
    }
}

fn figures(mut samples: Vec<f64>) -> Option<(f64, f64)> {
    if samples.len() < WARM_UP + FEWEST {
        return None;
    }
    samples.drain(..WARM_UP);
    samples.sort_by(f64::total_cmp);
    let turns = f64::from(u32::try_from(2 * TURNS).unwrap_or(u32::MAX));
    let at = |share: usize| samples.get(samples.len() * share / 100).map(|time| time / turns);
    Some((at(50)?, at(99)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_takes_some_time_and_ends_without_an_answer() {
        let cores = Cores::read(&super::super::files::Files::of_the_machine());
        let [one, other, ..] = cores.allowed.as_slice() else {
            return eprintln!("left out: it needs two processors");
        };
        let measured = ping_pong(*one, *other, Duration::from_secs(60)).unwrap();
        let (median, p99) = measured.unwrap();
        assert!(median > 0.0 && p99 >= median, "{median} {p99}");
        assert_eq!(ping_pong(*one, *other, Duration::ZERO).unwrap(), None);
        // A processor that is not there cannot be bound to.
        assert!(ping_pong(*one, CpuSet::MAX_CPU - 1, Duration::from_secs(60)).is_err());
        assert!(ping_pong(CpuSet::MAX_CPU - 1, *one, Duration::from_secs(60)).is_err());
    }

    #[test]
    fn of_many_processors_some_pairs_of_each_relation_are_chosen() {
        let cores = |count: usize| Cores { allowed: (0..count).collect(), ..Cores::default() };
        assert_eq!(choose(&cores(2)), [(0, 1)]);
        assert_eq!(choose(&cores(12)).len(), 66);
        let chosen = choose(&cores(128));
        assert!((MOST_PAIRS / 2..=MOST_PAIRS).contains(&chosen.len()), "{}", chosen.len());
        assert!(chosen.iter().any(|(one, _)| *one > 50), "{chosen:?}");
    }

    #[test]
    fn one_processor_and_no_measuring_are_said() {
        let one = Cores { allowed: vec![0], ..Cores::default() };
        assert!(measure(&one, None).item.value.contains("one processor"));
        assert_eq!(measure(&one, Some("asked to")).item.value, "not known: asked to");
    }

    #[test]
    fn far_processors_are_noted_with_the_nearest_pair() {
        let pair = |cpus, relation, median| Pair { cpus, relation, median, p99: median };
        let pairs = [
            pair((0, 1), Relation::Siblings, 10.0),
            pair((0, 2), Relation::Cache, 40.0),
            pair((1, 2), Relation::Cache, 44.0),
            pair((0, 4), Relation::Apart, 130.0),
        ];
        let item = summary(&pairs, 4);
        let value =
            "10 ns (two threads of one core), 40 to 44 ns (one last cache), 130 ns (two packages)";
        assert_eq!((item.value.as_str(), item.state), (value, State::Note));
        assert!(item.meaning.contains("Processors 0 and 2"), "{}", item.meaning);
        assert_eq!(summary(&pairs[..1], 1).state, State::Ok);
    }
}
