//! Spans and events for `tracing`; nothing at all without the feature of that name.

/// Enters a span, at level `DEBUG` and target `slipring`, until the end of the scope.
macro_rules! span {
    ($name:literal $(, $($fields:tt)*)?) => {
        #[cfg(feature = "tracing")]
        let _span = tracing::debug_span!(target: "slipring", $name $(, $($fields)*)?).entered();
    };
}

/// Something that happens once in a worker's life.
macro_rules! event {
    ($level:ident, $($fields:tt)*) => {
        #[cfg(feature = "tracing")]
        tracing::event!(target: "slipring", tracing::Level::$level, $($fields)*);
    };
}

pub(crate) use {event, span};
