//! Mutual TLS: both sides show a certificate, and each checks that of the other.
//!
//! Certificates and keys are files in PEM format. They are read again when they change, so that they
//! can be replaced without a restart: connections that are there go on with the old ones.

mod client;
mod files;
mod server;

pub use client::ClientTls;
pub use files::TlsFiles;
pub use server::ServerTls;

/// Both sides speak HTTP/2, and nothing else.
const PROTOCOL: &[u8] = b"h2";
