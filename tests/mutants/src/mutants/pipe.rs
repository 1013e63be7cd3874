//! Every mutant of pipes must be noticed by a model, as those of the ring are.
#![allow(clippy::panic, reason = "tests")]

use super::Mutant;
use super::ring::kill;

/// The model that notices.
fn killer(mutant: Mutant) -> &'static str {
    match mutant {
        Mutant::PipeTailRelaxed
        | Mutant::PipeTailSeenRelaxed
        | Mutant::NoFenceBeforeRing
        | Mutant::NoFenceAfterArm
        | Mutant::NoLookAfterArm => "a_reader_that_sleeps_is_woken_for_every_message",
        Mutant::PipeHeadRelaxed | Mutant::PipeHeadSeenRelaxed => {
            "a_writer_that_waits_for_room_is_woken"
        }
        Mutant::LeftUnrung => {
            "the_next_message_wakes_if_the_last_writer_was_killed_before_its_byte"
        }
        Mutant::NotRungAgain | Mutant::ByteAssumed => {
            "the_next_message_wakes_a_reader_that_arms_after_a_killed_writer"
        }
        Mutant::RungForWhatWasRead
        | Mutant::ByteNotTaken
        | Mutant::ByteTakenAlways
        | Mutant::ArmedBefore => "the_descriptor_is_readable_exactly_if_a_message_is_there",
        other => panic!("{other:?} is not of a pipe"),
    }
}

#[test]
fn every_mutant_is_killed_by_its_model() {
    kill(Mutant::PIPE, killer);
}
