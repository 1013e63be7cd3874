//! A process of the program, and a connection to it.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use slipring::backend::{Backend, BackendRequest, BoxFuture};
use slipring::{Kind, Reply, Result};
use slipring_gateway::{Discovery, RemoteRole, RemoteRoleBuilder};

use crate::LONG;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_slipring-gateway");

/// A gateway that serves the role `echo`. It is killed when this is dropped.
pub(crate) struct Gateway {
    pub(crate) process: Child,
    pub(crate) address: SocketAddr,
    runtime: tokio::runtime::Runtime,
    pub(crate) role: RemoteRole,
}

impl Gateway {
    /// Starts it with these options, and waits until it listens. Its worker is this test.
    pub(crate) fn start(options: &[&str]) -> Self {
        let worker = std::env::current_exe().unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(["--role", "echo", "--listen", "127.0.0.1:0"]).args(options).arg("--");
        Self::run(command.arg(worker), "echo")
    }

    /// Waits until it listens, and connects a role to it.
    pub(crate) fn run(command: &mut Command, role: &str) -> Self {
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(address) = line.strip_prefix("listening on ") else {
            panic!("{line:?} {:?}", process.wait_with_output());
        };
        let address = address.trim().parse().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let list = Discovery::list([format!("{address}")]);
        let role = RemoteRole::builder(role, list).runtime(runtime.handle().clone());
        let role = role.build().unwrap();
        Self { process, address, runtime, role }
    }

    /// Connects one more role `echo` to it.
    pub(crate) fn connect(
        &self,
        describe: impl FnOnce(RemoteRoleBuilder) -> RemoteRoleBuilder,
    ) -> RemoteRole {
        let role = RemoteRole::builder("echo", Discovery::list([self.address.to_string()]));
        describe(role.runtime(self.runtime.handle().clone())).build().unwrap()
    }

    pub(crate) fn call(&self, kind: Kind, payload: &str) -> Result<Reply> {
        self.call_by(&self.role, kind, payload)
    }

    pub(crate) fn call_by(&self, role: &RemoteRole, kind: Kind, payload: &str) -> Result<Reply> {
        let request = BackendRequest::new(kind, payload.to_owned());
        self.runtime.block_on(role.call(request, LONG))
    }

    /// Sends a request that is waited for later.
    pub(crate) fn submit(&self, kind: Kind, payload: &str) -> BoxFuture<'static, Result<Reply>> {
        self.role.submit(BackendRequest::new(kind, payload.to_owned()), LONG)
    }

    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(task)
    }

    pub(crate) fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.args(["-s", name, &self.process.id().to_string()]);
        assert!(kill.status().unwrap().success());
    }

    /// Waits for its end, and returns the exit code and what it has said.
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                let mut text = String::new();
                self.process.stderr.take().unwrap().read_to_string(&mut text).unwrap();
                return (status.code(), text);
            }
            assert!(begun.elapsed() < LONG, "it does not end");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// Runs the program to its end. Its worker is this test, unless the arguments name one.
pub(crate) fn run(args: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(args);
    if !args.contains(&"--") {
        command.arg("--").arg(std::env::current_exe().unwrap());
    }
    command.output().unwrap()
}

/// A directory of a test.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("program-{name}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn until_exists(file: &str) {
    let begun = Instant::now();
    while !Path::new(file).exists() {
        assert!(begun.elapsed() < LONG, "{file} does not come");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
