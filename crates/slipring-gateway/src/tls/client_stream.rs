//! A client's connection that remembers why the server refused it.
//!
//! The server's alert comes after the client's handshake is complete, so a read fails in the
//! middle of HTTP/2, which keeps the text of an error only.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::handshake_error::{HandshakeError, tls_error};

/// A client's connection over TLS.
#[derive(Debug)]
pub struct ClientStream<S> {
    inner: TlsStream<S>,
    refusal: Refusal,
}

/// Why the server has refused a connection, once it has. Outlives the connection.
#[derive(Debug, Clone, Default)]
pub struct Refusal(Arc<OnceLock<HandshakeError>>);

impl Refusal {
    /// Returns the server's reason, or `None` if the server has not refused the connection.
    pub fn get(&self) -> Option<&HandshakeError> {
        self.0.get()
    }
}

impl<S> ClientStream<S> {
    pub(crate) fn new(inner: TlsStream<S>) -> Self {
        Self { inner, refusal: Refusal::default() }
    }

    /// Returns a handle that tells why the server has refused this connection, after a read or a
    /// write has failed.
    pub fn refusal(&self) -> Refusal {
        self.refusal.clone()
    }

    /// Returns the connection and the state of TLS.
    pub fn get_ref(&self) -> &TlsStream<S> {
        &self.inner
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Some(error) = result.as_ref().err().and_then(tls_error) {
            self.refusal.0.get_or_init(|| error.clone().into());
        }
        result.map_err(in_plain_words)
    }
}

/// A process that was killed does not end TLS properly. The text of rustls for that is for programmers.
fn in_plain_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the other side hung up"),
        _ => error,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.inner).poll_read(context, buffer));
        Poll::Ready(self.note(result))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.inner).poll_write(context, bytes));
        Poll::Ready(self.note(result))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.inner).poll_write_vectored(context, pieces));
        Poll::Ready(self.note(result))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.inner).poll_flush(context));
        Poll::Ready(self.note(result))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.inner).poll_shutdown(context));
        Poll::Ready(self.note(result))
    }
}
