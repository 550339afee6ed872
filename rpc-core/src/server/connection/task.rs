//! Streaming handlers as tasks, in as little memory as they need while they wait.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::task::AbortHandle;

use super::halves::{Hold, Outcome};
use crate::server::handler::panicked;
use crate::{BoxFuture, Deadline};

/// Runs a handler as a task; nothing of it runs before this returns.
pub(super) fn spawn<T: Outcome + 'static>(
    handler: BoxFuture<'static, T>,
    deadline: Option<Deadline>,
    path: Arc<str>,
    hold: Hold,
) -> AbortHandle {
    let task = HandlerTask {
        handler: Some(handler),
        deadline,
        path,
        hold,
    };
    // The runtime has each task in a multiple of 128 bytes, and a pointer is what goes into the first.
    tokio::spawn(Box::pin(task)).abort_handle()
}

/// A handler from before its first step to its end.
///
/// As an async block it would keep the room for what it begins with for as long as it runs.
struct HandlerTask<T> {
    /// Nothing once it has ended.
    handler: Option<BoxFuture<'static, T>>,
    deadline: Option<Deadline>,
    path: Arc<str>,
    hold: Hold,
}

impl<T> HandlerTask<T> {
    /// Takes a step; a panic is the end of this call only.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<Poll<T>, Box<dyn Any + Send>> {
        let handler = &mut self.handler;
        std::panic::catch_unwind(AssertUnwindSafe(|| {
            Deadline::scope_sync(self.deadline, || match handler {
                Some(handler) => handler.as_mut().poll(cx),
                None => Poll::Pending,
            })
        }))
    }
}

impl<T: Outcome> Future for HandlerTask<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let outcome = match this.step(cx) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(outcome)) => Ok(outcome),
            Err(panic) => Err(panicked(&this.path, &*panic)),
        };
        this.handler = None;
        T::finish(&this.hold, outcome);
        Poll::Ready(())
    }
}
