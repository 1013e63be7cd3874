//! The server's side: every client shows a certificate, or gets nowhere.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::server::TlsStream;

use super::HTTP2;
use super::client_names::{ClientName, NamedClients, names_of};
use super::handshake_error::HandshakeError;
use super::identity::{Identity, IdentityError, IdentityProblem, PemFiles};
use super::reload::{Reload, reloaded};

/// How long a refused client has to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// How much a refused client can send meanwhile.
const FAREWELL_BYTES: u64 = 64 << 10;

/// Takes connections over mutual TLS, with certificates from files that can change meanwhile.
///
/// A client needs a certificate of one of the authorities, and one of the allowed names if there
/// is a list of them. Only TLS 1.3 and HTTP/2 are spoken. A clone shares the certificates.
#[derive(Clone)]
pub struct ServerTls {
    reload: Arc<Reload<ServerConfig>>,
}

impl ServerTls {
    /// Reads the files. With an empty list, each client that has a valid certificate is allowed.
    ///
    /// # Errors
    ///
    /// If a file cannot be used.
    pub fn new(files: PemFiles, allowed: Vec<ClientName>) -> Result<Self, IdentityError> {
        let authorities = files.authorities.clone();
        let allowed: Arc<[ClientName]> = allowed.into();
        let build = move |identity| {
            config(identity, &allowed).map_err(|problem| IdentityError::new(&authorities, problem))
        };
        Ok(Self { reload: Arc::new(Reload::new(files, build)?) })
    }

    /// Does the handshake with a client.
    ///
    /// A refused client is told why, for which it has a second. Dropping the future closes the
    /// connection. There is no other time limit.
    ///
    /// # Errors
    ///
    /// If the client is refused, refuses this server, or does not complete the handshake.
    pub async fn accept<S>(&self, stream: S) -> Result<TlsStream<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(self.reload.current());
        match acceptor.accept(stream).into_fallible().await {
            Ok(mut tls) => match tls.get_ref().1.alpn_protocol() {
                Some(HTTP2) => Ok(tls),
                _ => {
                    // The client is gone anyway if this fails.
                    tls.shutdown().await.ok();
                    Err(HandshakeError::NotHttp2)
                }
            },
            Err((error, stream)) => {
                let error = HandshakeError::from(error);
                // A client that sends nothing more, or no TLS, gets no explanation.
                if !matches!(error, HandshakeError::Closed | HandshakeError::NotTls) {
                    tokio::time::timeout(FAREWELL, part(stream)).await.ok();
                }
                Err(error)
            }
        }
    }
}

reloaded!(ServerTls);

/// Returns the DNS names and URIs of the client's certificate.
pub fn client_names<S>(stream: &TlsStream<S>) -> Vec<String> {
    let presented = stream.get_ref().1.peer_certificates();
    presented.and_then(|chain| chain.first()).map(names_of).unwrap_or_default()
}

/// Closes this direction and reads until the client closes the other. Closing a socket that holds
/// unread bytes resets it, and the client would lose the alert that says why it is refused.
async fn part(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    // The connection ends in any case.
    if stream.shutdown().await.is_ok() {
        let mut rest = stream.take(FAREWELL_BYTES);
        let mut buffer = [0; 1024];
        while rest.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
    }
}

fn config(
    identity: Identity,
    allowed: &Arc<[ClientName]>,
) -> Result<ServerConfig, IdentityProblem> {
    let provider = Arc::new(ring::default_provider());
    let inner =
        WebPkiClientVerifier::builder_with_provider(identity.authorities, Arc::clone(&provider))
            .build()
            .map_err(|error| IdentityProblem::Unsupported(error.to_string()))?;
    let verifier = NamedClients { inner, allowed: Arc::clone(allowed) };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| IdentityProblem::Unsupported(error.to_string()))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certificate)));
    config.alpn_protocols = vec![HTTP2.to_vec()];
    // A resumed session would skip the check of the client's certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
