//! Which handler a path has: [`Service`], [`Router`].

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use super::handler::{Finished, Handler, IncomingCall, Single};
use super::interceptor::{Interceptors, ServerInterceptor};
use super::load::Held;
use super::pace::{Dispatch, Pace};
use super::send::SendStream;
use super::slot::{Answer, Unary, UnaryHandler};
use crate::codec::Codec;
use crate::stream::RecvStream;
use crate::transport::stream::SendHalf;
use crate::wire::message;
use crate::{Method, Request, Response, Status};

/// A service: its name and the handlers of its methods. Generated servers convert into it.
#[derive(Clone)]
pub struct Service {
    name: &'static str,
    methods: Vec<(String, Handler)>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("name", &self.name)
            .field("methods", &self.methods.len())
            .finish()
    }
}

impl Service {
    /// A service without methods.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            methods: Vec::new(),
        }
    }

    /// The full name, `package.Service`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Adds a unary method.
    #[must_use]
    pub fn unary<S, Q, R, F, Fut>(
        mut self,
        method: &Method<Q, R>,
        state: &Arc<S>,
        handler: F,
    ) -> Self
    where
        S: Send + Sync + 'static,
        Q: Send + 'static,
        R: Send + 'static,
        F: Fn(Arc<S>, Request<Q>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<R>, Status>> + Send + 'static,
    {
        let unary = Unary {
            state: Arc::clone(state),
            handler: Arc::new(handler),
            request: method.request,
            response: method.response,
            pace: Pace::default(),
        };
        self.methods
            .push((method.path().to_owned(), Handler::Unary(Arc::new(unary))));
        self
    }

    /// How the handlers of the unary methods added so far are run.
    #[must_use]
    pub fn dispatch(self, dispatch: Dispatch) -> Self {
        if dispatch == Dispatch::Task {
            for (_, handler) in &self.methods {
                if let Handler::Unary(handler) = handler {
                    handler.pace().forbid();
                }
            }
        }
        self
    }

    /// Adds a client-streaming method.
    #[must_use]
    pub fn client_streaming<S, Q, R, F, Fut>(
        mut self,
        method: &Method<Q, R>,
        state: &Arc<S>,
        handler: F,
    ) -> Self
    where
        S: Send + Sync + 'static,
        Q: Send + 'static,
        R: Send + 'static,
        F: Fn(Arc<S>, Request<RecvStream<Q>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<R>, Status>> + Send + 'static,
    {
        let (request, response) = (method.request, method.response);
        let (state, handler) = (Arc::clone(state), Arc::new(handler));
        let erased = move |mut call: IncomingCall| {
            let head = Head::of(&mut call);
            let outcome = handler(Arc::clone(&state), stream_request(call, request));
            Box::pin(async move { head.single(outcome.await?, response) })
                as crate::BoxFuture<'static, _>
        };
        self.methods
            .push((method.path().to_owned(), Handler::Single(Arc::new(erased))));
        self
    }

    /// Adds a server-streaming method.
    #[must_use]
    pub fn server_streaming<S, Q, R, F, Fut>(
        mut self,
        method: &Method<Q, R>,
        state: &Arc<S>,
        handler: F,
    ) -> Self
    where
        S: Send + Sync + 'static,
        Q: Send + 'static,
        R: Send + 'static,
        F: Fn(Arc<S>, Request<Q>, SendStream<R>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Finished> + Send + 'static,
    {
        let (request, response) = (method.request, method.response);
        let (state, handler) = (Arc::clone(state), Arc::new(handler));
        let erased = move |mut call: IncomingCall, send| {
            let (state, handler) = (Arc::clone(&state), Arc::clone(&handler));
            Box::pin(async move {
                let responses = Head::of(&mut call).stream(send, response);
                match read_single(&mut call, request).await {
                    Ok((message, _held)) => {
                        handler(state, call.into_request(|_| message), responses).await
                    }
                    Err(status) => Finished(Err(status)),
                }
            }) as crate::BoxFuture<'static, _>
        };
        self.methods.push((
            method.path().to_owned(),
            Handler::Streaming(Arc::new(erased)),
        ));
        self
    }

    /// Adds a bidirectional method.
    #[must_use]
    pub fn bidi_streaming<S, Q, R, F, Fut>(
        mut self,
        method: &Method<Q, R>,
        state: &Arc<S>,
        handler: F,
    ) -> Self
    where
        S: Send + Sync + 'static,
        Q: Send + 'static,
        R: Send + 'static,
        F: Fn(Arc<S>, Request<RecvStream<Q>>, SendStream<R>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Finished> + Send + 'static,
    {
        let (request, response) = (method.request, method.response);
        let (state, handler) = (Arc::clone(state), handler);
        let erased = move |mut call: IncomingCall, send| {
            let responses = Head::of(&mut call).stream(send, response);
            Box::pin(handler(
                Arc::clone(&state),
                stream_request(call, request),
                responses,
            )) as crate::BoxFuture<'static, _>
        };
        self.methods.push((
            method.path().to_owned(),
            Handler::Streaming(Arc::new(erased)),
        ));
        self
    }
}

fn stream_request<Q>(call: IncomingCall, codec: Codec<Q>) -> Request<RecvStream<Q>> {
    let (encoding, limit) = (call.encoding, call.limit);
    call.into_request(|recv| RecvStream::server(recv, codec, encoding, limit))
}

/// Reads the one request of a unary call and runs it as a future of its own.
pub(crate) async fn read_and_start(
    handler: Arc<dyn UnaryHandler>,
    mut call: IncomingCall,
) -> Result<Single, Status> {
    let (message, _held) = read_single(&mut call, Codec::raw()).await?;
    handler.start(call, message).await
}

/// Reads the one request of a call and the end of its stream. What it holds of the budget is given
/// back once the handler is done with it.
async fn read_single<Q>(
    call: &mut IncomingCall,
    codec: Codec<Q>,
) -> Result<(Q, Option<Held>), Status> {
    let recv = std::mem::replace(&mut call.recv, Box::new(Ended));
    let mut stream = RecvStream::server(recv, codec, call.encoding, call.limit);
    let Some(message) = stream.recv().await? else {
        return Err(Status::internal(format!(
            "the call of {} has no request message",
            call.path
        )));
    };
    let held = stream.hold()?;
    if stream.recv().await?.is_some() {
        return Err(Status::internal(format!(
            "the call of {} has more than one request message",
            call.path
        )));
    }
    Ok((message, held))
}

pub(crate) struct Ended;

impl crate::transport::stream::RecvHalf for Ended {
    fn poll_recv(
        &mut self,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<
        Result<crate::transport::stream::Event, crate::transport::stream::StreamError>,
    > {
        std::task::Poll::Ready(Ok(crate::transport::stream::Event::End))
    }
}

/// What is known of a response before there is one.
pub(super) struct Head {
    encoding: crate::Encoding,
    metadata: crate::Metadata,
}

impl Head {
    pub(super) fn of(call: &mut IncomingCall) -> Self {
        Self {
            encoding: call.response_encoding(),
            metadata: std::mem::take(&mut call.response_metadata),
        }
    }

    /// The response, its message appended to others.
    pub(super) fn answer<R>(
        mut self,
        response: Response<R>,
        codec: Codec<R>,
        out: &mut bytes::BytesMut,
    ) -> Result<Answer, Status> {
        message::encode_into(codec, response.get_ref(), self.encoding, out)?;
        self.metadata.extend(response.metadata);
        Ok(Answer {
            metadata: self.metadata,
            encoding: self.encoding,
            trailers: response.trailers,
        })
    }

    pub(super) fn single<R>(
        mut self,
        response: Response<R>,
        codec: Codec<R>,
    ) -> Result<Single, Status> {
        let message = message::encode(codec, response.get_ref(), self.encoding)?;
        self.metadata.extend(response.metadata);
        Ok(Single {
            metadata: self.metadata,
            encoding: self.encoding,
            message,
            trailers: response.trailers,
        })
    }

    fn stream<R>(self, send: Box<dyn SendHalf>, codec: Codec<R>) -> SendStream<R> {
        SendStream::new(send, codec, self.encoding, self.metadata)
    }
}

/// A call of a method that no service has, as a fallback sees it.
#[derive(Debug)]
pub struct RawCall {
    /// The path of the method.
    pub path: Arc<str>,
    /// The metadata and the messages, undecoded.
    pub request: Request<RecvStream<Bytes>>,
    /// Where the responses go.
    pub responses: SendStream<Bytes>,
}

type Fallback = Arc<dyn Fn(RawCall) -> crate::BoxFuture<'static, Finished> + Send + Sync>;

/// The services of a server, by the paths of their methods; cheap to clone once built.
#[derive(Clone, Default)]
pub struct Router {
    methods: Arc<HashMap<String, Handler>>,
    services: Arc<HashSet<&'static str>>,
    fallback: Option<Fallback>,
    interceptors: Interceptors,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router")
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}

impl Router {
    /// A router without services.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a service; one of the same name replaces the earlier one's methods.
    #[must_use]
    pub fn add_service(mut self, service: impl Into<Service>) -> Self {
        let service = service.into();
        Arc::make_mut(&mut self.services).insert(service.name);
        Arc::make_mut(&mut self.methods).extend(service.methods);
        self
    }

    /// Handles every call that no service has a method for, so that a proxy can be written.
    ///
    /// The handler ends with `call.responses.finish(result)`.
    #[must_use]
    pub fn fallback<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(RawCall) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Finished> + Send + 'static,
    {
        self.fallback = Some(Arc::new(move |call| Box::pin(handler(call))));
        self
    }

    /// Puts an interceptor around every call that has a handler; the first one added is the outermost.
    #[must_use]
    pub fn interceptor(mut self, interceptor: impl ServerInterceptor) -> Self {
        self.interceptors.push(interceptor);
        self
    }

    /// Whether a path is one of a service, and not one of any that a fallback takes.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.methods.contains_key(path)
    }

    /// The handler of a path, or why there is none.
    pub(crate) fn route(&self, path: &str) -> Result<Handler, Status> {
        if let Some(handler) = self.methods.get(path) {
            return Ok(self.interceptors.around(handler.clone()));
        }
        let Some((service, method)) = path
            .strip_prefix('/')
            .and_then(|path| path.rsplit_once('/'))
        else {
            return Err(Status::unimplemented(format!(
                "{:?} is not a method path; it should be /package.Service/Method",
                named(path)
            )));
        };
        if let Some(fallback) = self.fallback.clone() {
            let codec = Codec::raw();
            let handler = Handler::Streaming(Arc::new(move |mut call, send| {
                let path = Arc::clone(&call.path);
                let responses = Head::of(&mut call).stream(send, codec);
                fallback(RawCall {
                    path,
                    request: stream_request(call, codec),
                    responses,
                })
            }));
            return Ok(self.interceptors.around(handler));
        }
        Err(Status::unimplemented(if self.services.contains(service) {
            format!("the service {service} has no method {}", named(method))
        } else {
            format!("this server has no service {}", named(service))
        }))
    }
}

/// As much of a name as is worth telling: an answer that repeats all of a long one is a lever.
fn named(name: &str) -> &str {
    const LONGEST: usize = 256;
    &name[..name.floor_char_boundary(LONGEST)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    fn router() -> Router {
        let method = Method::unary("/a.B/C", Codec::raw(), Codec::raw());
        let service = Service::new("a.B").unary(
            &method,
            &Arc::new(()),
            |_, request: Request<Bytes>| async move { Ok(Response::new(request.into_inner())) },
        );
        Router::new().add_service(service)
    }

    #[test]
    fn paths_are_matched_whole() {
        let router = router();
        assert!(router.route("/a.B/C").is_ok());
        for path in [
            "",
            "a.B/C",
            "/a.B",
            "//a.B/C",
            "/a.B/C/",
            "/a.b/C",
            "/a.B/c",
            "/a.B/%43",
            "/a.B/../a.B/C",
            "/",
        ] {
            let Err(status) = router.route(path) else {
                panic!("{path} was routed")
            };
            assert_eq!(status.code(), Code::Unimplemented, "{path}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let message = |path: &str| {
            router()
                .route(path)
                .err()
                .map(|status| status.message().to_owned())
                .unwrap()
        };
        assert_eq!(message("/a.B/X"), "the service a.B has no method X");
        assert_eq!(message("/a.X/C"), "this server has no service a.X");
    }
}
