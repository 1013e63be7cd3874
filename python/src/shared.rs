//! A channel that objects of Python's share.

use std::ops::Deref;
use std::sync::Arc;

/// A channel that objects of Python's share: one for threads alone, or one for tasks as well.
#[derive(Clone)]
pub(crate) enum SharedChannel {
    Threads(Arc<slipring::Channel>),
    Tasks(slipring::tasks::AsyncChannel),
}

impl From<slipring::tasks::AsyncChannel> for SharedChannel {
    fn from(channel: slipring::tasks::AsyncChannel) -> Self {
        Self::Tasks(channel)
    }
}

impl Deref for SharedChannel {
    type Target = slipring::Channel;

    fn deref(&self) -> &slipring::Channel {
        match self {
            Self::Threads(channel) => channel,
            Self::Tasks(channel) => channel.blocking(),
        }
    }
}
