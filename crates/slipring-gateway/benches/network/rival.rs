//! Bare tonic, as a program would use it: its own client and server, with their defaults or with a
//! gateway's settings, and a codec for bytes as they are.

use std::convert::Infallible;
use std::future::{Ready as Done, ready};
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use slipring_gateway::tls::PemFiles;
use tokio::net::TcpListener;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::tokio_stream::StreamExt as _;
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::server::{ServerTlsConfig, TcpIncoming};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server};
use tonic::{Request, Response, Status};

use crate::echo::{Chunks, Ready};
use crate::limits::{Limits, MAX_FRAME};
use crate::read_ahead::{Accepted, Connector};
use crate::server::NAME;

/// How its client and server are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settings {
    /// By their defaults, which are hyper's.
    Own,
    /// As a gateway and a `RemoteRole` set theirs. Not those of which tonic has none: how many bytes a
    /// server keeps to be sent, and whether it sends the date. Nor those for peers that break rules.
    OfGateway,
}

/// Passes only if something hangs. Gateways know by other means that a peer is gone.
const NEVER: Duration = Duration::from_secs(3600);

impl Settings {
    fn server(self) -> Server {
        let (server, limits) = (Server::builder(), Limits::default());
        match self {
            Self::Own => server,
            Self::OfGateway => server
                .initial_stream_window_size(limits.window)
                .initial_connection_window_size(limits.connection_window())
                .max_concurrent_streams(limits.max_streams)
                .http2_max_header_list_size(limits.max_headers)
                .max_frame_size(MAX_FRAME)
                .http2_keepalive_interval(Some(limits.keep_alive_interval))
                .http2_keepalive_timeout(Some(NEVER)),
        }
    }

    fn client(self, endpoint: Endpoint) -> Endpoint {
        let limits = Limits::default();
        match self {
            Self::Own => endpoint,
            Self::OfGateway => endpoint
                .initial_stream_window_size(limits.window)
                .initial_connection_window_size(limits.connection_window())
                .http2_max_header_list_size(limits.max_headers)
                .max_frame_size(MAX_FRAME)
                .http2_keep_alive_interval(limits.keep_alive_interval)
                .keep_alive_timeout(NEVER)
                .keep_alive_while_idle(true),
        }
    }
}

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

pub async fn serve(listener: TcpListener, tls: Option<PemFiles>, settings: Settings) {
    let mut server = settings.server();
    let reads_ahead = tls.is_some() && settings == Settings::OfGateway;
    if let Some(files) = tls {
        let (identity, authority) = identity(&files);
        let tls = ServerTlsConfig::new().identity(identity).client_ca_root(authority);
        server = server.tls_config(tls).unwrap();
    }
    let server = server.add_service(Echo);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let ended = match reads_ahead {
        false => server.serve_with_incoming(incoming).await,
        true => {
            let incoming = incoming.map(|stream| stream.map(Accepted::new));
            server.serve_with_incoming(incoming).await
        }
    };
    ended.unwrap();
}

/// Its clones share one connection.
#[derive(Clone)]
pub struct Client(tonic::client::Grpc<Channel>);

impl Client {
    pub async fn connect(address: SocketAddr, tls: Option<&PemFiles>, settings: Settings) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = Channel::from_shared(format!("{scheme}://{address}")).unwrap();
        let mut endpoint = settings.client(endpoint.tcp_nodelay(true));
        if let Some(files) = tls {
            let (identity, authority) = identity(files);
            let tls = ClientTlsConfig::new().identity(identity).ca_certificate(authority);
            endpoint = endpoint.tls_config(tls.domain_name(NAME)).unwrap();
        }
        let channel = match (tls, settings) {
            (Some(_), Settings::OfGateway) => endpoint.connect_with_connector(Connector).await,
            _ => endpoint.connect().await,
        };
        Self(tonic::client::Grpc::new(channel.unwrap()))
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
