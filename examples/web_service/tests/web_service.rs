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

    fn wait_until_cancelled(&self, count: &str) {
        let start = Instant::now();
        loop {
            let (_, cancelled) = self.ask("GET /cancelled", "");
            if cancelled == count {
                return;
            }
            // Fails only if the worker is never told: how soon it is, depends on the machine.
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "{cancelled} cancelled, not {count}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
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
    let mut service = Service::start();
    assert_eq!(service.ask("POST /length", "hello"), (200, "5".to_owned()));

    // A call whose client leaves before the reply.
    let slow = service.send("POST /slow", "a question whose answer is not read");
    std::thread::sleep(Duration::from_millis(200));
    drop(slow);
    service.wait_until_cancelled("1");

    // A stream whose client leaves after some chunks.
    let mut story = service.send("GET /story", "");
    let mut begun = [0; 400];
    story.read_exact(&mut begun).expect("the beginning");
    assert!(String::from_utf8_lossy(&begun).contains("and then "));
    drop(story);
    service.wait_until_cancelled("2");

    // The others are not affected.
    assert_eq!(service.ask("POST /length", "still there"), (200, "11".to_owned()));

    let pid = service.process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
    assert!(service.process.wait().expect("its end").success());
    let mut rest = String::new();
    service.process.stdout.take().expect("its output").read_to_string(&mut rest).expect("a line");
    assert!(rest.contains("the worker exited with code 0"), "{rest}");
}
