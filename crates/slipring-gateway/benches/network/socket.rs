//! A bare socket, with or without TLS: lengths and bytes, and nothing else.

use std::net::SocketAddr;

use slipring_gateway::tls::{ClientTls, ExpectedName, PemFiles, ServerTls};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpStream};

use crate::echo::{Order, pattern, set_number};
use crate::server::NAME;

/// What a message is.
const ECHO: u8 = 0;
const CHUNKS: u8 = 1;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Short messages are written together, and long ones from where they lie.
type Line = BufStream<Box<dyn Stream>>;

pub async fn serve(listener: TcpListener, tls: Option<PemFiles>) {
    let tls = tls.map(|files| ServerTls::new(files, Vec::new()).unwrap());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let tls = tls.clone();
        tokio::spawn(async move {
            let line: Box<dyn Stream> = match tls {
                None => Box::new(stream),
                Some(tls) => Box::new(tls.accept(stream).await.unwrap()),
            };
            answer(BufStream::with_capacity(16 << 10, 16 << 10, line)).await;
        });
    }
}

async fn answer(mut line: Line) {
    let mut bytes = Vec::new();
    // Until the client ends.
    while let Some(kind) = receive(&mut line, &mut bytes).await {
        if kind == ECHO {
            send(&mut line, ECHO, &bytes).await;
        } else {
            let order = Order::of(&bytes);
            let mut chunk = pattern(order.len, 0);
            for number in 0..order.count {
                set_number(&mut chunk, 0, number);
                send(&mut line, CHUNKS, &chunk).await;
            }
        }
        line.flush().await.unwrap();
    }
}

async fn send(line: &mut Line, kind: u8, bytes: &[u8]) {
    let mut head = [kind, 0, 0, 0, 0];
    head[1..].copy_from_slice(&(bytes.len() as u32).to_be_bytes());
    line.write_all_buf(&mut bytes::Buf::chain(&head[..], bytes)).await.unwrap();
}

/// Returns the kind of the message; `None` if there are no more.
async fn receive(line: &mut Line, bytes: &mut Vec<u8>) -> Option<u8> {
    let kind = line.read_u8().await.ok()?;
    let len = line.read_u32().await.unwrap();
    bytes.resize(len as usize, 0);
    line.read_exact(bytes).await.unwrap();
    Some(kind)
}

pub struct Client {
    line: Line,
    received: Vec<u8>,
}

impl Client {
    pub async fn connect(address: SocketAddr, tls: Option<&PemFiles>) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let line: Box<dyn Stream> = match tls {
            None => Box::new(stream),
            Some(files) => {
                let tls = ClientTls::new(files.clone()).unwrap();
                let name = ExpectedName::new(NAME).unwrap();
                Box::new(tls.connect(&name, stream).await.unwrap())
            }
        };
        let line = BufStream::with_capacity(16 << 10, 16 << 10, line);
        Self { line, received: Vec::new() }
    }

    async fn ask(&mut self, kind: u8, bytes: &[u8]) {
        send(&mut self.line, kind, bytes).await;
        self.line.flush().await.unwrap();
    }

    pub async fn call(&mut self, payload: &[u8]) -> &[u8] {
        self.ask(ECHO, payload).await;
        receive(&mut self.line, &mut self.received).await.unwrap();
        &self.received
    }

    pub async fn stream(&mut self, order: Order, mut each: impl FnMut(&[u8])) {
        self.ask(CHUNKS, &order.to_bytes()).await;
        for _ in 0..order.count {
            receive(&mut self.line, &mut self.received).await.unwrap();
            each(&self.received);
        }
    }
}
