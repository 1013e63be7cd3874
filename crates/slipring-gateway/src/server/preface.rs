//! The first bytes of a connection of HTTP/2, read before a connection gets a place.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection whose first bytes were read, and are read again by the next reader.
#[derive(Debug)]
pub(super) struct Greeted<T> {
    io: T,
    again: &'static [u8],
}

/// Reads the preface.
///
/// # Errors
///
/// `InvalidData` if the other side does not speak HTTP/2.
pub(super) async fn greet<T: AsyncRead + Unpin>(mut io: T) -> io::Result<Greeted<T>> {
    let mut read = [0; PREFACE.len()];
    io.read_exact(&mut read).await?;
    if read != *PREFACE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a connection of HTTP/2"));
    }
    Ok(Greeted { io, again: PREFACE })
}

impl<T: AsyncRead + Unpin> AsyncRead for Greeted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.again.is_empty() {
            return Pin::new(&mut self.io).poll_read(context, out);
        }
        let taken = self.again.len().min(out.remaining());
        let (now, _) = self.again.split_at(taken);
        out.put_slice(now);
        self.again.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Greeted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
