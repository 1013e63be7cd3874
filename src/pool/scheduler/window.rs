//! Events of the last period, counted exactly.

use std::collections::VecDeque;

/// Events of the last period. An event of exactly a period ago is not counted.
#[derive(Debug)]
pub(super) struct Window {
    period: u64,
    /// Each moment with the number of events at it, oldest first.
    events: VecDeque<(u64, usize)>,
    count: usize,
}

impl Window {
    pub(super) fn new(period: u64) -> Self {
        Self { period, events: VecDeque::new(), count: 0 }
    }

    pub(super) fn add(&mut self, now: u64) {
        self.forget(now);
        self.count += 1;
        match self.events.back_mut() {
            Some((when, events)) if *when >= now => *events += 1,
            _ => self.events.push_back((now, 1)),
        }
    }

    pub(super) fn count(&mut self, now: u64) -> usize {
        self.forget(now);
        self.count
    }

    fn forget(&mut self, now: u64) {
        while let Some((when, events)) = self.events.front()
            && now.saturating_sub(*when) >= self.period
        {
            self.count -= events;
            self.events.pop_front();
        }
    }
}

/// Events of about the last period, for counts that come with every request: in a fixed number of
/// parts of the period, so that it takes the same memory at any rate. An event is counted for a
/// period at most, and for seven eighths of it at least.
#[derive(Debug)]
pub(super) struct CoarseWindow {
    part: u64,
    /// The number of the newest part since the clock began.
    newest: u64,
    counts: [usize; PARTS],
}

const PARTS: usize = 8;
const PARTS_OF_TIME: u64 = 8;

impl CoarseWindow {
    pub(super) fn new(period: u64) -> Self {
        Self { part: (period / PARTS_OF_TIME).max(1), newest: 0, counts: [0; PARTS] }
    }

    pub(super) fn add(&mut self, now: u64) {
        let at = self.forget(now);
        if let Some(count) = self.counts.get_mut(at) {
            *count += 1;
        }
    }

    pub(super) fn count(&mut self, now: u64) -> usize {
        self.forget(now);
        self.counts.iter().sum()
    }

    /// Empties the parts that are over, and returns the place of the present one.
    fn forget(&mut self, now: u64) -> usize {
        let newest = (now / self.part).max(self.newest);
        let over = (newest - self.newest).min(PARTS_OF_TIME);
        for step in 0..over {
            if let Some(count) = self.counts.get_mut(place(newest - step)) {
                *count = 0;
            }
        }
        self.newest = newest;
        place(newest)
    }
}

fn place(part: u64) -> usize {
    usize::try_from(part % PARTS_OF_TIME).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_counts_what_a_list_of_all_events_does() {
        let mut random = 7_u64;
        for period in [1, 10, 97] {
            let (mut window, mut all, mut now) = (Window::new(period), Vec::new(), 0);
            for _ in 0..1000 {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
                now += (random >> 33) % 12;
                if random >> 63 == 1 {
                    window.add(now);
                    all.push(now);
                }
                let expected = all.iter().filter(|when| now - **when < period).count();
                assert_eq!(window.count(now), expected);
            }
        }
    }

    #[test]
    fn a_coarse_window_counts_an_event_for_a_period_or_a_little_less() {
        let mut random = 7_u64;
        let (period, mut all, mut now) = (800, Vec::new(), 0);
        let mut window = CoarseWindow::new(period);
        for _ in 0..10_000 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
            now += (random >> 33) % 120;
            window.add(now);
            all.push(now);
            let within = |period| all.iter().filter(|when| now - **when < period).count();
            let (least, most) = (within(period * 7 / 8), within(period));
            let count = window.count(now);
            assert!(least <= count && count <= most, "{least} {count} {most}");
        }
        assert_eq!(window.count(now + 10 * period), 0);
    }
}
