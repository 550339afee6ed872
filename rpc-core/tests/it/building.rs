//! What is said to a builder is done, in whatever order it is said, or building fails.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::client::{CallObserver, FinishedCall};
use rpc_core::compat::RouterService;
use rpc_core::health::{CHECK, Health, HealthCheckRequest};
use rpc_core::server::{
    Router, ServerBuilder, ServerCall, ServerInterceptor, ServerNext, ServerReply, Service,
};
use rpc_core::{Channel, ClientTls, Code, Codec, Method, Request, Response, Server, ServerTls};
use rpc_core::{SocketConnector, Status};
use tower_service::Service as _;

const A: Method<Bytes, Bytes> = Method::unary("/it.A/Echo", Codec::raw(), Codec::raw());
const B: Method<Bytes, Bytes> = Method::unary("/it.B/Echo", Codec::raw(), Codec::raw());
const NOWHERE: Method<Bytes, Bytes> = Method::unary("/it.C/Echo", Codec::raw(), Codec::raw());

fn service(name: &'static str, method: &Method<Bytes, Bytes>) -> Service {
    Service::new(name).unary(method, &Arc::new(()), |_, request: Request<Bytes>| async {
        Ok(Response::new(request.into_inner()))
    })
}

fn a() -> Service {
    service("it.A", &A)
}

fn b() -> Service {
    service("it.B", &B)
}

/// Lets those in who have this field.
struct Needs(&'static str);

impl ServerInterceptor for Needs {
    async fn intercept(
        &self,
        call: ServerCall,
        next: ServerNext<'_>,
    ) -> Result<ServerReply, Status> {
        if call.metadata().get(self.0).is_none() {
            return Err(Status::unauthenticated(self.0));
        }
        next.run(call).await
    }
}

fn request<T>(message: T, fields: &[&str]) -> Request<T> {
    let mut request = Request::new(message);
    for field in fields {
        request.metadata_mut().insert(field, "yes").unwrap();
    }
    request
}

/// What a call without these fields, or with them, comes to.
async fn code(channel: &Channel, method: &Method<Bytes, Bytes>, fields: &[&str]) -> Code {
    let called = channel.unary(method, request(Bytes::new(), fields)).await;
    called.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl CallObserver for Seen {
    fn call_finished(&self, call: &FinishedCall<'_>) {
        self.0
            .lock()
            .unwrap()
            .push(format!("{} {}", call.path, call.code));
    }
}

/// All orders of so many things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let Some(last) = count.checked_sub(1) else {
        return vec![Vec::new()];
    };
    let places = |order: Vec<usize>| {
        (0..count).map(move |place| {
            let mut longer = order.clone();
            longer.insert(place, last);
            longer
        })
    };
    orders(last).into_iter().flat_map(places).collect()
}

#[tokio::test]
async fn nothing_is_lost_by_the_order_of_calls() {
    let orders = orders(5);
    assert_eq!(orders.len(), 120);
    for order in orders {
        let health = Health::new();
        let server = order
            .iter()
            .fold(Server::builder(), |server, what| match what {
                0 => server.interceptor(Needs("x-server")),
                1 => server.health(health.clone()),
                2 => server.router(
                    Router::new()
                        .add_service(a())
                        .interceptor(Needs("x-router")),
                ),
                3 => server.add_service(b()),
                _ => server.router(Router::new().fallback(|call| async move {
                    call.responses.finish(Err(Status::aborted("fallback")))
                })),
            });
        let channel = Channel::in_process(server).unwrap();
        let check = async |fields: &[&str]| {
            let check = request(HealthCheckRequest::default(), fields);
            channel
                .unary(&CHECK, check)
                .await
                .map(drop)
                .map_err(|status| status.code())
        };
        assert_eq!(check(&[]).await, Err(Code::Unauthenticated), "{order:?}");
        assert_eq!(check(&["x-server"]).await, Ok(()), "{order:?}");
        for (method, fields, expected) in [
            (&A, &[][..], Code::Unauthenticated),
            (&A, &["x-server"], Code::Unauthenticated),
            (&A, &["x-router"], Code::Unauthenticated),
            (&A, &["x-server", "x-router"], Code::Ok),
            (&B, &["x-router"], Code::Unauthenticated),
            (&B, &["x-server"], Code::Ok),
            (&NOWHERE, &[], Code::Unauthenticated),
            (&NOWHERE, &["x-server"], Code::Aborted),
        ] {
            assert_eq!(
                code(&channel, method, fields).await,
                expected,
                "{order:?}: {fields:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_interceptor_around_one_service_leaves_the_others_alone() {
    for intercepted in [
        a().interceptor(Needs("x-service")),
        Service::new("it.A").interceptor(Needs("x-service")).unary(
            &A,
            &Arc::new(()),
            |_, request: Request<Bytes>| async { Ok(Response::new(request.into_inner())) },
        ),
    ] {
        let router = Router::new().add_service(intercepted).add_service(b());
        let channel = Channel::in_process(router).unwrap();
        assert_eq!(code(&channel, &A, &[]).await, Code::Unauthenticated);
        assert_eq!(code(&channel, &A, &["x-service"]).await, Code::Ok);
        assert_eq!(code(&channel, &B, &[]).await, Code::Ok);
    }
}

/// What each way to serve says about a server that cannot be built.
async fn refusals(server: impl Fn() -> ServerBuilder) -> Vec<String> {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    vec![
        server().bind("127.0.0.1:0").await.unwrap_err().to_string(),
        server().listener(socket).unwrap_err().to_string(),
        server().into_router_service().unwrap_err().to_string(),
        Channel::in_process(server())
            .unwrap_err()
            .message()
            .to_owned(),
    ]
}

#[tokio::test]
async fn what_was_given_twice_is_an_error_that_names_it() {
    let health = Health::new();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = ServerTls::from_pem(key.cert.pem(), key.signing_key.serialize_pem()).unwrap();
    let services = || Server::builder().add_service(a()).add_service(b());
    let cases: [(&str, &dyn Fn() -> ServerBuilder); 5] = [
        ("the service it.A was added twice", &|| {
            services().add_service(a())
        }),
        ("the service it.A was added twice", &|| {
            services().router(Router::new().add_service(a()))
        }),
        ("the service it.B was added twice", &|| {
            Server::builder()
                .router(Router::new().add_service(b()))
                .add_service(b())
        }),
        ("the service grpc.health.v1.Health was added twice", &|| {
            services().health(health.clone()).health(Health::new())
        }),
        ("TLS was given twice", &|| {
            services().tls(tls.clone()).tls(tls.clone())
        }),
    ];
    for (expected, server) in cases {
        for refusal in refusals(server).await {
            assert_eq!(refusal, format!("building the server failed: {expected}"));
        }
    }
}

#[tokio::test]
async fn what_a_channel_cannot_be_is_an_error() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = || ClientTls::from_root_pem(key.cert.pem()).unwrap();
    let plain = "http://127.0.0.1:1";
    for (built, expected) in [
        (
            Channel::builder().tls(tls()).lazy(plain),
            "the target \"http://127.0.0.1:1\" says plaintext and the channel has TLS; write https://, or leave the TLS away",
        ),
        (
            Channel::builder()
                .connector(SocketConnector::default())
                .in_process(Router::new()),
            "building a channel to \"http://in-process:1\": a connector was given twice",
        ),
        (
            Channel::builder()
                .tls(tls())
                .tls(tls())
                .lazy("https://127.0.0.1:1"),
            "building a channel to \"https://127.0.0.1:1\": TLS was given twice",
        ),
    ] {
        let status = built.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, expected)
        );
    }
}

#[tokio::test]
async fn a_channel_in_process_has_the_settings_of_a_server_and_of_a_channel() {
    let (theirs, ours) = (Seen::default(), Seen::default());
    let server = Server::builder()
        .add_service(a())
        .max_receive_message_size(100)
        .observer(theirs.clone())
        .interceptor(Needs("x-server"));
    let channel = Channel::builder()
        .max_receive_message_size(10)
        .observer(ours.clone())
        .in_process(server)
        .unwrap();
    let call = async |size: usize, fields: &[&str]| {
        let call = request(Bytes::from(vec![0; size]), fields);
        channel
            .unary(&A, call)
            .await
            .map(drop)
            .map_err(|status| status.code())
    };
    assert_eq!(call(1, &[]).await, Err(Code::Unauthenticated));
    assert_eq!(call(10, &["x-server"]).await, Ok(()));
    // The answer is too large for the channel, then the request for the server.
    assert_eq!(call(11, &["x-server"]).await, Err(Code::ResourceExhausted));
    assert_eq!(call(101, &["x-server"]).await, Err(Code::ResourceExhausted));
    let told = |seen: &Seen| seen.0.lock().unwrap().join(", ");
    let path = "/it.A/Echo";
    assert_eq!(
        told(&theirs),
        format!("{path} UNAUTHENTICATED, {path} OK, {path} OK, {path} RESOURCE_EXHAUSTED")
    );
    assert_eq!(
        told(&ours),
        format!(
            "{path} UNAUTHENTICATED, {path} OK, {path} RESOURCE_EXHAUSTED, {path} RESOURCE_EXHAUSTED"
        )
    );
}

/// A peer can make up as many paths as it likes, and a proxy repeats them.
#[tokio::test]
async fn observers_see_only_methods_that_the_program_knows() {
    let (theirs, ours) = (Seen::default(), Seen::default());
    for fallback in [false, true] {
        let mut router = Router::new().add_service(a());
        if fallback {
            router = router.fallback(|call| async move {
                call.responses.finish(Err(Status::aborted("fallback")))
            });
        }
        let server = Server::builder().router(router).observer(theirs.clone());
        let channel = Channel::builder()
            .observer(ours.clone())
            .in_process(server)
            .unwrap();
        for number in 0..3 {
            for path in [
                format!("/it.A/Made{number}"),
                format!("/it.Up{number}/Echo"),
            ] {
                let kind = rpc_core::MethodKind::Unary;
                let method = Method::dynamic(path, kind, Codec::raw(), Codec::raw());
                channel
                    .unary(&method, Request::new(Bytes::new()))
                    .await
                    .unwrap_err();
            }
        }
        channel.unary(&A, Request::new(Bytes::new())).await.unwrap();
        for seen in [&theirs, &ours] {
            let paths = std::mem::take(&mut *seen.0.lock().unwrap());
            let code = if fallback { "ABORTED" } else { "UNIMPLEMENTED" };
            let mut expected = vec![format!("other {code}"); 6];
            expected.push("/it.A/Echo OK".to_owned());
            assert_eq!(paths, expected);
        }
    }
    let mut service = Server::builder()
        .observer(theirs.clone())
        .into_router_service()
        .unwrap();
    assert_eq!(mounted(&mut service, 1).await, "12");
    assert_eq!(*theirs.0.lock().unwrap(), ["other UNIMPLEMENTED"]);
}

#[tokio::test]
async fn a_name_without_endpoints_and_what_cannot_be_reached_are_named() {
    let nobody = rpc_core::client::StaticResolver::new(Vec::new());
    let channel = Channel::builder()
        .resolver(Box::new(nobody), "dns:///nobody")
        .unwrap();
    let status = channel
        .unary(&A, Request::new(Bytes::new()))
        .await
        .unwrap_err();
    assert_eq!(
        status.to_string(),
        "UNAVAILABLE: the name resolves to no endpoint (method /it.A/Echo, target dns:///nobody)"
    );
    let status = channel.ready().await.unwrap_err();
    assert_eq!(
        status.to_string(),
        "UNAVAILABLE: the name resolves to no endpoint (target dns:///nobody)"
    );
}

#[tokio::test(start_paused = true)]
async fn a_channel_in_process_has_the_timeout_of_a_channel() {
    let waits = Service::new("it.A").unary(&A, &Arc::new(()), |_, _: Request<Bytes>| {
        std::future::pending::<Result<Response<Bytes>, Status>>()
    });
    let channel = Channel::builder()
        .timeout(Duration::from_secs(3))
        .in_process(Router::new().add_service(waits))
        .unwrap();
    assert_eq!(code(&channel, &A, &[]).await, Code::DeadlineExceeded);
}

/// Calls a mounted service and gives the status that it answers with.
async fn mounted(service: &mut RouterService, length: u8) -> String {
    let mut body = vec![0; 5 + usize::from(length)];
    body[4] = length;
    let request = http::Request::post("/it.A/Echo")
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .body(String::from_utf8(body).unwrap())
        .unwrap();
    let answered: Result<_, Infallible> = service.call(request).await;
    let status = answered.unwrap().headers().get("grpc-status").cloned();
    status.map_or_else(
        || "a message".to_owned(),
        |status| status.to_str().unwrap().to_owned(),
    )
}

#[tokio::test]
async fn a_mounted_service_has_the_settings_of_a_server() {
    let seen = Seen::default();
    let mut service = Server::builder()
        .add_service(a())
        .max_receive_message_size(10)
        .observer(seen.clone())
        .into_router_service()
        .unwrap();
    assert_eq!(mounted(&mut service, 10).await, "a message");
    assert_eq!(mounted(&mut service, 11).await, "8");
    let seen = seen.0.lock().unwrap().join(", ");
    assert_eq!(seen, "/it.A/Echo OK, /it.A/Echo RESOURCE_EXHAUSTED");
    // There is nobody to tell when it is made, so calls with two handlers are told.
    let mut twice = RouterService::from(Router::new().add_service(a()).add_service(a()));
    assert_eq!(mounted(&mut twice, 1).await, "13");
}
