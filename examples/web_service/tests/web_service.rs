//! Runs the service and talks to it over plain sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The service; killed if a test fails.
struct Service {
    process: Child,
    address: String,
}

impl Service {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_web-service"));
        let command = command.arg("127.0.0.1:0").stdout(Stdio::piped());
        let mut process = command.spawn().expect("the service");
        let mut line = String::new();
        let mut output = BufReader::new(process.stdout.as_mut().expect("its output"));
        output.read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on ").expect("an address").to_owned();
        Self { process, address }
    }

    /// Sends a request; the connection is for one.
    fn send(&self, request: &str, body: &str) -> TcpStream {
        let mut client = TcpStream::connect(&self.address).expect("a connection");
        client.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let len = body.len();
        let head = format!("{request} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
        write!(client, "{head}content-length: {len}\r\n\r\n{body}").expect("a request");
        client
    }

    /// Sends a request and returns the status and the body.
    fn ask(&self, request: &str, body: &str) -> (u16, String) {
        let mut response = String::new();
        self.send(request, body).read_to_string(&mut response).expect("a response");
        let (head, body) = response.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        (status, body.to_owned())
    }

    /// Waits until `/metrics` has this series with this value: how soon a worker is told that a
    /// client has left depends on the machine.
    fn wait_for(&self, series: &str, value: u32) {
        let start = Instant::now();
        loop {
            let (status, metrics) = self.ask("GET /metrics", "");
            assert_eq!(status, 200);
            if metrics.lines().any(|line| line == format!("{series} {value}")) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{series} {value}: {metrics}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn wait_until_one_is_cancelled(&self, kind: &str) {
        let labels = format!(r#"role="texts",kind="{kind}",outcome="cancelled""#);
        self.wait_for(&format!("slipring_requests_total{{{labels}}}"), 1);
    }

    /// Ends it as an operator does, and returns the rest of what it prints.
    fn terminate(mut self) -> String {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        assert!(self.process.wait().expect("its end").success());
        let mut rest = String::new();
        let mut output = self.process.stdout.take().expect("its output");
        output.read_to_string(&mut rest).expect("text");
        rest
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_client_that_leaves_ends_its_request_in_the_worker() {
    let service = Service::start();
    assert_eq!(service.ask("POST /length", "hello"), (200, "5".to_owned()));

    // A call whose client leaves before the reply.
    let slow = service.send("POST /slow", "a question whose answer is not read");
    std::thread::sleep(Duration::from_millis(200));
    drop(slow);
    service.wait_until_one_is_cancelled("slow_length");

    // A stream whose client leaves after some chunks.
    let mut story = service.send("GET /story", "");
    let mut begun = [0; 400];
    story.read_exact(&mut begun).expect("the beginning");
    assert!(String::from_utf8_lossy(&begun).contains("and then "));
    drop(story);
    service.wait_until_one_is_cancelled("story");

    // The others are not affected.
    assert_eq!(service.ask("POST /length", "still there"), (200, "11".to_owned()));

    // A client that stays does not hold the service's end up.
    let mut story = service.send("GET /story", "");
    story.read_exact(&mut begun).expect("the beginning");
    let rest = service.terminate();
    assert!(rest.contains("all workers have ended"), "{rest}");
}

#[test]
fn a_worker_that_crashes_is_replaced() {
    let service = Service::start();
    assert_eq!(service.ask("POST /length", "hello"), (200, "5".to_owned()));
    let (status, error) = service.ask("GET /crash", "");
    assert_eq!(status, 502, "{error}");
    assert!(error.contains("SIGABRT"), "{error}");
    assert_eq!(service.ask("POST /length", "still there"), (200, "11".to_owned()));
    service.wait_for(r#"slipring_worker_losses_total{role="texts",while="serving"}"#, 1);
    let (status, health) = service.ask("GET /health", "");
    assert_eq!(status, 200, "{health}");
    service.terminate();
}

#[test]
fn a_client_too_many_is_told_when_to_come_back() {
    let service = Service::start();
    // More than may wait and be served at a time.
    let clients: Vec<_> = (0..120).map(|_| service.send("POST /slow", "wait")).collect();
    let start = Instant::now();
    let refused = loop {
        let mut client = service.send("POST /slow", "one more");
        client.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let mut answer = String::new();
        if client.read_to_string(&mut answer).is_ok() {
            break answer;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "no request was refused");
    };
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    assert!(refused.to_lowercase().contains("\r\nretry-after: "), "{refused}");
    drop(clients);
    assert_eq!(service.ask("POST /length", "hello"), (200, "5".to_owned()));
    service.terminate();
}
