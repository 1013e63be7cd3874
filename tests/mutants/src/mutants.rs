//! Faults that the models must notice.
//!
//! Each mutant weakens one ordering, or leaves out one fence, look, bump or bound of the code
//! that ships. The patches beside this file add the mutants to the sources; `tests/mutants.sh`
//! applies the patches to a copy. In a model build of the copy, and in one for ThreadSanitizer,
//! the environment variable `SLIPRING_MUTANT` chooses one mutant at run time. `mutants/ring.rs`,
//! `mutants/channel.rs`, `mutants/worker.rs`, `mutants/pool.rs` and `mutants/pipe.rs` name the model that
//! must fail for it.

#[cfg(all(test, loom))]
mod channel;
#[cfg(all(test, loom))]
mod pipe;
#[cfg(all(test, loom))]
mod pool;
#[cfg(all(test, loom))]
mod ring;
#[cfg(all(test, loom))]
mod worker;

macro_rules! mutants {
    ($($list:ident { $($(#[doc = $what:literal])+ $name:ident,)+ })+) => {
        /// What is wrong.
        #[cfg_attr(not(loom), expect(dead_code, reason = "some are in the model's kernel"))]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Mutant {
            $($($(#[doc = $what])+ $name,)+)+
        }

        #[cfg(all(test, loom))]
        impl Mutant {
            $(pub(crate) const $list: &[Self] = &[$(Self::$name),+];)+
        }
    };
}

mutants! {
    RING {
        // Publishing a frame.
        /// The commit word is stored Relaxed.
        CommitRelaxed,
        /// The padding's commit word is stored Relaxed.
        PaddingRelaxed,
        /// The padding is published before the frame behind it.
        PaddingFirst,
        /// The next slot's commit word is not cleared.
        NextNotCleared,
        /// The next slot's commit word is cleared after the frame is published.
        NextClearedLate,
        /// The first frame of a batch is published before the others.
        BatchFirstEarly,
        /// The first slot of a group is published before the others.
        GroupFirstEarly,
        /// The commit word that publishes a group is stored Relaxed.
        GroupRelaxed,
        /// A flush looks for a sleeper before it publishes the group.
        GroupAfterNotify,
        /// A flush does not publish the group.
        GroupNotFlushed,
        /// The commit word is loaded Relaxed.
        PollRelaxed,
        /// The room for the next slot's commit word is not asked for.
        NoRoomForNext,
        /// The padding is left out of the room that is asked for.
        NoRoomForPadding,
        /// A ring begins anew although frames are held.
        AnewOverFrames,
        /// A ring begins anew where the frame has no room before that place.
        AnewWithoutRoom,

        // Giving slots back.
        /// The head is stored Relaxed.
        HeadRelaxed,
        /// The head is loaded Relaxed.
        HeadSeenRelaxed,
        /// The head is not published before the consumer sleeps.
        NoHeadBeforeSleep,
        /// A lease gives back slots of leases before it.
        LeaseOutOfOrder,
        /// A frame behind a lease gives back the lease's slot.
        FrameReleasesLease,
        /// A lease that comes back is not published.
        LeaseNotPublished,
        /// The consumer takes the cursor back while a lease is out.
        CursorTakenEarly,
        /// The consumer keeps its own cursor when it hands out a lease.
        CursorNotHandedOver,

        // Sleeping and waking.
        /// No fence between an announcement and the look after it.
        NoFenceBeforeLook,
        /// No fence between a commit and the look at the consumer's sleep word.
        NoFenceAfterCommit,
        /// No fence between a head and the look at the producer's sleep word.
        NoFenceAfterHead,
        /// No look after the announcement.
        NoSecondLook,
        /// The announcement follows the second look.
        AnnounceLate,
        /// The sleeper takes the bell's value after the second look.
        BellReadLate,
        /// The bell is bumped Relaxed.
        BellRelaxed,
        /// The bell is not bumped.
        NoBump,
        /// The bell is bumped after the wake.
        BumpLate,
        /// The kernel is not asked to wake any thread.
        NoWake,
        /// Threads that sleep on a shared word are looked for in this process only.
        WakePrivate,
        /// Only one of the threads that sleep on a bell is woken.
        WakeOne,
        /// The last frame before the tail is not rung for.
        TailNotRungFor,
        /// A head that is exactly the awaited one is not rung for.
        HeadNotRungFor,
        /// Frames count as checked that were not.
        CheckedTooFar,
        /// Frames committed lazily are not flushed before a wait for room.
        NoFlushBeforeWait,
        /// Frames committed lazily are not flushed when the producer is dropped.
        NoFlushOnDrop,

        // Ending waits.
        /// The alarm is bumped Relaxed.
        AlarmRelaxed,
        /// The alarm is not bumped.
        NoAlarmBump,
        /// The alarm wakes no thread.
        NoAlarmWake,
        /// The alarm's value is taken after the stop condition was looked at.
        AlarmReadLate,
        /// The sleeper does not sleep on the alarm.
        AlarmNotWaitedOn,
        /// The end of a wait is told before the look for what came before it.
        EndBeforeLook,

        // Reactors.
        /// The descriptor is drained after the look.
        DrainLate,
        /// No fence between the announcement by descriptor and the look after it.
        NoFenceAfterDrain,
        /// No look after the announcement by descriptor.
        NoLookAfterDrain,
        /// The descriptor is drained before the producer has checked.
        DrainUnchecked,
        /// The producer says that it has checked before it rings.
        CheckedBeforeRing,
        /// A frame that is there but not rung for counts as readable.
        UnrungNotLit,
        /// A wait on the bell leaves the descriptor believed in.
        DescriptorNotForgotten,

        // Believing the peer.
        /// A frame may be longer than the cap.
        LenOverCap,
        /// A frame may end behind the ring's end.
        LenPastEnd,
        /// A frame may lie in slots that are held.
        Overrun,
        /// Padding may stand where the longest frame has room.
        PaddingAnywhere,
        /// Padding may stand before nothing.
        PaddingBeforeNothing,
        /// The head may be any position.
        AnyHead,
        /// The head may lie inside a slot.
        HeadInsideSlot,
        /// A consumer that was lied to believes again.
        ConsumerForgives,
        /// A producer that was lied to believes again.
        ProducerForgives,
        /// Rings without a reason are not counted.
        RingsUncounted,

        // Slots that several threads fill.
        /// The commit word of a slot that was open is stored Relaxed.
        OpenCommitRelaxed,
        /// The padding before a slot that was open is stored Relaxed.
        OpenPaddingRelaxed,
        /// The padding before a slot that was open is published before the slot.
        OpenPaddingFirst,
        /// The frame that fills the rest of a slot is committed after the slot.
        OpenFillerLate,
        /// A slot that is still open counts as checked for a sleeper.
        OpenCountsAsChecked,
        /// A slot that is still open may be released.
        OpenCountsAsPublished,
    }
    CHANNEL {
        // The pending table.
        /// An entry is free once its owner has dropped it, though the worker may still send for it.
        EntryFreedEarly,
        /// What came for a request stays in its entry when the owner drops it.
        LeftoversKept,
        /// A frame for a request that was dropped counts as one for its owner.
        DroppedStillOpen,
        /// A cancel is written after the table's lock.
        CancelLate,
        /// The cancel of a request that is dropped is written after the table's lock.
        DropLate,
        /// A credit is written after the table's lock.
        CreditLate,
        /// The worker is not woken for a cancel.
        CancelNotRung,
        /// The worker is not told of a request that was dropped.
        DropUntold,

        // Reading for others.
        /// A reader that leaves wakes no thread.
        NoHandOver,
        /// No fence between the unlock and the look for followers.
        NoFenceAtHandOver,
        /// No fence between the announcement of a follower and its second try.
        NoFenceBeforePark,
        /// A follower parks without a second try of the lock.
        NoSecondTry,
        /// A thread that was woken to read, but leaves, does not hand on.
        NoHandOn,
        /// A thread that finds the channel over spins until the reader has left.
        SpinsBehindReader,
        /// The waiter that is given an item is not woken.
        GivenWithoutWake,
        /// A new reader does not look at what others have read for it.
        NoLookAsReader,
        /// A sender that finds the pending table full does not read what is there.
        NotReadWhenFull,
        /// A thread parks though its item is there.
        ParksOverItem,
        /// A reactor is not told of what a thread has read for it.
        UnreportedNotLit,
        /// A reactor that stops reading wakes no thread that waits.
        DriveWakesNoThread,
        /// A thread that stops reading does not arm a reactor's descriptor.
        NoPumpAtHandOver,
        /// The reader is not told that room is wanted.
        RoomNotAsked,
        /// The reader does not announce the room that others want.
        RoomNotAnnounced,
        /// The reader does not wake the waiters that have room.
        RoomNotGiven,
        /// The reader does not notice that another sender has taken the room it announced.
        TakenRoomUnnoticed,
        /// The reader clears the descriptor once more before it leaves, and does not look again.
        ClearedWithoutLook,
        /// A driver that leaves the frames to a task does not wake the task.
        LeftWithoutWake,
        /// A task that ends its wait counts as gone before it has given up its waiter.
        CountedOutFirst,

        // The end.
        /// The state changes after the alarm.
        AlarmBeforeEnd,
        /// The alarm is not raised.
        NoAlarmAtEnd,
        /// The state is loaded after the last look at the ring.
        PhaseReadLate,
        /// The state counts before the last look at the ring.
        DeadBeforeLook,
        /// The failure is written after the state.
        FailureLate,
        /// A later cause replaces the first.
        LastCauseWins,
    }
    PIPE {
        // Chunks.
        /// The tail is stored Relaxed.
        PipeTailRelaxed,
        /// The tail is loaded Relaxed.
        PipeTailSeenRelaxed,
        /// The head is stored Relaxed.
        PipeHeadRelaxed,
        /// The head is loaded Relaxed.
        PipeHeadSeenRelaxed,

        // Waking.
        /// No fence between what is published and the look at the bell.
        NoFenceBeforeRing,
        /// No fence between the bell and the look after it.
        NoFenceAfterArm,
        /// No look after the bell is armed.
        NoLookAfterArm,
        /// A writer does not ring for one that was killed.
        LeftUnrung,
        /// A writer does not ring if the reader has armed the bell beside it.
        NotRungAgain,
        /// The byte of a writer that was killed counts as sent.
        ByteAssumed,
        /// A late writer rings for what was read meanwhile.
        RungForWhatWasRead,
        /// The byte of an earlier ring stays in the socket.
        ByteNotTaken,
        /// The byte is taken although something is there.
        ByteTakenAlways,
        /// A reader that has emptied the ring leaves the bell armed at an earlier position.
        ArmedBefore,
    }
    WORKER {
        // Waiting for room.
        /// The first thread that waits does not announce what it needs.
        WaitNotAnnounced,
        /// A thread that has got room wakes no other.
        NextNotWoken,
        /// A thread that is cancelled as it waits wakes no other.
        CancelledWakesNone,
        /// A thread that is cancelled as it waits keeps its place.
        CancelledKeepsPlace,

        // Chunks that are sent together.
        /// The parent is not woken for the last of them.
        SentTogetherUntold,

        // What is owed.
        /// No thread is told that an ending is owed.
        OwedNotTold,
        /// An ending counts as owed only after threads were told.
        OwedCountedLate,
        /// The room for an ending that is owed is not announced.
        OwedNotAnnounced,
        /// No fence between that announcement and the look after it.
        NoFenceForOwed,
        /// No look after that announcement.
        NoSecondLookForOwed,

        // Credit and cancels.
        /// The credit that a stream waits for is not announced.
        CreditNotAnnounced,
        /// No fence between a credit and the look at what is awaited.
        NoFenceAfterCredit,
        /// A wait for credit does not look for a cancel.
        CancelNotSeen,

        // Tasks.
        /// A task is registered only after it has looked for room.
        TaskRegisteredLate,
        /// A task does not announce the room that it needs.
        TaskNotAnnounced,
        /// No fence between that announcement and the look after it.
        NoFenceForTask,
        /// What leaves its place does not wake the task behind it.
        NextTaskNotWoken,
        /// The rings that are remembered are read after the looks.
        RingsReadLate,
        /// No fence between the registration of a task and its look for a cancel.
        NoFenceForCancelled,

        // Taking requests.
        /// That the limit is reached is not noted.
        LimitNotNoted,
        /// The taker is not woken when the limit allows more.
        LimitNotTold,
        /// A thread that has had its turn to take requests wakes no other.
        TurnNotGivenOn,
        /// The stop is stored after the alarm.
        StopAfterAlarm,

        // Marks.
        /// No fence between the mark that a request is begun and what its handler does.
        NoFenceAfterBegin,
        /// A mark is stored Relaxed.
        MarkRelaxed,
        /// A request is marked as answered after its last frame.
        AnsweredLate,
    }
    POOL {
        // Waiting for a place.
        /// A request that is told is not woken.
        ToldWithoutWake,
        /// A request that begins to wait leaves nothing that could wake it.
        WaiterNotNoted,
        /// A request whose time is up leaves, although it was told.
        LeavesThoughTold,
        /// A request that is told to leave, and whose owner has gone, counts as one that others have.
        LeaverNotForgotten,

        // The ends of workers and of the role.
        /// What follows from the end of a worker is not done.
        EndUntold,
        /// A worker that a request has found dead is given to others.
        DeadStillServes,
        /// A role that is closed takes requests again that it took before.
        ClosedTakesAgain,

        // Ticks.
        /// The thread does not say that it looks.
        LookUnannounced,
        /// The thread forgets, after its look, that it is to look.
        LookForgotten,
    }
}

/// Whether the mutant with this name is chosen.
macro_rules! chosen {
    ($mutant:ident) => {
        $crate::mutants::is_chosen($crate::mutants::Mutant::$mutant)
    };
}

/// The ordering with this name, or Relaxed if the mutant is chosen.
macro_rules! order {
    ($mutant:ident, $order:ident) => {
        if chosen!($mutant) {
            $crate::sync::Ordering::Relaxed
        } else {
            $crate::sync::Ordering::$order
        }
    };
}

/// Returns whether the environment chooses this mutant.
pub(crate) fn is_chosen(mutant: Mutant) -> bool {
    thread_local! {
        // ThreadSanitizer cannot see how the initialization of a static that all threads share is
        // ordered before its uses.
        static NAME: Option<String> = name();
    }
    NAME.with(|name| name.as_ref().is_some_and(|name| *name == format!("{mutant:?}")))
}

fn name() -> Option<String> {
    let name = std::env::var("SLIPRING_MUTANT").ok();
    #[cfg(loom)]
    if name.is_some() {
        std::panic::set_hook(Box::new(end));
    }
    name
}

/// Ends the process with the first panic that says something. To unwind would panic again, in drops, since
/// the model is over; and the stack of a model's thread is too short for what is then told of that, so that
/// the process could hang.
#[cfg(loom)]
fn end(panic: &std::panic::PanicHookInfo<'_>) {
    use std::io::Write as _;

    // The checker unwinds threads that are left over by a panic that says nothing.
    if panic.payload_as_str().is_some() {
        let _ = writeln!(std::io::stdout(), "{panic}");
        std::process::exit(101);
    }
}
