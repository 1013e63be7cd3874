//! The gateway's side.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{ServerConfig, version};
use tokio_rustls::server::TlsStream;

use super::PROTOCOL;
use super::files::{Identity, Reloaded, TlsFiles, provider};

/// Mutual TLS of a gateway. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ServerTls {
    config: Arc<Reloaded<ServerConfig>>,
    /// Empty: all that an authority has signed.
    callers: Arc<[ServerName<'static>]>,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// If one cannot be read, or is not what it should be. The error names it.
    pub fn new(files: TlsFiles) -> io::Result<Self> {
        let config = Arc::new(Reloaded::new(files, make)?);
        Ok(Self { config, callers: Arc::new([]) })
    }

    /// Takes only callers whose certificate is for one of these names. Otherwise all are taken that
    /// have a certificate of the authorities.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if one is no name of a machine.
    pub fn callers(mut self, names: impl IntoIterator<Item = String>) -> io::Result<Self> {
        let names = names.into_iter().map(ServerName::try_from);
        let names: Result<Vec<_>, _> = names.collect();
        let no_name = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        self.callers = names.map_err(no_name)?.into();
        Ok(self)
    }

    /// Makes the handshake of a connection that was accepted.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.config.get(make));
        let stream = acceptor.accept(stream).await?;
        self.check(&stream)?;
        Ok(stream)
    }

    fn check(&self, stream: &TlsStream<TcpStream>) -> io::Result<()> {
        let refused = |why| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(PROTOCOL) {
            return refused("the caller does not speak HTTP/2");
        }
        if self.callers.is_empty() {
            return Ok(());
        }
        let Some([certificate, ..]) = session.peer_certificates() else {
            return refused("the caller has no certificate");
        };
        let certificate = ParsedCertificate::try_from(certificate).map_err(io::Error::other)?;
        let is_known = |name| verify_server_name(&certificate, name).is_ok();
        if self.callers.iter().any(is_known) {
            return Ok(());
        }
        refused("the caller's name is not one of those that are taken")
    }
}

fn make(identity: Identity) -> io::Result<ServerConfig> {
    let other = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let provider = provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(identity.roots, Arc::clone(&provider));
    let verifier = verifier.build().map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(other)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain, identity.key);
    let mut config = config.map_err(other)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // A ticket would let a caller in again whose certificate is not valid any more.
    config.send_tls13_tickets = 0;
    Ok(config)
}
