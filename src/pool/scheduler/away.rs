//! The requests that other workers have, and the pause after those have refused one.

/// How long no request is offered to others that have refused one; it doubles each time.
const FIRST_PAUSE: u64 = 10_000_000;
const LONGEST_PAUSE: u64 = 1_000_000_000;

/// The requests of a role that other workers have.
#[derive(Debug, Default)]
pub(super) struct Away {
    /// Those that were told to leave, and have neither ended nor come back.
    pub(super) count: usize,
    /// Those of them that the load of the others does not count yet.
    pub(super) leaving: usize,
    /// How long the last pause was.
    pub(super) length: u64,
    pub(super) paused: Option<Pause>,
}

/// The others have refused a request. Until its end and a sign of room no request is offered to them.
#[derive(Debug)]
pub(super) struct Pause {
    end: u64,
    pub(super) has_room: bool,
}

impl Away {
    #[cfg(test)]
    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// When a pause ends after which there is a sign of room.
    pub(super) fn ends_at(&self) -> Option<u64> {
        self.paused.as_ref().filter(|pause| pause.has_room).map(|pause| pause.end)
    }

    pub(super) fn pause(&mut self, now: u64) {
        self.length = (self.length * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.paused = Some(Pause { end: now.saturating_add(self.length), has_room: false });
    }

    /// Ends a pause that is over. Returns whether requests may be offered.
    pub(super) fn may_offer(&mut self, now: u64) -> bool {
        if self.ends_at().is_some_and(|end| end <= now) {
            self.paused = None;
        }
        self.paused.is_none()
    }
}
