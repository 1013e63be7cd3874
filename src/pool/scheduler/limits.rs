//! What bounds one role, as plain numbers. Times are nanoseconds.

/// What bounds one role.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Workers that are kept although nothing is asked of them.
    pub(crate) min_idle: usize,
    /// The most workers that serve.
    pub(crate) max_size: usize,
    /// Ready workers beside those that serve, for when one of those dies.
    pub(crate) spares: usize,
    /// Whether nothing is started before the first request.
    pub(crate) is_lazy: bool,
    /// The most workers of the role that start at the same time.
    pub(crate) max_starts: usize,
    /// Requests that one worker serves at the same time.
    pub(crate) concurrency: usize,
    /// Requests beyond these that wait in the worker's ring.
    pub(crate) prefetch: usize,
    /// The most requests that wait for a worker.
    pub(crate) max_waiting: usize,
    /// How long a request waits before another worker is started for it.
    pub(crate) grow_after: u64,
    /// How long a worker beyond `min_idle` may have nothing to do.
    pub(crate) idle_timeout: Option<u64>,
    /// How old a worker gets.
    pub(crate) max_lifetime: Option<u64>,
    /// How many requests a worker serves.
    pub(crate) max_requests: Option<u64>,
    /// By how much the two limits above are shortened at most, in percent, so that workers that
    /// started together do not end together.
    pub(crate) jitter: u64,
    /// Whether a worker is stopped before its replacement is started.
    pub(crate) stop_first: bool,
    pub(crate) backoff: BackoffLimits,
    /// Workers that may fail, for each worker of `max_size`, in a period.
    pub(crate) failures_per_worker: usize,
    pub(crate) failure_period: u64,
    pub(crate) retry: RetryLimits,
}

/// How long to wait before a worker is started again.
#[derive(Debug, Clone)]
pub(crate) struct BackoffLimits {
    pub(crate) first: u64,
    pub(crate) most: u64,
    /// A worker that lives for this long has failed for the first time when it fails.
    pub(crate) clean_period: u64,
}

/// How often requests that were begun are sent again.
#[derive(Debug, Clone)]
pub(crate) struct RetryLimits {
    /// Retries in a period, in percent of the requests in it.
    pub(crate) percent: usize,
    /// Retries in a period, however few the requests are.
    pub(crate) least: usize,
    pub(crate) period: u64,
    /// The most times that one request is begun.
    pub(crate) max_attempts: u32,
}

const SECOND: u64 = 1_000_000_000;

impl Default for Limits {
    fn default() -> Self {
        Self {
            min_idle: 1,
            max_size: 1,
            spares: 0,
            is_lazy: false,
            max_starts: 2,
            concurrency: 1,
            prefetch: 1,
            max_waiting: 1024,
            grow_after: SECOND / 20,
            idle_timeout: Some(600 * SECOND),
            max_lifetime: None,
            max_requests: None,
            jitter: 10,
            stop_first: false,
            backoff: BackoffLimits { first: SECOND, most: 60 * SECOND, clean_period: 60 * SECOND },
            failures_per_worker: 5,
            failure_period: 60 * SECOND,
            retry: RetryLimits { percent: 20, least: 10, period: 10 * SECOND, max_attempts: 3 },
        }
    }
}

impl Limits {
    /// Requests that one worker has at the same time.
    pub(super) fn places(&self) -> usize {
        self.concurrency.saturating_add(self.prefetch)
    }

    /// The same, if so many of them are open-ended. Nothing lies ready behind those: it would wait for
    /// their callers, also while another worker is free.
    pub(super) fn places_beside(&self, open_ended: usize) -> usize {
        if open_ended < self.concurrency { self.places() } else { self.concurrency }
    }

    /// Processes at the same time: one more than those that serve and wait, while one is replaced.
    pub(super) fn slots(&self) -> usize {
        self.max_size + self.spares + usize::from(!self.stop_first)
    }

    /// Workers that may fail in a period.
    pub(super) fn max_failures(&self) -> usize {
        self.failures_per_worker.saturating_mul(self.max_size.max(1))
    }
}
