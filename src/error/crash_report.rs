//! Where the crash report of a worker is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Where the crash report of a worker is once it is written, or why there is none. Set once.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReportPlace(Arc<Place>);

/// What all clones share.
#[derive(Debug, Default)]
pub(crate) struct Place(OnceLock<Result<PathBuf, String>>);

impl ReportPlace {
    /// Makes the place of a report that is written.
    pub(super) fn written(path: PathBuf) -> Self {
        let place = Self::default();
        place.set(Ok(path));
        place
    }

    /// Sets where the report is, or why it could not be written.
    pub(crate) fn set(&self, outcome: Result<PathBuf, String>) {
        // A report has one writer, which calls this once.
        let _ = self.0.0.set(outcome);
    }
}

impl std::ops::Deref for ReportPlace {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.0
    }
}

impl Place {
    /// Returns the path of the report, if it is written.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.0.get()?.as_deref().ok()
    }

    /// Returns why there is no report, if it could not be written.
    pub(super) fn failure(&self) -> Option<&str> {
        self.0.get()?.as_ref().err().map(String::as_str)
    }
}

/// Writes where the report is; nothing as long as there is none.
pub(super) fn write_path(f: &mut fmt::Formatter<'_>, path: Option<&Path>) -> fmt::Result {
    path.map_or(Ok(()), |path| write!(f, "; crash report {}", path.display()))
}
