//! The client's side: checks the server's name, and shows a certificate of its own.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::version::TLS13;

use super::HTTP2;
use super::client_names::NotAName;
use super::client_stream::ClientStream;
use super::handshake_error::HandshakeError;
use super::identity::{Identity, IdentityError, IdentityProblem, PemFiles};
use super::reload::{Reload, reloaded};

/// Makes connections over mutual TLS, with certificates from files that can change meanwhile.
///
/// Only TLS 1.3 and HTTP/2 are spoken. A clone shares the certificates.
#[derive(Clone)]
pub struct ClientTls {
    reload: Arc<Reload<ClientConfig>>,
}

/// The name that the server's certificate must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedName(ServerName<'static>);

impl ExpectedName {
    /// Takes a DNS name or an address, without a port.
    ///
    /// # Errors
    ///
    /// If the text is neither.
    pub fn new(text: &str) -> Result<Self, NotAName> {
        let name = ServerName::try_from(text).map_err(|_| NotAName(text.to_owned()))?;
        Ok(Self(name.to_owned()))
    }

    /// The name and a port, as in an address of the web.
    pub(crate) fn authority(&self, port: u16) -> String {
        let name = self.0.to_str();
        match name.contains(':') {
            true => format!("[{name}]:{port}"),
            false => format!("{name}:{port}"),
        }
    }
}

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// If a file cannot be used.
    pub fn new(files: PemFiles) -> Result<Self, IdentityError> {
        let chain = files.chain.clone();
        let build =
            move |identity| config(identity).map_err(|problem| IdentityError::new(&chain, problem));
        Ok(Self { reload: Arc::new(Reload::new(files, build)?) })
    }

    /// Does the handshake with the server. Dropping the future closes the connection; there is no
    /// other time limit.
    ///
    /// The server checks the client's certificate *after* this returns: a client that the server
    /// refuses sees that at its first read. See [`ClientStream::refusal`].
    ///
    /// # Errors
    ///
    /// If the server's certificate is not valid or has not this name, if the server does not speak
    /// TLS 1.3 and HTTP/2, or does not complete the handshake.
    pub async fn connect<S>(
        &self,
        name: &ExpectedName,
        stream: S,
    ) -> Result<ClientStream<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(self.reload.current());
        let tls = connector.connect(name.0.clone(), stream).await?;
        match tls.get_ref().1.alpn_protocol() {
            Some(HTTP2) => Ok(ClientStream::new(tls)),
            _ => Err(HandshakeError::NotHttp2),
        }
    }
}

reloaded!(ClientTls);

fn config(identity: Identity) -> Result<ClientConfig, IdentityProblem> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| IdentityProblem::Unsupported(error.to_string()))?
        .with_root_certificates(identity.authorities)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certificate)));
    config.alpn_protocols = vec![HTTP2.to_vec()];
    // A resumed session would skip the check of the server's certificate.
    config.resumption = Resumption::disabled();
    Ok(config)
}
