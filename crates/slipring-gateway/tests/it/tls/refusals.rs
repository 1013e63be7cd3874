//! What gets nowhere, and what each side says about it.

use std::sync::Arc;

use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use slipring_gateway::tls::{ClientTls, ExpectedName, HandshakeError, ServerTls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::tls::certs::{Authority, Issued, Validity};
use crate::tls::connections::{HANG, Scene, Server, exchange};

/// Connects with these files, which the server refuses. Returns the texts of server and client.
async fn refused(server: &mut Server, client: &ClientTls) -> [String; 2] {
    let mut stream = server.connect(client, "localhost").await.unwrap();
    let refusal = stream.refusal();
    exchange(&mut stream).await.unwrap_err();
    let client = refusal.get().expect("the client saw no reason").to_string();
    // The server waits for this, to be sure that its reason is read.
    drop(stream);
    [server.next_error().await.to_string(), client]
}

fn assert_says(text: &str, part: &str) {
    assert!(text.contains(part), "{part:?} is not in {text:?}");
}

#[tokio::test]
async fn a_client_certificate_that_is_not_valid_is_refused() {
    let scene = Scene::new();
    let mut server = scene.server(&[]).await;
    let names = ["a.example"];
    let cases = [
        (
            Authority::named("another").client(&names),
            "no known authority issued it",
            "does not know the authority",
        ),
        (
            Authority::new().client(&names),
            "another authority issued it than the known one",
            "another authority issued this side's certificate",
        ),
        (
            scene.authority.issue(&names, ClientAuth, Validity::Expired),
            "certificate expired",
            "has expired, or is not valid yet",
        ),
        (
            scene.authority.issue(&names, ClientAuth, Validity::NotYet),
            "certificate not valid yet",
            "has expired, or is not valid yet",
        ),
        (
            scene.authority.server(&names),
            "certificate does not allow extended key usage for client authentication",
            "cannot use this side's certificate",
        ),
    ];
    for (issued, server_says, client_says) in cases {
        let files = scene.directory.write("client", &issued, &scene.authority);
        let [on_server, on_client] = refused(&mut server, &ClientTls::new(files).unwrap()).await;
        assert_says(&on_server, "the other side's certificate is not valid");
        assert_says(&on_server, server_says);
        assert_says(&on_client, client_says);
    }
}

#[tokio::test]
async fn a_refused_client_that_is_sending_sees_the_reason() {
    let scene = Scene::new();
    let server = scene.server(&[]).await;
    let issued = Authority::named("another").client(&["a.example"]);
    let files = scene.directory.write("client", &issued, &scene.authority);
    let client = ClientTls::new(files).unwrap();
    let mut stream = server.connect(&client, "localhost").await.unwrap();
    let refusal = stream.refusal();
    timeout(HANG, stream.get_ref().get_ref().0.readable()).await.unwrap().unwrap();
    // Refused by now. A server that had closed its socket would answer the first of these with a
    // reset, and the second would fail.
    for _ in 0..3 {
        stream.write_all(&[0; 1024]).await.unwrap();
    }
    exchange(&mut stream).await.unwrap_err();
    assert_says(&refusal.get().unwrap().to_string(), "does not know the authority");
}

#[tokio::test]
async fn a_client_without_an_allowed_name_is_refused() {
    for name in ["b.example", "sub.a.example", "spiffe://example/b", "spiffe://example/a/b"] {
        let scene = Scene::new();
        let mut server = scene.server(&["a.example", "spiffe://example/a"]).await;
        let [on_server, on_client] = refused(&mut server, &scene.client(&[name])).await;
        assert_says(&on_server, "none of the allowed names");
        assert_says(&on_server, name);
        assert_says(&on_client, "does not allow the name of this side's certificate");
    }
}

/// A client of its own configuration, in place of `ClientTls`.
async fn connect_as(
    server: &Server,
    scene: &Scene,
    issued: Option<Issued>,
    protocols: &[&[u8]],
) -> std::io::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(scene.authority.pem().as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match issued {
        Some(issued) => {
            let chain = CertificateDer::from_pem_slice(issued.chain.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = TcpStream::connect(server.address).await?;
    let name = "localhost".try_into().unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    exchange(&mut stream).await
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let scene = Scene::new();
    let mut server = scene.server(&[]).await;
    let error = connect_as(&server, &scene, None, &[b"h2"]).await.unwrap_err();
    let on_client = HandshakeError::from(error).to_string();
    assert_says(&on_client, "requires a certificate");
    assert!(matches!(server.next_error().await, HandshakeError::NoCertificate));
}

#[tokio::test]
async fn a_client_that_does_not_speak_http_2_is_refused() {
    let scene = Scene::new();
    let mut server = scene.server(&[]).await;
    for protocols in [&[b"http/1.1".as_slice()] as &[&[u8]], &[]] {
        let issued = Some(scene.authority.client(&["a.example"]));
        connect_as(&server, &scene, issued, protocols).await.unwrap_err();
        assert!(matches!(server.next_error().await, HandshakeError::NotHttp2));
    }
    // The same client with the right protocol.
    let issued = Some(scene.authority.client(&["a.example"]));
    connect_as(&server, &scene, issued, &[b"h2"]).await.unwrap();
}

#[tokio::test]
async fn a_client_that_speaks_plain_text_is_refused() {
    let scene = Scene::new();
    let mut server = scene.server(&[]).await;
    for text in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        assert!(matches!(server.next_error().await, HandshakeError::NotTls), "{text}");
        // At most an alert comes back, and then the end.
        let mut answer = Vec::new();
        let end = timeout(HANG, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.len() <= 7, "{end:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_client_refuses_a_server_that_speaks_plain_text() {
    let scene = Scene::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // An empty frame of settings, with which an HTTP/2 server begins.
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.ok();
    });
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ExpectedName::new("localhost").unwrap();
    let error = scene.client(&["a.example"]).connect(&name, stream).await.unwrap_err();
    assert!(matches!(error, HandshakeError::NotTls), "{error}");
    timeout(HANG, server).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_refuses_a_server_that_does_not_speak_http_2() {
    let scene = Scene::new();
    let issued = scene.authority.server(&["localhost"]);
    let chain = CertificateDer::from_pem_slice(issued.chain.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    for protocols in [vec![], vec![b"http/1.1".to_vec()]] {
        config.alpn_protocols = protocols;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config.clone()));
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            acceptor.accept(stream).await.map(drop)
        });
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ExpectedName::new("localhost").unwrap();
        let error = scene.client(&["a.example"]).connect(&name, stream).await.unwrap_err();
        assert!(matches!(error, HandshakeError::NotHttp2), "{error}");
        timeout(HANG, server).await.unwrap().unwrap().ok();
    }
}

#[tokio::test]
async fn a_client_refuses_a_server_of_another_name() {
    let scene = Scene::new();
    let mut server = scene.server(&[]).await;
    let client = scene.client(&["a.example"]);
    for name in ["other.example", "127.0.0.2"] {
        let error = server.connect(&client, name).await.unwrap_err().to_string();
        assert_says(&error, "certificate not valid for name");
        assert_says(&error, name);
        assert_says(&error, "localhost");
        let on_server = server.next_error().await;
        assert!(matches!(on_server, HandshakeError::Refused(_)), "{on_server}");
    }
}

#[tokio::test]
async fn a_client_refuses_a_server_certificate_that_is_not_valid() {
    let scene = Scene::new();
    let client = scene.client(&["a.example"]);
    let names = ["localhost"];
    let cases = [
        (
            Authority::named("another").server(&names),
            "no known authority issued it",
            "does not know the authority",
        ),
        (
            Authority::new().server(&names),
            "another authority issued it than the known one",
            "another authority issued this side's certificate",
        ),
        (
            scene.authority.issue(&names, ServerAuth, Validity::Expired),
            "certificate expired",
            "has expired, or is not valid yet",
        ),
        (
            scene.authority.issue(&names, ServerAuth, Validity::NotYet),
            "certificate not valid yet",
            "has expired, or is not valid yet",
        ),
        (
            scene.authority.client(&names),
            "certificate does not allow extended key usage for server authentication",
            "cannot use this side's certificate",
        ),
    ];
    for (issued, client_says, server_says) in cases {
        let files = scene.directory.write("server", &issued, &scene.authority);
        let tls = ServerTls::new(files, Vec::new()).unwrap();
        let mut server = Server::start(tls).await;
        let error = server.connect(&client, "localhost").await.unwrap_err().to_string();
        assert_says(&error, client_says);
        assert_says(&server.next_error().await.to_string(), server_says);
    }
}

#[tokio::test]
async fn a_peer_that_hangs_up_has_an_error_of_its_own() {
    let scene = Scene::new();
    let mut server = scene.server(&[]).await;
    drop(TcpStream::connect(server.address).await.unwrap());
    assert!(matches!(server.next_error().await, HandshakeError::Closed));
}
