//! Makes certificates for trying it out, in place of an authority that a company runs.

use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

use super::client_names::NotAName;
use super::{ClientName, PemFiles};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What certificates to make: one authority, one server, one client.
///
/// The authority's key is not kept, so that no further certificate can be made with it.
#[derive(Debug, Clone)]
pub struct MakeCerts {
    /// The DNS names and addresses under which clients connect to the server.
    pub server_names: Vec<String>,
    /// The DNS names, addresses and URIs of the client.
    pub client_names: Vec<String>,
    /// For how many days the certificates are valid, from today on.
    pub days: u32,
}

/// The files that were written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MadeCerts {
    /// What a server needs.
    pub server: PemFiles,
    /// What a client needs.
    pub client: PemFiles,
}

/// Why no certificates were made.
#[derive(Debug)]
#[non_exhaustive]
pub enum MakeCertsError {
    /// A text is neither a name nor an address.
    NotAName(NotAName),
    /// There is no name for the server, or none for the client.
    NoNames,
    /// This file is there already. Nothing was changed.
    Exists(PathBuf),
    /// This file or directory cannot be written. What was written before is removed.
    Unwritable(PathBuf, io::Error),
    /// The certificates could not be made.
    Failed(rcgen::Error),
}

impl MakeCerts {
    /// Writes `ca.pem`, `server.pem`, `server-key.pem`, `client.pem` and `client-key.pem` into
    /// `directory`, which is made if it is missing. Only the user can read the keys.
    ///
    /// # Errors
    ///
    /// If one of the files is there already, or cannot be written, or a name is not valid.
    pub fn write(&self, directory: &Path) -> Result<MadeCerts, MakeCertsError> {
        let texts = self.make()?;
        let path = |name: &str| directory.join(name);
        let unwritable = |error| MakeCertsError::Unwritable(directory.to_owned(), error);
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unwritable)?;
        let mut written: Vec<PathBuf> = Vec::new();
        for (name, text) in texts {
            let path = path(name);
            if let Err(error) = write_new(&path, &text) {
                for path in &written {
                    // The first error is the one to tell.
                    fs::remove_file(path).ok();
                }
                return Err(match error.kind() {
                    io::ErrorKind::AlreadyExists => MakeCertsError::Exists(path),
                    _ => MakeCertsError::Unwritable(path, error),
                });
            }
            written.push(path);
        }
        let files = |chain: &str, key: &str| PemFiles {
            chain: path(chain),
            key: path(key),
            authorities: path("ca.pem"),
        };
        Ok(MadeCerts {
            server: files("server.pem", "server-key.pem"),
            client: files("client.pem", "client-key.pem"),
        })
    }

    fn make(&self) -> Result<[(&'static str, String); 5], MakeCertsError> {
        if self.server_names.is_empty() || self.client_names.is_empty() {
            return Err(MakeCertsError::NoNames);
        }
        let authority_key = KeyPair::generate()?;
        // A name of its own, so that a certificate of another authority is told as such.
        let tag: String = authority_key
            .public_key_raw()
            .iter()
            .rev()
            .take(4)
            .map(|b| format!("{b:02x}"))
            .collect();
        let mut authority =
            self.params(&format!("slipring: an authority for trying it out, {tag}"));
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(authority, authority_key)?;

        let mut server = self.params("slipring: a server");
        server.subject_alt_names = subject_names(&self.server_names)?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let mut client = self.params("slipring: a client");
        client.subject_alt_names = subject_names(&self.client_names)?;
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];

        let (server_key, client_key) = (KeyPair::generate()?, KeyPair::generate()?);
        Ok([
            ("ca.pem", authority.pem()),
            ("server.pem", server.signed_by(&server_key, &authority)?.pem()),
            ("server-key.pem", server_key.serialize_pem()),
            ("client.pem", client.signed_by(&client_key, &authority)?.pem()),
            ("client-key.pem", client_key.serialize_pem()),
        ])
    }

    fn params(&self, name: &str) -> CertificateParams {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch = date_time_ymd(1970, 1, 1);
        let mut params = CertificateParams::default();
        // Clocks differ.
        params.not_before = epoch + now.saturating_sub(DAY);
        params.not_after = epoch + now + DAY * self.days.min(100 * 365);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params
    }
}

fn subject_names(names: &[String]) -> Result<Vec<SanType>, MakeCertsError> {
    let subject_name = |name: &String| {
        let parsed = ClientName::new(name).map_err(MakeCertsError::NotAName)?;
        if let Ok(address) = name.parse() {
            return Ok(SanType::IpAddress(address));
        }
        let text = name.as_str().try_into()?;
        Ok(if parsed.is_uri() { SanType::URI(text) } else { SanType::DnsName(text) })
    };
    names.iter().map(subject_name).collect()
}

/// Certificates are public; but all files get the keys' mode, which is one rule to know.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).inspect_err(|_| {
        // The write's error is the one to tell.
        fs::remove_file(path).ok();
    })
}

impl From<rcgen::Error> for MakeCertsError {
    fn from(error: rcgen::Error) -> Self {
        Self::Failed(error)
    }
}

impl fmt::Display for MakeCertsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAName(error) => error.fmt(f),
            Self::NoNames => write!(f, "the server and the client need at least one name each"),
            Self::Exists(path) => write!(f, "{} is there already", path.display()),
            Self::Unwritable(path, error) => {
                write!(f, "cannot write {}: {error}", path.display())
            }
            Self::Failed(error) => write!(f, "cannot make certificates: {error}"),
        }
    }
}

impl std::error::Error for MakeCertsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotAName(error) => Some(error),
            Self::Unwritable(_, error) => Some(error),
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}
