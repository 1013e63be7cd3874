//! Random faults, one after another, for as long as asked. All of them follow from a seed.

use std::collections::HashMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::events::{self, ALL, BY_PROXY, GATEWAYS, HOSTS};
use crate::lines::now;
use crate::memory::Used;
use crate::trial::{Plan, Trial, Way, is_answer};

/// After so long the hosts are made anew: what all callers have said is checked, and forgotten.
const ROUND: Duration = Duration::from_secs(300);

pub struct Random(u64);

impl Random {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }

    pub fn millis(&mut self, from: usize, to: usize) -> Duration {
        Duration::from_millis(u64::try_from(from + self.below(to - from)).unwrap())
    }
}

/// What was done, and what came of it.
#[derive(Default)]
struct Sum {
    /// How often there was each fault, and the longest time until all served all again.
    faults: HashMap<&'static str, (usize, Duration)>,
    requests: usize,
    failed: usize,
}

/// Makes faults with names that contain one of the words.
pub fn run(lasts: Duration, seed: u64, words: &[&String]) {
    let (mut random, began, mut sum) = (Random(seed | 1), Instant::now(), Sum::default());
    let is_chosen =
        |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let chosen: Vec<_> = ALL.into_iter().filter(|(name, _)| is_chosen(name)).collect();
    for number in 0.. {
        let way = if (seed + number).is_multiple_of(2) { Way::Tls } else { Way::PlainText };
        println!("soak: {lasts:?}, {way:?}, HOSTS_SEED={seed}, round {number}");
        let ends = (began + lasts).min(Instant::now() + ROUND);
        round(way, ends, &chosen, &mut random, &mut sum);
        if began.elapsed() >= lasts {
            break;
        }
    }
    let mut faults: Vec<_> = sum.faults.iter().collect();
    faults.sort_unstable();
    println!("how often, and the longest time until all served all again:");
    for (name, (count, longest)) in faults {
        println!("{name:44} {count:5} {:6} ms", longest.as_millis());
    }
    let (requests, failed) = (sum.requests, sum.failed);
    println!("soak: {requests} requests, all over as they may, of which {failed} have met a fault");
}

fn round(
    way: Way,
    ends: Instant,
    chosen: &[(&'static str, events::Event)],
    random: &mut Random,
    sum: &mut Sum,
) {
    let mut trial = Trial::start(Plan::new(way, HOSTS).proxied(BY_PROXY));
    trial.warm();
    sleep(Duration::from_secs(2));
    let all = |trial: &Trial| -> Vec<_> {
        trial.callers.iter().chain(&trial.gateways).map(Used::by).collect()
    };
    let before = all(&trial);
    while Instant::now() < ends {
        let (name, event) = chosen[random.below(chosen.len())];
        event(&mut trial, random);
        // All gateways serve all callers again.
        let since = now();
        let served = trial.callers.iter().flat_map(|caller| {
            let what = format!("it serves again, after {name}");
            GATEWAYS.map(|host| caller.said_since(since, &what, |says| is_answer(says, host)))
        });
        let took = Duration::from_micros(served.max().unwrap().saturating_sub(since));
        let (count, longest) = sum.faults.entry(name).or_default();
        (*count, *longest) = (*count + 1, took.max(*longest));
        for (before, after) in before.iter().zip(all(&trial)) {
            assert!(!before.has_swollen_to(&after), "after {name}: {before:?}, then {after:?}");
        }
    }
    sleep(Duration::from_secs(2));
    for (before, after) in before.iter().zip(all(&trial)) {
        assert!(!before.has_grown_to(&after), "{before:?} has grown to {after:?}");
    }
    trial.assert_killed_are_forgotten();
    let (requests, failed) = trial.finish_any(&["Disconnected", "PeerDied"]);
    (sum.requests, sum.failed) = (sum.requests + requests, sum.failed + failed.len());
}
