//! Looks at certificate files again, and keeps what was good while they are not.
//!
//! The contents are compared, not the times: three short files a second cost nothing, and two
//! writes within one tick of the file system's clock cannot be told apart otherwise.

#[cfg(test)]
#[path = "reload_tests.rs"]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::UnixTime;

use super::identity::{Contents, Identity, IdentityError, PemFiles};

/// How long files must stay as they are before a task that watches them looks at what they say. They can be
/// half written, or some of them replaced and others not yet.
const SETTLES_FOR: Duration = Duration::from_millis(100);

type Build<C> = Box<dyn Fn(Identity) -> Result<C, IdentityError> + Send + Sync>;

/// A configuration that is built from files, and built anew when they change.
pub(crate) struct Reload<C> {
    files: PemFiles,
    provider: Arc<CryptoProvider>,
    build: Build<C>,
    /// Held during a look, so that an older look never replaces what a newer one found.
    seen: Mutex<Option<Seen>>,
    /// Held for moments only.
    state: RwLock<State<C>>,
}

/// What the last look has found; nothing if the files could not be read.
struct Seen {
    contents: Contents,
    says: Result<Identity, IdentityError>,
}

struct State<C> {
    current: Arc<C>,
    identity: Identity,
    last_error: Option<IdentityError>,
}

/// What the files contain, or why they cannot be read.
type Reading = Result<Contents, IdentityError>;

impl<C: Send + Sync + 'static> Reload<C> {
    pub(crate) fn new(
        files: PemFiles,
        build: impl Fn(Identity) -> Result<C, IdentityError> + Send + Sync + 'static,
    ) -> Result<Self, IdentityError> {
        Self::new_at(files, build, UnixTime::now())
    }

    fn new_at(
        files: PemFiles,
        build: impl Fn(Identity) -> Result<C, IdentityError> + Send + Sync + 'static,
        now: UnixTime,
    ) -> Result<Self, IdentityError> {
        let provider = Arc::new(ring::default_provider());
        let contents = files.read()?;
        let identity = files.parse(&contents, &provider)?;
        let current = Arc::new(build(identity.clone())?);
        let seen = Seen { contents, says: Ok(identity.clone()) };
        let reload = Self {
            files,
            provider,
            build: Box::new(build),
            seen: Mutex::new(Some(seen)),
            state: RwLock::new(State { current, identity: identity.clone(), last_error: None }),
        };
        // One that is not valid is told of, and no more: it may be the clock that is wrong.
        reload.take(identity, now).ok();
        Ok(reload)
    }

    pub(crate) fn files(&self) -> &PemFiles {
        &self.files
    }

    /// Returns what new connections use.
    pub(crate) fn current(&self) -> Arc<C> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&state.current)
    }

    pub(crate) fn last_error(&self) -> Option<IdentityError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.last_error.clone()
    }

    /// Looks at the files now. Returns whether others than before are used from now on.
    pub(crate) fn look(&self) -> Result<bool, IdentityError> {
        self.look_at(UnixTime::now())
    }

    fn look_at(&self, now: UnixTime) -> Result<bool, IdentityError> {
        let mut seen = self.seen();
        self.note(&mut seen, self.files.read(), now)
    }

    /// As [`Reload::look_at`], if the files are as at the last look, or as `before`. Otherwise returns what
    /// they contain.
    fn look_if_settled(&self, before: Option<&Reading>, now: UnixTime) -> Option<Reading> {
        let mut seen = self.seen();
        let read = self.files.read();
        let is_seen = match (&*seen, &read) {
            (Some(seen), Ok(contents)) => seen.contents == *contents,
            _ => false,
        };
        if !is_seen && !before.is_some_and(|before| are_same(before, &read)) {
            return Some(read);
        }
        // It is kept in `last_error`.
        self.note(&mut seen, read, now).ok();
        None
    }

    fn seen(&self) -> MutexGuard<'_, Option<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(
        &self,
        seen: &mut Option<Seen>,
        read: Reading,
        now: UnixTime,
    ) -> Result<bool, IdentityError> {
        let before = seen.take();
        let contents = read.map_err(|error| self.fail(error, false))?;
        let found = before.filter(|before| before.contents == contents).unwrap_or_else(|| {
            let says = self.files.parse(&contents, &self.provider);
            Seen { contents, says }
        });
        let says = found.says.clone();
        *seen = Some(found);
        self.take(says.map_err(|error| self.fail(error, false))?, now)
    }

    /// Uses what the files say from now on. A certificate that is not valid now waits for as long as the one
    /// that is used is valid.
    fn take(&self, found: Identity, now: UnixTime) -> Result<bool, IdentityError> {
        let used = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            state.identity.clone()
        };
        let problem = found.validity.problem_at(now);
        let waits = problem.is_some() && used.validity.problem_at(now).is_none();
        let next = if waits {
            // An authority that was taken away must not be trusted for longer.
            Identity { authorities: found.authorities, ..used.clone() }
        } else {
            found
        };
        let has_changed = !next.is(&used);
        if has_changed {
            let built = (self.build)(next.clone()).map_err(|error| self.fail(error, false))?;
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            (state.current, state.identity) = (Arc::new(built), next);
            drop(state);
            let chain = self.files.chain.display();
            tracing::info!(target: "slipring", %chain, "certificate files read again");
        }
        match problem {
            Some(problem) => Err(self.fail(IdentityError::new(&self.files.chain, problem), !waits)),
            None => {
                let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
                state.last_error = None;
                Ok(has_changed)
            }
        }
    }

    /// Notes a problem, also of what `is_used`. It is logged once, not at each look.
    fn fail(&self, error: IdentityError, is_used: bool) -> IdentityError {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let text = error.to_string();
        let before = state.last_error.replace(error.clone());
        drop(state);
        if before.is_none_or(|before| before.to_string() != text) {
            let what = if is_used {
                "the certificate is not valid now, and there is no other"
            } else {
                "new certificate files cannot be used; the old certificates stay in use"
            };
            tracing::warn!(target: "slipring", error = text, "{what}");
        }
        error
    }

    /// Looks every `period` until the last other handle is dropped, or the task is ended.
    pub(crate) fn watch(self: &Arc<Self>, period: Duration) -> AbortHandle {
        let weak = Arc::downgrade(self);
        let watch = tokio::spawn(async move {
            let mut unsettled = None;
            loop {
                let pause = if unsettled.is_some() { SETTLES_FOR.min(period) } else { period };
                tokio::time::sleep(pause).await;
                let Some(reload) = weak.upgrade() else { return };
                let look = move || reload.look_if_settled(unsettled.as_ref(), UnixTime::now());
                // A file system can block.
                unsettled = match tokio::task::spawn_blocking(look).await {
                    Ok(unsettled) => unsettled,
                    Err(error) if error.is_cancelled() => return,
                    Err(_) => None,
                };
            }
        });
        watch.abort_handle()
    }
}

fn are_same(one: &Reading, other: &Reading) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => one == other,
        (Err(one), Err(other)) => one.to_string() == other.to_string(),
        _ => false,
    }
}

/// A task that looks at files until this is dropped.
#[derive(Debug)]
pub(crate) struct Watched(pub(super) AbortHandle);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What both sides do with their files, whose field is `reload`.
macro_rules! reloaded {
    ($side:ident) => {
        impl $side {
            /// Looks at the files now. Returns whether they have changed; new connections use what they
            /// say, old connections go on. Blocks while the files are read.
            ///
            /// # Errors
            ///
            /// If a file cannot be used: new connections then use the old certificates. If the certificate
            /// is not valid now, by its dates and the clock of the system: they then use the old one as long
            /// as that is valid.
            pub fn reload(&self) -> Result<bool, IdentityError> {
                self.reload.look()
            }

            /// Starts a task that looks at the files every `period`, until the last clone is dropped. A
            /// change is used once the files have stayed as they are for 100 ms, or for a shorter `period`.
            ///
            /// # Panics
            ///
            /// Outside a tokio runtime that has its timer switched on.
            pub fn watch(&self, period: std::time::Duration) {
                // It ends by itself.
                drop(self.reload.watch(period));
            }

            /// Looks at the files until the returned value is dropped.
            pub(crate) fn watched(&self) -> $crate::tls::Watched {
                $crate::tls::Watched(self.reload.watch($crate::tls::RELOAD_PERIOD))
            }

            /// Returns why the last look found files that cannot be used, or a certificate that was not
            /// valid then; `None` if all is well.
            pub fn last_error(&self) -> Option<IdentityError> {
                self.reload.last_error()
            }
        }

        impl std::fmt::Debug for $side {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let name = stringify!($side);
                f.debug_struct(name).field("files", self.reload.files()).finish_non_exhaustive()
            }
        }
    };
}
pub(super) use reloaded;
