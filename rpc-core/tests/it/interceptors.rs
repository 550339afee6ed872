//! Code around the calls of a server.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::client::FinishedCall;
use rpc_core::server::{Router, ServerCall, ServerInterceptor, ServerNext, ServerReply, Service};
use rpc_core::{Channel, Code, Codec, Method, Request, Response, Server, Status};
use rpc_testkit::proto::{Message, StreamRequest, TestClient, TestServer};
use rpc_testkit::{TestService, run};

const WHO: Method<Bytes, Bytes> = Method::unary("/it.Who/Ask", Codec::raw(), Codec::raw());

struct Caller(String);

/// Lets those in who say who they are.
struct Authentication;

impl ServerInterceptor for Authentication {
    async fn intercept(
        &self,
        mut call: ServerCall,
        next: ServerNext<'_>,
    ) -> Result<ServerReply, Status> {
        let Some(name) = call.metadata().get("x-name").map(ToOwned::to_owned) else {
            return Err(Status::unauthenticated(format!(
                "{} of {} needs a name",
                call.method(),
                call.service()
            )));
        };
        assert!(call.peer_addr().is_some());
        call.extensions_mut().insert(Caller(name));
        next.run(call).await
    }
}

/// Marks what passes, with the order.
struct Mark(&'static str, Arc<Mutex<Vec<String>>>);

impl ServerInterceptor for Mark {
    async fn intercept(
        &self,
        mut call: ServerCall,
        next: ServerNext<'_>,
    ) -> Result<ServerReply, Status> {
        let add = |what: &str| self.1.lock().unwrap().push(format!("{what} {}", self.0));
        add("into");
        call.response_metadata_mut()
            .append("x-mark", self.0)
            .map_err(|error| Status::internal(error.to_string()))?;
        let mut reply = next.run(call).await?;
        add("out of");
        reply
            .trailers_mut()
            .append("x-mark", self.0)
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(reply)
    }
}

/// Answers with the caller's name, as the interceptor has found it.
fn who() -> Service {
    Service::new("it.Who").unary(
        &WHO,
        &Arc::new(()),
        |_, request: Request<Bytes>| async move {
            let caller = request.extensions().get::<Caller>();
            let caller = caller.ok_or_else(|| Status::internal("nobody"))?;
            Ok(Response::new(Bytes::from(caller.0.clone())))
        },
    )
}

async fn channel(router: Router) -> Channel {
    let server = Server::builder()
        .router(router)
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    Channel::connect(&run(server).uri).await.unwrap()
}

fn test() -> TestServer {
    TestServer::new(TestService::default())
}

#[tokio::test]
async fn a_call_without_a_name_is_refused_before_it_is_decoded() {
    let router = Router::new()
        .add_service(test())
        .interceptor(Authentication);
    let channel = channel(router).await;
    let broken = Method::<Bytes, Bytes>::unary("/testkit.v1.Test/Echo", Codec::raw(), Codec::raw());
    let request = Request::new(Bytes::from_static(&[0xff]));
    let status = channel.unary(&broken, request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(status.message(), "Echo of testkit.v1.Test needs a name");
}

#[tokio::test]
async fn what_an_interceptor_finds_out_is_there_for_the_handler() {
    let channel = channel(Router::new().add_service(who()).interceptor(Authentication)).await;
    let mut request = Request::new(Bytes::new());
    request.metadata_mut().insert("x-name", "ada").unwrap();
    let answer = channel.unary(&WHO, request).await.unwrap();
    assert_eq!(answer.get_ref(), "ada");
}

#[tokio::test]
async fn the_first_is_the_outermost_and_all_kinds_are_marked() {
    let passed = Arc::new(Mutex::new(Vec::new()));
    let router = Router::new()
        .add_service(test())
        .interceptor(Mark("a", Arc::clone(&passed)))
        .interceptor(Mark("b", Arc::clone(&passed)));
    let test = TestClient::new(channel(router).await);
    let marks = |metadata: &rpc_core::Metadata| {
        metadata
            .get_all("x-mark")
            .map(ToOwned::to_owned)
            .collect::<Vec<_>>()
    };

    let answer = test.echo(Message::default()).await.unwrap();
    assert_eq!(marks(answer.metadata()), ["a", "b"]);
    assert_eq!(marks(answer.trailers()), ["b", "a"]);
    assert_eq!(
        *passed.lock().unwrap(),
        ["into a", "into b", "out of b", "out of a"]
    );

    let mut messages = test.server_stream(StreamRequest {
        count: 2,
        ..StreamRequest::default()
    });
    assert_eq!(marks(messages.headers().await.unwrap()), ["a", "b"]);
    while messages.recv().await.unwrap().is_some() {}
    assert_eq!(marks(messages.trailers().unwrap()), ["b", "a"]);

    let answer = test.client_stream(()).finish().await.unwrap();
    assert_eq!(marks(answer.metadata()), ["a", "b"]);

    let (out, mut back) = test.chat(());
    out.finish().await.unwrap();
    assert!(back.recv().await.unwrap().is_none());
    assert_eq!(marks(back.trailers().unwrap()), ["b", "a"]);
    assert_eq!(passed.lock().unwrap().len(), 16);
}

#[tokio::test]
async fn a_fallback_is_intercepted_and_an_unknown_method_is_not() {
    let passed = Arc::new(Mutex::new(Vec::new()));
    let mark = || Mark("a", Arc::clone(&passed));
    let plain = channel(Router::new().add_service(test()).interceptor(mark())).await;
    let status = plain
        .unary(&WHO, Request::new(Bytes::new()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(passed.lock().unwrap().is_empty());

    let router = Router::new()
        .interceptor(mark())
        .fallback(|mut call| async move {
            let sent = call.responses.send(Bytes::from_static(b"fallen")).await;
            call.responses.finish(sent)
        });
    let answer = channel(router)
        .await
        .unary(&WHO, Request::new(Bytes::new()))
        .await
        .unwrap();
    assert_eq!(answer.get_ref(), "fallen");
    assert_eq!(answer.trailers().get("x-mark"), Some("a"));
}

/// Counts the calls that it was dropped in the middle of.
struct Dropped(Arc<AtomicUsize>);

impl ServerInterceptor for Dropped {
    async fn intercept(
        &self,
        call: ServerCall,
        next: ServerNext<'_>,
    ) -> Result<ServerReply, Status> {
        struct Count<'a>(&'a AtomicUsize);
        impl Drop for Count<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let count = Count(&self.0);
        let reply = next.run(call).await;
        std::mem::forget(count);
        reply
    }
}

#[tokio::test]
async fn a_deadline_and_a_client_that_goes_drop_it_and_observers_are_told() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::builder()
        .add_service(test())
        .interceptor(Dropped(Arc::clone(&dropped)))
        .observer(move |call: &FinishedCall<'_>| {
            // The test has ended when nobody listens.
            let _ = tell.send((call.path.to_owned(), call.code));
        })
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let test = TestClient::new(Channel::connect(&run(server).uri).await.unwrap());
    let short = Request::new(Message::default()).with_timeout(Duration::from_millis(30));
    test.hang(short).await.unwrap_err();
    let (path, code) = told.recv().await.unwrap();
    assert_eq!(path, "/testkit.v1.Test/Hang");
    assert!(
        matches!(code, Code::DeadlineExceeded | Code::Cancelled),
        "{code:?}"
    );
    assert_eq!(dropped.load(Ordering::SeqCst), 1);

    let (out, mut back) = test.chat(());
    drop(out);
    back.recv().await.unwrap_err();
    let (path, code) = told.recv().await.unwrap();
    assert_eq!(
        (path.as_str(), code),
        ("/testkit.v1.Test/Chat", Code::Cancelled)
    );
}
