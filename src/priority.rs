//! How important a request is among those that wait.

/// How important a request is.
///
/// A worker that becomes free gets a request of the highest class that waits, the oldest of it. After
/// each sixteen requests that passed a lower class, one of that class goes first, so that none waits
/// for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Priority {
    /// A request for which a user waits.
    High,
    /// The default.
    #[default]
    Normal,
    /// What can wait: a batch at night.
    Low,
}

impl Priority {
    /// All classes, the most important first.
    pub(crate) const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];
}
