//! Whether the other side of a connection is there.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::yield_now;
use tokio::time::timeout;

/// How many bytes have come.
#[derive(Clone, Default)]
pub(super) struct Heard(Arc<AtomicU64>);

impl Heard {
    /// Counts what comes on this.
    pub(super) fn on<T>(&self, io: T) -> Counted<T> {
        Counted { io, heard: self.clone() }
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits for an answer, and for as long as other bytes come: on a slow line it comes behind those.
    /// `None` if nothing has come for so long.
    pub(super) async fn answer<F: Future>(
        &self,
        answer: F,
        longest: Duration,
    ) -> Option<F::Output> {
        let mut answer = pin!(answer);
        let mut heard = self.count();
        loop {
            if let Ok(answer) = timeout(longest, answer.as_mut()).await {
                return Some(answer);
            }
            // This program may have been held up: what has come in the meantime is read first.
            yield_now().await;
            let before = std::mem::replace(&mut heard, self.count());
            if heard == before {
                return None;
            }
        }
    }
}

/// A stream of bytes that counts those that come.
pub(super) struct Counted<T> {
    io: T,
    heard: Heard,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.io).poll_read(context, buffer);
        let count = buffer.filled().len().saturating_sub(before);
        self.heard.0.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::{Instant, sleep};

    use super::*;

    const LONGEST: Duration = Duration::from_millis(500);

    #[tokio::test(start_paused = true)]
    async fn an_answer_behind_other_bytes_is_waited_for() {
        let (heard, began) = (Heard::default(), Instant::now());
        let (near, mut far) = duplex(1);
        let mut near = heard.on(near);
        let slow_line = async {
            for _ in 0..4 {
                sleep(Duration::from_millis(400)).await;
                far.write_all(b"x").await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let read = async {
            let mut bytes = [0; 4];
            near.read_exact(&mut bytes).await.unwrap();
            std::future::pending::<()>().await;
        };
        let late = async {
            heard.answer(sleep(4 * LONGEST), LONGEST).await.unwrap();
            assert_eq!(began.elapsed(), 4 * LONGEST);
            heard.answer(std::future::pending::<()>(), LONGEST).await
        };
        tokio::select! {
            () = slow_line => {}
            () = read => {}
            answer = late => assert_eq!(answer, None),
        }
        assert_eq!(began.elapsed(), 5 * LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_came_while_the_program_was_held_up_count() {
        let heard = Heard::default();
        let (near, mut far) = duplex(1);
        let mut near = heard.on(near);
        far.write_all(b"x").await.unwrap();
        let read_late = async {
            sleep(LONGEST).await;
            near.read_u8().await.unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            // The time is looked at before the bytes, as it may happen.
            biased;
            answer = heard.answer(sleep(LONGEST * 3 / 2), LONGEST) => assert!(answer.is_some()),
            () = read_late => {}
        }
    }
}
