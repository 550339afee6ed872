//! Which handler a path has: [`Service`], [`Router`].

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use super::handler::{Finished, Handler, IncomingCall, ServerRecv, ServerSend, Single};
use super::interceptor::{Interceptors, ServerInterceptor};
use super::load::Held;
use super::pace::{Dispatch, Pace};
use super::send::SendStream;
use super::slot::{Answer, Unary, UnaryHandler};
use crate::codec::{Codec, Codecs, Decoder, Encoder};
use crate::stream::RecvStream;
use crate::wire::message;
use crate::{Method, Request, Response, Status};

/// A service: its name and the handlers of its methods. Generated servers convert into it.
///
/// Calls of its builder commute: interceptors and the dispatch are those of all its methods, whenever
/// they were added.
#[derive(Clone)]
pub struct Service {
    name: &'static str,
    methods: Vec<(String, Handler)>,
    interceptors: Interceptors,
    dispatch: Dispatch,
    /// Those of methods that have others than `proto`.
    codecs: Vec<(String, Codecs)>,
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
            interceptors: Interceptors::default(),
            dispatch: Dispatch::default(),
            codecs: Vec::new(),
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
        self.note_codecs(method);
        self.methods
            .push((method.path().to_owned(), Handler::Unary(Arc::new(unary))));
        self
    }

    /// How the handlers of the unary methods are run.
    #[must_use]
    pub fn dispatch(mut self, dispatch: Dispatch) -> Self {
        self.dispatch = dispatch;
        self
    }

    /// Puts an interceptor around the calls of this service alone, inside those of the router and of
    /// the server; the first one added is the outermost.
    ///
    /// ```
    /// # use rpc_core::server::{Router, ServerInterceptor, Service};
    /// # fn example(public: Service, accounts: Service, authentication: impl ServerInterceptor) -> Router {
    /// // `accounts` may be a generated server too: `Service::from(AccountsServer::new(accounts))`.
    /// Router::new()
    ///     .add_service(public)
    ///     .add_service(accounts.interceptor(authentication))
    /// # }
    /// ```
    #[must_use]
    pub fn interceptor(mut self, interceptor: impl ServerInterceptor) -> Self {
        self.interceptors.push(interceptor);
        self
    }

    /// The methods as a router has them.
    fn into_methods(self) -> impl Iterator<Item = (String, Handler)> {
        let Self {
            methods,
            interceptors,
            dispatch,
            ..
        } = self;
        methods.into_iter().map(move |(path, handler)| {
            if let (Dispatch::Task, Handler::Unary(unary)) = (dispatch, &handler) {
                unary.pace().forbid();
            }
            (path, interceptors.around(handler))
        })
    }

    /// Adds a client-streaming method.
    #[must_use]
    pub fn client_streaming<S, Q, R, F, Fut>(
        self,
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
        let codec = method.response.encoder;
        let (state, handler) = (Arc::clone(state), Arc::new(handler));
        self.answering_once(method, move |call, head| {
            let (state, handler) = (Arc::clone(&state), Arc::clone(&handler));
            async move { head.outcome(handler(state, call.request()).await, codec) }
        })
    }

    /// Adds a server-streaming method.
    #[must_use]
    pub fn server_streaming<S, Q, R, F, Fut>(
        self,
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
        let (state, handler) = (Arc::clone(state), Arc::new(handler));
        self.answering_many(method, move |mut call, responses| {
            let (state, handler) = (Arc::clone(&state), Arc::clone(&handler));
            async move {
                match call.read_single().await {
                    Ok((message, _held)) => {
                        let request = call.request().map(|_| message);
                        handler(state, request, responses).await
                    }
                    Err(status) => responses.finish(Err(status)),
                }
            }
        })
    }

    /// Adds a bidirectional method.
    #[must_use]
    pub fn bidi_streaming<S, Q, R, F, Fut>(
        self,
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
        let (state, handler) = (Arc::clone(state), Arc::new(handler));
        self.answering_many(method, move |call, responses| {
            let (state, handler) = (Arc::clone(&state), Arc::clone(&handler));
            async move { handler(state, call.request(), responses).await }
        })
    }

    fn note_codecs<Q, R>(&mut self, method: &Method<Q, R>) {
        if method.codecs() != Codecs::default() {
            self.codecs
                .push((method.path().to_owned(), method.codecs()));
        }
    }

    /// Adds a method with a stream of requests and one response.
    pub(super) fn answering_once<Q, R, F, Fut>(mut self, method: &Method<Q, R>, start: F) -> Self
    where
        Q: 'static,
        F: Fn(Box<StreamCall<Q>>, Head) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Single, Status>> + Send + 'static,
    {
        let decoder = Arc::new(method.request.decoder);
        let erased = move |mut call: IncomingCall| {
            let head = Head::of(&mut call);
            Box::pin(start(StreamCall::new(call, &decoder), head)) as crate::BoxFuture<'static, _>
        };
        self.note_codecs(method);
        self.methods
            .push((method.path().to_owned(), Handler::Single(Arc::new(erased))));
        self
    }

    /// Adds a method with a stream of responses.
    pub(super) fn answering_many<Q, R, F, Fut>(mut self, method: &Method<Q, R>, start: F) -> Self
    where
        Q: 'static,
        R: 'static,
        F: Fn(Box<StreamCall<Q>>, SendStream<R>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Finished> + Send + 'static,
    {
        let (decoder, encoder) = (Arc::new(method.request.decoder), method.response.encoder);
        let erased = move |mut call: IncomingCall, send| {
            let responses = Head::of(&mut call).stream(send, encoder);
            Box::pin(start(StreamCall::new(call, &decoder), responses))
                as crate::BoxFuture<'static, _>
        };
        self.note_codecs(method);
        self.methods.push((
            method.path().to_owned(),
            Handler::Streaming(Arc::new(erased)),
        ));
        self
    }
}

/// A streaming call before the first step of its handler.
///
/// The future that it is passed to is made under the lock of a connection, and calls the handler only
/// when it is polled. It has the request in a box until then: a future keeps the room of what it is
/// made of to its end, and the handler's own has room for the request already.
pub(super) struct StreamCall<Q> {
    path: Arc<str>,
    request: Request<RecvStream<Q>>,
}

impl<Q> StreamCall<Q> {
    fn new(call: IncomingCall, decoder: &Arc<Decoder<Q>>) -> Box<Self> {
        Box::new(Self {
            path: Arc::clone(&call.path),
            request: stream_request(call, decoder),
        })
    }

    /// The request; the box is gone. Moved out in an async block, it would be kept to its end.
    #[expect(clippy::boxed_local, reason = "it is what the future had")]
    pub(super) fn request(self: Box<Self>) -> Request<RecvStream<Q>> {
        self.request
    }

    /// As [`read_single`].
    pub(super) async fn read_single(&mut self) -> Result<(Q, Option<Held>), Status> {
        read_single(self.request.get_mut(), &self.path).await
    }
}

fn stream_request<Q>(call: IncomingCall, decoder: &Arc<Decoder<Q>>) -> Request<RecvStream<Q>> {
    let (decoder, encoding, limit) = (Arc::clone(decoder), call.encoding, call.limit);
    call.into_request(|recv| RecvStream::server(recv, decoder, encoding, limit))
}

/// Reads the one request of a unary call and runs it as a future of its own.
pub(crate) async fn read_and_start(
    handler: Arc<dyn UnaryHandler>,
    mut call: IncomingCall,
) -> Result<Single, Status> {
    let recv = std::mem::replace(&mut call.recv, ServerRecv::Ended);
    let mut requests = RecvStream::server(
        recv,
        Arc::new(Codec::raw().decoder),
        call.encoding,
        call.limit,
    );
    let (message, _held) = read_single(&mut requests, &call.path).await?;
    drop(requests);
    handler.start(call, message).await
}

/// Reads the one request of a call and the end of its stream. What it holds of the budget is given
/// back once the handler is done with it.
async fn read_single<Q>(
    requests: &mut RecvStream<Q>,
    path: &str,
) -> Result<(Q, Option<Held>), Status> {
    let Some(message) = requests.recv().await? else {
        return Err(Status::internal(format!(
            "the call of {path} has no request message"
        )));
    };
    let held = requests.hold()?;
    if requests.recv().await?.is_some() {
        return Err(Status::internal(format!(
            "the call of {path} has more than one request message"
        )));
    }
    Ok((message, held))
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
        message::encode_into(codec.encoder, response.get_ref(), self.encoding, out)?;
        self.metadata.extend(response.metadata);
        Ok(Answer {
            metadata: self.metadata,
            encoding: self.encoding,
            trailers: response.trailers,
        })
    }

    /// The outcome of a handler with one response.
    pub(super) fn outcome<R>(
        self,
        outcome: Result<Response<R>, Status>,
        encoder: Encoder<R>,
    ) -> Result<Single, Status> {
        match outcome {
            Ok(response) => self.single(response, encoder),
            Err(status) => Err(self.failure(status)),
        }
    }

    /// A failure, with what was to go ahead of the response.
    pub(super) fn failure(self, mut status: Status) -> Status {
        if !self.metadata.is_empty() {
            let mut leading = self.metadata;
            leading.extend(std::mem::take(status.leading_metadata_mut()));
            *status.leading_metadata_mut() = leading;
        }
        status
    }

    fn single<R>(mut self, response: Response<R>, encoder: Encoder<R>) -> Result<Single, Status> {
        let message = message::encode(encoder, response.get_ref(), self.encoding)?;
        self.metadata.extend(response.metadata);
        Ok(Single {
            metadata: self.metadata,
            encoding: self.encoding,
            message,
            trailers: response.trailers,
        })
    }

    fn stream<R>(self, send: ServerSend, encoder: Encoder<R>) -> SendStream<R> {
        SendStream::new(send, encoder, self.encoding, self.metadata)
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

impl RawCall {
    /// As [`StreamCall::request`].
    #[expect(clippy::boxed_local, reason = "it is what the future had")]
    fn unboxed(self: Box<Self>) -> Self {
        *self
    }
}

/// The services of a server, by the paths of their methods; cheap to clone once built.
///
/// Calls of its builder commute. What can be there once only, and was added twice, has no winner:
/// [`ServerBuilder::bind`](super::ServerBuilder::bind) and
/// [`Channel::in_process`](crate::Channel::in_process) fail and name it.
#[derive(Clone, Default)]
pub struct Router {
    methods: Arc<HashMap<String, Handler>>,
    /// Those of methods that have others than `proto`.
    codecs: Arc<HashMap<String, Codecs>>,
    services: Arc<HashSet<&'static str>>,
    fallback: Option<Handler>,
    interceptors: Interceptors,
    /// What was added more than once.
    twice: Option<Arc<str>>,
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

    /// Adds a service. One of the same name can be there once.
    #[must_use]
    pub fn add_service(mut self, service: impl Into<Service>) -> Self {
        let service = service.into();
        let name = service.name;
        if !Arc::make_mut(&mut self.services).insert(name) {
            self.added_twice(&format!("the service {name}"));
        }
        Arc::make_mut(&mut self.codecs).extend(service.codecs.iter().cloned());
        for (path, handler) in service.into_methods() {
            self.add_method(path, handler);
        }
        self
    }

    /// Adds all that another router has; the interceptors of that one stay around its own calls.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        if let Some(what) = other.twice {
            self.twice.get_or_insert(what);
        }
        for name in other.services.iter() {
            if !Arc::make_mut(&mut self.services).insert(name) {
                self.added_twice(&format!("the service {name}"));
            }
        }
        Arc::make_mut(&mut self.codecs).extend(Arc::unwrap_or_clone(other.codecs));
        for (path, handler) in Arc::unwrap_or_clone(other.methods) {
            self.add_method(path, other.interceptors.around(handler));
        }
        if let Some(fallback) = other.fallback {
            self.set_fallback(other.interceptors.around(fallback));
        }
        self
    }

    /// Of two handlers of one path neither is taken: it would be chance which one answers.
    fn add_method(&mut self, path: String, handler: Handler) {
        match Arc::make_mut(&mut self.methods).entry(path) {
            Entry::Vacant(vacant) => {
                vacant.insert(handler);
            }
            Entry::Occupied(mut occupied) => {
                let refusing = refusing(occupied.key());
                occupied.insert(refusing);
                let what = format!("the method {}", occupied.key());
                self.added_twice(&what);
            }
        }
    }

    fn set_fallback(&mut self, handler: Handler) {
        if self.fallback.replace(handler).is_some() {
            self.fallback = Some(refusing("what no service has"));
            self.added_twice("the fallback");
        }
    }

    fn added_twice(&mut self, what: &str) {
        self.twice
            .get_or_insert_with(|| format!("{what} was added twice").into());
    }

    /// That nothing was added twice, or what.
    pub(crate) fn check(&self) -> Result<(), Arc<str>> {
        self.twice.clone().map_or(Ok(()), Err)
    }

    /// Handles every call that no service has a method for, so that a proxy can be written. There
    /// can be one.
    ///
    /// Its messages are those of [`Codec::raw`], so it takes calls of `proto`; one of another codec is
    /// answered with HTTP 415, since it could not be passed on as what it is.
    ///
    /// The handler ends with `call.responses.finish(result)`.
    #[must_use]
    pub fn fallback<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(RawCall) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Finished> + Send + 'static,
    {
        let (codec, handler) = (Codec::raw(), Arc::new(handler));
        let decoder = Arc::new(codec.decoder);
        self.set_fallback(Handler::Streaming(Arc::new(move |mut call, send| {
            let path = Arc::clone(&call.path);
            let responses = Head::of(&mut call).stream(send, codec.encoder);
            let call = Box::new(RawCall {
                path,
                request: stream_request(call, &decoder),
                responses,
            });
            let handler = Arc::clone(&handler);
            Box::pin(async move { handler(call.unboxed()).await })
        })));
        self
    }

    /// Puts an interceptor around every call that has a handler, whenever its service is added; the
    /// first one added is the outermost.
    #[must_use]
    pub fn interceptor(mut self, interceptor: impl ServerInterceptor) -> Self {
        self.interceptors.push(interceptor);
        self
    }

    /// Whether a path is one of a service, and not one of any that a fallback takes.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.methods.contains_key(path)
    }

    /// Whether a path has a handler, and be it the fallback.
    pub(crate) fn takes(&self, path: &str) -> bool {
        self.has(path) || self.fallback.is_some()
    }

    /// The codecs of a path; what a fallback takes is `proto`, as [`Codec::raw`] is.
    pub(crate) fn codecs(&self, path: &str) -> Codecs {
        self.codecs.get(path).copied().unwrap_or_default()
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
            return Ok(self.interceptors.around(fallback));
        }
        Err(Status::unimplemented(if self.services.contains(service) {
            format!("the service {service} has no method {}", named(method))
        } else {
            format!("this server has no service {}", named(service))
        }))
    }
}

/// Answers for what was added twice, where nobody could be told before.
fn refusing(what: &str) -> Handler {
    let text = format!("the server was built with two handlers for {what}, and takes neither");
    Handler::Single(Arc::new(move |_| {
        let text = text.clone();
        Box::pin(async move { Err(Status::internal(text)) })
    }))
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
    fn what_was_added_twice_is_named_and_has_no_winner() {
        let method = Method::unary("/a.B/C", Codec::raw(), Codec::raw());
        let service = |name, times| {
            (0..times).fold(Service::new(name), |service, _| {
                service.unary(&method, &Arc::new(()), |_, request: Request<Bytes>| async {
                    Ok(Response::new(request.into_inner()))
                })
            })
        };
        let fallback =
            || Router::new().fallback(|call: RawCall| async move { call.responses.finish(Ok(())) });
        for (router, expected) in [
            (router().add_service(service("a.B", 1)), "the service a.B"),
            (router().add_service(Service::new("a.B")), "the service a.B"),
            (router().merge(router()), "the service a.B"),
            (
                Router::new().merge(router().merge(router())),
                "the service a.B",
            ),
            (router().add_service(service("a.C", 1)), "the method /a.B/C"),
            (
                Router::new().add_service(service("a.B", 2)),
                "the method /a.B/C",
            ),
            (fallback().merge(fallback()), "the fallback"),
        ] {
            let twice = router.check().unwrap_err();
            assert_eq!(*twice, format!("{expected} was added twice"));
        }
        assert!(router().merge(fallback()).check().is_ok());
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
