//! A server that sends back what it gets, clients of it, and what happens between valid ones.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use slipring_gateway::tls::{
    ClientName, ClientStream, ClientTls, ExpectedName, HandshakeError, ServerTls, client_names,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::tls::certs::{Authority, Directory};

/// Passes only if something hangs.
pub(crate) const HANG: Duration = Duration::from_secs(60);

pub(crate) type Accepted = Result<Vec<String>, HandshakeError>;

/// A server in a task. Each end of a handshake is reported, with the client's names.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    ends: mpsc::UnboundedReceiver<Accepted>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(tls: ServerTls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, ends) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, sender) = (tls.clone(), sender.clone());
                connections.spawn(async move {
                    // The test may be over when this is told.
                    match tls.accept(stream).await {
                        Ok(stream) => {
                            sender.send(Ok(client_names(&stream))).ok();
                            echo(stream).await;
                        }
                        Err(error) => _ = sender.send(Err(error)),
                    }
                });
            }
        });
        Self { address, ends, task }
    }

    pub(crate) async fn next_end(&mut self) -> Accepted {
        timeout(HANG, self.ends.recv()).await.unwrap().unwrap()
    }

    /// Waits for the next handshake to end, which must fail.
    pub(crate) async fn next_error(&mut self) -> HandshakeError {
        self.next_end().await.unwrap_err()
    }

    pub(crate) async fn connect(
        &self,
        tls: &ClientTls,
        name: &str,
    ) -> Result<ClientStream<TcpStream>, HandshakeError> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ExpectedName::new(name).unwrap();
        timeout(HANG, tls.connect(&name, stream)).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buffer = [0; 64];
    while let Ok(len @ 1..) = stream.read(&mut buffer).await {
        stream.write_all(&buffer[..len]).await.unwrap();
    }
}

/// Sends five bytes and waits until they come back.
pub(crate) async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    let exchange = async {
        stream.write_all(b"hello").await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"hello");
        Ok(())
    };
    timeout(HANG, exchange).await.unwrap()
}

/// What most tests start from: an authority, a server of it at `localhost`, and its files.
pub(crate) struct Scene {
    pub(crate) authority: Authority,
    pub(crate) directory: Directory,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self { authority: Authority::new(), directory: Directory::new() }
    }

    pub(crate) fn server_tls(&self, allowed: &[&str]) -> ServerTls {
        let issued = self.authority.server(&["localhost", "127.0.0.1"]);
        let files = self.directory.write("server", &issued, &self.authority);
        let allowed = allowed.iter().map(|name| ClientName::new(name).unwrap()).collect();
        ServerTls::new(files, allowed).unwrap()
    }

    pub(crate) async fn server(&self, allowed: &[&str]) -> Server {
        Server::start(self.server_tls(allowed)).await
    }

    pub(crate) fn client(&self, names: &[&str]) -> ClientTls {
        let issued = self.authority.client(names);
        ClientTls::new(self.directory.write("client", &issued, &self.authority)).unwrap()
    }
}

#[tokio::test]
async fn both_sides_connect_with_certificates_of_one_authority() {
    let scene = Scene::new();
    let mut server = scene.server(&[]).await;
    let client = scene.client(&["a.example", "spiffe://example/a"]);
    for name in ["localhost", "localhost", "127.0.0.1"] {
        let mut stream = server.connect(&client, name).await.unwrap();
        exchange(&mut stream).await.unwrap();
        assert!(stream.refusal().get().is_none());
        let tls = stream.get_ref().get_ref().1;
        assert_eq!(tls.alpn_protocol(), Some(b"h2".as_slice()));
        assert_eq!(format!("{:?}", tls.protocol_version().unwrap()), "TLSv1_3");
        // Not a session of before, whose certificates would not be checked again.
        assert_eq!(format!("{:?}", tls.handshake_kind().unwrap()), "Full");
        let names = server.next_end().await.unwrap();
        assert_eq!(names, ["a.example", "spiffe://example/a"]);
    }
}

#[tokio::test]
async fn a_client_with_an_allowed_name_connects() {
    for allowed in ["a.example", "A.Example", "127.0.0.7", "spiffe://example/a"] {
        let scene = Scene::new();
        let server = scene.server(&["other.example", allowed]).await;
        let client = scene.client(&["a.example", "127.0.0.7", "spiffe://example/a"]);
        let mut stream = server.connect(&client, "localhost").await.unwrap();
        exchange(&mut stream).await.unwrap_or_else(|error| panic!("{allowed}: {error}"));
    }
}

#[tokio::test]
async fn whole_chains_are_sent_and_several_authorities_trusted() {
    let scene = Scene::new();
    let between = scene.authority.under("an authority between");
    let server_files = {
        let mut issued = between.server(&["localhost"]);
        issued.chain += &between.pem();
        scene.directory.write("server", &issued, &Authority::named("another"))
    };
    let both = Authority::named("another").pem() + &scene.authority.pem();
    std::fs::write(&server_files.authorities, both).unwrap();
    let tls = ServerTls::new(server_files, Vec::new()).unwrap();
    let server = Server::start(tls).await;
    let mut issued = between.client(&["a.example"]);
    issued.chain += &between.pem();
    let files = scene.directory.write("client", &issued, &scene.authority);
    let client = ClientTls::new(files).unwrap();
    let mut stream = server.connect(&client, "localhost").await.unwrap();
    exchange(&mut stream).await.unwrap();
}
