//! How long the hosts needed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How long it took after a fault.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recovery {
    /// Until what is gone was used no more.
    pub left: Option<Duration>,
    /// From its return until it was used again.
    pub back: Option<Duration>,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |time: Option<Duration>| time.map_or(0, |time| time.as_millis());
        write!(f, "left {} ms, back {} ms", millis(self.left), millis(self.back))
    }
}

#[derive(Default)]
pub struct Figures(BTreeMap<&'static str, Vec<Recovery>>);

impl Figures {
    pub fn note(&mut self, fault: &'static str, recovery: Recovery) {
        self.0.entry(fault).or_default().push(recovery);
    }

    pub fn print(&self) {
        println!("\nin milliseconds: median, 90th percentile, longest (out of)");
        for (fault, all) in &self.0 {
            let left = percentiles(all.iter().filter_map(|it| it.left).collect());
            let back = percentiles(all.iter().filter_map(|it| it.back).collect());
            println!("{fault:44} left {left:28} back {back}");
        }
    }
}

fn percentiles(mut all: Vec<Duration>) -> String {
    all.sort_unstable();
    let at = |share: usize| all.get((all.len().saturating_sub(1) * share).div_ceil(100));
    let [Some(middle), Some(most), Some(longest)] = [at(50), at(90), at(100)] else {
        return "-".to_owned();
    };
    let [middle, most, longest] = [middle, most, longest].map(Duration::as_millis);
    format!("{middle} {most} {longest} ({})", all.len())
}
