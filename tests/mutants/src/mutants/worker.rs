//! Every mutant of the worker must be noticed by a model, as those of the ring are.
#![allow(clippy::panic, reason = "tests")]

use super::Mutant;
use super::ring::kill;

/// The model that notices.
fn killer(mutant: Mutant) -> &'static str {
    match mutant {
        Mutant::WaitNotAnnounced | Mutant::NextNotWoken => {
            "two_threads_that_wait_for_room_get_it_in_turn"
        }
        Mutant::CancelledWakesNone | Mutant::CancelledKeepsPlace => {
            "a_thread_that_is_cancelled_as_it_waits_for_room_wakes_the_next"
        }
        Mutant::OwedNotTold | Mutant::OwedCountedLate => {
            "a_taker_that_sleeps_is_told_of_an_ending_that_is_owed"
        }
        Mutant::OwedNotAnnounced | Mutant::NoFenceForOwed | Mutant::NoSecondLookForOwed => {
            "an_ending_that_is_owed_as_its_thread_goes_to_sleep_goes_out"
        }
        Mutant::SentTogetherUntold => "a_parent_that_sleeps_gets_chunks_that_are_sent_together",
        Mutant::CreditNotAnnounced | Mutant::NoFenceAfterCredit => {
            "a_credit_wakes_a_stream_that_waits_for_it"
        }
        Mutant::CancelNotSeen => "a_cancel_ends_a_wait_for_credit",
        Mutant::RingsReadLate => "a_task_that_waits_before_the_taker_looks_is_woken",
        Mutant::TaskNotAnnounced | Mutant::NoFenceForTask => {
            "a_task_that_waits_as_the_taker_goes_to_sleep_is_woken"
        }
        Mutant::TaskRegisteredLate => {
            "a_task_that_begins_to_wait_for_room_as_there_is_some_is_woken"
        }
        Mutant::NextTaskNotWoken => "a_task_behind_one_that_is_given_up_gets_its_turn",
        Mutant::NoFenceForCancelled => "a_task_that_waits_for_a_cancel_is_woken_by_it",
        Mutant::LimitNotNoted | Mutant::LimitNotTold => {
            "an_answer_wakes_the_taker_that_waits_at_the_limit"
        }
        Mutant::TurnNotGivenOn => "two_threads_that_take_requests_get_one_each",
        Mutant::StopAfterAlarm => "a_stop_ends_the_wait_for_a_request",
        Mutant::NoFenceAfterBegin => "a_side_effect_is_seen_only_with_the_mark_that_tells_of_it",
        Mutant::MarkRelaxed => "a_mark_is_seen_with_the_time_of_its_own_request",
        Mutant::AnsweredLate => "a_reply_is_seen_only_with_the_mark_that_its_request_was_answered",
        other => panic!("{other:?} is not of the worker"),
    }
}

#[test]
fn every_mutant_is_killed_by_its_model() {
    kill(Mutant::WORKER, killer);
}
