use std::collections::VecDeque;

use super::*;
use crate::ring::copy_choice::class::ROUTINES;
use crate::ring::copy_choice::samples::{SAMPLES, Samples, pace};
use crate::shm::layout::as_u64;

const CAPACITY: u64 = 4 << 20;
const MS: u64 = 1_000_000;

/// What a routine takes, in nanoseconds for a kibibyte: to write it, and to read what it wrote.
type Costs = (u64, u64);

/// A simulated ring with a producer and a consumer, which gives room back in eighths of the ring
/// or when it has caught up.
struct Machine {
    now: u64,
    choice: CopyChoice,
    tail: u64,
    /// When the consumer is done with each frame that is not released, and where that ends.
    frames: VecDeque<(u64, u64)>,
    /// When the consumer has read the last frame.
    read: u64,
    head: u64,
    /// Time that the stream would have taken with the best routine, and bytes of each routine.
    ideal: u64,
    copied: [u64; ROUTINES],
}

fn machine() -> Machine {
    machine_with(Box::leak(Box::new(Findings::new())))
}

fn machine_with(findings: &'static Findings) -> Machine {
    Machine {
        now: 1,
        choice: CopyChoice::new(CAPACITY, None, findings),
        tail: 0,
        frames: VecDeque::new(),
        read: 0,
        head: 0,
        ideal: 0,
        copied: [0; ROUTINES],
    }
}

impl Machine {
    /// Copies so many laps of frames of `len` bytes. `pace` gives what writing them takes.
    fn run(&mut self, len: usize, laps: u64, pace: impl Fn(CopyRoutine) -> u64) {
        self.run_both(len, laps * CAPACITY, |routine| (pace(routine), 0));
    }

    /// Copies so many bytes.
    fn run_both(&mut self, len: usize, bytes: u64, costs: impl Fn(CopyRoutine) -> Costs) {
        let span = as_u64(len);
        let slower = |routine| costs(routine).0.max(costs(routine).1);
        let best = available_routines().map(slower).min().unwrap();
        for _ in 0..bytes / span {
            self.send(span, &costs);
            self.ideal += (best * span) >> 10;
        }
    }

    fn send(&mut self, span: u64, costs: &impl Fn(CopyRoutine) -> Costs) {
        self.release(self.now);
        while self.tail + span - self.head > CAPACITY {
            self.choice.note_full();
            self.now = self.now.max(self.frames.front().unwrap().0);
            self.release(self.now);
        }
        let (now, in_flight) = (self.now, self.tail - self.head);
        let routine = self.choice.choose(span as usize, span, || Look { now, in_flight });
        let (write, read) = costs(routine);
        self.now += (write * span) >> 10;
        self.tail += span;
        self.read = self.read.max(self.now) + ((read * span) >> 10);
        self.frames.push_back((self.read, self.tail));
        self.copied[CopyRoutine::ALL.iter().position(|r| *r == routine).unwrap()] += span;
    }

    /// Gives back what the consumer has read at this time.
    fn release(&mut self, now: u64) {
        let done = self.frames.iter().take_while(|(time, _)| *time <= now).count();
        let has_caught_up = done == self.frames.len();
        let Some((_, end)) = done.checked_sub(1).and_then(|last| self.frames.get(last)) else {
            return;
        };
        let lump = CAPACITY / 8;
        if has_caught_up || end - self.head >= lump || self.tail - self.head > CAPACITY - lump {
            self.head = *end;
            self.frames.drain(..done);
        }
    }

    fn best(&self, len: usize) -> CopyRoutine {
        let CopyChoices { from_4_kib, from_16_kib, from_128_kib } = self.choice.found();
        let mut of_classes = CLASSES.into_iter().zip([from_4_kib, from_16_kib, from_128_kib]);
        of_classes.rfind(|(from, _)| len >= *from).unwrap().1
    }
}

fn others(best: CopyRoutine, slow: u64) -> impl Fn(CopyRoutine) -> u64 {
    move |routine| if routine == best { 100 } else { slow }
}

#[test]
fn the_fastest_routine_is_found_and_found_again_when_another_becomes_it() {
    for len in [4 << 10, 96 << 10, 1 << 20] {
        for first in available_routines() {
            for then in available_routines() {
                let mut machine = machine();
                machine.run(len, 30, others(first, 150));
                assert_eq!(machine.best(len), first, "{len} {first:?}");
                machine.run(len, 2000, others(first, 150));
                assert_eq!(machine.best(len), first, "{len} {first:?}");
                machine.run(len, 2200, others(then, 150));
                assert_eq!(machine.best(len), then, "{len} {first:?} {then:?}");
            }
        }
    }
}

#[test]
fn a_new_ring_finds_the_fastest_routine_within_two_laps_for_each() {
    let laps = 2 * as_u64(available_routines().count());
    for len in [4 << 10, 96 << 10, 1 << 20] {
        for best in available_routines() {
            for (write, read) in [(1, 0), (1, 1), (1, 2)] {
                let mut machine = machine();
                let pace = others(best, 700);
                let costs = |routine| (write * pace(routine), read * pace(routine));
                machine.run_both(len, laps * CAPACITY, costs);
                assert_eq!(machine.best(len), best, "{len} {write} {read}");
            }
        }
    }
}

#[test]
fn trials_cost_less_than_a_hundredth_however_slow_a_routine_is() {
    for slow in [101, 150, 199, 250, 1000, 3000] {
        let reads = if slow == 150 { 0..=1 } else { 0..=0 };
        for read in reads {
            for best in available_routines() {
                let pace = others(best, slow);
                let costs = |routine| (pace(routine), read * pace(routine));
                let mut machine = machine();
                machine.run_both(96 << 10, 3000 * CAPACITY, costs);
                let (start, ideal) = (machine.now, machine.ideal);
                machine.run_both(96 << 10, 5000 * CAPACITY, costs);
                let (took, ideal) = (machine.now - start, machine.ideal - ideal);
                assert!(took < ideal + ideal / 100, "{slow} {best:?}: {took} for {ideal}");
            }
        }
    }
}

#[test]
fn the_first_trials_of_a_very_slow_routine_end_early() {
    let mut machine = machine();
    machine.run(4 << 10, 100, others(FIRST_ROUTINE, 3000));
    assert!(machine.now < 2 * machine.ideal, "{} for {}", machine.now, machine.ideal);
}

#[test]
fn pauses_of_the_host_are_not_taken_for_slow_copies() {
    for best in available_routines() {
        let mut machine = machine();
        for round in 0..400_u64 {
            machine.run(96 << 10, 2, others(best, 150));
            // Every third round something else is done.
            machine.now += if round % 3 == 0 { 50 * MS } else { 0 };
        }
        assert_eq!(machine.best(96 << 10), best);
    }
}

#[test]
fn bursts_with_pauses_find_the_best_routine_and_keep_it() {
    // Half a lap, and more than two, of a consumer that keeps up, that does not, and in between.
    for burst in [2 << 20, 10 << 20] {
        for read in [0, 1, 2] {
            for best in available_routines() {
                let mut machine = machine();
                let pace = others(best, 150);
                let costs = |routine| (pace(routine), read * pace(routine));
                let mut found = 0;
                for round in 0..400_u64 {
                    machine.run_both(96 << 10, burst, costs);
                    machine.now += (1 + round * 7 % 13) * MS;
                    let is_found = machine.best(96 << 10) == best;
                    assert!(is_found || round * burst != 60 << 20, "{burst} {read} {best:?}");
                    found += u64::from(is_found);
                }
                assert!(found > 360, "{found} {burst} {read} {best:?}");
            }
        }
    }
}

#[test]
fn what_the_producer_can_do_while_the_ring_fills_up_decides_nothing() {
    // One routine writes faster, another leaves the consumer with faster reads.
    let available: Vec<CopyRoutine> = available_routines().collect();
    let (quick, good) = (available[0], available[available.len() - 1]);
    let mut machine = machine();
    for _ in 0..100 {
        machine.run_both(96 << 10, 20 << 20, |routine| match routine {
            routine if routine == good => (70, 80),
            routine if routine == quick => (20, 120),
            _ => (100, 120),
        });
        machine.now += 20 * MS;
    }
    assert_eq!(machine.best(96 << 10), good);
}

#[test]
fn a_consumer_that_is_the_slow_side_flips_nothing() {
    for len in [4 << 10, 96 << 10, 1 << 20] {
        let mut machine = machine();
        machine.run_both(len, 20 * CAPACITY, |_| (50, 1000));
        let found = machine.best(len);
        for _ in 0..100 {
            machine.run_both(len, 10 * CAPACITY, |_| (50, 1000));
            assert_eq!(machine.best(len), found, "{len}");
        }
    }
}

#[test]
fn a_machine_whose_processors_move_apart_and_back_is_followed() {
    let available: Vec<CopyRoutine> = available_routines().collect();
    let (for_near, for_far) = (available[0], available[available.len() - 1]);
    let near = |routine| if routine == for_near { (30, 25) } else { (80, 70) };
    let far = |routine| if routine == for_far { (60, 50) } else { (300, 280) };
    let mut machine = machine();
    for _ in 0..3 {
        machine.run_both(96 << 10, 1500 * CAPACITY, near);
        assert_eq!(machine.best(96 << 10), for_near);
        // Far it is slower at once, and looks for the others soon.
        machine.run_both(96 << 10, 100 * CAPACITY, far);
        assert_eq!(machine.best(96 << 10), for_far);
        machine.run_both(96 << 10, 1500 * CAPACITY, far);
        assert_eq!(machine.best(96 << 10), for_far);
    }
}

#[test]
fn a_new_ring_begins_with_what_the_last_one_has_found() {
    let findings: &'static Findings = Box::leak(Box::new(Findings::new()));
    let last = available_routines().last().unwrap();
    let mut first = machine_with(findings);
    assert_eq!(first.best(96 << 10), FIRST_ROUTINE);
    first.run(96 << 10, 30, others(last, 700));
    let mut next = machine_with(findings);
    assert_eq!(next.best(96 << 10), last);
    assert_eq!(next.best(4 << 10), FIRST_ROUTINE);
    assert_eq!(next.best(1 << 20), FIRST_ROUTINE);
    first.run(1 << 20, 30, others(last, 700));
    assert_eq!(machine_with(findings).best(1 << 20), last);
    assert_eq!(machine_with(findings).best(96 << 10), last);
    next.run(96 << 10, 3, others(last, 700));
    assert_eq!(next.copied.iter().filter(|bytes| **bytes > 0).count(), 1);
    // It is a hint only.
    next.run(96 << 10, 60, others(FIRST_ROUTINE, 700));
    assert_eq!(next.best(96 << 10), FIRST_ROUTINE);
    // What another process says may be anything.
    let odd: &'static Findings = Box::leak(Box::new(Findings::new()));
    odd.begin_with(u32::MAX >> 8);
    assert_eq!(machine_with(odd).choice.found(), CopyChoices::default());
    // What this one has found itself counts more.
    findings.begin_with(0x111);
    assert_ne!(findings.bits(), 0x111);
}

#[test]
fn a_routine_that_is_slow_for_its_first_lap_only_is_found() {
    let available: Vec<CopyRoutine> = available_routines().collect();
    let (first, last) = (available[0], available[available.len() - 1]);
    let mut machine = machine();
    machine.run(96 << 10, 50, others(last, 150));
    assert_eq!(machine.best(96 << 10), last);
    // The ring's lines are in memory now, from where they come at the first lap.
    let (mut lap_of_first, bytes) = (0, 96 << 10);
    for _ in 0..2200 * CAPACITY / bytes {
        let now = machine.now;
        let look = || Look { now, in_flight: 0 };
        let is_first = machine.choice.choose(96 << 10, bytes, look) == first;
        lap_of_first = if is_first { lap_of_first + bytes } else { 0 };
        let slow = if lap_of_first <= CAPACITY { 300 } else { 80 };
        machine.now += ((if is_first { slow } else { 100 }) * bytes) >> 10;
    }
    assert_eq!(machine.best(96 << 10), first);
}

#[test]
fn each_class_of_lengths_has_a_choice_of_its_own() {
    let mut machine = machine();
    let all: Vec<CopyRoutine> = available_routines().collect();
    let (short, long) = (all[0], all[all.len() - 1]);
    machine.run(4 << 10, 50, others(short, 150));
    machine.run(1 << 20, 50, others(long, 150));
    assert_eq!((machine.best(4 << 10), machine.best(1 << 20)), (short, long));
    // One frame of each in turn: that of fewer bytes keeps what it has, the other learns.
    for _ in 0..10_000 {
        machine.run_both(1 << 20, 1 << 20, |routine| (others(short, 150)(routine), 0));
        let now = machine.now;
        let look = || Look { now, in_flight: 0 };
        assert_eq!(machine.choice.choose(4 << 10, 4 << 10, look), short);
    }
    assert_eq!((machine.best(4 << 10), machine.best(1 << 20)), (short, short));
}

#[test]
fn classes_begin_at_the_documented_lengths() {
    let last = available_routines().last().unwrap();
    let classes = [(4, 16), (16, 128), (128, 2048)];
    for (class, (from, to)) in classes.into_iter().enumerate() {
        for len in [from << 10, (to << 10) - 64] {
            let mut machine = machine();
            machine.run(len, 50, others(last, 150));
            let CopyChoices { from_4_kib, from_16_kib, from_128_kib } = machine.choice.found();
            let mut expected = [FIRST_ROUTINE; 3];
            expected[class] = last;
            assert_eq!([from_4_kib, from_16_kib, from_128_kib], expected, "{len}");
        }
    }
    assert!(CopyChoice::is_for(4 << 10) && !CopyChoice::is_for((4 << 10) - 1));
}

#[test]
fn the_clock_is_read_once_in_a_part_however_small_the_ring_is() {
    for (capacity, part) in [(64 << 10, 128 << 10), (1 << 20, 128 << 10), (16 << 20, 1 << 20)] {
        let mut choice = CopyChoice::new(capacity, None, Box::leak(Box::new(Findings::new())));
        let (len, mut now, mut looks) = (4 << 10, 1, 0);
        let copied = 2000 * part;
        for _ in 0..copied / len {
            choice.note_full();
            choice.choose(4 << 10, len, || {
                looks += 1;
                Look { now, in_flight: capacity }
            });
            now += 400;
        }
        assert!(looks <= copied / part + 1, "{looks} looks at {capacity}");
    }
}

#[test]
fn a_best_routine_is_news_once() {
    let last = available_routines().last().unwrap();
    let mut machine = machine();
    assert_eq!(machine.choice.take_news(), Some(CopyChoices::default().to_bits()));
    assert_eq!(machine.choice.take_news(), None);
    machine.run(96 << 10, 50, others(last, 150));
    assert_eq!(machine.choice.take_news(), Some(machine.choice.found().to_bits()));
    assert_eq!(machine.choice.take_news(), None);
}

#[test]
fn a_best_routine_that_falls_back_to_its_first_pace_has_the_others_tried() {
    let all: Vec<CopyRoutine> = available_routines().collect();
    let (first, last) = (all[0], all[all.len() - 1]);
    let mut machine = machine();
    machine.run(96 << 10, 50, |routine| if routine == first { 200 } else { 400 });
    machine.run(96 << 10, 1500, |routine| if routine == first { 100 } else { 200 });
    assert_eq!(machine.best(96 << 10), first);
    machine.run(96 << 10, 100, |routine| if routine == last { 140 } else { 200 });
    assert_eq!(machine.best(96 << 10), last);
}

#[test]
fn a_machine_that_is_slower_now_and_then_has_few_trials() {
    let all: Vec<CopyRoutine> = available_routines().collect();
    let mut machine = machine();
    let mut run = |laps: u64| {
        for round in 0..laps / 100 {
            // Each of a hundred laps, of which every other hundred is slower for all.
            let slower = 100 + 60 * (round % 2);
            machine.run(96 << 10, 100, |routine| {
                (if routine == all[0] { 100 } else { 190 }) * slower / 100
            });
        }
        (machine.now, machine.ideal)
    };
    let before = run(3000);
    let after = run(6000);
    let (took, ideal) = (after.0 - before.0, after.1 - before.1);
    assert!(took < ideal + ideal / 100, "{took} for {ideal}");
}

#[test]
fn trials_cost_less_than_a_hundredth_for_each_class() {
    for len in [4 << 10, 16 << 10, 1 << 20] {
        let mut machine = machine();
        let best = available_routines().last().unwrap();
        machine.run(len, 3000, others(best, 190));
        let (start, ideal) = (machine.now, machine.ideal);
        machine.run(len, 5000, others(best, 190));
        let (took, ideal) = (machine.now - start, machine.ideal - ideal);
        assert!(took < ideal + ideal / 100, "{len}: {took} for {ideal}");
    }
}

#[test]
fn two_rings_of_one_thread_measure_for_themselves_and_do_so_again() {
    let all: Vec<CopyRoutine> = available_routines().collect();
    let (first, last) = (all[0], all[all.len() - 1]);
    let both = || {
        let (mut one, mut other) = (machine(), machine());
        for _ in 0..50 {
            one.run(96 << 10, 1, others(first, 150));
            other.run(96 << 10, 1, others(last, 150));
        }
        assert_eq!((one.best(96 << 10), other.best(96 << 10)), (first, last));
        [one.copied, other.copied]
    };
    // The same times lead to the same choices.
    assert_eq!(both(), both());
}

#[test]
fn a_median_is_of_the_last_few_paces() {
    let mut samples = Samples::default();
    assert_eq!(samples.median(), u64::MAX, "nothing is slower");
    for (added, expected) in [(9, 9), (1, 1), (5, 5), (7, 5), (3, 5)] {
        samples.add(added);
        assert_eq!(samples.median(), expected);
    }
    for _ in 0..SAMPLES {
        samples.add(100);
    }
    assert_eq!(samples.median(), 100);
    assert_eq!((pace(0, 1 << 20), pace(1000, 1 << 20), pace(1000, 1 << 19)), (1, 1000, 2000));
    assert_eq!(pace(u64::MAX, 0), u64::MAX);
}

#[test]
fn no_head_of_a_hostile_peer_makes_the_arithmetic_overflow() {
    let heads = [u64::MAX, 0, 1 << 63, CAPACITY, u64::MAX - CAPACITY, 1];
    for stride in [1, 2, 3, 5] {
        let mut machine = machine();
        for step in 0..4000_usize {
            let (now, in_flight) = (machine.now, heads[step * stride / 2 % heads.len()]);
            if step % 3 == 0 {
                machine.choice.note_full();
            }
            machine.choice.choose(256 << 10, 256 << 10, || Look { now, in_flight });
            // A pause now and then.
            machine.now += if step % 7 == 6 { MS } else { 20_000 };
        }
    }
}

#[test]
fn a_choice_of_the_hosts_is_kept() {
    for fixed in CopyRoutine::ALL {
        let findings: &'static Findings = Box::leak(Box::new(Findings::new()));
        let mut machine = machine_with(findings);
        machine.choice = CopyChoice::new(CAPACITY, Some(fixed), findings);
        machine.run(96 << 10, 100, |routine| if routine == fixed { 300 } else { 100 });
        assert_eq!(machine.copied.iter().filter(|bytes| **bytes > 0).count(), 1);
        assert_eq!((machine.best(96 << 10), findings.bits()), (fixed, 0));
    }
}
