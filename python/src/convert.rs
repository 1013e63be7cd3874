//! Small values: times and kinds.

use std::time::Duration;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use slipring::Kind;

/// Returns a timeout of this many seconds. `None` is without end.
pub(crate) fn timeout(seconds: Option<f64>) -> PyResult<Duration> {
    match seconds {
        None => Ok(Duration::MAX),
        Some(f64::INFINITY) => Ok(Duration::MAX),
        Some(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| {
            PyValueError::new_err(format!("a timeout of {seconds} seconds: it must be 0 or more"))
        }),
    }
}

/// Returns the kind with this name or number. Four names are those of the library's roles.
pub(crate) fn kind(name: &Bound<'_, PyAny>) -> PyResult<Kind> {
    if let Ok(name) = name.extract::<&str>() {
        return Ok(match name {
            "embed" => Kind::EMBED,
            "chat" => Kind::CHAT,
            "rerank" => Kind::RERANK,
            "vision" => Kind::VISION,
            name => Kind::named(name),
        });
    }
    let Ok(number) = name.extract::<u64>() else {
        let class = name.get_type().name()?;
        return Err(PyTypeError::new_err(format!("a kind is a str or an int, not {class}")));
    };
    match u16::try_from(number) {
        Ok(number) if number <= LAST => Ok(Kind::app(number)),
        _ => Err(PyValueError::new_err(format!(
            "kind {number}: application kinds are numbered from 0 to {LAST}"
        ))),
    }
}

/// The last number that [`Kind::app`] takes.
const LAST: u16 = 32_511;
