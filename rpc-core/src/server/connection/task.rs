//! Streaming handlers as tasks, in as little memory as they need while they wait.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::halves::Hold;
use crate::server::handler::panicked;
use crate::{BoxFuture, Deadline};

/// A handler from before its first step to its end.
///
/// As an async block it would keep the room for what it begins with for as long as it runs.
pub(super) struct HandlerTask<T> {
    stage: Stage<T>,
    deadline: Option<Deadline>,
    path: Arc<str>,
    hold: Hold,
    finish: fn(&Hold, Result<T, crate::Status>),
}

enum Stage<T> {
    /// The handler has not been called yet: that is for the task, and not for under a lock.
    Begins(Box<dyn FnOnce() -> BoxFuture<'static, T> + Send>),
    Runs(BoxFuture<'static, T>),
    Over,
}

impl<T> HandlerTask<T> {
    pub(super) fn new(
        start: impl FnOnce() -> BoxFuture<'static, T> + Send + 'static,
        deadline: Option<Deadline>,
        path: Arc<str>,
        hold: Hold,
        finish: fn(&Hold, Result<T, crate::Status>),
    ) -> Self {
        Self {
            stage: Stage::Begins(Box::new(start)),
            deadline,
            path,
            hold,
            finish,
        }
    }

    /// Takes a step; a panic is the end of this call only.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<Poll<T>, Box<dyn Any + Send>> {
        let stage = &mut self.stage;
        std::panic::catch_unwind(AssertUnwindSafe(|| {
            Deadline::scope_sync(self.deadline, || {
                if let Stage::Begins(_) = stage
                    && let Stage::Begins(start) = std::mem::replace(stage, Stage::Over)
                {
                    *stage = Stage::Runs(start());
                }
                match stage {
                    Stage::Runs(future) => future.as_mut().poll(cx),
                    _ => Poll::Pending,
                }
            })
        }))
    }
}

impl<T> Future for HandlerTask<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let outcome = match this.step(cx) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(outcome)) => Ok(outcome),
            Err(panic) => Err(panicked(&this.path, &*panic)),
        };
        this.stage = Stage::Over;
        (this.finish)(&this.hold, outcome);
        Poll::Ready(())
    }
}
