//! Connections by TCP.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::time::sleep;

/// After how long another attempt begins beside those that go on. Many systems ask again for
/// a connection after 1, 3 and 7 seconds: too late for a line that is whole again.
const NEXT: Duration = Duration::from_millis(600);

/// Connects, or goes on to try. Ends with the first attempt that ends.
pub(super) async fn dial(address: impl ToSocketAddrs + Clone) -> io::Result<TcpStream> {
    first_of(|| TcpStream::connect(address.clone())).await
}

/// Begins attempts one after another, until the first has ended.
async fn first_of<F: Future>(attempt: impl Fn() -> F) -> F::Output {
    let mut attempts: Vec<Pin<Box<F>>> = Vec::new();
    loop {
        attempts.push(Box::pin(attempt()));
        let ended = poll_fn(|context| {
            let mut polled = attempts.iter_mut().map(|attempt| attempt.as_mut().poll(context));
            polled.find(Poll::is_ready).unwrap_or(Poll::Pending)
        });
        tokio::select! {
            output = ended => return output,
            () = sleep(NEXT) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_hangs_does_not_keep_the_next_from_connecting() {
        let (began, attempts) = (Instant::now(), Cell::new(0));
        let connected = first_of(|| {
            let attempt = attempts.replace(attempts.get() + 1);
            async move {
                match attempt {
                    // The line is whole again when the third begins; the first has asked too early.
                    0 => sleep(Duration::from_secs(3)).await,
                    1 => std::future::pending().await,
                    _ => {}
                }
                attempt
            }
        });
        assert_eq!(connected.await, 2);
        assert_eq!(began.elapsed(), 2 * NEXT);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_takes_long_is_not_given_up() {
        let began = Instant::now();
        let slow = Duration::from_millis(1_500);
        first_of(|| sleep(slow)).await;
        assert_eq!(began.elapsed(), slow);
    }
}
