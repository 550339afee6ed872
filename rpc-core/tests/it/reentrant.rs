//! Code of users that comes back into the connection which calls it: it never waits for itself.

use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::client::FinishedCall;
use rpc_core::server::{SendStream, Service};
use rpc_core::{
    Channel, Codec, Method, RecvStream, Request, RequestStream, Response, Server, Status,
};
use rpc_testkit::proto::{Message, StreamRequest, TestClient, TestServer};
use rpc_testkit::{TestService, run};

/// Runs a test that stands still for good when it fails.
fn ends<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let (end, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(test());
        drop(runtime);
        let _ = end.send(());
    });
    match ended.recv_timeout(Duration::from_secs(60)) {
        Ok(()) => thread.join().unwrap(),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().unwrap_err())
        }
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it stands still"),
    }
}

const TALK: Method<Bytes, Bytes> =
    Method::bidi_streaming("/demo.Talk/Talk", Codec::raw(), Codec::raw());
const ASK: Method<Bytes, Bytes> = Method::unary("/demo.Talk/Ask", Codec::raw(), Codec::raw());
const WAIT: Method<Bytes, Bytes> = Method::unary("/demo.Talk/Wait", Codec::raw(), Codec::raw());
const FOLLOW: Method<Bytes, Bytes> =
    Method::server_streaming("/demo.Talk/Follow", Codec::raw(), Codec::raw());

/// A stream of responses of the connection, for whoever is called by it.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Option<SendStream<Bytes>>>>, Arc<Mutex<u32>>);

impl Shared {
    /// Sends on the stream, if nobody else is about to.
    fn touch(&self) {
        let Some(mut stream) = self.0.lock().unwrap().take() else {
            return;
        };
        let mut sending = Box::pin(stream.send(Bytes::from_static(b"touched")));
        let polled = sending
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(Ok(())) = polled {
            *self.1.lock().unwrap() += 1;
        }
        drop(sending);
        *self.0.lock().unwrap() = Some(stream);
    }
}

/// Touches the stream when it is dropped.
#[derive(Clone)]
struct Touches(Shared);

impl Drop for Touches {
    fn drop(&mut self) {
        self.0.touch();
    }
}

impl std::fmt::Debug for Touches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("touches")
    }
}

impl std::fmt::Display for Touches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("touches")
    }
}

impl std::error::Error for Touches {}

fn service(shared: &Shared) -> Service {
    let state = Arc::new(shared.clone());
    Service::new("demo.Talk")
        .bidi_streaming(
            &TALK,
            &state,
            |shared: Arc<Shared>, request: Request<RecvStream<Bytes>>, mut responses| async move {
                responses.send_headers();
                *shared.0.lock().unwrap() = Some(responses);
                let mut requests = request.into_inner();
                while let Ok(Some(_)) = requests.recv().await {}
                let stream = loop {
                    if let Some(stream) = shared.0.lock().unwrap().take() {
                        break stream;
                    }
                    tokio::task::yield_now().await;
                };
                stream.finish(Ok(()))
            },
        )
        .unary(
            &ASK,
            &state,
            |shared: Arc<Shared>, request: Request<Bytes>| async move {
                if request.get_ref().is_empty() {
                    return Ok(Response::new(Bytes::new()));
                }
                Err(Status::aborted("as asked").with_source(Touches((*shared).clone())))
            },
        )
        .unary(&WAIT, &state, |shared: Arc<Shared>, _request| async move {
            let _touches = Touches((*shared).clone());
            std::future::pending().await
        })
        .server_streaming(
            &FOLLOW,
            &state,
            |shared: Arc<Shared>, _request, mut responses| async move {
                let _touches = Touches((*shared).clone());
                let _ = responses.send(Bytes::new()).await;
                std::future::pending().await
            },
        )
}

/// Calls of all ends beside a stream that is touched by what each of them ends: its observer, its
/// error, its handler.
async fn all_ends(channel: Channel, shared: &Shared) {
    let (requests, mut responses) = channel.bidi_streaming(&TALK, Request::new(()));
    responses.headers().await.unwrap();
    while shared.0.lock().unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    let short = Duration::from_millis(50);
    for _ in 0..10 {
        channel
            .unary(&ASK, Request::new(Bytes::new()))
            .await
            .unwrap();
        let text = Bytes::from_static(b"fail");
        channel.unary(&ASK, Request::new(text)).await.unwrap_err();
        let late = Request::new(Bytes::new()).with_timeout(short);
        channel.unary(&WAIT, late).await.unwrap_err();
        let gone = async { channel.unary(&WAIT, Request::new(Bytes::new())).await };
        let _ = tokio::time::timeout(short, gone).await;
        let mut follow = channel.server_streaming(&FOLLOW, Request::new(Bytes::new()));
        follow.recv().await.unwrap();
        drop(follow);
        let late = Request::new(Bytes::new()).with_timeout(short);
        let mut follow = channel.server_streaming(&FOLLOW, late);
        follow.recv().await.unwrap();
        follow.recv().await.unwrap_err();
    }
    requests.finish().await.unwrap();
    let mut heard = 0;
    while responses.recv().await.unwrap().is_some() {
        heard += 1;
    }
    assert!(heard > 0, "nobody has touched the stream");
    assert_eq!(heard, *shared.1.lock().unwrap());
    // The connection is lost under calls that touch it.
    let (_requests, mut responses) = channel.bidi_streaming(&TALK, Request::new(()));
    responses.headers().await.unwrap();
    let mut follow = channel.server_streaming(&FOLLOW, Request::new(Bytes::new()));
    follow.recv().await.unwrap();
}

#[test]
fn an_observer_and_whatever_a_handler_leaves_may_touch_a_stream_of_the_connection() {
    ends(|| async {
        let shared = Shared::default();
        let observer = {
            let shared = shared.clone();
            move |_: &FinishedCall<'_>| shared.touch()
        };
        let server = Server::builder()
            .add_service(service(&shared))
            .observer(observer);
        let server = run(server.bind("127.0.0.1:0").await.unwrap());
        let channel = Channel::connect(&server.uri).await.unwrap();
        all_ends(channel, &shared).await;
    });
}

/// A waker that uses the connection whose task it is woken by.
struct Uses {
    requests: Mutex<Option<RequestStream<Message>>>,
    woken: Mutex<u32>,
}

impl Wake for Uses {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap() += 1;
        let Some(mut requests) = self.requests.lock().unwrap().take() else {
            return;
        };
        let mut sending = Box::pin(requests.send(Message::default()));
        let mut unwatched = Context::from_waker(Waker::noop());
        let _ = sending.as_mut().poll(&mut unwatched);
        drop(sending);
        *self.requests.lock().unwrap() = Some(requests);
    }
}

#[test]
fn a_waker_may_use_the_connection_that_wakes_it() {
    ends(|| async {
        let server = rpc_testkit::serve().await;
        let test = TestClient::new(Channel::connect(&server.uri).await.unwrap());
        let (requests, mut back) = test.chat(());
        let uses = Arc::new(Uses {
            requests: Mutex::new(Some(requests)),
            woken: Mutex::default(),
        });
        let waker = Waker::from(Arc::clone(&uses));
        let mut cx = Context::from_waker(&waker);
        // Woken by an answer, by a message, by a deadline, and by the loss of the connection.
        let mut echo = Box::pin(test.echo(Message::default()));
        let mut stream = test.server_stream(StreamRequest {
            count: 3,
            ..StreamRequest::default()
        });
        let late = Request::new(Message::default()).with_timeout(Duration::from_millis(50));
        let mut late = Box::pin(test.hang(late));
        let mut hang = Box::pin(test.hang(Message::default()));
        let mut open = [true; 4];
        let mut messages = 0;
        while open != [false, false, false, true] {
            if open[0] {
                open[0] = echo.as_mut().poll(&mut cx).is_pending();
            }
            if let Poll::Ready(message) = stream.poll_recv(&mut cx)
                && open[1]
            {
                open[1] = message.unwrap().is_some();
                messages += 1;
            }
            if open[2] {
                open[2] = late.as_mut().poll(&mut cx).is_pending();
            }
            assert!(hang.as_mut().poll(&mut cx).is_pending());
            let _ = back.poll_recv(&mut cx);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(messages, 4);
        drop(server);
        assert!(*uses.woken.lock().unwrap() > 0);
    });
}

/// Calls of all kinds without end, which are open whenever the runtime is dropped.
async fn load(test: TestClient) {
    loop {
        let _ = test.echo(Message::default()).await;
        let (mut requests, mut responses) = test.chat(());
        let _ = requests.send(Message::default()).await;
        let _ = responses.recv().await;
        let mut stream = test.server_stream(StreamRequest {
            count: 100,
            size: 10_000,
            ..StreamRequest::default()
        });
        let _ = stream.recv().await;
        let hang = test.hang(Message::default());
        let _ = tokio::time::timeout(Duration::from_millis(1), hang).await;
    }
}

#[test]
fn a_runtime_that_is_dropped_under_load_ends() {
    for round in 0..8 {
        let (end, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(3).enable_all().build().unwrap();
            runtime.block_on(async {
                let builder = Server::builder()
                    .add_service(TestServer::new(TestService::default()))
                    .observer(|_: &FinishedCall<'_>| {});
                let server = run(builder.bind("127.0.0.1:0").await.unwrap());
                for _ in 0..3 {
                    let channel = Channel::connect(&server.uri).await.unwrap();
                    for _ in 0..8 {
                        tokio::spawn(load(TestClient::new(channel.clone())));
                    }
                }
                tokio::time::sleep(Duration::from_millis(100 + round)).await;
            });
            drop(runtime);
            let _ = end.send(());
        });
        ended
            .recv_timeout(Duration::from_secs(60))
            .expect("the runtime does not end");
    }
}
