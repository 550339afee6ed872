//! What the handlers of a connection may have waiting to be sent.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::server::{SendStream, Service};
use rpc_core::{Codec, Method, Request, Server, Status};
use rpc_http2::frame::{kind, setting};
use rpc_testkit::raw::{RawClient, RawReader, frame};
use rpc_testkit::{Running, run};
use tokio::sync::Semaphore;

const METHOD: Method<Bytes, Bytes> =
    Method::server_streaming("/demo.Unsent/Stream", Codec::raw(), Codec::raw());
/// The calls that a connection may have.
const STREAMS: usize = 256;
/// What a connection may hold unsent.
const UNSENT: usize = 2 << 20;
const MESSAGE: usize = 1024;

#[derive(Default)]
struct Producers {
    /// Octets that were sent.
    queued: AtomicUsize,
    /// Handlers that have sent their first message.
    started: AtomicUsize,
    /// Handlers that have found no room. Nothing is read, so that they do not find any.
    stuck: AtomicUsize,
}

impl Producers {
    async fn send(&self, responses: &mut SendStream<Bytes>) -> Result<(), Status> {
        let mut sending = pin!(responses.send(Bytes::from(vec![7; MESSAGE])));
        let mut waits = false;
        poll_fn(|cx| {
            let polled = sending.as_mut().poll(cx);
            if polled.is_pending() && !std::mem::replace(&mut waits, true) {
                self.stuck.fetch_add(1, Ordering::Relaxed);
            }
            polled
        })
        .await?;
        self.queued.fetch_add(MESSAGE + 5, Ordering::Relaxed);
        Ok(())
    }
}

/// Waits until so many have been counted.
async fn until(counter: &AtomicUsize, count: usize) {
    let counting = async {
        while counter.load(Ordering::Relaxed) < count {
            tokio::task::yield_now().await;
        }
    };
    let counted = tokio::time::timeout(Duration::from_secs(30), counting).await;
    assert!(
        counted.is_ok(),
        "{} of {count}",
        counter.load(Ordering::Relaxed)
    );
}

/// A server whose handlers send until there is no room, each with a permit, and a client of frames that
/// has called so many.
async fn serve(
    producers: &Arc<Producers>,
    go: &Arc<Semaphore>,
    calls: usize,
) -> (Running, RawClient, RawReader) {
    let gate = Arc::clone(go);
    let service = Service::new("demo.Unsent").server_streaming(
        &METHOD,
        producers,
        move |producers, _request: Request<Bytes>, mut responses| {
            let gate = Arc::clone(&gate);
            async move {
                let sending = async {
                    producers.send(&mut responses).await?;
                    producers.started.fetch_add(1, Ordering::Relaxed);
                    // Nobody closes it.
                    let turn = gate.acquire().await;
                    turn.into_iter().for_each(|turn| turn.forget());
                    loop {
                        producers.send(&mut responses).await?;
                    }
                };
                let sent: Result<(), Status> = sending.await;
                responses.finish(sent)
            }
        },
    );
    let server = Server::builder().add_service(service);
    let server = run(server.bind("127.0.0.1:0").await.unwrap());
    let address = server.uri.trim_start_matches("http://").to_owned();
    let settings = [(setting::INITIAL_WINDOW_SIZE, 0)];
    let (mut client, reader) = RawClient::connect(&address, &settings).await.unwrap();
    for _ in 0..calls {
        let call = client.call("/demo.Unsent/Stream", &[]).1;
        client.write(&call).await.unwrap();
    }
    (server, client, reader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_read_goes_on_beside_255_that_are_not() {
    let producers = Arc::new(Producers::default());
    let go = Arc::new(Semaphore::new(STREAMS));
    let (_server, mut client, mut reader) = serve(&producers, &go, STREAMS - 1).await;
    until(&producers.stuck, STREAMS - 1).await;
    let update = |stream, more: u32| frame(kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
    client.write(&update(0, 0x7fff_0000)).await.unwrap();
    let (stream, call) = client.call("/demo.Unsent/Stream", &[]);
    client.write(&call).await.unwrap();
    let reading = async {
        for _ in 0..100 {
            client.write(&update(stream, 10_000)).await.unwrap();
            let mut received = 0;
            while received < 10_000 {
                let next = reader.next().await.expect("the connection goes on");
                assert_ne!(next.header.kind, kind::RST_STREAM);
                if next.header.kind == kind::DATA {
                    assert_eq!(next.header.stream, stream);
                    received += next.payload.len();
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reading)
        .await
        .expect("nothing comes of the stream that is read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_have_sent_something_before_send_no_more_than_the_connection_holds() {
    let producers = Arc::new(Producers::default());
    let go = Arc::new(Semaphore::new(0));
    let (_server, _client, _reader) = serve(&producers, &go, STREAMS).await;
    until(&producers.started, STREAMS).await;
    // A few fill the connection, and then all others try.
    for (some, stuck) in [(16, 16), (STREAMS - 16, STREAMS)] {
        go.add_permits(some);
        until(&producers.stuck, stuck).await;
        let queued = producers.queued.load(Ordering::Relaxed);
        assert!(queued >= UNSENT, "{queued} octets");
        assert!(queued <= UNSENT + 2 * MESSAGE, "{queued} octets");
    }
}
