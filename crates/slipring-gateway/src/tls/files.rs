//! Certificates and keys in files.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The files of one side, in PEM format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates of the authorities that sign those of the other side.
    pub authorities: PathBuf,
    /// The own certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// The own private key.
    pub key: PathBuf,
}

/// What the files have.
pub(super) struct Identity {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl TlsFiles {
    /// Names files `ca.pem`, `cert.pem` and `key.pem` of a directory.
    #[must_use]
    pub fn in_dir(dir: impl AsRef<Path>) -> Self {
        let file = |name| dir.as_ref().join(name);
        Self { authorities: file("ca.pem"), certificate: file("cert.pem"), key: file("key.pem") }
    }

    pub(super) fn read(&self) -> io::Result<Identity> {
        let mut roots = RootCertStore::empty();
        for root in certificates(&self.authorities)? {
            roots.add(root).map_err(|error| invalid(&self.authorities, error))?;
        }
        let key = PrivateKeyDer::from_pem_file(&self.key);
        Ok(Identity {
            roots: Arc::new(roots),
            chain: certificates(&self.certificate)?,
            key: key.map_err(|error| invalid(&self.key, error))?,
        })
    }

    fn stamps(&self) -> io::Result<Stamps> {
        let stamp = |path: &Path| -> io::Result<_> {
            let metadata = std::fs::metadata(path).map_err(|error| named(path, &error))?;
            Ok((metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
        };
        Ok([stamp(&self.authorities)?, stamp(&self.certificate)?, stamp(&self.key)?])
    }
}

/// What changes when a file is written or replaced.
type Stamps = [(u64, u64, i64, i64); 3];

/// A configuration that is made of files, and made anew when they have changed.
#[derive(Debug)]
pub(super) struct Reloaded<C> {
    files: TlsFiles,
    made: Mutex<(Stamps, Arc<C>)>,
}

impl<C> Reloaded<C> {
    /// Makes the configuration for the first time.
    pub(super) fn new(
        files: TlsFiles,
        make: impl Fn(Identity) -> io::Result<C>,
    ) -> io::Result<Self> {
        let stamps = files.stamps()?;
        let made = Mutex::new((stamps, Arc::new(make(files.read()?)?)));
        Ok(Self { files, made })
    }

    /// Returns the configuration of the files as they are now. While they cannot be used, such as
    /// between the writes of two of them, it is that of before.
    pub(super) fn get(&self, make: impl Fn(Identity) -> io::Result<C>) -> Arc<C> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(stamps) = self.files.stamps()
            && stamps != made.0
            && let Ok(config) = self.files.read().and_then(make)
        {
            *made = (stamps, Arc::new(config));
        }
        Arc::clone(&made.1)
    }
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| invalid(path, error))?;
    let read: Result<Vec<_>, _> = read.collect();
    let read = read.map_err(|error| invalid(path, error))?;
    if read.is_empty() {
        return Err(invalid(path, "it has no certificate"));
    }
    Ok(read)
}

pub(super) fn invalid(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
