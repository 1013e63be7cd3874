//! Mutual TLS over sockets of the loopback interface, without HTTP/2.

pub mod certs;
pub mod connections;
mod files;
mod made_certs;
mod refusals;
mod reloads;
