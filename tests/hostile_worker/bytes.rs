//! Lies about each byte that is not of a payload: they are found, or harm only the worker that tells them.

use std::collections::BTreeMap;

use slipring::ErrorKind;

use crate::common::*;
use crate::hostile::script::{Place, forgery};
use crate::hostile::{self, DATA, HEALTH, MARKS, Op, STATUS};
use crate::parent::*;

/// The words that a worker writes in its region outside of the rings: their offsets and lengths.
fn control_words() -> Vec<(usize, usize)> {
    let mut words = vec![(STATUS, 4), (hostile::OWNER, 4)];
    words.extend((1..4).map(|i| (STATUS + 8 * i, 8)));
    // The marks of two requests.
    words.extend((0..8).map(|i| (MARKS + 8 * i, 8)));
    for side in [DATA, HEALTH] {
        words.extend([(side, 8), (side + 8, 8), (side + hostile::HEAD, 8)]);
        words.extend([(side + hostile::SPACE_AT, 8), (side + hostile::BELL, 4)]);
        words.extend([(side + hostile::CHECKED, 8), (side + hostile::COPIES, 4)]);
        words.push((side + hostile::HIGH_WATER, 8));
    }
    words
}

fn operations(seed: usize) -> Vec<Op> {
    let mut all = vec![Op::Set(0), Op::Set(0xff)];
    all.extend((0..8).map(Op::Flip));
    all.push(Op::Set(pattern(seed as u64, 1)[0]));
    all
}

/// Outcomes of lies about single bytes.
#[derive(Debug, Default)]
struct Outcomes {
    harmless: u32,
    /// The channel ended with errors of these kinds.
    over: BTreeMap<String, u32>,
    /// The channel had errors and continued.
    errors: BTreeMap<String, u32>,
}

fn lie(places: &[Place]) -> Outcomes {
    let mut over = Overtime::default();
    let mut outcomes = Outcomes::default();
    for (seed, place) in places.iter().enumerate() {
        // A request that is never answered keeps its slot, and there are few slots.
        let mut channel = hostile();
        for op in operations(seed) {
            let what = format!("{place:?} {op:?}");
            let mut errors = Vec::new();
            errors.extend(channel.call(FORGE, &forgery(*place, op), LONG).err());
            let tells_the_truth = matches!(place, Place::Control(_));
            errors.extend(exercise_with(&channel, &what, &mut over, tells_the_truth));
            // A worker that lies about its own position cannot continue.
            let is_restored = errors.is_empty() && channel.call(RESTORE, b"", LONG).is_ok();
            match errors.iter().find(|error| error.is_fatal()) {
                Some(fatal) if fatal.kind() == ErrorKind::PeerCorrupt => {
                    assert_poisoned_for_good(&channel, &what, &mut over);
                    *outcomes.over.entry(format!("{:?}", fatal.kind())).or_default() += 1;
                }
                Some(fatal) => {
                    assert!(!channel.is_alive(), "{what}: {fatal}");
                    *outcomes.over.entry(format!("{:?}", fatal.kind())).or_default() += 1;
                }
                None if errors.is_empty() => outcomes.harmless += 1,
                None => {
                    let first = format!("{:?}", errors[0].kind());
                    *outcomes.errors.entry(first).or_default() += 1;
                }
            }
            if !channel.is_alive() || !is_restored {
                drop(channel);
                channel = hostile();
                assert_others_are_untouched();
            }
        }
    }
    assert_others_are_untouched();
    println!("{outcomes:?}, at most {:?} over a timeout", over.0);
    outcomes
}

#[test]
fn a_lie_about_any_byte_of_a_control_word_is_found_or_harmless() {
    let places: Vec<Place> = control_words()
        .into_iter()
        .flat_map(|(at, len)| (at..at + len).map(Place::Control))
        .collect();
    let outcomes = lie(&places);
    assert!(outcomes.harmless > 0 && outcomes.over["PeerCorrupt"] > 0, "{outcomes:?}");
}

#[test]
fn a_lie_about_any_byte_of_the_header_is_harmless_once_attached() {
    let words = control_words();
    let is_word = |at: usize| words.iter().any(|(from, len)| (*from..from + len).contains(&at));
    let places: Vec<usize> = (0..4096).filter(|at| !is_word(*at)).collect();
    let channel = hostile();
    for (i, place) in places.iter().enumerate() {
        let op = [Op::Set(0xff), Op::Set(0), Op::Flip((i % 8) as u8)][i % 3];
        channel.call(FORGE, &forgery(Place::Control(*place), op), LONG).unwrap();
        let bytes = pattern(i as u64, 900);
        assert!(channel.call(HOSTILE_ECHO, &bytes, LONG).unwrap().to_vec() == bytes);
    }
    channel.ping(LONG).unwrap();
}

#[test]
fn a_lie_about_any_byte_of_a_frames_header_harms_only_the_worker() {
    for make in [Place::DataFrame, Place::HealthFrame] {
        let outcomes = lie(&(0..32).map(make).collect::<Vec<_>>());
        assert!(outcomes.over["PeerCorrupt"] > 20, "{outcomes:?}");
    }
}
