//! Connections of tonic that read long parts from the system below TLS, as a gateway's do. Tonic has no
//! setting for that, but takes connections that are made elsewhere.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// As many bytes as a gateway reads at once.
const READ_AHEAD: usize = 64 << 10;

fn read_ahead(stream: TcpStream) -> BufReader<TcpStream> {
    BufReader::with_capacity(READ_AHEAD, stream)
}

/// Connects a client to the address of its endpoint.
pub struct Connector;

impl Service<Uri> for Connector {
    type Response = TokioIo<BufReader<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<Self::Response, io::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let stream = TcpStream::connect(uri.authority().unwrap().as_str()).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(read_ahead(stream)))
        })
    }
}

/// A connection that a server has accepted.
pub struct Accepted(BufReader<TcpStream>);

impl Accepted {
    pub fn new(stream: TcpStream) -> Self {
        Self(read_ahead(stream))
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut BufReader<TcpStream>> {
        Pin::new(&mut self.get_mut().0)
    }
}

impl Connected for Accepted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.0.get_ref().connect_info()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, out)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
