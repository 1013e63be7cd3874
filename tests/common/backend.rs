//! The kinds of channels that the conformance tests run over.

use slipring::{Channel, Config, Pending};

use super::{LONG, STAY, Stay, THREADS, eventually, spawner};

/// How a channel reaches its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A process that the library starts, over memfds.
    Memfd,
    /// As `Memfd`. The process serves requests on eight threads.
    Threads,
    /// As `Memfd`. The process serves with async handlers.
    #[cfg(feature = "tokio")]
    Tasks,
    /// A thread of this process.
    #[cfg(feature = "testing")]
    Thread,
    /// A process that attaches by name, over named segments.
    #[cfg(feature = "named")]
    Named,
}

impl Backend {
    /// A channel to a worker that serves every kind of [`super::worker`].
    pub fn spawn(self, config: Config) -> Channel {
        match self {
            Self::Memfd => spawner().config(config).spawn().unwrap(),
            Self::Threads => spawner().env(THREADS, "yes").config(config).spawn().unwrap(),
            #[cfg(feature = "tokio")]
            Self::Tasks => spawner().env(super::TASKS, "yes").config(config).spawn().unwrap(),
            #[cfg(feature = "testing")]
            Self::Thread => {
                let mut role = slipring::RoleConfig::default();
                role.role = "test".to_owned();
                slipring::testing::spawn_thread(&config, role, super::worker).unwrap()
            }
            #[cfg(feature = "named")]
            Self::Named => super::named::spawn(&config),
        }
    }

    /// A channel whose worker has built its session.
    pub fn ready(self, config: Config) -> Channel {
        let channel = self.spawn(config);
        channel.wait_ready(LONG).unwrap();
        channel
    }

    /// Keeps a worker that has a limit on what it serves at once busy until it is released, so that
    /// all further requests wait.
    pub fn occupy(self, channel: &Channel) -> Busy {
        let count = if self == Self::Threads { 8 } else { 1 };
        let stay = Stay::new();
        let submit = |_| channel.submit(STAY, &stay.path(), LONG).unwrap();
        let requests = (0..count).map(submit).collect();
        eventually("all are served", || channel.health().begun == count);
        Busy { requests, stay }
    }
}

/// What keeps a worker busy.
pub struct Busy {
    pub requests: Vec<Pending>,
    stay: Stay,
}

impl Busy {
    /// Lets the worker go on, and checks its replies.
    pub fn release(self) {
        let path = self.stay.path();
        drop(self.stay);
        for pending in self.requests {
            assert_eq!(pending.wait().unwrap().to_vec(), path);
        }
    }
}

/// Makes the tests `memfd::name`, `threads::name`, `with_tasks::name`, `thread::name` and
/// `named::name` of each function that takes a [`Backend`]. Functions under `processes` get no
/// `thread::name`: they stop a worker, or leave it in a handler that never returns. Those under
/// `one_at_a_time` get no `threads::name` and no `with_tasks::name`, for the reason that is given
/// there; those under `limited` get no `with_tasks::name`, as tasks have no limit of their own on
/// what is served at once.
macro_rules! conformance {
    (
        everywhere: [$($everywhere:ident,)*],
        $(limited: [$($limited:ident,)*],)?
        one_at_a_time: [$($serial:ident,)*],
        processes: [$($process:ident,)*],
    ) => {
        mod memfd {
            $(#[test] fn $everywhere() { super::$everywhere(super::Backend::Memfd) })*
            $($(#[test] fn $limited() { super::$limited(super::Backend::Memfd) })*)?
            $(#[test] fn $serial() { super::$serial(super::Backend::Memfd) })*
            $(#[test] fn $process() { super::$process(super::Backend::Memfd) })*
        }
        mod threads {
            $(#[test] fn $everywhere() { super::$everywhere(super::Backend::Threads) })*
            $($(#[test] fn $limited() { super::$limited(super::Backend::Threads) })*)?
            $(#[test] fn $process() { super::$process(super::Backend::Threads) })*
        }
        #[cfg(feature = "tokio")]
        mod with_tasks {
            $(#[test] fn $everywhere() { super::$everywhere(super::Backend::Tasks) })*
            $(#[test] fn $process() { super::$process(super::Backend::Tasks) })*
        }
        #[cfg(feature = "testing")]
        mod thread {
            $(#[test] fn $everywhere() { super::$everywhere(super::Backend::Thread) })*
            $($(#[test] fn $limited() { super::$limited(super::Backend::Thread) })*)?
            $(#[test] fn $serial() { super::$serial(super::Backend::Thread) })*
        }
        #[cfg(feature = "named")]
        mod named {
            $(#[test] fn $everywhere() { super::$everywhere(super::Backend::Named) })*
            $($(#[test] fn $limited() { super::$limited(super::Backend::Named) })*)?
            $(#[test] fn $serial() { super::$serial(super::Backend::Named) })*
            $(#[test] fn $process() { super::$process(super::Backend::Named) })*
        }
    };
}
pub(crate) use conformance;
