//! What is known of a request that its gateway ends without a status: a peer made of bare HTTP/2 does
//! what a gateway may do.

use h2::Reason;
use h2::server::{Connection as Peer, SendResponse};
use slipring::backend::BackendRequest;
use slipring::backend::Progress;
use slipring::{ErrorKind, RequestStage};
use slipring_gateway::Limits;
use slipring_gateway::client::Connection;
use tokio::net::{TcpListener, TcpStream};

use crate::rig::*;

/// Has a peer end a request in some way. Returns what its caller knows.
async fn known_after(
    end: impl FnOnce(&mut Peer<TcpStream, bytes::Bytes>, SendResponse<bytes::Bytes>, Progress),
) -> (ErrorKind, Option<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = Connection::connect(listener.local_addr().unwrap(), Limits::default(), LONG);
    let request = BackendRequest::new(ECHO, "request");
    let progress = request.progress();
    let peer = async {
        let mut peer = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
        let (_request, respond) = peer.accept().await.unwrap().unwrap();
        end(&mut peer, respond, progress);
        // The rest of the connection.
        while peer.accept().await.is_some() {}
    };
    let call = async {
        let connection = connect.await.unwrap();
        let called = connection.call("echo", request, LONG).await;
        connection.close();
        called.unwrap_err()
    };
    let (error, ()) = tokio::join!(call, async {
        let _ = tokio::time::timeout(LONG, peer).await;
    });
    (error.kind(), error.was_begun())
}

fn headers() -> http::Response<()> {
    http::Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

#[tokio::test]
async fn a_request_that_is_refused_was_not_begun() {
    let known = known_after(|_, mut respond, _| respond.send_reset(Reason::REFUSED_STREAM)).await;
    assert_eq!(known, (ErrorKind::Disconnected, Some(false)));
}

#[tokio::test]
async fn nothing_is_known_of_a_request_that_is_reset_for_another_reason() {
    for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::ENHANCE_YOUR_CALM] {
        let known = known_after(|_, mut respond, _| respond.send_reset(reason)).await;
        assert_eq!(known, (ErrorKind::Disconnected, None), "{reason}");
    }
}

#[tokio::test]
async fn a_request_that_is_reset_after_its_headers_was_begun() {
    let known = known_after(|_, mut respond, progress| {
        let mut stream = respond.send_response(headers(), false).unwrap();
        tokio::spawn(async move {
            // What was not sent yet would be dropped.
            until(|| progress.stage() == Some(RequestStage::Begun)).await;
            stream.send_reset(Reason::REFUSED_STREAM);
        });
    });
    assert_eq!(known.await, (ErrorKind::Disconnected, Some(true)));
}

#[tokio::test]
async fn an_answer_without_a_status_is_no_answer() {
    let known = known_after(|_, mut respond, _| {
        let mut stream = respond.send_response(headers(), false).unwrap();
        // A whole reply with no bytes.
        stream.send_data(bytes::Bytes::from_static(&[0; 5]), true).unwrap();
    });
    assert_eq!(known.await, (ErrorKind::Protocol, Some(true)));
}

#[tokio::test]
async fn nothing_is_known_of_a_request_that_was_seen_before_the_connection_is_closed() {
    let known = known_after(|peer, _respond, _| peer.abrupt_shutdown(Reason::INTERNAL_ERROR)).await;
    assert_eq!(known, (ErrorKind::Disconnected, None));
}
