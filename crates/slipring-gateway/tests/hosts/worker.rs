//! A worker that writes down what it begins and what it ends.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::thread::sleep;
use std::time::Duration;

use slipring::Kind;
use slipring::worker::Worker;

/// Answers with the request's number, the execution and the host. The number is the first word of the
/// request.
pub const CALL: Kind = Kind::named("call");
/// The same, in [`CHUNKS`] chunks with their numbers, and a filling as long as the second word says.
pub const STREAM: Kind = Kind::named("stream");
pub const CHUNKS: usize = 30;

/// Where the workers of a gateway write, and the name of their host.
pub const LOG: &str = "HOSTS_LOG";
pub const HOST: &str = "HOSTS_HOST";

struct Journal {
    log: File,
    host: String,
    executions: u64,
}

impl Journal {
    /// Notes that a request is begun. Returns what to answer with.
    fn begin(&mut self, number: &str) -> String {
        self.executions += 1;
        let execution = format!("{}.{}", std::process::id(), self.executions);
        self.write("begin", number, &execution);
        format!("{number} {} {execution}", self.host)
    }

    /// One short write at the end of the file, so that lines of several workers do not mix.
    fn write(&mut self, what: &str, number: &str, execution: &str) {
        let line = format!("{what} {} {number} {execution}\n", crate::lines::now());
        self.log.write_all(line.as_bytes()).unwrap();
    }

    fn end(&mut self, number: &str) {
        let execution = format!("{}.{}", std::process::id(), self.executions);
        self.write("end", number, &execution);
    }
}

pub fn serve() {
    let worker = Worker::new(|_| {
        let log = OpenOptions::new().append(true).open(std::env::var_os(LOG).unwrap())?;
        Ok(Journal { log, host: std::env::var(HOST)?, executions: 0 })
    });
    let worker = worker.on(CALL, |journal, request, responder| {
        let text = request.text()?;
        let number = text.split(' ').next().unwrap();
        let answer = journal.begin(number);
        sleep(Duration::from_millis(3));
        let done = responder.send(&answer);
        journal.end(number);
        Ok(done?)
    });
    let worker = worker.on(STREAM, |journal, request, responder| {
        let text = request.text()?;
        let (number, filling) = text.split_once(' ').unwrap();
        let answer = journal.begin(number);
        let mut stream = responder.stream();
        let filling = "x".repeat(filling.parse().unwrap());
        let sent = (0..CHUNKS).try_for_each(|chunk| {
            sleep(Duration::from_millis(8));
            stream.send(&format!("{answer} {chunk} {filling}"))
        });
        let done = sent.and_then(|()| stream.end());
        journal.end(number);
        Ok(done?)
    });
    worker.serve().unwrap();
}
