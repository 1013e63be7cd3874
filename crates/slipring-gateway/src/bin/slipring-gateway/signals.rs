//! Signals that end the program: the first one in good order, the second one at once.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Failure;

/// A signal that comes so soon after another one is the same wish: `timeout`, for one, tells the program
/// and then its process group.
const ONE_WISH: Duration = Duration::from_millis(500);

pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    last: Option<Instant>,
}

/// A signal that asks the program to end.
#[derive(Clone, Copy)]
pub(crate) struct Ending {
    pub(crate) name: &'static str,
    pub(crate) number: u8,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, Failure> {
        let watch =
            |kind| signal(kind).map_err(|e| Failure::other(format!("cannot watch signals: {e}")));
        Ok(Self {
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
            last: None,
        })
    }

    /// Waits for the next one. Loses none if it is dropped.
    pub(crate) async fn next(&mut self) -> Ending {
        loop {
            let ending = tokio::select! {
                _ = self.terminate.recv() => Ending { name: "SIGTERM", number: 15 },
                _ = self.interrupt.recv() => Ending { name: "SIGINT", number: 2 },
            };
            if self.last.is_none_or(|last| last.elapsed() >= ONE_WISH) {
                self.last = Some(Instant::now());
                return ending;
            }
        }
    }
}
