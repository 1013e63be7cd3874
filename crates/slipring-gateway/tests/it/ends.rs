//! Tasks end with what they are for.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_core::Stream as _;
use slipring::backend::{Backend as _, BackendRequest};
use slipring_gateway::server::Gateway;
use slipring_gateway::tls::{ClientTls, ServerTls};
use slipring_gateway::{Discovery, RemoteRole};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

use crate::rig::*;
use crate::tls::certs::{Authority, Directory};

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test]
async fn the_tasks_of_a_remote_role_end_with_it() {
    let rig = Rig::start(|gateway| gateway).await;
    // Has all that it makes once.
    drop(rig.connect().await);
    until(|| tasks() == 1).await;
    for _ in 0..3 {
        let gateways = Discovery::list([rig.address.to_string(), "127.0.0.1:1".into()]);
        let role = RemoteRole::builder("other", gateways).build().unwrap();
        role.call(BackendRequest::new(ECHO, "text"), LONG).await.unwrap();
        let flood = BackendRequest::new(FLOOD, vec![7; 100_000]);
        let mut stream = role.stream(flood, LONG.into()).await.unwrap();
        poll_fn(|context| Pin::new(&mut stream).poll_next(context)).await.unwrap().unwrap();
        let hangs = tokio::spawn(role.submit(BackendRequest::new(HANG, ""), LONG));
        role.abort();
        role.clear_abort();
        hangs.abort();
        drop((role, stream));
        until(|| tasks() == 1).await;
    }
}

#[tokio::test]
async fn the_tasks_of_a_gateway_end_with_it() {
    for drains in [true, false] {
        let rig = Rig::start(|gateway| gateway).await;
        let connection = rig.connect().await;
        let hang = BackendRequest::new(HANG, "");
        let call = tokio::spawn(connection.call("other", hang, LONG));
        until(|| rig.told.hangs_begun.load(Ordering::SeqCst) == 1).await;
        // One that says nothing.
        let mut silent = TcpStream::connect(rig.address).await.unwrap();
        silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let watching = connection.watch().await.unwrap();
        if drains {
            rig.gateway.drain();
            call.abort();
        } else {
            rig.served.abort();
        }
        until(|| rig.served.is_finished() && call.is_finished()).await;
        drop((connection, watching));
        until(|| tasks() == 0).await;
    }
}

#[tokio::test]
async fn certificate_files_are_looked_at_no_longer_than_they_are_used() {
    let (directory, authority) = (Directory::new(), Authority::new());
    let issued = authority.server(&["localhost"]);
    let server = directory.write("server", &issued, &authority);
    let client = directory.write("client", &authority.client(&["a.example"]), &authority);
    // These stay.
    let server = ServerTls::new(server, Vec::new()).unwrap();
    let client = ClientTls::new(client).unwrap();
    for _ in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateways = Discovery::list([listener.local_addr().unwrap().to_string()]);
        let role = RemoteRole::builder("echo", gateways).tls(client.clone()).build().unwrap();
        let gateway = Arc::new(Gateway::builder().build());
        let serves = {
            let (gateway, server) = (Arc::clone(&gateway), server.clone());
            tokio::spawn(async move { gateway.serve_tls(listener, server).await })
        };
        until(|| tasks() >= 4).await;
        drop(role);
        gateway.drain();
        serves.await.unwrap().unwrap();
    }
    until(|| tasks() == 0).await;
}
