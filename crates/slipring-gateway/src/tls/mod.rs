//! Mutual TLS between gateways and their callers.
//!
//! Both sides show a certificate, and both check the other's. Certificates come from PEM files
//! that can be replaced while the program runs.

mod client;
mod client_names;
mod client_stream;
mod handshake_error;
mod identity;
#[cfg(feature = "make-certs")]
mod make_certs;
mod reload;
mod server;

use tokio::io::{AsyncRead, BufReader};

pub use client::{ClientTls, ExpectedName};
pub use client_names::{ClientName, NotAName};
pub use client_stream::{ClientStream, Refusal};
pub use handshake_error::HandshakeError;
pub use identity::{IdentityError, IdentityProblem, PemFiles};
#[cfg(feature = "make-certs")]
pub use make_certs::{MadeCerts, MakeCerts, MakeCertsError};
pub(crate) use reload::Watched;
pub use server::{ServerTls, client_names};

/// How often gateways and roles look at their files.
const RELOAD_PERIOD: std::time::Duration = std::time::Duration::from_secs(1);

/// The name of HTTP/2 in the handshake.
const HTTP2: &[u8] = b"h2";

/// How many bytes are read from the system at once: all records of half a piece.
const READ_AHEAD: usize = 64 << 10;

/// Reads long parts from the system, of which TLS takes 4 KiB each time.
pub(crate) fn read_ahead<S: AsyncRead>(stream: S) -> BufReader<S> {
    BufReader::with_capacity(READ_AHEAD, stream)
}
