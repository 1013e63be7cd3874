//! Gateways, and callers of them, by mutual TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use slipring::backend::{Backend, BackendRequest};
use slipring::{ErrorKind, Result, StreamTimeouts};
use slipring_gateway::client::Connection;
use slipring_gateway::tls::{ClientTls, ExpectedName, ServerTls};
use slipring_gateway::{Discovery, Limits, RemoteRole};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::rig::*;
use crate::tls::certs::Authority;
use crate::tls::connections::Scene;

/// Has a gateway serve by TLS beside plain text.
pub async fn serve(rig: &Rig, tls: ServerTls) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gateway = rig.gateway.clone();
    tokio::spawn(async move { gateway.serve_tls(listener, tls).await });
    address
}

async fn connect(address: SocketAddr, name: &str, tls: &ClientTls) -> Result<Connection> {
    let name = ExpectedName::new(name).unwrap();
    Connection::connect_tls(address, &name, tls, Limits::default(), LONG).await
}

fn remote(address: SocketAddr, tls: ClientTls) -> slipring_gateway::RemoteRoleBuilder {
    let list = Discovery::list([format!("localhost:{}", address.port())]);
    RemoteRole::builder("echo", list).tls(tls)
}

async fn calls(connection: &Connection) {
    let request = BackendRequest::new(ECHO, vec![5; 300_000]);
    let reply = connection.call("echo", request, LONG).await.unwrap();
    assert_eq!(reply.len(), 300_000);
}

async fn echoes(role: &RemoteRole) {
    let reply = role.call(BackendRequest::new(ECHO, "text"), LONG).await.unwrap();
    assert_eq!(reply.text().unwrap(), "text");
}

fn assert_refused(connected: Result<Connection>, why: &str) {
    let error = connected.expect_err(why);
    let known = (error.kind(), error.was_begun());
    assert_eq!(known, (ErrorKind::Disconnected, Some(false)), "{error}");
    assert!(error.to_string().contains(why), "{why:?} is not in {error}");
}

/// Replaces a file in one step.
fn swap(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn a_caller_that_is_refused_is_told_why_and_keeps_no_other_out() {
    let (scene, rig) = (Scene::new(), Rig::start(|gateway| gateway).await);
    let address = serve(&rig, scene.server_tls(&["a.example"])).await;
    let known = scene.client(&["a.example"]);
    let connection = connect(address, "localhost", &known).await.unwrap();
    assert_eq!(connection.peer(), format!("localhost:{}", address.port()));
    calls(&connection).await;
    assert_refused(connect(address, "other.example", &known).await, "not valid for name");
    let other_name = scene.client(&["b.example"]);
    assert_refused(connect(address, "localhost", &other_name).await, "does not allow the name");
    let issued = Authority::named("another").client(&["a.example"]);
    let unknown = ClientTls::new(scene.directory.write("unknown", &issued, &scene.authority));
    let refused = connect(address, "localhost", &unknown.unwrap()).await;
    assert_refused(refused, "does not know the authority");
    let plain = Connection::connect(address, Limits::default(), LONG).await;
    assert_refused(plain, "(does it speak TLS, or is it full?)");
    let in_plain_text = connect(rig.address, "localhost", &known).await;
    assert_refused(in_plain_text, "(does it speak plain text, or is it full?)");
    calls(&connect(address, "127.0.0.1", &known).await.unwrap()).await;
}

#[tokio::test]
async fn of_a_gateway_that_is_killed_it_is_said_that_it_hung_up() {
    let scene = Scene::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, server, client) =
        (listener.local_addr().unwrap(), scene.server_tls(&[]), scene.client(&["a.example"]));
    let killed = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = server.accept(stream).await.unwrap().into_inner().0;
        // The end of TCP without that of TLS.
        stream.shutdown().await.unwrap();
        stream
    };
    let (connected, _stream) = tokio::join!(connect(address, "localhost", &client), killed);
    assert_refused(
        connected,
        "the gateway closes the connection (is it full?): the other side hung up",
    );
}

#[tokio::test]
async fn half_open_tls_handshakes_do_not_keep_a_valid_caller_out() {
    let rig = Rig::start(|gateway| gateway.handshakes(8, LONG * 10)).await;
    let scene = Scene::new();
    let address = serve(&rig, scene.server_tls(&[])).await;
    let client = scene.client(&["a.example"]);
    let mut silent = Vec::new();
    for number in 0..40 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if number % 2 == 0 {
            // The head of a record of 512 bytes, and the first bytes of a hello.
            stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).await.unwrap();
        }
        silent.push(stream);
    }
    calls(&connect(address, "localhost", &client).await.unwrap()).await;
    // A handshake that is whole, and no HTTP/2 after it.
    let name = ExpectedName::new("localhost").unwrap();
    let mut idle = Vec::new();
    for _ in 0..20 {
        let stream = TcpStream::connect(address).await.unwrap();
        idle.push(client.connect(&name, stream).await.unwrap());
    }
    calls(&connect(address, "localhost", &client).await.unwrap()).await;
    // Those of before gave way.
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let ends = async {
        // A reset is an end, too.
        let _ = silent[0].read_to_end(&mut first).await;
        let _ = idle[0].read_to_end(&mut second).await;
    };
    tokio::time::timeout(LONG, ends).await.expect("a silent connection is still open");
}

#[tokio::test]
async fn plain_text_needs_a_word_for_more_than_the_loopback_interface() {
    let rig = Rig::start(|gateway| gateway).await;
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let error = rig.gateway.serve(listener).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_role_calls_and_streams_by_mutual_tls() {
    let (scene, rig) = (Scene::new(), Rig::start(|gateway| gateway).await);
    let address = serve(&rig, scene.server_tls(&["a.example"])).await;
    let role = remote(address, scene.client(&["a.example"])).build().unwrap();
    echoes(&role).await;
    let long = vec![7; 300_000];
    let asked = BackendRequest::new(CHUNKS, long.clone());
    let mut chunks = role.stream(asked, StreamTimeouts::new()).await.unwrap();
    let mut all = Vec::new();
    while let Some(chunk) = std::future::poll_fn(|cx| chunks.as_mut().poll_next(cx)).await {
        all.extend(chunk.unwrap().to_vec());
    }
    assert_eq!(all, long);
    assert_eq!(role.ping(LONG).await.into_iter().filter(Result::is_err).count(), 0);
}

#[tokio::test]
async fn a_gateway_of_another_name_never_gets_a_request() {
    let (scene, rig) = (Scene::new(), Rig::start(|gateway| gateway).await);
    let issued = scene.authority.server(&["other.example"]);
    let files = scene.directory.write("other", &issued, &scene.authority);
    let address = serve(&rig, ServerTls::new(files, Vec::new()).unwrap()).await;
    let role = remote(address, scene.client(&["a.example"]));
    let wrong = role.clone().build().unwrap();
    let call = wrong.call(BackendRequest::new(HANG, ""), Duration::from_millis(300));
    let error = call.await.unwrap_err();
    assert_eq!(error.was_begun(), Some(false), "{error}");
    assert!(format!("{error:#}").contains("not valid for name \"localhost\""), "{error:#}");
    assert_eq!(rig.told.hangs_begun.load(Ordering::SeqCst), 0);
    // The same gateway by the name that it has.
    let name = ExpectedName::new("other.example").unwrap();
    echoes(&role.server_name(name).build().unwrap()).await;
}

#[tokio::test]
async fn a_server_name_without_tls_is_refused() {
    let role = RemoteRole::builder("echo", Discovery::list(["localhost:7000"]));
    let name = ExpectedName::new("localhost").unwrap();
    let error = role.server_name(name).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

#[tokio::test]
async fn a_gateway_whose_certificate_is_replaced_serves_on() {
    let (scene, rig) = (Scene::new(), Rig::start(|gateway| gateway).await);
    let old = scene.authority.server(&["localhost"]);
    let files = scene.directory.write("server", &old, &scene.authority);
    let address = serve(&rig, ServerTls::new(files.clone(), Vec::new()).unwrap()).await;
    let client = scene.client(&["a.example"]);
    let role = remote(address, client.clone()).build().unwrap();
    let connection = connect(address, "localhost", &client).await.unwrap();
    let new = scene.authority.server(&["localhost", "new.example"]);
    swap(&files.chain, &new.chain);
    echoes(&role).await;
    swap(&files.key, &new.key);
    // The gateway is not told.
    let replaced = async {
        while connect(address, "new.example", &client).await.is_err() {
            echoes(&role).await;
        }
    };
    tokio::time::timeout(LONG, replaced).await.unwrap();
    // What was there goes on.
    calls(&connection).await;
    echoes(&role).await;
}

#[tokio::test]
async fn a_role_uses_certificates_that_are_replaced() {
    let (scene, rig) = (Scene::new(), Rig::start(|gateway| gateway).await);
    let address = serve(&rig, scene.server_tls(&["b.example"])).await;
    let old = scene.authority.client(&["a.example"]);
    let files = scene.directory.write("client", &old, &scene.authority);
    let role = remote(address, ClientTls::new(files.clone()).unwrap()).build().unwrap();
    let mut call = pin!(role.call(BackendRequest::new(ECHO, ""), LONG));
    let refused = tokio::time::timeout(Duration::from_millis(100), &mut call).await;
    assert!(refused.is_err(), "{refused:?}");
    let new = scene.authority.client(&["b.example"]);
    swap(&files.key, &new.key);
    swap(&files.chain, &new.chain);
    call.await.unwrap();
}
