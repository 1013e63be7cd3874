//! Checks a client's certificate: first against the authorities, then its names against a list.

use std::fmt;
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use webpki::EndEntityCert;

/// A name that a client's certificate can have among its subject alternative names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientName(Name);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    /// A DNS name or an address.
    Subject(ServerName<'static>),
    Uri(String),
}

/// A text that is no DNS name, no address and no URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAName(pub(crate) String);

impl ClientName {
    /// Takes a DNS name (`worker.example`), an address, or a URI (`spiffe://example/host`).
    ///
    /// # Errors
    ///
    /// If the text is none of these.
    pub fn new(text: &str) -> Result<Self, NotAName> {
        // Compared byte by byte with the certificate's.
        if text.contains("://") || text.starts_with("urn:") {
            return Ok(Self(Name::Uri(text.to_owned())));
        }
        let name = ServerName::try_from(text).map_err(|_| NotAName(text.to_owned()))?;
        Ok(Self(Name::Subject(name.to_owned())))
    }

    #[cfg(feature = "make-certs")]
    pub(crate) fn is_uri(&self) -> bool {
        matches!(self.0, Name::Uri(_))
    }

    fn is_of(&self, certificate: &EndEntityCert<'_>) -> bool {
        match &self.0 {
            Name::Subject(name) => certificate.verify_is_valid_for_subject_name(name).is_ok(),
            Name::Uri(uri) => certificate.valid_uri_names().any(|found| found == uri),
        }
    }
}

impl fmt::Display for NotAName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a DNS name, an address or a URI: {:?}", self.0)
    }
}

impl std::error::Error for NotAName {}

/// Returns the DNS names and URIs of a certificate, to be shown.
pub(crate) fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    let names = certificate.valid_dns_names().chain(certificate.valid_uri_names());
    names.map(str::to_owned).collect()
}

/// A certificate that is valid, but has none of the allowed names.
#[derive(Debug)]
pub(crate) struct NameNotAllowed(pub(crate) Vec<String>);

impl fmt::Display for NameNotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the client's certificate has none of the allowed names, but {:?}", self.0)
    }
}

impl std::error::Error for NameNotAllowed {}

/// Asks `inner` first. An empty list allows every name.
#[derive(Debug)]
pub(crate) struct NamedClients {
    pub(crate) inner: Arc<dyn ClientCertVerifier>,
    pub(crate) allowed: Arc<[ClientName]>,
}

impl ClientCertVerifier for NamedClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let certificate = EndEntityCert::try_from(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if self.allowed.is_empty() || self.allowed.iter().any(|name| name.is_of(&certificate)) {
            return Ok(verified);
        }
        // The client is told `certificate_unknown`, which nothing else here makes rustls send.
        let error = OtherError(Arc::new(NameNotAllowed(names_of(end_entity))));
        Err(Error::InvalidCertificate(CertificateError::Other(error)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
