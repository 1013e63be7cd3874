//! Every mutant of the ring and its doorbell must be noticed by a model.
//!
//! For each mutant, one model runs in a process of its own, with the mutant chosen by a variable
//! of the environment. The mutant is killed if the model fails for a reason of the model's: a
//! race, a deadlock, or an assertion. Some mutants are left out, as no model can tell them from
//! the code that ships:
//!
//! * The bell, or the alarm, is loaded Relaxed. Fence A comes between that load and the look,
//!   and orders as much as Acquire does.
//! * `checked` is stored, or loaded, Relaxed. A descriptor of a model is a mutex, which never
//!   shows a store before a lock that precedes it.
//! * Header words and cleared commit words are stored and loaded Relaxed already. The commit
//!   word orders them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::process::Command;

use super::Mutant;

/// The model that notices the mutant.
fn killer(mutant: Mutant) -> &'static str {
    match mutant {
        Mutant::CommitRelaxed | Mutant::PollRelaxed => {
            "a_frame_that_is_seen_is_complete_and_the_next_is_not_there_yet"
        }
        Mutant::PaddingRelaxed | Mutant::PaddingFirst => {
            "a_frame_behind_padding_is_complete_when_the_padding_is_seen"
        }
        Mutant::NextNotCleared | Mutant::NextClearedLate => {
            "a_slot_that_is_used_again_shows_nothing_of_the_last_round"
        }
        Mutant::BatchFirstEarly => "a_batch_is_seen_whole_or_not_at_all",
        Mutant::GroupFirstEarly | Mutant::GroupRelaxed => "a_group_is_seen_whole_or_not_at_all",
        Mutant::GroupAfterNotify | Mutant::GroupNotFlushed => {
            "a_group_is_published_before_a_wait_and_by_the_drop"
        }
        // Only padding that the reader has not passed can be hit by the next header: the commit
        // word of a frame of the last lap is left as it is.
        Mutant::NoRoomForNext => "padding_is_released_for_a_producer_that_waits",
        Mutant::NoFenceAfterHead | Mutant::HeadNotRungFor => {
            "a_full_ring_holds_the_producer_until_slots_are_released"
        }
        Mutant::HeadRelaxed | Mutant::HeadSeenRelaxed => {
            "slots_that_are_released_together_are_not_filled_while_they_are_read"
        }
        Mutant::NoRoomForPadding => {
            "a_long_frame_waits_for_all_the_room_that_it_and_its_padding_need"
        }
        Mutant::NoHeadBeforeSleep => {
            "slots_below_an_eighth_of_the_ring_are_given_back_before_a_sleep"
        }
        Mutant::LeaseOutOfOrder | Mutant::LeaseNotPublished => {
            "leases_dropped_by_two_threads_free_slots_in_order_for_a_producer"
        }
        Mutant::FrameReleasesLease | Mutant::CursorTakenEarly => {
            "a_lease_comes_back_while_the_consumer_releases_frames_behind_it"
        }
        Mutant::CursorNotHandedOver => "slots_released_before_a_lease_are_free_while_it_is_out",
        Mutant::NoFenceBeforeLook
        | Mutant::NoFenceAfterCommit
        | Mutant::NoSecondLook
        | Mutant::AnnounceLate
        | Mutant::BellReadLate
        | Mutant::NoBump
        | Mutant::BumpLate
        | Mutant::NoWake
        | Mutant::WakePrivate
        | Mutant::TailNotRungFor
        | Mutant::CheckedTooFar => "a_consumer_that_goes_to_sleep_is_woken_for_every_frame",
        // The bell is rung without a fence, as it is for credits and cancels.
        Mutant::BellRelaxed => "a_bell_that_is_rung_without_a_fence_brings_the_news_with_it",
        Mutant::WakeOne => "a_bell_wakes_all_that_sleep_on_it",
        Mutant::NoFlushBeforeWait => "a_producer_that_waits_for_room_has_woken_the_consumer_first",
        Mutant::NoFlushOnDrop => "a_producer_that_is_dropped_leaves_no_consumer_asleep",
        Mutant::AlarmRelaxed
        | Mutant::NoAlarmBump
        | Mutant::NoAlarmWake
        | Mutant::AlarmReadLate
        | Mutant::AlarmNotWaitedOn => "an_alarm_ends_a_wait_for_a_frame",
        Mutant::EndBeforeLook => "what_was_committed_before_the_end_is_found_before_it",
        Mutant::DrainLate
        | Mutant::NoFenceAfterDrain
        | Mutant::NoLookAfterDrain
        | Mutant::DrainUnchecked
        | Mutant::CheckedBeforeRing => "a_reactor_hears_of_every_frame_and_never_for_nothing",
        Mutant::UnrungNotLit => {
            "a_frame_that_is_taken_without_a_look_at_the_descriptor_leaves_it_true"
        }
        Mutant::DescriptorNotForgotten => "a_reactor_and_a_blocking_wait_can_take_turns",
        Mutant::AnewOverFrames => "a_ring_with_a_frame_that_is_held_goes_on",
        Mutant::AnewWithoutRoom => "a_frame_without_room_before_the_place_goes_on",
        Mutant::LenOverCap
        | Mutant::LenPastEnd
        | Mutant::PaddingAnywhere
        | Mutant::PaddingBeforeNothing
        | Mutant::ConsumerForgives => "what_cannot_be_a_frame_is_corrupt",
        Mutant::Overrun => "frames_over_slots_that_are_held_are_corrupt",
        Mutant::AnyHead | Mutant::HeadInsideSlot | Mutant::ProducerForgives => {
            "heads_that_cannot_be_are_corrupt"
        }
        Mutant::OpenCommitRelaxed | Mutant::OpenCountsAsChecked => {
            "slots_that_two_threads_fill_are_read_whole_and_in_ring_order"
        }
        Mutant::OpenFillerLate => {
            "a_slot_that_is_truncated_is_read_before_the_frame_that_fills_its_rest"
        }
        Mutant::OpenPaddingRelaxed | Mutant::OpenPaddingFirst => {
            "a_slot_behind_a_padding_is_published_before_the_padding"
        }
        Mutant::OpenCountsAsPublished => "a_peer_that_releases_an_open_slot_is_corrupt",
        Mutant::RingsUncounted => "a_bell_that_rings_for_nothing_is_corrupt_in_the_end",
        other => panic!("{other:?} is not of the ring"),
    }
}

/// What a model prints when it has noticed something.
const REASONS: [&str; 16] = [
    "deadlock",
    "Causality violation",
    "oncurrent",
    "a frame that was published",
    "a lie is believed",
    "assertion",
    "PeerCorrupt",
    "readable, but nothing",
    "a frame, but not readable",
    "maximum number of branches",
    "a reply that was sent",
    "a cancel that was given",
    "a place is",
    "the worker is told",
    "the entry is taken",
    "but marked",
];

#[test]
fn every_mutant_is_killed_by_its_model() {
    kill(Mutant::RING, killer);
}

/// Runs the model of each mutant with that mutant.
pub(super) fn kill(mutants: &[Mutant], killer: impl Fn(Mutant) -> &'static str) {
    let mut survivors = Vec::new();
    for mutant in mutants {
        let model = killer(*mutant);
        let output = Command::new(std::env::current_exe().unwrap())
            .arg(model)
            .env("SLIPRING_MUTANT", format!("{mutant:?}"))
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("running 1 test"), "there is no model {model}");
        let reason = REASONS.iter().find(|reason| said.contains(**reason));
        match (output.status.success(), reason) {
            (false, Some(reason)) => println!("{mutant:?}: killed: {reason}, by {model}"),
            (false, None) => survivors.push(format!("{mutant:?}, by {model}: {said}")),
            (true, _) => survivors.push(format!("{mutant:?}: not noticed by {model}")),
        }
    }
    println!("{} of {} mutants are killed", mutants.len() - survivors.len(), mutants.len());
    assert!(survivors.is_empty(), "{} survive:\n{}", survivors.len(), survivors.join("\n"));
}
