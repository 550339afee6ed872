//! What a busy handler does to the other calls of its connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::server::{Dispatch, Service};
use rpc_core::{Channel, Codec, Method, Request, Response, Server};
use rpc_testkit::run;

use crate::{Clock, soon};

const BUSY: Duration = Duration::from_millis(50);
/// A connection on which nothing has run at so many looks beside a busy call is stalled. Looks are as
/// slow as the machine, which a time would not be.
const STALLED: u32 = 400;

const FAST: Method<Bytes, Bytes> = Method::unary("/demo.Mixed/Fast", Codec::raw(), Codec::raw());
const MIXED: Method<Bytes, Bytes> = Method::unary("/demo.Mixed/Mixed", Codec::raw(), Codec::raw());

/// What the handlers have seen of each other.
#[derive(Default)]
struct Seen {
    /// Fast calls that have run.
    fast: AtomicUsize,
    /// Busy calls beside which none ran.
    stalls: AtomicUsize,
}

impl Seen {
    /// Is busy as a computation is, and not as somebody who waits.
    ///
    /// Goes on until a fast call has run, so that a machine that stands still is no stall.
    fn be_busy(&self) {
        let before = self.fast.load(Ordering::Relaxed);
        std::thread::sleep(BUSY);
        for _ in 0..STALLED {
            if self.fast.load(Ordering::Relaxed) != before {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.stalls.fetch_add(1, Ordering::Relaxed);
    }
}

fn service(dispatch: Dispatch, seen: &Arc<Seen>) -> Service {
    Service::new("demo.Mixed")
        .unary(&FAST, seen, |seen, request: Request<Bytes>| async move {
            seen.fast.fetch_add(1, Ordering::Relaxed);
            Ok(Response::new(request.into_inner()))
        })
        .unary(&MIXED, seen, |seen, request: Request<Bytes>| async move {
            if !request.get_ref().is_empty() {
                seen.be_busy();
            }
            Ok(Response::new(Bytes::new()))
        })
        .dispatch(dispatch)
}

/// How often fast calls were held up while a method was busy every now and then.
async fn stalls(dispatch: Dispatch) -> usize {
    let _clock = Clock::alone().await;
    let seen = Arc::new(Seen::default());
    let server = Server::builder().add_service(service(dispatch, &seen));
    let server = run(server.bind("127.0.0.1:0").await.unwrap());
    let channel = soon(Channel::connect(&server.uri)).await.unwrap();
    let mixed = async |busy: bool| {
        let message = if busy {
            Bytes::from_static(b"busy")
        } else {
            Bytes::new()
        };
        soon(channel.unary(&MIXED, Request::new(message)))
            .await
            .unwrap();
    };
    for _ in 0..100 {
        mixed(false).await;
        soon(channel.unary(&FAST, Request::new(Bytes::new())))
            .await
            .unwrap();
    }
    let over = Arc::new(AtomicBool::new(false));
    let beside = tokio::spawn({
        let (channel, over) = (channel.clone(), Arc::clone(&over));
        async move {
            while !over.load(Ordering::Relaxed) {
                channel
                    .unary(&FAST, Request::new(Bytes::new()))
                    .await
                    .unwrap();
            }
        }
    });
    for _ in 0..5 {
        mixed(true).await;
        // Fewer than promote it again.
        for _ in 0..20 {
            mixed(false).await;
        }
    }
    over.store(true, Ordering::Relaxed);
    soon(beside).await.unwrap();
    seen.stalls.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_busy_handler_stalls_its_connection_once() {
    let stalls = stalls(Dispatch::Adaptive).await;
    assert!(stalls <= 1, "{stalls} stalls");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_is_always_a_task_stalls_nothing() {
    assert_eq!(stalls(Dispatch::Task).await, 0);
}
