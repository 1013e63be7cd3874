//! Why there is no connection, in words that say which side has to change what.

use std::{fmt, io};

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use super::client_names::NameNotAllowed;

/// Why a handshake failed, as far as this side can tell.
#[derive(Debug)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The other side speaks plain text, or another protocol, in place of TLS.
    NotTls,
    /// The other side has hung up, or was cut off, before the handshake was complete.
    Closed,
    /// The client presented no certificate.
    NoCertificate,
    /// The other side's certificate is not valid. The text says why: unknown authority, expired,
    /// not yet valid, issued for another name, or not for this purpose.
    Certificate(CertificateError),
    /// The client's certificate is valid, but has none of the allowed names; these are its names.
    NameNotAllowed(Vec<String>),
    /// The other side has refused this side, for the reason that the alert says.
    Refused(AlertDescription),
    /// The other side does not speak HTTP/2.
    NotHttp2,
    /// The two sides have no version or cipher in common, or the other side broke the protocol.
    Protocol(Error),
    /// The connection failed under the handshake.
    Io(io::Error),
}

impl From<Error> for HandshakeError {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotTls,
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::NoApplicationProtocol => Self::NotHttp2,
            Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::NotHttp2,
            Error::AlertReceived(alert) => Self::Refused(alert),
            Error::InvalidCertificate(CertificateError::Other(other)) => {
                match other.0.downcast_ref::<NameNotAllowed>() {
                    Some(NameNotAllowed(names)) => Self::NameNotAllowed(names.clone()),
                    None => Self::Certificate(CertificateError::Other(other)),
                }
            }
            Error::InvalidCertificate(error) => Self::Certificate(error),
            other => Self::Protocol(other),
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        if let Some(error) = tls_error(&error) {
            return error.clone().into();
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// Returns the error of the TLS protocol that a failed read or write wraps.
pub(crate) fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTls => write!(f, "the other side does not speak TLS (plain text?)"),
            Self::Closed => {
                write!(f, "the other side hung up before the TLS handshake was complete")
            }
            Self::NoCertificate => write!(f, "the client presented no certificate"),
            Self::Certificate(error) => {
                write!(f, "the other side's certificate is not valid: ")?;
                match error {
                    CertificateError::UnknownIssuer => write!(f, "no known authority issued it"),
                    CertificateError::BadSignature => {
                        write!(f, "another authority issued it than the known one of this name")
                    }
                    other => other.fmt(f),
                }
            }
            Self::NameNotAllowed(names) => NameNotAllowed(names.clone()).fmt(f),
            Self::Refused(alert) => match refusal(*alert) {
                Some(reason) => write!(f, "the other side refused: {reason}"),
                None => write!(f, "the other side refused the TLS handshake: {alert:?}"),
            },
            Self::NotHttp2 => write!(f, "the other side does not speak HTTP/2"),
            Self::Protocol(error) => write!(f, "the TLS handshake failed: {error}"),
            Self::Io(error) => write!(f, "the connection failed under the TLS handshake: {error}"),
        }
    }
}

/// Returns what an alert says about this side's certificate.
fn refusal(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::CertificateRequired => "it requires a certificate",
        AlertDescription::UnknownCA => "it does not know the authority of this side's certificate",
        AlertDescription::CertificateExpired => {
            "this side's certificate has expired, or is not valid yet"
        }
        // What a gateway sends when the name is not on its list.
        AlertDescription::CertificateUnknown | AlertDescription::AccessDenied => {
            "it does not allow the name of this side's certificate"
        }
        AlertDescription::CertificateRevoked => "this side's certificate has been revoked",
        AlertDescription::DecryptError => {
            "another authority issued this side's certificate than the one of this name it knows"
        }
        AlertDescription::BadCertificate | AlertDescription::UnsupportedCertificate => {
            "it cannot use this side's certificate"
        }
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3",
        _ => return None,
    })
}

impl std::error::Error for HandshakeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Protocol(error) => Some(error),
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}
