//! The first bytes of a connection of HTTP/2, read before a connection gets a place.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, join, split};

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads the preface. The next reader reads it again.
///
/// # Errors
///
/// `InvalidData` if the other side does not speak HTTP/2.
pub(super) async fn greet<T: AsyncRead + AsyncWrite>(
    io: T,
) -> io::Result<impl AsyncRead + AsyncWrite> {
    let (mut reader, writer) = split(io);
    let mut read = [0; PREFACE.len()];
    reader.read_exact(&mut read).await?;
    if read != *PREFACE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a connection of HTTP/2"));
    }
    Ok(join(PREFACE.chain(reader), writer))
}
