//! Code around every call of a server: [`ServerInterceptor`].

use std::sync::Arc;

use super::handler::{Finished, Handler, IncomingCall, ServerSend, Single};
use super::router::read_and_start;
use super::shutdown::ServerDraining;
use crate::lock::outside;
use crate::request::PeerAddr;
use crate::{BoxFuture, Deadline, Extensions, Metadata, Status};

/// A call that has come in and has a handler; its messages are not decoded yet.
pub struct ServerCall(pub(crate) IncomingCall);

impl std::fmt::Debug for ServerCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerCall")
            .field("path", &self.0.path)
            .field("metadata", &self.0.metadata)
            .finish_non_exhaustive()
    }
}

impl ServerCall {
    /// The path of the method, as the router matched it: `/package.Service/Method`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// The full name of the service.
    #[must_use]
    pub fn service(&self) -> &str {
        self.names().0
    }

    /// The name of the method.
    #[must_use]
    pub fn method(&self) -> &str {
        self.names().1
    }

    fn names(&self) -> (&str, &str) {
        // The router takes no path that has not both.
        let path = self.0.path.strip_prefix('/').unwrap_or(&self.0.path);
        path.rsplit_once('/').unwrap_or((path, ""))
    }

    /// The metadata of the request.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    /// The metadata of the request, to change.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.0.metadata
    }

    /// The metadata that goes out before the response, beside the handler's own.
    pub fn response_metadata_mut(&mut self) -> &mut Metadata {
        &mut self.0.response_metadata
    }

    /// What the handler finds in its request's extensions.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.0.extensions
    }

    /// What the handler finds in its request's extensions, to change.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.0.extensions
    }

    /// When the call must have ended.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.0.deadline
    }

    /// Where the call came from.
    #[must_use]
    pub fn peer_addr(&self) -> Option<&PeerAddr> {
        self.0.peer.as_ref().map(|peer| &peer.address)
    }

    /// When the server drains, as [`Request::server_draining`](crate::Request::server_draining).
    #[must_use]
    pub fn server_draining(&self) -> ServerDraining {
        ServerDraining::new(self.0.peer.as_ref().and_then(|peer| peer.end.clone()))
    }
}

/// How a handler has succeeded. The messages of a stream are on their way already, the response of
/// a unary call goes out once the interceptors are done.
pub struct ServerReply {
    single: Option<Single>,
    trailers: Metadata,
}

impl std::fmt::Debug for ServerReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerReply")
            .field("trailers", &self.trailers)
            .finish_non_exhaustive()
    }
}

impl ServerReply {
    /// The metadata that goes out after the response.
    #[must_use]
    pub fn trailers(&self) -> &Metadata {
        &self.trailers
    }

    /// The metadata that goes out after the response, to change.
    pub fn trailers_mut(&mut self) -> &mut Metadata {
        &mut self.trailers
    }
}

/// Code around every call of a server that has a handler, a fallback included.
///
/// ```
/// use rpc_core::server::{ServerCall, ServerInterceptor, ServerNext, ServerReply};
/// use rpc_core::Status;
///
/// struct Caller(String);
///
/// struct Authentication;
///
/// impl ServerInterceptor for Authentication {
///     async fn intercept(&self, mut call: ServerCall, next: ServerNext<'_>) -> Result<ServerReply, Status> {
///         let Some(token) = call.metadata().get("authorization") else {
///             return Err(Status::unauthenticated(format!("{} needs a token", call.path())));
///         };
///         let caller = Caller(token.to_owned());
///         call.extensions_mut().insert(caller);
///         next.run(call).await
///     }
/// }
/// ```
pub trait ServerInterceptor: Send + Sync + 'static {
    /// Handles a call, usually by changing it and passing it on, or by refusing it.
    ///
    /// When `next.run` returns the handler has ended. A client that goes away, and a deadline that
    /// passes, drop this future and the handler in it.
    fn intercept(
        &self,
        call: ServerCall,
        next: ServerNext<'_>,
    ) -> impl Future<Output = Result<ServerReply, Status>> + Send;
}

/// The rest of the chain, with the handler at its end.
pub struct ServerNext<'a> {
    rest: &'a [Arc<dyn ErasedInterceptor>],
    handler: Handler,
    send: Option<ServerSend>,
}

impl std::fmt::Debug for ServerNext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerNext({})", self.rest.len())
    }
}

impl ServerNext<'_> {
    /// Passes the call on.
    ///
    /// # Errors
    /// What the handler, or an interceptor before it, fails with.
    ///
    /// # Cancel safety
    /// Dropping the future drops the handler.
    pub async fn run(self, call: ServerCall) -> Result<ServerReply, Status> {
        if let Some((first, rest)) = self.rest.split_first() {
            let next = ServerNext { rest, ..self };
            return first.intercept(call, next).await;
        }
        match (self.handler, self.send) {
            (Handler::Unary(handler), _) => {
                let mut single = read_and_start(handler, call.0).await?;
                let trailers = std::mem::take(&mut single.trailers);
                Ok(ServerReply {
                    single: Some(single),
                    trailers,
                })
            }
            (Handler::Single(handler), _) => {
                let mut single = handler(call.0).await?;
                let trailers = std::mem::take(&mut single.trailers);
                Ok(ServerReply {
                    single: Some(single),
                    trailers,
                })
            }
            (Handler::Streaming(handler), Some(send)) => {
                let Finished(outcome) = handler(call.0, send).await;
                outcome.map(|trailers| ServerReply {
                    single: None,
                    trailers,
                })
            }
            (Handler::Streaming(_), None) => Err(Status::internal(
                "a streaming handler was given nowhere to send to",
            )),
        }
    }
}

/// [`ServerInterceptor`] without its future's type.
pub(crate) trait ErasedInterceptor: Send + Sync {
    fn intercept<'a>(
        &'a self,
        call: ServerCall,
        next: ServerNext<'a>,
    ) -> BoxFuture<'a, Result<ServerReply, Status>>;
}

impl<I: ServerInterceptor> ErasedInterceptor for I {
    fn intercept<'a>(
        &'a self,
        call: ServerCall,
        next: ServerNext<'a>,
    ) -> BoxFuture<'a, Result<ServerReply, Status>> {
        outside("an interceptor");
        Box::pin(ServerInterceptor::intercept(self, call, next))
    }
}

/// The interceptors of a router; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Interceptors(Arc<Vec<Arc<dyn ErasedInterceptor>>>);

impl Interceptors {
    pub(crate) fn push(&mut self, interceptor: impl ServerInterceptor) {
        Arc::make_mut(&mut self.0).push(Arc::new(interceptor));
    }

    /// The handler with all interceptors around it.
    pub(crate) fn around(&self, handler: Handler) -> Handler {
        if self.0.is_empty() {
            return handler;
        }
        let all = Arc::clone(&self.0);
        match &handler {
            Handler::Unary(_) | Handler::Single(_) => Handler::Single(Arc::new(move |call| {
                let (all, handler) = (Arc::clone(&all), handler.clone());
                Box::pin(async move {
                    let next = ServerNext {
                        rest: &all,
                        handler,
                        send: None,
                    };
                    let reply = next.run(ServerCall(call)).await?;
                    let mut single = reply.single.ok_or_else(|| {
                        Status::internal("an interceptor answered with another call's reply")
                    })?;
                    single.trailers = reply.trailers;
                    Ok(single)
                })
            })),
            Handler::Streaming(_) => Handler::Streaming(Arc::new(move |call, send| {
                let (all, handler) = (Arc::clone(&all), handler.clone());
                Box::pin(async move {
                    let next = ServerNext {
                        rest: &all,
                        handler,
                        send: Some(send),
                    };
                    let reply = next.run(ServerCall(call)).await;
                    Finished(reply.map(|reply| reply.trailers))
                })
            })),
        }
    }
}
