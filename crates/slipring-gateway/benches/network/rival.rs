//! Bare tonic, as a program would use it: its own client and server with their defaults, and a codec
//! for bytes as they are.

use std::convert::Infallible;
use std::future::{Ready as Done, ready};
use std::net::SocketAddr;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use slipring_gateway::tls::PemFiles;
use tokio::net::TcpListener;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::server::{ServerTlsConfig, TcpIncoming};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity, Server};
use tonic::{Request, Response, Status};

use crate::echo::{Chunks, Ready};
use crate::server::NAME;

const CALL: &str = "/bench.Echo/Call";
const STREAM: &str = "/bench.Echo/Stream";

/// Payloads are messages as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A service, as tonic's generated code would be.
#[derive(Clone)]
struct Echo;

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl tonic::server::UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = Done<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

type Streamed = Ready<std::iter::Map<Chunks, fn(Bytes) -> Result<Bytes, Status>>>;

impl tonic::server::ServerStreamingService<Bytes> for Echo {
    type Response = Bytes;
    type ResponseStream = Streamed;
    type Future = Done<Result<Response<Streamed>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let chunks = Chunks::of(&request.into_inner());
        ready(Ok(Response::new(Ready(chunks.map(Ok as fn(_) -> _)))))
    }
}

impl Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Raw);
            Ok(match request.uri().path() {
                CALL => grpc.unary(Self, request).await,
                _ => grpc.server_streaming(Self, request).await,
            })
        })
    }
}

fn identity(files: &PemFiles) -> (Identity, Certificate) {
    let read = |path| std::fs::read(path).unwrap();
    let identity = Identity::from_pem(read(&files.chain), read(&files.key));
    (identity, Certificate::from_pem(read(&files.authorities)))
}

pub async fn serve(listener: TcpListener, tls: Option<PemFiles>) {
    let mut server = Server::builder();
    if let Some(files) = tls {
        let (identity, authority) = identity(&files);
        let tls = ServerTlsConfig::new().identity(identity).client_ca_root(authority);
        server = server.tls_config(tls).unwrap();
    }
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    server.add_service(Echo).serve_with_incoming(incoming).await.unwrap();
}

pub struct Client(tonic::client::Grpc<Channel>);

impl Client {
    pub async fn connect(address: SocketAddr, tls: Option<&PemFiles>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut channel = Channel::from_shared(format!("{scheme}://{address}")).unwrap();
        if let Some(files) = tls {
            let (identity, authority) = identity(files);
            let tls = ClientTlsConfig::new().identity(identity).ca_certificate(authority);
            channel = channel.tls_config(tls.domain_name(NAME)).unwrap();
        }
        Self(tonic::client::Grpc::new(channel.tcp_nodelay(true).connect().await.unwrap()))
    }

    pub async fn call(&mut self, payload: Vec<u8>) -> Bytes {
        self.0.ready().await.unwrap();
        let request = Request::new(Bytes::from(payload));
        let reply = self.0.unary(request, PathAndQuery::from_static(CALL), Raw).await;
        reply.unwrap().into_inner()
    }

    pub async fn stream(&mut self, order: Vec<u8>, mut each: impl FnMut(&[u8])) {
        self.0.ready().await.unwrap();
        let request = Request::new(Bytes::from(order));
        let path = PathAndQuery::from_static(STREAM);
        let chunks = self.0.server_streaming(request, path, Raw).await;
        let mut chunks = chunks.unwrap().into_inner();
        while let Some(chunk) = chunks.message().await.unwrap() {
            each(&chunk);
        }
    }
}
