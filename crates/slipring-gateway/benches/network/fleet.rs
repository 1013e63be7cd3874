//! 1 to 8 gateways, each on a host of its own with one worker, and one host that calls them all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slipring::Kind;
use slipring::backend::{Backend as _, BackendRequest};
use slipring_gateway::{Discovery, RemoteRole};
use tokio::task::JoinSet;

use crate::client::LONG;
use crate::echo::{NAP, SIGN, SLOW_SIGN, WORKER, number, pattern, set_number};
use crate::figures::{median, spread};
use crate::plan::Plan;

/// How many of the gateways are called.
const COUNTS: [usize; 4] = [1, 2, 4, 8];
/// How many callers there are for each gateway: one whose request is served, one whose is on its way.
const CALLERS: usize = 2;

/// How many calls each gateway has served in one slice, and how long it took.
struct Slice {
    served: Vec<u64>,
    took: Duration,
}

impl Slice {
    async fn measure(role: &RemoteRole, gateways: usize, kind: Kind, longest: Duration) -> Self {
        let (began, mut callers) = (Instant::now(), JoinSet::new());
        for caller in 0..gateways * CALLERS {
            let role = role.clone();
            callers.spawn(async move {
                let mut served = vec![0; gateways];
                let mut payload = pattern(64, caller as u64);
                while began.elapsed() < longest {
                    let request = BackendRequest::new(kind, payload.clone());
                    let reply = role.call(request, LONG).await.unwrap().to_vec();
                    let host = number(&reply, 1);
                    set_number(&mut payload, 1, host);
                    assert!(reply == payload, "another reply than was asked for");
                    served[host as usize] += 1;
                }
                served
            });
        }
        let mut served = vec![0; gateways];
        while let Some(of_one) = callers.join_next().await {
            for (all, one) in served.iter_mut().zip(of_one.unwrap()) {
                *all += one;
            }
        }
        Self { served, took: began.elapsed() }
    }

    fn rate(&self) -> f64 {
        self.served.iter().sum::<u64>() as f64 / self.took.as_secs_f64()
    }

    /// The least and the most that one gateway has served, of the mean.
    fn shares(&self) -> (f64, f64) {
        let mean = self.served.iter().sum::<u64>() as f64 / self.served.len() as f64;
        let of_mean = |count: Option<&u64>| *count.unwrap() as f64 / mean;
        (of_mean(self.served.iter().min()), of_mean(self.served.iter().max()))
    }
}

pub async fn run(gateways: &[SocketAddr], plan: &Plan) {
    let mut roles = Vec::new();
    for count in COUNTS {
        let list = Discovery::list(gateways[..count].iter().map(ToString::to_string));
        let builder = RemoteRole::builder(WORKER, list);
        let role = builder.slow_start(Duration::from_millis(1)).build().unwrap();
        let all_ready = async {
            while role.load().places < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, all_ready).await.expect("the gateways are never ready");
        roles.push(Arc::new(role));
    }
    let longest = Duration::from_millis(if plan.is_trial { 20 } else { 300 });
    println!(
        "\n| 64 B, {CALLERS} callers for each gateway | gateways | calls/s | to one gateway \
         | least and most served, of the mean |\n|---|---|---|---|---|"
    );
    for (name, kind) in [(format!("handler sleeps {NAP:?}"), SLOW_SIGN), ("echo".into(), SIGN)] {
        let mut slices = [const { Vec::<Slice>::new() }; COUNTS.len()];
        // The first round warms up.
        for round in 0..=plan.rounds.min(9) {
            for (at, role) in roles.iter().enumerate() {
                let slice = Slice::measure(role, COUNTS[at], kind, longest).await;
                if round > 0 {
                    slices[at].push(slice);
                }
            }
        }
        for (at, count) in COUNTS.into_iter().enumerate() {
            let of_count = &slices[at];
            let pairs = of_count.iter().zip(&slices[0]);
            let least = median(of_count.iter().map(|slice| slice.shares().0).collect());
            let most = median(of_count.iter().map(|slice| slice.shares().1).collect());
            println!(
                "| {name} | {count} | {:.0} | {} | {least:.2}, {most:.2} |",
                median(of_count.iter().map(Slice::rate).collect()),
                spread(pairs.map(|(one, other)| one.rate() / other.rate()).collect()),
            );
        }
    }
}
