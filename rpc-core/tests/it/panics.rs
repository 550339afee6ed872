//! A panic ends its own call, which says whose handler it was.

use std::sync::Arc;

use bytes::Bytes;
use rpc_core::server::{Dispatch, Router, Service};
use rpc_core::{Channel, Code, Codec, Method, MethodKind, Request, Response, SendStream, Status};

fn method(path: &'static str, kind: MethodKind) -> Method<Bytes, Bytes> {
    Method::dynamic(path, kind, Codec::raw(), Codec::raw())
}

/// Panics at once, or when it goes on after it has waited.
async fn panics(waits: &Bytes) {
    if !waits.is_empty() {
        tokio::task::yield_now().await;
    }
    std::panic::panic_any("as asked");
}

fn named(service: &str, status: &Status, path: &str) {
    assert_eq!(status.code(), Code::Internal);
    let expected = format!("the handler of {path} panicked");
    assert_eq!(status.message(), expected, "{service}");
}

#[tokio::test]
async fn a_panic_names_its_method_however_the_handler_runs() {
    let unary = method("/it.P/Unary", MethodKind::Unary);
    let upload = method("/it.P/Upload", MethodKind::ClientStreaming);
    let follow = method("/it.P/Follow", MethodKind::ServerStreaming);
    let chat = method("/it.P/Chat", MethodKind::BidiStreaming);
    let state = Arc::new(());
    let end = |responses: SendStream<Bytes>| responses.finish(Ok(()));
    for dispatch in [Dispatch::Adaptive, Dispatch::Task] {
        let service = Service::new("it.P")
            .unary(&unary, &state, |_, request: Request<Bytes>| async move {
                if request.get_ref() != "fine" {
                    panics(request.get_ref()).await;
                }
                Ok(Response::new(Bytes::new()))
            })
            .client_streaming(&upload, &state, |_, request| async move {
                let first = request.into_inner().recv().await?.unwrap_or_default();
                panics(&first).await;
                Ok(Response::new(Bytes::new()))
            })
            .server_streaming(&follow, &state, move |_, request, responses| async move {
                panics(request.get_ref()).await;
                end(responses)
            })
            .bidi_streaming(&chat, &state, move |_, request, responses| async move {
                let first = request.into_inner().recv().await.ok().flatten();
                panics(&first.unwrap_or_default()).await;
                end(responses)
            })
            .dispatch(dispatch);
        let channel = Channel::in_process(Router::new().add_service(service)).unwrap();
        // As a task, and in place once it has shown to be fast.
        for _ in 0..2 {
            for word in ["", "waits"] {
                let message = || Bytes::from_static(word.as_bytes());
                let called = channel.unary(&unary, Request::new(message())).await;
                named(word, &called.unwrap_err(), "/it.P/Unary");
                let mut call = channel.client_streaming(&upload, Request::new(()));
                // It may have ended already.
                let _ = call.send(message()).await;
                named(word, &call.finish().await.unwrap_err(), "/it.P/Upload");
                let mut call = channel.server_streaming(&follow, Request::new(message()));
                named(word, &call.recv().await.unwrap_err(), "/it.P/Follow");
                let (mut requests, mut call) = channel.bidi_streaming(&chat, Request::new(()));
                let _ = requests.send(message()).await;
                named(word, &call.recv().await.unwrap_err(), "/it.P/Chat");
            }
            for _ in 0..20 {
                let fine = Request::new(Bytes::from_static(b"fine"));
                channel.unary(&unary, fine).await.unwrap();
            }
        }
    }
}
