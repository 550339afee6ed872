//! What a busy handler does to the other calls of its connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rpc_core::server::{Dispatch, Service};
use rpc_core::{Channel, Codec, Method, Request, Response, Server};
use rpc_testkit::run;

use crate::{Clock, soon};

const BUSY: Duration = Duration::from_millis(50);
/// A call that took this long has waited for a busy one.
const STALLED: Duration = Duration::from_millis(40);

const FAST: Method<Bytes, Bytes> = Method::unary("/demo.Mixed/Fast", Codec::raw(), Codec::raw());
const MIXED: Method<Bytes, Bytes> = Method::unary("/demo.Mixed/Mixed", Codec::raw(), Codec::raw());

fn service(dispatch: Dispatch) -> Service {
    let state = Arc::new(());
    Service::new("demo.Mixed")
        .unary(&FAST, &state, |_, request: Request<Bytes>| async move {
            Ok(Response::new(request.into_inner()))
        })
        .unary(&MIXED, &state, |_, request: Request<Bytes>| async move {
            if !request.get_ref().is_empty() {
                // As a computation would, and not as somebody who waits.
                std::thread::sleep(BUSY);
            }
            Ok(Response::new(Bytes::new()))
        })
        .dispatch(dispatch)
}

/// How often fast calls were held up while a method was busy every now and then.
async fn stalls(dispatch: Dispatch) -> usize {
    let clock = Clock::alone().await;
    let server = Server::builder().add_service(service(dispatch));
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
            let mut late = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let start = Instant::now();
                channel
                    .unary(&FAST, Request::new(Bytes::new()))
                    .await
                    .unwrap();
                late.push((start, Instant::now()));
            }
            late
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
    let calls = soon(beside).await.unwrap();
    calls
        .into_iter()
        .filter(|(start, end)| clock.between(*start, *end).awake >= STALLED)
        .count()
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
