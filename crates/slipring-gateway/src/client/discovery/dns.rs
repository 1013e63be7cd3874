//! Addresses from a name that is asked again.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::{Teller, Update};
use crate::client::address::Address;

pub(super) async fn follow(name: Address, period: Duration, tell: impl FnMut(Update)) {
    let asked = name.clone();
    let ask = move || {
        let name = asked.clone();
        async move {
            let found = tokio::net::lookup_host((name.host(), name.port())).await?;
            Ok(found.map(|address| address.ip()).collect())
        }
    };
    follow_answers(ask, name, period, tell).await;
}

/// Asks for addresses again and again.
pub(super) async fn follow_answers<F: Future<Output = io::Result<Vec<IpAddr>>>>(
    ask: impl Fn() -> F,
    name: Address,
    period: Duration,
    tell: impl FnMut(Update),
) {
    let mut teller = Teller::new(tell);
    loop {
        let update = match ask().await {
            Ok(found) if found.is_empty() => Err(format!("{} has no address", name.host())),
            Ok(found) => {
                let address = |ip| Address::found(ip, name.port(), name.name());
                Ok(found.into_iter().map(address).collect())
            }
            Err(error) => Err(format!("{}: {error}", name.host())),
        };
        teller.note(update);
        tokio::time::sleep(period).await;
    }
}
