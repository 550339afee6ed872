//! Streaming handlers as tasks, in as little memory as they need while they wait.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::task::AbortHandle;

use super::batch::Start;
use super::halves::{Hold, Outcome, Responses};
use super::unary;
use crate::lock::outside;
use crate::server::handler::{ServerSend, panicked};
use crate::{BoxFuture, Deadline};

impl Start {
    /// Runs it as a task. It may be dropped at once, when the runtime is about to end.
    pub(super) fn spawn(self, hold: Hold) -> AbortHandle {
        match self {
            Self::Future { future, held } => unary::spawn(future, held, hold),
            Self::Handler(handler, call) => {
                let (deadline, path) = (call.deadline, Arc::clone(&call.path));
                outside("a handler");
                match handler.by_kind() {
                    Ok(handler) => spawn(handler(*call), deadline, path, hold),
                    Err(handler) => {
                        let responses = ServerSend::Http2(Responses {
                            shared: Arc::clone(&hold.shared),
                            key: hold.key,
                        });
                        spawn(handler(*call, responses), deadline, path, hold)
                    }
                }
            }
        }
    }
}

/// Runs a handler as a task.
fn spawn<T: Outcome + 'static>(
    handler: BoxFuture<'static, T>,
    deadline: Option<Deadline>,
    path: Arc<str>,
    hold: Hold,
) -> AbortHandle {
    let running = Running {
        handler: Some(handler),
        deadline,
        hold,
    };
    let task = HandlerTask {
        running: Box::new(running),
        path,
    };
    outside("the spawning of a task");
    tokio::spawn(task).abort_handle()
}

/// A handler from before its first step to its end.
///
/// The runtime's own part of a task leaves room for three words in 128 bytes, and the next size is
/// 256: so much is here, and the rest is in a box.
struct HandlerTask<T> {
    running: Box<Running<T>>,
    path: Arc<str>,
}

struct Running<T> {
    /// Nothing once it has ended.
    handler: Option<BoxFuture<'static, T>>,
    deadline: Option<Deadline>,
    hold: Hold,
}

impl<T> Running<T> {
    /// Takes a step; a panic is the end of this call only.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<Poll<T>, Box<dyn Any + Send>> {
        outside("a handler");
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
        let Self { running, path } = self.get_mut();
        let outcome = match running.step(cx) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(outcome)) => Ok(outcome),
            Err(panic) => Err(panicked(path, &*panic)),
        };
        running.handler = None;
        T::finish(&running.hold, outcome);
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Finished;

    #[test]
    fn a_task_is_three_words_and_a_box_of_seven() {
        assert_eq!(size_of::<HandlerTask<Finished>>(), 3 * size_of::<usize>());
        assert!(size_of::<Running<Finished>>() <= 7 * size_of::<u64>());
    }
}
