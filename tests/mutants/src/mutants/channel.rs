//! Every mutant of the channel must be noticed by a model, as those of the ring are.
#![allow(clippy::panic, reason = "tests")]

use super::Mutant;
use super::ring::kill;

/// The model that notices.
fn killer(mutant: Mutant) -> &'static str {
    match mutant {
        Mutant::SlotFreedEarly | Mutant::LetGoUntold | Mutant::RetiredStillOpen => {
            "a_reply_and_a_timeout_end_a_request_once"
        }
        Mutant::LeftoversKept => "a_reply_that_is_read_while_its_owner_gives_up_is_dropped",
        Mutant::CancelLate => {
            "a_cancel_that_is_late_does_not_replace_that_of_the_slots_next_request"
        }
        Mutant::LetGoLate => "letting_go_does_not_replace_the_cancel_of_the_slots_next_request",
        Mutant::CreditLate => "a_credit_never_takes_another_back",
        Mutant::CancelNotRung => "a_cancel_wakes_a_worker_that_waits",
        Mutant::NoHandOver
        | Mutant::NoFenceAtHandOver
        | Mutant::NoFenceBeforePark
        | Mutant::NoSecondTry => "who_finds_the_ring_taken_is_woken_when_it_is_not",
        Mutant::NoHandOn => "a_thread_that_was_woken_to_read_but_leaves_wakes_another",
        Mutant::GivenWithoutWake | Mutant::ParksOverItem => {
            "a_thread_that_reads_on_gives_others_what_is_theirs"
        }
        Mutant::NotReadWhenFull => "who_finds_the_table_full_reads_that_requests_have_ended",
        Mutant::NoLookAsReader => "two_callers_get_their_replies_whoever_reads",
        Mutant::RoomNotAsked | Mutant::RoomNotAnnounced | Mutant::RoomNotGiven => {
            "who_waits_for_room_is_woken_by_who_reads"
        }
        Mutant::UntoldNotLit | Mutant::DriveWakesNoThread => {
            "a_reactor_is_told_of_what_a_thread_reads_for_it"
        }
        Mutant::NoPumpAtHandOver => "a_reactor_that_found_the_ring_taken_is_woken_when_it_is_not",
        Mutant::SpinsBehindReader => "close_ends_the_wait_of_a_reader_and_of_who_waits_behind_it",
        Mutant::AlarmBeforeEnd | Mutant::NoAlarmAtEnd => "close_ends_the_wait_of_a_caller",
        Mutant::PhaseReadLate | Mutant::DeadBeforeLook => {
            "a_reply_that_was_sent_before_the_end_is_delivered"
        }
        Mutant::FailureLate | Mutant::LastCauseWins => "the_first_cause_is_what_everybody_is_told",
        other => panic!("{other:?} is not of the channel"),
    }
}

#[test]
fn every_mutant_is_killed_by_its_model() {
    kill(Mutant::CHANNEL, killer);
}
