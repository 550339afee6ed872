//! Handlers that are functions which borrow their service, as those of generated traits are.

use std::future::Future;
use std::sync::Arc;

use super::router::Service;
use super::send::SendStream;
use crate::stream::RecvStream;
use crate::{Method, Request, Response, Status};

/// A function that borrows its service and answers once, such as `T::get`.
///
/// The trait names the future of one borrow, which a bound on `Fn` alone cannot do for all.
#[doc(hidden)]
pub trait Answers<'a, S: 'a, Q, R>: Fn(&'a S, Request<Q>) -> Self::Answer {
    /// What the function returns.
    type Answer: Future<Output = Result<Response<R>, Status>> + Send;
}

impl<'a, S: 'a, Q, R, F, A> Answers<'a, S, Q, R> for F
where
    F: Fn(&'a S, Request<Q>) -> A,
    A: Future<Output = Result<Response<R>, Status>> + Send,
{
    type Answer = A;
}

/// A function that borrows its service and answers with a stream.
#[doc(hidden)]
pub trait Streams<'a, S: 'a, Q, R: 'a>:
    Fn(&'a S, Request<Q>, &'a mut SendStream<R>) -> Self::End
{
    /// What the function returns.
    type End: Future<Output = Result<(), Status>> + Send;
}

impl<'a, S: 'a, Q, R: 'a, F, E> Streams<'a, S, Q, R> for F
where
    F: Fn(&'a S, Request<Q>, &'a mut SendStream<R>) -> E,
    E: Future<Output = Result<(), Status>> + Send,
{
    type End = E;
}

/// Methods whose handlers are functions that borrow the service, as those of generated traits are.
impl Service {
    /// Adds a unary method.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use rpc_core::server::Service;
    /// use rpc_core::{Method, Request, Response, Status};
    ///
    /// const COUNT: Method<String, u64> = Method::unary_prost("/demo.Counter/Count");
    ///
    /// struct Counter;
    ///
    /// impl Counter {
    ///     async fn count(&self, request: Request<String>) -> Result<Response<u64>, Status> {
    ///         Ok(Response::new(request.into_inner().len() as u64))
    ///     }
    /// }
    ///
    /// let counter = Arc::new(Counter);
    /// let service = Service::new("demo.Counter").unary_fn(&COUNT, &counter, Counter::count);
    /// ```
    #[must_use]
    pub fn unary_fn<S, Q, R, F>(self, method: &Method<Q, R>, state: &Arc<S>, function: F) -> Self
    where
        S: Send + Sync + 'static,
        Q: Send + 'static,
        R: Send + 'static,
        F: for<'a> Answers<'a, S, Q, R> + Copy + Send + Sync + 'static,
    {
        self.unary(method, state, move |state: Arc<S>, request| async move {
            function(&state, request).await
        })
    }

    /// Adds a client-streaming method.
    #[must_use]
    pub fn client_streaming_fn<S, Q, R, F>(
        self,
        method: &Method<Q, R>,
        state: &Arc<S>,
        function: F,
    ) -> Self
    where
        S: Send + Sync + 'static,
        Q: Send + 'static,
        R: Send + 'static,
        F: for<'a> Answers<'a, S, RecvStream<Q>, R> + Copy + Send + Sync + 'static,
    {
        let (state, codec) = (Arc::clone(state), method.response.encoder);
        self.answering_once(method, move |call, head| {
            let state = Arc::clone(&state);
            async move { head.outcome(function(&state, call.request()).await, codec) }
        })
    }

    /// Adds a server-streaming method.
    #[must_use]
    pub fn server_streaming_fn<S, Q, R, F>(
        self,
        method: &Method<Q, R>,
        state: &Arc<S>,
        function: F,
    ) -> Self
    where
        S: Send + Sync + 'static,
        Q: Send + 'static,
        R: Send + 'static,
        F: for<'a> Streams<'a, S, Q, R> + Copy + Send + Sync + 'static,
    {
        let state = Arc::clone(state);
        self.answering_many(method, move |mut call, mut responses| {
            let state = Arc::clone(&state);
            async move {
                let result = match call.read_single().await {
                    Ok((message, _held)) => {
                        let request = call.request().map(|_| message);
                        function(&state, request, &mut responses).await
                    }
                    Err(status) => Err(status),
                };
                responses.finish(result)
            }
        })
    }

    /// Adds a bidirectional method.
    #[must_use]
    pub fn bidi_streaming_fn<S, Q, R, F>(
        self,
        method: &Method<Q, R>,
        state: &Arc<S>,
        function: F,
    ) -> Self
    where
        S: Send + Sync + 'static,
        Q: Send + 'static,
        R: Send + 'static,
        F: for<'a> Streams<'a, S, RecvStream<Q>, R> + Copy + Send + Sync + 'static,
    {
        let state = Arc::clone(state);
        self.answering_many(method, move |call, mut responses| {
            let state = Arc::clone(&state);
            async move {
                let result = function(&state, call.request(), &mut responses).await;
                responses.finish(result)
            }
        })
    }
}
