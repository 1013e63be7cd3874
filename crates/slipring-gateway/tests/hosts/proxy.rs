//! A proxy that holds up what it forwards, as a long and bad line does, and cuts it when told.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep_until};

/// One in so many pieces is lost, and sent again after a while.
const LOST: u64 = 40;

/// Forwards each byte after `delay` milliseconds. A lost piece comes `stall` milliseconds later, and
/// all that is behind it. Each line of the standard input cuts all connections.
pub fn run(listen: &str, to: &str, delay: u64, stall: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let [delay, stall] = [delay, stall].map(Duration::from_millis);
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await.unwrap();
        let (cut, _) = broadcast::channel::<()>(1);
        println!("listens");
        let serve = async {
            loop {
                let Ok((caller, _)) = listener.accept().await else { continue };
                let (to, mut cut) = (to.to_owned(), cut.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        _ = connection(caller, &to, delay, stall) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        };
        let told = async {
            let mut lines = BufReader::new(tokio::io::stdin()).lines();
            while let Ok(Some(_)) = lines.next_line().await {
                // There may be no connection.
                _ = cut.send(());
            }
        };
        tokio::select! {
            () = serve => {}
            () = told => {}
        }
    });
    std::process::exit(0);
}

async fn connection(
    caller: TcpStream,
    to: &str,
    delay: Duration,
    stall: Duration,
) -> io::Result<()> {
    let gateway = TcpStream::connect(to).await?;
    _ = (caller.set_nodelay(true), gateway.set_nodelay(true));
    let (from_caller, to_caller) = caller.into_split();
    let (from_gateway, to_gateway) = gateway.into_split();
    tokio::try_join!(
        forward(from_caller, to_gateway, delay, stall),
        forward(from_gateway, to_caller, delay, stall),
    )?;
    Ok(())
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    delay: Duration,
    stall: Duration,
) -> io::Result<()> {
    // As much as a long line holds.
    let (send, mut on_the_way) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let read = async {
        let mut due = Instant::now();
        loop {
            let mut piece = vec![0; 4096];
            let count = from.read(&mut piece).await?;
            if count == 0 {
                drop(send);
                return Ok(());
            }
            piece.truncate(count);
            let lost = crate::lines::now().is_multiple_of(LOST);
            due = due.max(Instant::now() + delay + if lost { stall } else { Duration::ZERO });
            if send.send((due, piece)).await.is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    };
    let write = async {
        while let Some((due, piece)) = on_the_way.recv().await {
            sleep_until(due).await;
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write)?;
    Ok(())
}
