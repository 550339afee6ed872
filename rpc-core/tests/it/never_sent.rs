//! Attempts of which nothing has left the client: they were none.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rpc_core::client::{Address, FinishedCall};
use rpc_core::{BoxFuture, Channel, Code, Connector, Io, Server, Status, inside};
use rpc_http2::Config;
use rpc_testkit::TestService;
use rpc_testkit::proto::{Message, TestClient, TestServer};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::engine;

type Hook = Box<dyn FnOnce() + Send>;

/// A pipe that does something when it is shut down, which is between the loss of a connection and the
/// moment that its channel acts on it.
struct Hooked {
    pipe: DuplexStream,
    hook: Arc<Mutex<Option<Hook>>>,
}

impl AsyncRead for Hooked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Hooked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let hook = self.hook.lock().unwrap().take();
        if let Some(hook) = hook {
            hook();
        }
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

/// Gives the pipe first, and then connections to a server.
struct First {
    pipe: Mutex<Option<Hooked>>,
}

fn serve() -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let builder = Server::builder().add_service(TestServer::new(TestService::default()));
    tokio::spawn(inside::serve(builder, theirs).1);
    ours
}

impl Connector for First {
    fn connect<'a>(&'a self, _address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        let io: Box<dyn Io> = match self.pipe.lock().unwrap().take() {
            Some(pipe) => Box::new(pipe),
            None => Box::new(serve()),
        };
        Box::pin(std::future::ready(Ok(io)))
    }
}

type Calls = Vec<Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>>;

#[tokio::test(start_paused = true)]
async fn a_call_between_the_loss_of_a_connection_and_its_replacement_waits_for_the_new_one() {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let hook = Arc::new(Mutex::new(None));
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&attempts);
    let first = Hooked {
        pipe: ours,
        hook: Arc::clone(&hook),
    };
    let builder = Server::builder().add_service(TestServer::new(TestService::default()));
    let serving = tokio::spawn(inside::serve(builder, theirs).1);
    let channel = Channel::builder()
        .connector(First {
            pipe: Mutex::new(Some(first)),
        })
        .observer(move |call: &FinishedCall<'_>| {
            seen.lock().unwrap().push((call.code, call.attempts));
        })
        .lazy("http://test:1")
        .unwrap();
    let test = TestClient::new(channel);
    test.echo(Message::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let calls: Arc<Mutex<Calls>> = Arc::default();
    let made = Arc::clone(&calls);
    *hook.lock().unwrap() = Some(Box::new(move || {
        let (unary, stream) = (test.clone(), test);
        let mut calls: Calls = vec![
            Box::pin(async move { unary.echo(Message::default()).await.map(|_| ()) }),
            Box::pin(async move {
                let (mut requests, mut responses) = stream.chat(());
                requests.send(Message::default()).await?;
                requests.finish().await?;
                while responses.recv().await?.is_some() {}
                Ok(())
            }),
        ];
        for call in &mut calls {
            let mut unwatched = Context::from_waker(Waker::noop());
            let polled = call.as_mut().poll(&mut unwatched);
            assert!(polled.is_pending(), "it failed at once: {polled:?}");
        }
        *made.lock().unwrap() = calls;
    }) as Hook);
    serving.abort();
    while calls.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let calls = std::mem::take(&mut *calls.lock().unwrap());
    for call in calls {
        tokio::time::timeout(Duration::from_secs(10), call)
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!(*attempts.lock().unwrap(), [(Code::Ok, 1); 3]);
}

/// What waits for a server's limit when the connection is lost goes on with the next connection, and
/// with the one after that, however often: nothing of it was ever sent.
#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_turn_outlives_its_connections() {
    let (connector, mut ends) = crate::pipes::pipes();
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&attempts);
    let channel = Channel::builder()
        .connector(connector)
        .observer(move |call: &FinishedCall<'_>| {
            seen.lock().unwrap().push((call.code, call.attempts));
        })
        .lazy("http://test:1")
        .unwrap();
    let test = TestClient::new(channel);
    let (unary, stream) = (test.clone(), test);
    let unary = tokio::spawn(async move { unary.echo(Message::default()).await.map(|_| ()) });
    let stream = tokio::spawn(async move {
        let (mut requests, mut responses) = stream.chat(());
        requests.send(Message::default()).await?;
        requests.finish().await?;
        while responses.recv().await?.is_some() {}
        Ok::<_, Status>(())
    });
    let none = Config {
        max_streams: 0,
        ..Config::default()
    };
    for _ in 0..12 {
        let pipe = ends.recv().await.unwrap();
        let server = tokio::spawn(engine::idle(pipe, none));
        // Long enough not to be taken for a server that cannot be used.
        tokio::time::sleep(Duration::from_secs(2)).await;
        server.abort();
    }
    let pipe = ends.recv().await.unwrap();
    let builder = Server::builder().add_service(TestServer::new(TestService::default()));
    tokio::spawn(inside::serve(builder, pipe).1);
    unary.await.unwrap().unwrap();
    stream.await.unwrap().unwrap();
    assert_eq!(*attempts.lock().unwrap(), [(Code::Ok, 1); 2]);
}
