//! A program's certificate, its key, and the authorities it trusts, read from PEM files.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error as TlsError, InconsistentKeys, RootCertStore};
use webpki::{EndEntityCert, KeyUsage};

use crate::small_file::{self, MOST_BYTES};

/// Where the PEM files of one side of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PemFiles {
    /// The side's own certificate, then the certificates between it and an authority.
    pub chain: PathBuf,
    /// The private key of the side's own certificate.
    pub key: PathBuf,
    /// The certificates of the authorities that the *other* side's certificate is checked against.
    /// The authorities that the operating system knows are not trusted.
    pub authorities: PathBuf,
}

/// The bytes of the three files. There is no `Debug`, which would show the key.
#[derive(PartialEq)]
pub(crate) struct Contents {
    chain: Vec<u8>,
    key: Vec<u8>,
    authorities: Vec<u8>,
}

/// What the files say, checked as far as one side can.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: Arc<CertifiedKey>,
    pub(crate) validity: Validity,
    pub(crate) authorities: Arc<RootCertStore>,
}

/// From when until when the side's own certificate is valid, by the clock of the system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Validity {
    from: UnixTime,
    until: UnixTime,
}

/// A file that cannot be used, and why.
#[derive(Debug, Clone)]
pub struct IdentityError {
    file: PathBuf,
    problem: IdentityProblem,
}

/// Why a file cannot be used.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum IdentityProblem {
    /// The file is missing, is no regular file, or cannot be read.
    Unreadable(Arc<io::Error>),
    /// The file is longer than this number of bytes.
    TooLong(u64),
    /// A section of the file is cut off or is not Base64. The text says which.
    Malformed(String),
    /// The file holds no certificate.
    NoCertificate,
    /// The file holds no private key, or only an encrypted one.
    NoKey,
    /// A certificate or a key in the file has contents that are not understood. The text says why.
    Unsupported(String),
    /// The private key is not the one of the first certificate in this other file.
    KeyMismatch(PathBuf),
    /// The first certificate in the file was valid until this time.
    Expired(SystemTime),
    /// The first certificate in the file is valid from this time on.
    NotYetValid(SystemTime),
}

impl PemFiles {
    /// Reads all three files.
    pub(crate) fn read(&self) -> Result<Contents, IdentityError> {
        Ok(Contents {
            chain: read(&self.chain)?,
            key: read(&self.key)?,
            authorities: read(&self.authorities)?,
        })
    }

    /// Parses and checks what [`read`](Self::read) returned.
    pub(crate) fn parse(
        &self,
        contents: &Contents,
        provider: &CryptoProvider,
    ) -> Result<Identity, IdentityError> {
        let chain = certificates(&self.chain, &contents.chain)?;
        let validity = chain.first().map_or(Validity::ALWAYS, Validity::of);
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| {
            let problem = match error {
                pem::Error::NoItemsFound => IdentityProblem::NoKey,
                other => IdentityProblem::Malformed(other.to_string()),
            };
            IdentityError::new(&self.key, problem)
        })?;
        let key = provider.key_provider.load_private_key(key).map_err(|error| {
            IdentityError::new(&self.key, IdentityProblem::Unsupported(error.to_string()))
        })?;
        let certificate = CertifiedKey::new(chain, key);
        match certificate.keys_match() {
            // A key that cannot tell its public half is used as it is.
            Ok(()) | Err(TlsError::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(TlsError::InconsistentKeys(_)) => {
                let problem = IdentityProblem::KeyMismatch(self.chain.clone());
                return Err(IdentityError::new(&self.key, problem));
            }
            Err(other) => {
                let problem = IdentityProblem::Unsupported(other.to_string());
                return Err(IdentityError::new(&self.chain, problem));
            }
        }
        let mut authorities = RootCertStore::empty();
        for authority in certificates(&self.authorities, &contents.authorities)? {
            authorities.add(authority).map_err(|error| {
                let problem = IdentityProblem::Unsupported(error.to_string());
                IdentityError::new(&self.authorities, problem)
            })?;
        }
        let (certificate, authorities) = (Arc::new(certificate), Arc::new(authorities));
        Ok(Identity { certificate, validity, authorities })
    }
}

impl Identity {
    /// Whether both come from the same reading of the files.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.certificate, &other.certificate)
            && Arc::ptr_eq(&self.authorities, &other.authorities)
    }
}

impl Validity {
    const ALWAYS: Self = Self {
        from: UnixTime::since_unix_epoch(Duration::ZERO),
        until: UnixTime::since_unix_epoch(Duration::MAX),
    };

    /// Asks the checker of certificates, which looks at the dates first, about the first and the last of
    /// all times. Dates that it cannot read are for the other side to refuse.
    fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut validity = Self::ALWAYS;
        let Ok(certificate) = EndEntityCert::try_from(certificate) else { return validity };
        for time in [validity.from, validity.until] {
            let usage = KeyUsage::server_auth();
            match certificate.verify_for_usage(&[], &[], &[], time, usage, None, None).err() {
                Some(webpki::Error::CertNotValidYet { not_before, .. }) => {
                    validity.from = not_before;
                }
                Some(webpki::Error::CertExpired { not_after, .. }) => validity.until = not_after,
                _ => {}
            }
        }
        validity
    }

    pub(crate) fn problem_at(&self, now: UnixTime) -> Option<IdentityProblem> {
        let system = |time: UnixTime| UNIX_EPOCH + Duration::from_secs(time.as_secs());
        if now < self.from {
            return Some(IdentityProblem::NotYetValid(system(self.from)));
        }
        (now > self.until).then(|| IdentityProblem::Expired(system(self.until)))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    small_file::read(path).map_err(|error| {
        let problem = match error.kind() {
            io::ErrorKind::FileTooLarge => IdentityProblem::TooLong(MOST_BYTES),
            _ => IdentityProblem::Unreadable(Arc::new(error)),
        };
        IdentityError::new(path, problem)
    })
}

/// Returns all certificates of a file, of which there is at least one.
fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let found = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
    let problem = match found {
        Ok(found) if !found.is_empty() => return Ok(found),
        Ok(_) => IdentityProblem::NoCertificate,
        Err(error) => IdentityProblem::Malformed(error.to_string()),
    };
    Err(IdentityError::new(path, problem))
}

impl IdentityError {
    pub(crate) fn new(file: &Path, problem: IdentityProblem) -> Self {
        Self { file: file.to_owned(), problem }
    }

    /// Returns the file that cannot be used.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Returns why the file cannot be used.
    pub fn problem(&self) -> &IdentityProblem {
        &self.problem
    }
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        match &self.problem {
            IdentityProblem::Unreadable(error) => write!(f, "cannot read it: {error}"),
            IdentityProblem::TooLong(limit) => write!(f, "it is longer than {limit} bytes"),
            IdentityProblem::Malformed(what) => write!(f, "it is damaged or half written: {what}"),
            IdentityProblem::NoCertificate => write!(f, "there is no certificate in it"),
            IdentityProblem::NoKey => {
                write!(f, "there is no private key in it that is not encrypted")
            }
            IdentityProblem::Unsupported(what) => write!(f, "it cannot be used: {what}"),
            IdentityProblem::KeyMismatch(chain) => {
                write!(f, "the key does not belong to the certificate in {}", chain.display())
            }
            IdentityProblem::Expired(_) => write!(f, "its certificate has expired"),
            IdentityProblem::NotYetValid(_) => write!(f, "its certificate is not valid yet"),
        }
    }
}

impl std::error::Error for IdentityError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            IdentityProblem::Unreadable(error) => Some(error),
            _ => None,
        }
    }
}
