//! Every mutant of the pool must be noticed by a model, as those of the ring are.
#![allow(clippy::panic, reason = "tests")]

use super::Mutant;
use super::ring::kill;

/// The model that notices.
fn killer(mutant: Mutant) -> &'static str {
    match mutant {
        Mutant::ToldWithoutWake | Mutant::WaiterNotNoted => {
            "a_request_that_waits_gets_the_place_that_becomes_free"
        }
        Mutant::LeavesThoughTold => "a_place_is_not_lost_at_a_request_that_leaves",
        Mutant::LeaverNotForgotten => {
            "a_request_that_leaves_as_its_deadline_passes_is_counted_once"
        }
        Mutant::EndUntold | Mutant::DeadStillServes => {
            "what_waits_as_a_worker_dies_goes_to_the_next"
        }
        Mutant::ClosedTakesAgain => "a_request_that_is_sent_again_as_the_role_is_closed_ends",
        Mutant::LookUnannounced | Mutant::LookForgotten => {
            "a_change_is_looked_at_whenever_it_comes"
        }
        other => panic!("{other:?} is not of the pool"),
    }
}

#[test]
fn every_mutant_is_killed_by_its_model() {
    kill(Mutant::POOL, killer);
}
