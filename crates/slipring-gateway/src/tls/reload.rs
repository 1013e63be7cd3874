//! Looks at certificate files again, and keeps what was good while they are not.
//!
//! The contents are compared, not the times: three short files a second cost nothing, and two
//! writes within one tick of the file system's clock cannot be told apart otherwise.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};

use super::identity::{Contents, Identity, IdentityError, PemFiles};

type Build<C> = Box<dyn Fn(Identity) -> Result<C, IdentityError> + Send + Sync>;

/// A configuration that is built from files, and built anew when they change.
pub(crate) struct Reload<C> {
    files: PemFiles,
    provider: Arc<CryptoProvider>,
    build: Build<C>,
    /// Held during a look, so that an older look never replaces what a newer one found.
    /// The contents are those of the last look, good or bad; none if they could not be read.
    seen: Mutex<Option<Contents>>,
    /// Held for moments only.
    state: RwLock<State<C>>,
}

struct State<C> {
    current: Arc<C>,
    last_error: Option<IdentityError>,
}

impl<C: Send + Sync + 'static> Reload<C> {
    pub(crate) fn new(
        files: PemFiles,
        build: impl Fn(Identity) -> Result<C, IdentityError> + Send + Sync + 'static,
    ) -> Result<Self, IdentityError> {
        let provider = Arc::new(ring::default_provider());
        let contents = files.read()?;
        let current = Arc::new(build(files.parse(&contents, &provider)?)?);
        Ok(Self {
            files,
            provider,
            build: Box::new(build),
            seen: Mutex::new(Some(contents)),
            state: RwLock::new(State { current, last_error: None }),
        })
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

    /// Looks at the files now. Returns whether other contents than before are used from now on.
    pub(crate) fn look(&self) -> Result<bool, IdentityError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let contents = match self.files.read() {
            Ok(contents) => contents,
            Err(error) => {
                *seen = None;
                return Err(self.keep_old(error));
            }
        };
        if seen.as_ref() == Some(&contents) {
            return self.last_error().map_or(Ok(false), Err);
        }
        let parsed = self.files.parse(&contents, &self.provider);
        *seen = Some(contents);
        match parsed.and_then(&self.build) {
            Ok(config) => {
                let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
                *state = State { current: Arc::new(config), last_error: None };
                drop(state);
                let chain = self.files.chain.display();
                tracing::info!(target: "slipring", %chain, "certificate files read again");
                Ok(true)
            }
            Err(error) => Err(self.keep_old(error)),
        }
    }

    /// Notes a problem. It is logged once, not at each look.
    fn keep_old(&self, error: IdentityError) -> IdentityError {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let text = error.to_string();
        let is_known = state.last_error.as_ref().is_some_and(|last| last.to_string() == text);
        state.last_error = Some(error.clone());
        drop(state);
        if !is_known {
            tracing::warn!(
                target: "slipring",
                error = text,
                "new certificate files cannot be used; the old certificates stay in use"
            );
        }
        error
    }

    /// Looks every `period` until the last other handle is dropped, or the task is ended.
    pub(crate) fn watch(self: &Arc<Self>, period: Duration) -> AbortHandle {
        let weak = Arc::downgrade(self);
        let watch = tokio::spawn(async move {
            loop {
                tokio::time::sleep(period).await;
                let Some(reload) = weak.upgrade() else { return };
                // A file system can block. The problem is kept in `last_error`.
                let look = tokio::task::spawn_blocking(move || reload.look().map(drop).ok());
                if look.await.is_err_and(|error| error.is_cancelled()) {
                    return;
                }
            }
        });
        watch.abort_handle()
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
            /// If a file cannot be used. New connections then use the old certificates.
            pub fn reload(&self) -> Result<bool, IdentityError> {
                self.reload.look()
            }

            /// Starts a task that looks at the files every `period`, until the last clone is dropped.
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

            /// Returns why the last look found files that cannot be used; `None` if all is well.
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
