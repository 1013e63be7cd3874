//! Who gets in by mutual TLS, and who does not.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use slipring::backend::BackendRequest;
use slipring::{ErrorKind, Result};
use slipring_gateway::Limits;
use slipring_gateway::client::Connection;
use slipring_gateway::tls::{ClientTls, ServerTls, TlsFiles};
use tokio::net::TcpListener;

use crate::rig::*;

/// An authority, and the directory of what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    dir: PathBuf,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let dir = format!("certificates-{}-{name}", std::process::id());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(dir);
        Self { issuer: Issuer::new(params, key), pem, dir }
    }

    /// Signs a certificate for a name, and writes the files of its owner, who trusts `trusted`.
    fn sign(&self, name: &str, trusted: &Self, is_expired: bool) -> TlsFiles {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if is_expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let files = TlsFiles::in_dir(dir);
        std::fs::write(&files.authorities, &trusted.pem).unwrap();
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A gateway that serves by TLS beside plain text.
async fn serve(rig: &Rig, tls: ServerTls) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gateway = rig.gateway.clone();
    tokio::spawn(async move { gateway.serve_tls(listener, tls).await });
    address
}

async fn connect(address: SocketAddr, name: &str, files: &TlsFiles) -> Result<Connection> {
    let tls = ClientTls::new(files.clone()).unwrap();
    Connection::connect_tls(address, name, &tls, Limits::default(), LONG).await
}

async fn calls(connection: &Connection) {
    let request = BackendRequest::new(ECHO, vec![5; 300_000]);
    let reply = connection.call("echo", request, LONG).await.unwrap();
    assert_eq!(reply.len(), 300_000);
}

fn assert_refused(connected: Result<Connection>, what: &str) {
    let error = connected.expect_err(what);
    assert_eq!(
        (error.kind(), error.was_begun()),
        (ErrorKind::Disconnected, Some(false)),
        "{error}"
    );
}

#[tokio::test]
async fn only_callers_with_a_certificate_of_the_authority_get_in() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let rig = Rig::start(|gateway| gateway).await;
    let gateway = ours.sign("gateway.test", &ours, false);
    let address = serve(&rig, ServerTls::new(gateway).unwrap()).await;

    let caller = ours.sign("caller.test", &ours, false);
    calls(&connect(address, "gateway.test", &caller).await.unwrap()).await;
    assert_refused(connect(address, "other.test", &caller).await, "the gateway's name is checked");
    let unknown = others.sign("unknown.test", &ours, false);
    assert_refused(connect(address, "gateway.test", &unknown).await, "of an unknown authority");
    let expired = ours.sign("expired.test", &ours, true);
    assert_refused(connect(address, "gateway.test", &expired).await, "expired");
    let distrusting = ours.sign("distrusting.test", &others, false);
    assert_refused(connect(address, "gateway.test", &distrusting).await, "an unknown gateway");
    let plain = Connection::connect(address, Limits::default(), LONG).await;
    assert_refused(plain, "plain text");
    // None of these has kept the others out.
    calls(&connect(address, "gateway.test", &caller).await.unwrap()).await;
}

#[tokio::test]
async fn only_callers_whose_name_is_given_get_in() {
    let ours = Authority::new("names");
    let rig = Rig::start(|gateway| gateway).await;
    let tls = ServerTls::new(ours.sign("gateway.test", &ours, false)).unwrap();
    let tls = tls.callers(["host-1.test".to_owned()]).unwrap();
    let address = serve(&rig, tls).await;
    let first = ours.sign("host-1.test", &ours, false);
    calls(&connect(address, "gateway.test", &first).await.unwrap()).await;
    let second = ours.sign("host-2.test", &ours, false);
    assert_refused(connect(address, "gateway.test", &second).await, "another name");
}

#[tokio::test]
async fn certificates_are_replaced_without_a_restart() {
    let (before, after) = (Authority::new("before"), Authority::new("after"));
    let rig = Rig::start(|gateway| gateway).await;
    let files = before.sign("gateway.test", &before, false);
    let address = serve(&rig, ServerTls::new(files.clone()).unwrap()).await;
    let old = before.sign("caller.test", &before, false);
    let new = after.sign("caller.test", &after, false);
    let first = connect(address, "gateway.test", &old).await.unwrap();
    assert_refused(connect(address, "gateway.test", &new).await, "not known yet");

    // A file that is being written does not count.
    let other = after.sign("gateway.test", &after, false);
    std::fs::write(&files.certificate, "").unwrap();
    calls(&connect(address, "gateway.test", &old).await.unwrap()).await;
    for (from, to) in [
        (other.authorities, files.authorities),
        (other.key, files.key),
        (other.certificate, files.certificate),
    ] {
        std::fs::rename(from, to).unwrap();
    }
    calls(&connect(address, "gateway.test", &new).await.unwrap()).await;
    assert_refused(connect(address, "gateway.test", &old).await, "not known any more");
    // What was there goes on.
    calls(&first).await;
}

#[tokio::test]
async fn plain_text_needs_a_word_for_more_than_the_loopback_interface() {
    let rig = Rig::start(|gateway| gateway).await;
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let error = rig.gateway.serve(listener).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}
