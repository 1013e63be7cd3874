//! Callers that know the `.proto` alone.

use slipring_gateway::proto::{self, request};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use crate::rig::*;

async fn client(rig: &Rig) -> Grpc<Channel> {
    let channel = Channel::from_shared(format!("http://{}", rig.address)).unwrap();
    let mut client = Grpc::new(channel.connect().await.unwrap());
    client.ready().await.unwrap();
    client
}

fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(method)
}

fn asked(kind: &str, payload: &[u8]) -> proto::Request {
    proto::Request {
        role: "echo".into(),
        kind: Some(request::Kind::Name(kind.into())),
        payload: payload.to_vec().into(),
        ..proto::Request::default()
    }
}

#[tokio::test]
async fn a_caller_of_another_library_calls_and_reads_streams() {
    let rig = Rig::start(|gateway| gateway).await;
    let mut client = client(&rig).await;
    for len in [5, 200_000] {
        let payload = vec![3; len];
        let request = Request::new(asked("echo", &payload));
        let codec = ProstCodec::<_, proto::Reply>::default();
        let reply = client.unary(request, path("/slipring.v1.Workers/Call"), codec).await.unwrap();
        let reply = reply.into_inner();
        assert!(reply.payload == payload && !reply.more, "a reply is one message");
        client.ready().await.unwrap();
    }
    let request = Request::new(asked("chunks", &[4; 2_500]));
    let codec = ProstCodec::<_, proto::Chunk>::default();
    let stream = client.server_streaming(request, path("/slipring.v1.Workers/Stream"), codec);
    let mut stream = stream.await.unwrap().into_inner();
    for len in [1_000, 1_000, 500] {
        assert_eq!(stream.message().await.unwrap().unwrap().payload, vec![4; len]);
    }
    assert!(stream.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_caller_of_another_library_gets_a_status_that_says_what_happened() {
    let rig = Rig::start(|gateway| gateway).await;
    let mut client = client(&rig).await;
    let nothing = proto::Request { role: "echo".into(), ..proto::Request::default() };
    let failing = asked("fail", b"");
    let nowhere = proto::Request { role: "none".into(), ..asked("echo", b"") };
    for (request, code, text) in [
        (nothing, Code::InvalidArgument, "the request has no kind"),
        (failing, Code::Unknown, "out of luck"),
        (nowhere, Code::InvalidArgument, "no role \"none\""),
    ] {
        let codec = ProstCodec::<_, proto::Reply>::default();
        let path = path("/slipring.v1.Workers/Call");
        let status = client.unary(Request::new(request), path, codec).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
        client.ready().await.unwrap();
    }
    let codec = ProstCodec::<proto::Request, proto::Reply>::default();
    let path = path("/slipring.v1.Workers/Other");
    let status = client.unary(Request::new(asked("echo", b"")), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn health_and_reflection_answer() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let rig = Rig::start(|gateway| gateway).await;
    let channel = Channel::from_shared(format!("http://{}", rig.address)).unwrap();
    let channel = channel.connect().await.unwrap();
    for service in ["", "slipring.v1.Workers"] {
        let request = HealthCheckRequest { service: service.into() };
        let answer = HealthClient::new(channel.clone()).check(request).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let requests = one_and_open(request);
    let mut answers = reflection.server_reflection_info(requests).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    assert!(list.service.iter().any(|service| service.name == "slipring.v1.Workers"));
}

#[tokio::test]
async fn health_says_whether_requests_are_taken() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use slipring::pool::{Pool, Role};
    use slipring::{Config, RoleConfig, testing, worker::Worker};
    use slipring_gateway::server::Gateway;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};
    use tonic_health::pb::health_client::HealthClient;

    let starts = Arc::new(AtomicBool::new(false));
    let start = Arc::clone(&starts);
    let role = Role::with_channels(move |_| match start.load(Ordering::SeqCst) {
        true => testing::spawn_thread(&Config::small(), RoleConfig::default(), || {
            Worker::new(|_| Ok(()))
        }),
        false => slipring::Spawner::program("/no/such/worker").spawn(),
    });
    let pause = Duration::from_millis(1);
    let role = role.max_failures(1, LONG).backoff(pause, pause, LONG);
    let pool = Pool::builder().role("embed", role).build().unwrap();
    let gateway = Gateway::builder();
    let gateway = gateway.role(Arc::new(pool.role("embed").unwrap().to_async())).build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = gateway.clone();
    let served = tokio::spawn(async move { serving.serve(listener).await });

    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    let client = HealthClient::new(channel.connect().await.unwrap());
    let asked = |service: &str| HealthCheckRequest { service: service.into() };
    let services = ["slipring.v1.Workers", "embed"];
    let mut watching = Vec::new();
    for service in services {
        let told = client.clone().watch(asked(service)).await.unwrap();
        watching.push(told.into_inner());
    }
    // Workers fail to start, then one starts, and then there is none again.
    for status in [NotServing, Serving, NotServing] {
        for told in &mut watching {
            let changes =
                async { while told.message().await.unwrap().unwrap().status() != status {} };
            tokio::time::timeout(LONG, changes).await.unwrap();
        }
        for service in services {
            let answer = client.clone().check(asked(service)).await.unwrap();
            assert_eq!(answer.into_inner().status(), status, "{service}");
        }
        // The program can be called all the same.
        let answer = client.clone().check(asked("")).await.unwrap();
        assert_eq!(answer.into_inner().status(), Serving);
        starts.store(true, Ordering::SeqCst);
        if status == Serving {
            pool.close(LONG).unwrap();
        }
    }
    let refused = client.clone().check(asked("nothing")).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    gateway.drain();
    for told in &mut watching {
        assert!(told.message().await.unwrap().is_none(), "the gateway is over");
    }
    served.await.unwrap().unwrap();
}

/// A stream of one message, which stays open.
fn one_and_open<T: Send + 'static>(
    message: T,
) -> impl futures_core::Stream<Item = T> + Send + 'static {
    struct Once<T>(Option<T>);
    impl<T> Unpin for Once<T> {}
    impl<T> futures_core::Stream for Once<T> {
        type Item = T;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<T>> {
            match self.0.take() {
                Some(message) => std::task::Poll::Ready(Some(message)),
                None => std::task::Poll::Pending,
            }
        }
    }
    Once(Some(message))
}
