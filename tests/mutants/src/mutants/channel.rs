//! Every mutant of the channel must be noticed by a model, as those of the ring are.
#![allow(clippy::panic, reason = "tests")]

use super::Mutant;
use super::ring::kill;

/// The model that notices.
fn killer(mutant: Mutant) -> &'static str {
    match mutant {
        Mutant::EntryFreedEarly | Mutant::DropUntold | Mutant::DroppedStillOpen => {
            "a_reply_and_a_timeout_end_a_request_once"
        }
        Mutant::LeftoversKept => "a_reply_that_is_read_while_its_request_is_dropped_is_late",
        Mutant::CancelLate => "a_late_cancel_does_not_replace_that_of_the_entrys_next_request",
        Mutant::DropLate => "a_drop_does_not_replace_the_cancel_of_the_entrys_next_request",
        Mutant::CreditLate => "a_credit_never_takes_another_back",
        Mutant::CancelNotRung => "a_cancel_wakes_a_worker_that_waits",
        Mutant::NoHandOver
        | Mutant::NoFenceAtHandOver
        | Mutant::NoFenceBeforePark
        | Mutant::NoSecondTry => "a_thread_that_finds_the_turn_taken_is_woken_when_it_is_free",
        Mutant::NoHandOn => "a_thread_that_was_woken_to_read_but_leaves_wakes_another",
        Mutant::GivenWithoutWake | Mutant::ParksOverItem => {
            "a_thread_that_reads_on_gives_others_what_is_theirs"
        }
        Mutant::NotReadWhenFull => {
            "a_sender_that_finds_the_table_full_reads_that_requests_have_ended"
        }
        Mutant::NoLookAsReader => "two_callers_get_their_replies_whichever_reads",
        Mutant::RoomNotAsked | Mutant::RoomNotAnnounced | Mutant::RoomNotGiven => {
            "a_thread_that_waits_for_room_is_woken_by_the_reader"
        }
        Mutant::UnreportedNotLit | Mutant::DriveWakesNoThread => {
            "a_reactor_is_told_of_what_a_thread_reads_for_it"
        }
        Mutant::TakenRoomUnnoticed | Mutant::ClearedWithoutLook => {
            "a_reactor_looks_again_for_room_that_another_sender_took"
        }
        Mutant::LeftWithoutWake => "a_task_that_moves_gets_what_the_driver_leaves_in_the_ring",
        Mutant::CountedOutFirst => "a_task_that_is_dropped_leaves_no_frame_of_another_unread",
        Mutant::NoPumpAtHandOver => "a_reactor_that_found_the_ring_taken_is_woken_when_it_is_not",
        Mutant::SpinsBehindReader => "close_ends_the_waits_of_a_reader_and_its_follower",
        Mutant::AlarmBeforeEnd | Mutant::NoAlarmAtEnd => "close_ends_the_wait_of_a_caller",
        Mutant::PhaseReadLate | Mutant::DeadBeforeLook => {
            "a_reply_that_was_sent_before_the_end_is_delivered"
        }
        Mutant::FailureLate | Mutant::LastCauseWins => {
            "the_first_cause_is_what_all_threads_are_told"
        }
        other => panic!("{other:?} is not of the channel"),
    }
}

#[test]
fn every_mutant_is_killed_by_its_model() {
    kill(Mutant::CHANNEL, killer);
}
