//! A proxy that holds up what it forwards, as a long and bad line does, and cuts it or becomes another
//! line when told.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// One in so many pieces is lost, and sent again after a while.
const LOST: u64 = 40;

/// How many pieces a long line holds, and a slow one.
const LONG_HOLDS: usize = 1024;
const SLOW_HOLDS: usize = 16;

type Told = watch::Receiver<Line>;

/// What a line is like.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line {
    /// How many milliseconds after its arrival each byte is forwarded.
    pub delay: u64,
    /// How many milliseconds later a lost piece comes, and all that is behind it.
    pub stall: u64,
    /// How many bytes it carries in a millisecond. `None` if as many as the machine forwards.
    pub rate: Option<u64>,
}

impl Line {
    pub fn words(self) -> [String; 3] {
        [self.delay, self.stall, self.rate.unwrap_or(0)].map(|number| number.to_string())
    }

    pub fn parse([delay, stall, rate]: [&str; 3]) -> Self {
        let [delay, stall, rate] = [delay, stall, rate].map(|word| word.parse().unwrap());
        Self { delay, stall, rate: (rate > 0).then_some(rate) }
    }
}

/// Forwards what comes, as the line does. The standard input says `cut`, which ends all connections, or what
/// the line is like from then on.
pub fn run(listen: &str, to: &str, line: Line) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await.unwrap();
        let (cut, _) = broadcast::channel::<()>(1);
        let (tell, told_line) = watch::channel(line);
        println!("listens");
        let serve = async {
            loop {
                let Ok((caller, _)) = listener.accept().await else { continue };
                let (to, mut cut, line) = (to.to_owned(), cut.subscribe(), told_line.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        _ = connection(caller, &to, line) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        };
        let told = async {
            let mut lines = BufReader::new(tokio::io::stdin()).lines();
            while let Ok(Some(text)) = lines.next_line().await {
                let words: Vec<_> = text.split(' ').collect();
                match *words.as_slice() {
                    ["line", delay, stall, rate] => {
                        tell.send_replace(Line::parse([delay, stall, rate]));
                    }
                    // There may be no connection.
                    _ => drop(cut.send(())),
                }
            }
        };
        tokio::select! {
            () = serve => {}
            () = told => {}
        }
    });
    std::process::exit(0);
}

async fn connection(caller: TcpStream, to: &str, line: Told) -> io::Result<()> {
    let gateway = TcpStream::connect(to).await?;
    _ = (caller.set_nodelay(true), gateway.set_nodelay(true));
    let (from_caller, to_caller) = caller.into_split();
    let (from_gateway, to_gateway) = gateway.into_split();
    tokio::try_join!(
        forward(from_caller, to_gateway, line.clone()),
        forward(from_gateway, to_caller, line),
    )?;
    Ok(())
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, told: Told) -> io::Result<()> {
    let (send, mut on_the_way) = mpsc::channel::<(Instant, Vec<u8>)>(LONG_HOLDS);
    let read = async {
        let (mut due, mut free) = (Instant::now(), Instant::now());
        loop {
            let mut piece = vec![0; 4096];
            let count = from.read(&mut piece).await?;
            if count == 0 {
                drop(send);
                return Ok(());
            }
            piece.truncate(count);
            let line = *told.borrow();
            let [delay, stall] = [line.delay, line.stall].map(Duration::from_millis);
            while line.rate.is_some() && LONG_HOLDS - send.capacity() >= SLOW_HOLDS {
                sleep(Duration::from_millis(1)).await;
            }
            if let Some(rate) = line.rate {
                let lasts = Duration::from_micros(1000 * u64::try_from(count).unwrap() / rate);
                free = free.max(Instant::now()) + lasts;
                sleep_until(free).await;
            }
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
