//! Unary calls that run as tasks.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use rpc_http2::StreamKey;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Shared;
use super::batch::{Start, Starting};
use super::calls::{Call, Inbox, Stage, State};
use super::halves::Hold;
use super::report::Report;
use crate::lock::outside;
use crate::server::handler::{CatchPanic, IncomingCall, Single, panicked, step};
use crate::server::load::{Admission, Held};
use crate::server::slot::UnaryHandler;
use crate::stream::unpack;
use crate::wire::compression::Unpacking;
use crate::wire::message::{MessageDecoder, Next};
use crate::{BoxFuture, Deadline, Status};

/// Lets a call go on as a task, which is spawned once the lock has been given back.
pub(super) fn go_on(
    shared: &Arc<Shared>,
    state: &mut State,
    key: StreamKey,
    deadline: Option<Deadline>,
    what: Start,
    report: Option<Box<Report>>,
) -> Option<Starting> {
    let load = &shared.served.load;
    if !state.machine.is_open(key) {
        // The client has gone meanwhile, so the handler goes too.
        state.forget(key);
        state.ended(report, Some(Status::cancelled("the client ended the call")));
        state.after.gone(Box::new(what));
        return None;
    }
    let Some(admission) = Admission::try_new(load) else {
        let status = load.too_many();
        state.refuse(key, &status, false);
        state.forget(key);
        state.ended(report, Some(status));
        state.after.gone(Box::new(what));
        return None;
    };
    if let Some(deadline) = deadline {
        state.wheel.set(key.index(), deadline.instant().into_std());
    }
    state.insert(Call {
        key,
        stage: Stage::Task {
            abort: None,
            inbox: Inbox::new(0, true),
            sender: None,
        },
        report,
        head_sent: false,
        turn: false,
    });
    let hold = Hold {
        shared: Arc::clone(shared),
        key,
        admission: Some(admission),
    };
    Some(Starting { hold, what })
}

/// Runs the rest of a call as a task.
pub(super) fn spawn(
    future: BoxFuture<'static, Result<Single, Status>>,
    held: Option<Box<Held>>,
    hold: Hold,
) -> AbortHandle {
    outside("the spawning of a task");
    let task = tokio::spawn(async move {
        let outcome = CatchPanic(future).await;
        let outcome = outcome.unwrap_or_else(|panic| Err(panicked("a unary method", &*panic)));
        hold.finish_single(outcome);
        // What the request takes is held until the handler has ended.
        drop(held);
    });
    task.abort_handle()
}

/// A call as a task, whose first poll says how fast its method is.
pub(super) struct Timed<T> {
    pub(super) future: BoxFuture<'static, Result<T, Status>>,
    pub(super) handler: Arc<dyn UnaryHandler>,
    pub(super) path: Arc<str>,
    pub(super) first: bool,
}

impl<T> Future for Timed<T> {
    type Output = Result<T, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self {
            future,
            handler,
            path,
            first,
        } = self.get_mut();
        if !std::mem::replace(first, false) {
            return step(path, || future.as_mut().poll(cx));
        }
        let start = Instant::now();
        let polled = step(path, || future.as_mut().poll(cx));
        handler.pace().polled(start.elapsed());
        polled
    }
}

/// Runs a call whose message is still compressed.
pub(super) async fn unpack_and_start(
    handler: Arc<dyn UnaryHandler>,
    call: IncomingCall,
    unpacking: Box<Unpacking>,
) -> Result<Single, Status> {
    let message = unpack(unpacking).await?;
    let path = Arc::clone(&call.path);
    let timed = Timed {
        future: handler.start(call, message),
        handler,
        path,
        // Decompressing has told nothing of the handler.
        first: false,
    };
    timed.await
}

/// The one message of a unary request.
pub(super) fn single(call: &IncomingCall, body: Bytes) -> Result<Next, Status> {
    let mut decoder = MessageDecoder::new(call.encoding, call.limit).on_server();
    decoder.push(body);
    let message = decoder.advance()?;
    let rest = decoder.finish();
    let path = &call.path;
    match (&message, decoder.advance()?) {
        (Next::Missing, _) => {
            rest?;
            Err(Status::internal(format!(
                "the call of {path} has no request message"
            )))
        }
        (_, Next::Missing) => rest.map(|()| message),
        _ => Err(Status::internal(format!(
            "the call of {path} has more than one request message"
        ))),
    }
}
