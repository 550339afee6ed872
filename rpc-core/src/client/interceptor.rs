//! Code around every call of a channel: [`ClientInterceptor`].

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::call::{self, Opened};
use super::channel::Core;
use crate::codec::Codecs;
use crate::lock::outside;
use crate::request::CallOptions;
use crate::stream::decode_heavy;
use crate::wire::message;
use crate::wire::weight::LIGHT;
use crate::{BoxFuture, Deadline, Extensions, Metadata, Method, MethodKind, Response, Status};

/// A call on its way out.
#[derive(Debug)]
pub struct ClientCall {
    pub(crate) path: Cow<'static, str>,
    pub(crate) kind: MethodKind,
    pub(crate) codecs: Codecs,
    pub(crate) repeatable: bool,
    pub(crate) metadata: Metadata,
    pub(crate) extensions: Extensions,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) options: Option<Box<CallOptions>>,
    pub(crate) body: Option<Bytes>,
    pub(crate) end: bool,
    pub(crate) started: Instant,
}

impl ClientCall {
    /// The path of the method.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The kind of the method.
    #[must_use]
    pub fn kind(&self) -> MethodKind {
        self.kind
    }

    /// The metadata.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The metadata to change.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// What the caller put beside the message.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// When the call must have ended.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }
}

/// What came of a call: the whole response of a unary call, the open stream of any other.
pub struct Reply {
    pub(crate) metadata: Metadata,
    pub(crate) trailers: Metadata,
    pub(crate) payload: Payload,
}

pub(crate) enum Payload {
    Message(Bytes),
    Stream(Box<Opened>),
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply")
            .field("metadata", &self.metadata)
            .field("trailers", &self.trailers)
            .finish_non_exhaustive()
    }
}

impl Reply {
    /// The metadata before the message of a unary call; of a stream it is not known yet.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The trailers of a unary call.
    #[must_use]
    pub fn trailers(&self) -> &Metadata {
        &self.trailers
    }

    /// Whether its message takes so long to decode that [`decode_apart`](Self::decode_apart) has to do
    /// that.
    pub(crate) fn is_heavy<Q, R>(&self, method: &Method<Q, R>) -> bool {
        match &self.payload {
            Payload::Message(bytes) => {
                bytes.len() > LIGHT && (method.response.decoder.is_heavy)(bytes)
            }
            Payload::Stream(_) => false,
        }
    }

    /// The response with its message, a heavy one, if there is time for it.
    pub(crate) async fn decode_apart<Q, R>(
        self,
        method: &Method<Q, R>,
        deadline: Option<Deadline>,
    ) -> Result<Response<R>, Status> {
        let Payload::Message(bytes) = self.payload else {
            return Err(streamed());
        };
        let decoded = decode_heavy(method.response.decoder, bytes, deadline).await;
        let mut response =
            Response::new(decoded.map_err(|status| status.with_path(method.path()))?);
        response.metadata = self.metadata;
        response.trailers = self.trailers;
        Ok(response)
    }

    /// The response with its message.
    pub(crate) fn into_response<Q, R>(self, method: &Method<Q, R>) -> Result<Response<R>, Status> {
        let Payload::Message(bytes) = self.payload else {
            return Err(streamed());
        };
        let decoded = message::decode(&method.response.decoder, bytes)
            .map_err(|status| status.with_path(method.path()))?;
        let mut response = Response::new(decoded);
        response.metadata = self.metadata;
        response.trailers = self.trailers;
        Ok(response)
    }
}

fn streamed() -> Status {
    Status::internal("an interceptor answered a unary call with a stream")
}

/// Code around every call of a channel, once per call however many attempts are made.
///
/// ```
/// use rpc_core::client::{ClientCall, ClientInterceptor, Next, Reply};
/// use rpc_core::Status;
///
/// struct Token(String);
///
/// impl ClientInterceptor for Token {
///     async fn intercept(&self, mut call: ClientCall, next: Next<'_>) -> Result<Reply, Status> {
///         call.metadata_mut()
///             .insert("authorization", &self.0)
///             .map_err(|error| Status::internal(error.to_string()))?;
///         next.run(call).await
///     }
/// }
/// ```
pub trait ClientInterceptor: Send + Sync + 'static {
    /// Handles a call, usually by changing it and passing it on.
    ///
    /// A unary call has ended when `next.run` returns, a stream has been opened.
    fn intercept(
        &self,
        call: ClientCall,
        next: Next<'_>,
    ) -> impl Future<Output = Result<Reply, Status>> + Send;
}

/// The rest of the chain.
pub struct Next<'a> {
    pub(crate) core: &'a Arc<Core>,
    pub(crate) rest: &'a [Box<dyn ErasedInterceptor>],
}

impl std::fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Next({})", self.rest.len())
    }
}

impl Next<'_> {
    /// Passes the call on.
    ///
    /// # Errors
    /// The status of the call, or of opening the stream.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    pub async fn run(self, call: ClientCall) -> Result<Reply, Status> {
        match self.rest.split_first() {
            Some((first, rest)) => {
                first
                    .intercept(
                        call,
                        Next {
                            core: self.core,
                            rest,
                        },
                    )
                    .await
            }
            None => call::run(self.core, call).await,
        }
    }
}

/// [`ClientInterceptor`] without its future's type.
pub(crate) trait ErasedInterceptor: Send + Sync {
    fn intercept<'a>(
        &'a self,
        call: ClientCall,
        next: Next<'a>,
    ) -> BoxFuture<'a, Result<Reply, Status>>;
}

impl<I: ClientInterceptor> ErasedInterceptor for I {
    fn intercept<'a>(
        &'a self,
        call: ClientCall,
        next: Next<'a>,
    ) -> BoxFuture<'a, Result<Reply, Status>> {
        outside("an interceptor");
        Box::pin(ClientInterceptor::intercept(self, call, next))
    }
}
