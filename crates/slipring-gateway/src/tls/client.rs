//! The caller's side.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, version};

use super::PROTOCOL;
use super::files::{Identity, Reloaded, TlsFiles, provider};

/// Mutual TLS of a caller. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClientTls(Arc<Reloaded<ClientConfig>>);

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// If one cannot be read, or is not what it should be. The error names it.
    pub fn new(files: TlsFiles) -> io::Result<Self> {
        Ok(Self(Arc::new(Reloaded::new(files, make)?)))
    }

    /// Makes the handshake with a gateway, whose certificate must be for `name`: a name, or an
    /// address as text.
    pub(crate) async fn connect(
        &self,
        name: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned());
        let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        TlsConnector::from(self.0.get(make)).connect(name, stream).await
    }
}

fn make(identity: Identity) -> io::Result<ClientConfig> {
    let other = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .map_err(other)?
        .with_root_certificates(identity.roots)
        .with_client_auth_cert(identity.chain, identity.key);
    let mut config = config.map_err(other)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Connections are few and live long.
    config.resumption = Resumption::disabled();
    Ok(config)
}
