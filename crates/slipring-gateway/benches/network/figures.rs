//! What is done, how often, and the rows of the table.

/// What one row is about.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    Calls { len: usize, count: u64 },
    Stream { len: usize, count: u64 },
}

/// What of all is to be measured.
pub struct Plan {
    pub rounds: usize,
    /// Whether it is to be seen only that all works.
    pub is_trial: bool,
    words: Vec<String>,
}

const PARTS: [&[&str]; 4] =
    [&["loopback", "veth", "fleet"], &["plain", "tls"], &["calls", "streams"], &["anywhere"]];

impl Plan {
    /// From the words of the command line: names of parts, and the number of rounds.
    pub fn parse(words: &[String]) -> Self {
        // Told by `cargo bench`, and not by `cargo test`.
        let is_trial = !words.iter().any(|word| word == "--bench");
        let mut plan = Self { rounds: if is_trial { 1 } else { 25 }, is_trial, words: Vec::new() };
        for word in words.iter().filter(|word| !word.starts_with("--")) {
            match word.parse() {
                Ok(rounds) => plan.rounds = rounds,
                Err(_) => {
                    let is_part = PARTS.iter().any(|parts| parts.contains(&word.as_str()));
                    assert!(is_part, "{word:?} is none of the parts: {PARTS:?}");
                    plan.words.push(word.clone());
                }
            }
        }
        plan
    }

    /// Whether a part is chosen: by its name, or since none of its kind is.
    pub fn has(&self, part: &str) -> bool {
        let parts = PARTS.iter().find(|parts| parts.contains(&part)).unwrap();
        let is_free = !self.words.iter().any(|word| parts.contains(&word.as_str()));
        is_free || self.asks_for(part)
    }

    /// Whether a word was given.
    pub fn asks_for(&self, word: &str) -> bool {
        self.words.iter().any(|given| given == word)
    }

    /// Each takes some 50 ms for each way.
    pub fn works(&self) -> Vec<Work> {
        let calls = [(64, 200), (96 << 10, 100), (1 << 20, 20)];
        let streams = [(64, 20_000), (96 << 10, 500), (1 << 20, 40)];
        let count = |count| if self.is_trial { 3 } else { count };
        let calls = calls.map(|(len, most)| Work::Calls { len, count: count(most) });
        let streams = streams.map(|(len, most)| Work::Stream { len, count: count(most) });
        let calls = calls.into_iter().filter(|_| self.has("calls"));
        calls.chain(streams.into_iter().filter(|_| self.has("streams"))).collect()
    }
}

/// The ways in the order of the columns.
pub const SOCKET: usize = 0;
pub const TONIC: usize = 1;
pub const IN_PROCESS: usize = 2;
pub const WORKER: usize = 3;

/// The seconds that each way took for one call or chunk, of each round.
#[derive(Debug, Default)]
pub struct Figures(Vec<[f64; 4]>);

impl Figures {
    pub fn push(&mut self, took: [f64; 4]) {
        self.0.push(took);
    }

    pub fn print_head() {
        println!(
            "\n| | socket | tonic | gateway, in process | gateway, worker | worker to tonic \
             | in process to tonic | tonic to socket |\n|---|---|---|---|---|---|---|---|"
        );
    }

    pub fn print(&self, place: &str, work: Work) {
        let seconds = |way: usize| self.0.iter().map(|round| round[way]).collect::<Vec<_>>();
        let (name, len) = match work {
            Work::Calls { len, .. } => ("call", len),
            Work::Stream { len, .. } => ("stream", len),
        };
        let len = match len >> 10 {
            0 => format!("{len} B"),
            1024.. => format!("{} MiB", len >> 20),
            kib => format!("{kib} KiB"),
        };
        let figure = |way: usize| {
            let median = median(seconds(way));
            match work {
                Work::Calls { .. } => format!("{:.0} µs", median * 1e6),
                Work::Stream { len: 64, .. } => format!("{:.2} M/s", 1e-6 / median),
                Work::Stream { len, .. } => {
                    format!("{:.0} MiB/s", len as f64 / f64::from(1 << 20) / median)
                }
            }
        };
        // Of times for calls, and of rates for streams.
        let ratio = |one: usize, other: usize| {
            let pairs = seconds(one).into_iter().zip(seconds(other));
            let ratios = pairs.map(|(one, other)| match work {
                Work::Calls { .. } => one / other,
                Work::Stream { .. } => other / one,
            });
            spread(ratios.collect())
        };
        println!(
            "| {place}: {name} {len} | {} | {} | {} | {} | {} | {} | {} |",
            figure(SOCKET),
            figure(TONIC),
            figure(IN_PROCESS),
            figure(WORKER),
            ratio(WORKER, TONIC),
            ratio(IN_PROCESS, TONIC),
            ratio(TONIC, SOCKET),
        );
    }
}

pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The median, and between what 90 % of all figures lie.
pub fn spread(mut figures: Vec<f64>) -> String {
    figures.sort_unstable_by(f64::total_cmp);
    let out = (figures.len() as f64 * 0.05).round() as usize;
    let (least, most) = (figures[out], figures[figures.len() - 1 - out]);
    format!("{:.2} [{least:.2}, {most:.2}]", figures[figures.len() / 2])
}

/// Prints on what machine, when, and how it was measured.
pub fn print_machine() {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or(std::env::consts::ARCH, |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let date = std::process::Command::new("date").args(["-u", "+%Y-%m-%d %H:%M"]).output();
    let date = date.map(|it| String::from_utf8_lossy(&it.stdout).into_owned()).unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let words: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    println!("{model}, {cores} cores, Linux {}, {} UTC", kernel.trim(), date.trim());
    println!("load before: {}", load.split(' ').next().unwrap_or_default());
    println!("cargo bench -p slipring-gateway --bench network -- {}", words.join(" "));
}
