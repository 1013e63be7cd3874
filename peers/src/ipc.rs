//! ipc-channel: bytes over Unix sockets, with fragments for long messages.

use std::io;
use std::process::Stdio;

use ipc_channel::ipc::{
    IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender, bytes_channel,
};
use slipring_bench::end::{End, put_stamp};
use slipring_bench::links::{EndSession, WorkerProcess};
use slipring_bench::work::Session;

use crate::failed;

struct Channels {
    sender: IpcBytesSender,
    receiver: IpcBytesReceiver,
    out: Vec<u8>,
}

impl End for Channels {
    fn send(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<()> {
        self.out.resize(len, 0);
        fill(&mut self.out);
        self.sender.send(&self.out)
    }

    fn send_copy(&mut self, source: &[u8], stamp: u64) -> io::Result<()> {
        self.out.clear();
        self.out.extend_from_slice(source);
        put_stamp(&mut self.out, stamp);
        self.sender.send(&self.out)
    }

    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> io::Result<R> {
        let message = self.receiver.recv().map_err(failed)?;
        Ok(read(&message))
    }
}

/// Messages of any length.
pub fn start() -> io::Result<Box<dyn Session>> {
    let (server, name) = IpcOneShotServer::<(IpcBytesSender, IpcBytesReceiver)>::new()?;
    let worker = WorkerProcess::start(&["ipc-channel", &name], Stdio::null(), Stdio::inherit())?;
    let (_, (sender, receiver)) = server.accept().map_err(failed)?;
    EndSession::begin(Channels { sender, receiver, out: Vec::new() }, worker)
}

/// The worker's side of [`start`].
pub fn serve(name: &str) -> io::Result<()> {
    let end = || {
        let (down, receiver) = bytes_channel()?;
        let (sender, up) = bytes_channel()?;
        IpcSender::connect(name.to_owned())?.send((down, up)).map_err(failed)?;
        Ok(Channels { sender, receiver, out: Vec::new() })
    };
    crate::serve(end())
}
