//! Certificates that are replaced while connections are open.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use rcgen::ExtendedKeyUsagePurpose::ServerAuth;
use slipring_gateway::tls::{
    ClientStream, ClientTls, HandshakeError, IdentityProblem, PemFiles, ServerTls,
};
use tokio::net::TcpStream;

use crate::tls::certs::{Authority, Issued, Validity};
use crate::tls::connections::{HANG, Scene, Server, exchange};

/// Replaces a file in one step.
fn swap(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

fn shown(stream: &ClientStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

struct Reloads {
    scene: Scene,
    files: PemFiles,
    tls: ServerTls,
    server: Server,
    client: ClientTls,
}

impl Reloads {
    async fn new() -> Self {
        let scene = Scene::new();
        let old = scene.authority.server(&["localhost"]);
        let files = scene.directory.write("server", &old, &scene.authority);
        let tls = ServerTls::new(files.clone(), Vec::new()).unwrap();
        let server = Server::start(tls.clone()).await;
        let client = scene.client(&["a.example"]);
        Self { scene, files, tls, server, client }
    }

    /// Returns the certificate that a new connection gets.
    async fn shown(&self) -> Vec<u8> {
        let mut stream = self.server.connect(&self.client, "localhost").await.unwrap();
        exchange(&mut stream).await.unwrap();
        shown(&stream)
    }
}

#[tokio::test]
async fn new_connections_get_new_certificates_and_old_ones_go_on() {
    let reloads = Reloads::new().await;
    let mut open = reloads.server.connect(&reloads.client, "localhost").await.unwrap();
    exchange(&mut open).await.unwrap();
    assert!(!reloads.tls.reload().unwrap());

    let new = reloads.scene.authority.server(&["localhost"]);
    swap(&reloads.files.chain, &new.chain);
    swap(&reloads.files.key, &new.key);
    assert!(reloads.tls.reload().unwrap());
    assert_ne!(reloads.shown().await, shown(&open));
    exchange(&mut open).await.unwrap();
    assert!(!reloads.tls.reload().unwrap());
}

#[tokio::test]
async fn files_are_looked_at_without_being_asked() {
    let reloads = Reloads::new().await;
    reloads.tls.watch(Duration::from_millis(5));
    let before = reloads.shown().await;
    let began = Instant::now();
    // In place, as an editor may do it.
    let new = reloads.scene.authority.server(&["localhost"]);
    fs::write(&reloads.files.chain, &new.chain).unwrap();
    while reloads.tls.last_error().is_none() {
        assert!(began.elapsed() < HANG);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(reloads.shown().await, before);
    fs::write(&reloads.files.key, &new.key).unwrap();
    while reloads.tls.last_error().is_some() {
        assert!(began.elapsed() < HANG);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_ne!(reloads.shown().await, before);
}

#[tokio::test]
async fn files_can_be_swapped_in_any_order() {
    for key_first in [false, true] {
        let reloads = Reloads::new().await;
        let before = reloads.shown().await;
        let new = reloads.scene.authority.server(&["localhost"]);
        let mut steps = [(&reloads.files.chain, &new.chain), (&reloads.files.key, &new.key)];
        if key_first {
            steps.reverse();
        }
        swap(steps[0].0, steps[0].1);
        let error = reloads.tls.reload().unwrap_err();
        assert_eq!(error.file(), reloads.files.key);
        assert!(matches!(error.problem(), IdentityProblem::KeyMismatch(_)), "{error}");
        // It stays a problem, although the files are the same as at the last look.
        reloads.tls.reload().unwrap_err();
        assert_eq!(reloads.tls.last_error().unwrap().to_string(), error.to_string());
        assert_eq!(reloads.shown().await, before);

        swap(steps[1].0, steps[1].1);
        assert!(reloads.tls.reload().unwrap());
        assert!(reloads.tls.last_error().is_none());
        assert_ne!(reloads.shown().await, before);
    }
}

#[tokio::test]
async fn broken_files_leave_the_old_ones_in_use() {
    let reloads = Reloads::new().await;
    let before = reloads.shown().await;
    let files = &reloads.files;
    for path in [&files.chain, &files.key, &files.authorities] {
        let good = fs::read_to_string(path).unwrap();
        for broken in [&good[..good.len() / 2], "", "no certificate"] {
            fs::write(path, broken).unwrap();
            assert_eq!(reloads.tls.reload().unwrap_err().file(), path);
            assert_eq!(reloads.shown().await, before);
        }
        fs::remove_file(path).unwrap();
        let error = reloads.tls.reload().unwrap_err();
        assert!(matches!(error.problem(), IdentityProblem::Unreadable(_)), "{error}");
        assert_eq!(reloads.shown().await, before);

        // The old file again, and once more without other contents in between: all is well.
        for _ in 0..2 {
            fs::write(path, &good).unwrap();
            reloads.tls.reload().unwrap();
            assert!(reloads.tls.last_error().is_none());
            assert_eq!(reloads.shown().await, before);
            fs::remove_file(path).unwrap();
            reloads.tls.reload().unwrap_err();
        }
        fs::write(path, &good).unwrap();
        reloads.tls.reload().unwrap();
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_now_leaves_the_old_one_in_use() {
    let reloads = Reloads::new().await;
    let before = reloads.shown().await;
    for validity in [Validity::Expired, Validity::NotYet] {
        let new = reloads.scene.authority.issue(&["localhost"], ServerAuth, validity);
        swap(&reloads.files.chain, &new.chain);
        swap(&reloads.files.key, &new.key);
        let error = reloads.tls.reload().unwrap_err();
        assert_eq!(error.file(), reloads.files.chain);
        let is_told = match validity {
            Validity::Expired => matches!(error.problem(), IdentityProblem::Expired(_)),
            _ => matches!(error.problem(), IdentityProblem::NotYetValid(_)),
        };
        assert!(is_told, "{error}");
        assert_eq!(reloads.tls.last_error().unwrap().to_string(), error.to_string());
        assert_eq!(reloads.shown().await, before);
    }
    let new = reloads.scene.authority.server(&["localhost"]);
    swap(&reloads.files.chain, &new.chain);
    swap(&reloads.files.key, &new.key);
    assert!(reloads.tls.reload().unwrap());
    assert!(reloads.tls.last_error().is_none());
    assert_ne!(reloads.shown().await, before);
}

#[tokio::test]
async fn all_files_are_replaced_at_once_as_kubernetes_does_it() {
    let scene = Scene::new();
    let at = |name: &str| scene.directory.path().join(name);
    // Each file is a link into `..data`, which is a link to the directory of a version.
    let put = |version: &str, issued: &Issued| {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("tls.crt"), &issued.chain).unwrap();
        fs::write(at(version).join("tls.key"), &issued.key).unwrap();
        fs::write(at(version).join("ca.crt"), scene.authority.pem()).unwrap();
        symlink(version, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    put("..1", &scene.authority.server(&["localhost"]));
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(Path::new("..data").join(name), at(name)).unwrap();
    }
    let (chain, key, authorities) = (at("tls.crt"), at("tls.key"), at("ca.crt"));
    let tls = ServerTls::new(PemFiles { chain, key, authorities }, Vec::new()).unwrap();
    let (server, client) = (Server::start(tls.clone()).await, scene.client(&["a.example"]));
    tls.watch(Duration::from_millis(5));
    let connect = async || {
        let mut stream = server.connect(&client, "localhost").await.unwrap();
        exchange(&mut stream).await.unwrap();
        shown(&stream)
    };
    let (mut before, began) = (connect().await, Instant::now());
    for version in ["..2", "..3"] {
        put(version, &scene.authority.server(&["localhost"]));
        while connect().await == before {
            assert!(began.elapsed() < HANG);
        }
        before = connect().await;
    }
    assert!(tls.last_error().is_none());
}

#[tokio::test]
async fn an_authority_that_is_taken_away_lets_nobody_in_again() {
    let mut reloads = Reloads::new().await;
    let mut open = reloads.server.connect(&reloads.client, "localhost").await.unwrap();
    exchange(&mut open).await.unwrap();
    reloads.server.next_end().await.unwrap();

    swap(&reloads.files.authorities, &Authority::new().pem());
    assert!(reloads.tls.reload().unwrap());
    let mut stream = reloads.server.connect(&reloads.client, "localhost").await.unwrap();
    exchange(&mut stream).await.unwrap_err();
    drop(stream);
    let error = reloads.server.next_error().await;
    assert!(matches!(error, HandshakeError::Certificate(_)), "{error}");
    exchange(&mut open).await.unwrap();
}

#[tokio::test]
async fn a_client_reloads_its_certificates_too() {
    let mut reloads = Reloads::new().await;
    let issued = reloads.scene.authority.client(&["b.example"]);
    let files = reloads.scene.directory.write("other", &issued, &reloads.scene.authority);
    let client = ClientTls::new(files.clone()).unwrap();
    let new = reloads.scene.authority.client(&["c.example"]);
    swap(&files.key, &new.key);
    client.reload().unwrap_err();
    let mut expected = "b.example";
    for _ in 0..2 {
        let mut stream = reloads.server.connect(&client, "localhost").await.unwrap();
        exchange(&mut stream).await.unwrap();
        let end = format!("{:?}", reloads.server.next_end().await);
        assert!(end.contains(expected), "{end}");
        swap(&files.chain, &new.chain);
        client.reload().unwrap();
        expected = "c.example";
    }
}
