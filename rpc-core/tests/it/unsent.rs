//! What the handlers of a connection may have waiting to be sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::server::Service;
use rpc_core::{Codec, Method, Request, Server};
use rpc_http2::frame::setting;
use rpc_testkit::raw::RawClient;
use rpc_testkit::run;
use tokio::sync::Semaphore;

const METHOD: Method<Bytes, Bytes> =
    Method::server_streaming("/demo.Unsent/Stream", Codec::raw(), Codec::raw());
/// The calls that a connection may have.
const STREAMS: usize = 256;
/// What a connection may hold unsent.
const UNSENT: usize = 4 << 20;
const MESSAGE: usize = 1024;

#[derive(Default)]
struct Producers {
    queued: AtomicUsize,
    started: AtomicUsize,
}

/// Waits until something does not change any more.
async fn until_at_rest(count: impl Fn() -> usize) -> usize {
    let mut last = count();
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = count();
        if now == last {
            return now;
        }
        last = now;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_have_sent_something_before_send_no_more_than_the_connection_holds() {
    let producers = Arc::new(Producers::default());
    let go = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&go);
    let service = Service::new("demo.Unsent").server_streaming(
        &METHOD,
        &producers,
        move |producers, _request: Request<Bytes>, mut responses| {
            let gate = Arc::clone(&gate);
            async move {
                let message = Bytes::from(vec![7; MESSAGE]);
                let sending = async {
                    for number in 0.. {
                        responses.send(message.clone()).await?;
                        producers.queued.fetch_add(MESSAGE + 5, Ordering::Relaxed);
                        if number == 0 {
                            producers.started.fetch_add(1, Ordering::Relaxed);
                            // Nobody closes it.
                            let turn = gate.acquire().await;
                            turn.into_iter().for_each(|turn| turn.forget());
                        }
                    }
                    Ok(())
                };
                let sent = sending.await;
                responses.finish(sent)
            }
        },
    );
    let server = Server::builder().add_service(service);
    let server = run(server.bind("127.0.0.1:0").await.unwrap());
    let address = server.uri.trim_start_matches("http://").to_owned();
    let settings = [(setting::INITIAL_WINDOW_SIZE, 0)];
    let (mut client, _reader) = RawClient::connect(&address, &settings).await.unwrap();
    for _ in 0..STREAMS {
        let call = client.call("/demo.Unsent/Stream", &[]).1;
        client.write(&call).await.unwrap();
    }
    let started = until_at_rest(|| producers.started.load(Ordering::Relaxed)).await;
    assert_eq!(started, STREAMS);
    // A few fill the connection, and then all others try.
    for some in [16, STREAMS - 16] {
        go.add_permits(some);
        let queued = until_at_rest(|| producers.queued.load(Ordering::Relaxed)).await;
        assert!(queued >= UNSENT, "{queued} octets");
        assert!(queued <= UNSENT + 2 * MESSAGE, "{queued} octets");
    }
}
