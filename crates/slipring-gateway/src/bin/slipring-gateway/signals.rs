//! Signals that end the program: the first one in good order, the second one at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Failure;

pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
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
        })
    }

    /// Waits for the next one. Loses none if it is dropped.
    pub(crate) async fn next(&mut self) -> Ending {
        tokio::select! {
            _ = self.terminate.recv() => Ending { name: "SIGTERM", number: 15 },
            _ = self.interrupt.recv() => Ending { name: "SIGINT", number: 2 },
        }
    }
}
