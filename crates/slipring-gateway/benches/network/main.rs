//! Calls and streams between two processes, over the loopback interface and between two hosts: a bare
//! socket, bare tonic as it is and as the gateway is set, and gateways, one after another in each round.
//! The same for several callers at once. Then a fleet of gateways.
//!
//! `cargo bench -p slipring-gateway --bench network -- [loopback|veth|fleet] [plain|tls]
//! [calls|streams|load] [anywhere] [ROUNDS]`
//!
//! The hosts are network namespaces. The program is everything that runs on them. Client and servers each
//! have half of the processors, but for the fleet, and unless `anywhere` is asked for: where two processes
//! run decides more than what they do.

#![expect(unreachable_pub, reason = "modules of one program")]

mod client;
mod echo;
mod figures;
mod fleet;
mod hosts;
#[expect(dead_code, reason = "a gateway uses more of them")]
#[path = "../../src/wire/limits.rs"]
mod limits;
#[expect(dead_code, reason = "the tests cut their lines, too")]
#[path = "../../tests/hosts/net.rs"]
mod net;
mod plan;
mod read_ahead;
mod rival;
mod server;
mod socket;

use std::future::Future;
use std::path::Path;

use figures::Figures;
use hosts::{Certificates, GATEWAYS, Hosts, LOOPBACK, Process, Processors};
use plan::{Plan, Table};
use server::Addresses;

fn main() {
    if slipring::worker::is_worker() {
        return echo::serve_as_worker();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["run-server", ip, certificates] => {
            let (ip, certificates) = (ip.parse().unwrap(), Path::new(certificates).to_owned());
            block_on(async move { server::run(ip, &certificates).await });
        }
        ["run-gateway", address] => block_on(server::run_one(address.parse().unwrap())),
        ["run-client", table, place, ip, ports, certificates, words @ ..] => {
            let table = Table::named(table);
            let at = Addresses::parse(ports, ip.parse().unwrap());
            let plan = Plan::parse(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
            let (place, directory) = ((*place).to_owned(), Path::new(certificates).to_owned());
            block_on(async move {
                for (name, tls, at) in
                    [("plain", None, at[0]), ("tls", Some(directory.as_path()), at[1])]
                {
                    if plan.has(name) {
                        client::run(table, &place, at, tls, &plan).await;
                    }
                }
            });
        }
        ["run-callers", gateways, words @ ..] => {
            let gateways: Vec<_> = gateways.split(',').map(|it| it.parse().unwrap()).collect();
            let plan = Plan::parse(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
            block_on(async move { fleet::run(&gateways, &plan).await });
        }
        _ => measure(&arguments),
    }
}

/// Runs a task on a runtime of two threads, as a program would have it.
fn block_on(task: impl Future<Output = ()> + Send + 'static) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(runtime.spawn(task)).unwrap();
}

fn measure(arguments: &[String]) {
    let plan = Plan::parse(arguments);
    let hosts = Hosts::new();
    figures::print_machine();
    let certificates = Certificates::make();
    let sides = match plan.asks_for("anywhere") {
        true => [Processors::ALL, Processors::ALL],
        false => Processors::halves(),
    };
    let first = hosts.as_ref().ok().map(|_| hosts::CALLER);
    let mut places = vec![
        Place { name: "loopback", hosts: [first, first], ip: LOOPBACK },
        Place { name: "veth", hosts: [first, Some(GATEWAYS[0])], ip: hosts::PAIR },
    ];
    places.retain(|place| plan.has(place.name) && (place.name != "veth" || hosts.is_ok()));
    for table in Table::ALL {
        if places.is_empty() || plan.works(table).is_empty() {
            continue;
        }
        Figures::print_head(table);
        for place in &places {
            place.measure(table, &sides, &certificates, arguments);
        }
    }
    match hosts {
        Ok(hosts) if plan.has("fleet") => fleet_of(&hosts, arguments),
        Ok(_) => {}
        Err(reason) => println!("veth and fleet SKIPPED: no namespaces here: {reason}"),
    }
}

/// Where the client and the servers are, and the servers' address.
struct Place {
    name: &'static str,
    hosts: [Option<&'static str>; 2],
    ip: &'static str,
}

impl Place {
    /// Starts the servers on one host, and their clients on another.
    fn measure(
        &self,
        table: Table,
        [its, of_servers]: &[Processors; 2],
        certificates: &Certificates,
        arguments: &[String],
    ) {
        let ([caller, server], directory) = (self.hosts, certificates.directory());
        let words = ["run-server", self.ip, directory];
        let mut servers = Process::start(server, of_servers, "0", &words);
        let ports = servers.line();
        let mut words = vec!["run-client", table.name(), self.name, self.ip, &ports, directory];
        words.extend(arguments.iter().map(String::as_str));
        Process::run(caller, its, &words);
        servers.end();
    }
}

fn fleet_of(hosts: &Hosts, arguments: &[String]) {
    let mut gateways = Vec::new();
    let mut addresses = Vec::new();
    for (number, host) in GATEWAYS.into_iter().enumerate() {
        let address = format!("{}:7411", hosts.address(host));
        let words = ["run-gateway", &address];
        let mut gateway = Process::start(Some(host), &Processors::ALL, &number.to_string(), &words);
        assert_eq!(gateway.line(), "listens");
        gateways.push(gateway);
        addresses.push(address);
    }
    let addresses = addresses.join(",");
    let mut words = vec!["run-callers", addresses.as_str()];
    words.extend(arguments.iter().map(String::as_str));
    Process::run(Some(hosts::CALLER), &Processors::ALL, &words);
    gateways.iter_mut().for_each(Process::end);
}
