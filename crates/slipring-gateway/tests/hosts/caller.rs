//! A caller that sends requests all the time, and tells how each ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use slipring::backend::{Backend as _, BackendRequest, BoxChunks};
use slipring::{Error, Reply, StreamTimeouts};
use slipring_gateway::tls::{ClientTls, PemFiles};
use slipring_gateway::{Discovery, RemoteRole};

use crate::lines::{Asked, say};
use crate::trial::{CERTS, ROLE};
use crate::worker::{CALL, CHUNKS, STREAM};

/// Longer than any fault: a request that waits so long hangs.
const LONG: Duration = Duration::from_secs(60);

/// What its requests are like.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// How many bytes a chunk has, at least.
    pub chunk: usize,
    /// How many bytes the request of a call has, at least.
    pub request: usize,
}

impl Load {
    pub const SMALL: Self = Self { chunk: 2_000, request: 0 };

    pub fn words(self) -> [String; 2] {
        [self.chunk, self.request].map(|number| number.to_string())
    }

    pub fn parse(words: [&str; 2]) -> Self {
        let [chunk, request] = words.map(|word| word.parse().unwrap());
        Self { chunk, request }
    }
}

/// Sends requests with numbers from `first`, until its standard input ends.
pub fn run(first: u64, load: Load, gateways: &[&str]) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap();
    let gateways = Discovery::list(gateways.iter().copied());
    let is_over = Arc::new(AtomicBool::new(false));
    let input = Arc::clone(&is_over);
    std::thread::spawn(move || {
        _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        input.store(true, Ordering::SeqCst);
    });
    runtime.block_on(async {
        let mut role = RemoteRole::builder(ROLE, gateways);
        if let Some(certs) = std::env::var_os(CERTS) {
            let file = |name| std::path::Path::new(&certs).join(name);
            let (chain, key) = (file("client.pem"), file("client-key.pem"));
            let files = PemFiles { chain, key, authorities: file("ca.pem") };
            role = role.tls(ClientTls::new(files).unwrap());
        }
        let role = role.build().unwrap();
        tokio::spawn(tell_states(role.clone()));
        let next = Arc::new(AtomicU64::new(first));
        let each = [Asked::Chunks, Asked::Once, Asked::Chunks, Asked::Again];
        let all = each.into_iter().cycle().take(12);
        let tasks: Vec<_> = all
            .map(|asked| {
                let (role, next, is_over) = (role.clone(), next.clone(), is_over.clone());
                tokio::spawn(async move {
                    while !is_over.load(Ordering::SeqCst) {
                        ask(&role, asked, next.fetch_add(1, Ordering::SeqCst), load).await;
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        say("end", "");
    });
    std::process::exit(0);
}

/// Tells what each gateway is used for, when that changes.
async fn tell_states(role: RemoteRole) {
    let mut told = std::collections::HashMap::new();
    loop {
        for gateway in role.gateways() {
            if told.insert(gateway.address.clone(), gateway.state) != Some(gateway.state) {
                say("state", &format!("{} {}", gateway.address, gateway.state));
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Sends one request, and tells how it ends.
async fn ask(role: &RemoteRole, asked: Asked, number: u64, load: Load) {
    say("sent", &format!("{number} {}", asked.word()));
    let answer = match asked {
        Asked::Once | Asked::Again => {
            let request = format!("{number} {}", "x".repeat(load.request));
            let request = BackendRequest::new(CALL, request);
            role.call(request.idempotent(asked == Asked::Again), LONG)
                .await
                .and_then(|it| it.text())
        }
        Asked::Chunks => stream(role, number, load.chunk).await,
    };
    match answer {
        Ok(answer) => {
            let rest = answer.strip_prefix(&format!("{number} "));
            match rest {
                Some(rest) => say("answered", &format!("{number} {rest}")),
                None => say("wrong", &format!("{number} is answered by {answer}")),
            }
        }
        Err(error) => {
            let was_begun = match error.was_begun() {
                Some(true) => "begun",
                Some(false) => "unbegun",
                None => "unknown",
            };
            let (kind, error) = (error.kind(), format!("{error:#}"));
            say("failed", &format!("{number} {kind:?} {was_begun} {error}"));
        }
    }
}

async fn next(chunks: &mut BoxChunks) -> Option<Result<Reply, Error>> {
    std::future::poll_fn(|context| chunks.as_mut().poll_next(context)).await
}

/// Returns what all chunks have in common. Their order, and that none is missing, is seen here.
async fn stream(role: &RemoteRole, number: u64, chunk: usize) -> Result<String, Error> {
    let timeouts = StreamTimeouts::new().queue(LONG).chunk(LONG).total(LONG);
    let request = BackendRequest::new(STREAM, format!("{number} {chunk}"));
    let mut chunks = role.stream(request, timeouts).await?;
    let (mut count, mut common) = (0, String::new());
    while let Some(chunk) = next(&mut chunks).await {
        let text = chunk?.text()?;
        let (answer, _filling) = text.rsplit_once(' ').unwrap_or_default();
        let (answer, chunk) = answer.rsplit_once(' ').unwrap_or_default();
        if count == 0 {
            common = answer.to_owned();
            say("first", common.rsplit_once(' ').unwrap_or_default().0);
        }
        if (answer, chunk) != (&common, &count.to_string()) {
            say("wrong", &format!("chunk {chunk} of {answer} as chunk {count} of {common}"));
        }
        count += 1;
    }
    if count != CHUNKS {
        say("wrong", &format!("{common} has ended well after {count} chunks"));
    }
    Ok(common)
}
