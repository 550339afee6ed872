//! One HTTP request as one call.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use http::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::body::{AbortOnDrop, Body};
use super::fields::{self as http_fields, GRPC_ACCEPT_ENCODING};
use super::outbox;
use super::request::RequestBody;
use crate::client::FinishedCall;
use crate::codec::Subtype;
use crate::lock::outside;
use crate::request::{Peer, PeerAddr};
use crate::server::{
    Account, Admission, Finished, Held, IncomingCall, Load, Options, Router, ServeError,
    ServerBuilder, ServerRecv, ServerSend, ShutdownHandle, Single, guarded,
};
use crate::transport::stream::SendHalf;
use crate::wire::compression::ACCEPT;
use crate::wire::head::{ContentType, ResponseHead, Trailers};
use crate::{BoxFuture, Code, Deadline, Extensions, Metadata, Status};

/// How long the head of a request may take over HTTP/1.1.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// How much of a connection is buffered over HTTP/1.1, so the longest head too.
const MAX_HEADERS: usize = 16 * 1024;
/// Responses from this size on count against the budget until they are written.
const HELD: usize = 64 * 1024;

/// A [`Router`] as a service of HTTP requests: mount it in axum with `fallback_service`, or serve it
/// with hyper. [`ServerBuilder::into_router_service`] makes one with settings.
///
/// Over HTTP/1.1 a response is chunked, and its trailers, which have the status, are announced by
/// `trailer` (RFC 9110 section 6.6.2). The names of trailing metadata can be announced where there is
/// one response; of what a streaming handler adds at its end only the status goes out there. A request
/// whose client does not take trailers, as `te: trailers` says, is refused with HTTP 505 before a
/// handler runs: it would take a call that failed after the first message for one that succeeded.
#[derive(Clone)]
pub struct RouterService {
    router: Router,
    options: Arc<Options>,
    load: Arc<Load>,
    peer: Option<Arc<Peer>>,
}

impl std::fmt::Debug for RouterService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouterService")
            .field("router", &self.router)
            .finish_non_exhaustive()
    }
}

/// Services with the usual settings of a server.
///
/// What was added twice is logged, and calls that have two handlers are refused; [`ServerBuilder::into_router_service`]
/// gives an error instead.
impl From<Router> for RouterService {
    fn from(router: Router) -> Self {
        if let Err(twice) = router.check() {
            tracing::error!(%twice, "calls that have two handlers are refused");
        }
        Self::with_options(router, Options::default())
    }
}

impl ServerBuilder {
    /// The services as a service of HTTP requests, for a server that others accept connections for.
    ///
    /// Settings of calls hold as on a socket: services, interceptors, observers, limits,
    /// compression, health. Those of sockets, connections and the end of the server are for whoever
    /// has them, and hooks never run.
    ///
    /// # Errors
    /// When something was given twice, and with TLS, which belongs to whoever accepts connections.
    pub fn into_router_service(self) -> Result<RouterService, ServeError> {
        self.check()?;
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return Err(ServeError::contradiction(
                "TLS was given, and a mounted service accepts no connections",
            ));
        }
        Ok(RouterService::with_options(self.router, self.options))
    }
}

impl RouterService {
    fn with_options(router: Router, options: Options) -> Self {
        Self {
            router,
            load: Load::new(&options),
            options: Arc::new(options),
            peer: None,
        }
    }

    /// The HTTP/1.1 side of a server.
    pub(crate) fn of_server(
        router: Router,
        options: &Options,
        load: &Arc<Load>,
        address: PeerAddr,
        end: &ShutdownHandle,
    ) -> Self {
        Self {
            router,
            options: Arc::new(options.clone()),
            load: Arc::clone(load),
            peer: Some(Arc::new(Peer {
                address,
                end: Some(end.clone()),
            })),
        }
    }

    /// Serves one connection until it closes, or until the call that was open at the shutdown is done.
    pub(crate) async fn serve_http1(
        self,
        io: impl AsyncRead + AsyncWrite + Unpin,
        shutdown: ShutdownHandle,
    ) {
        let peer = self.peer.clone();
        let has_begun = AtomicBool::new(false);
        let service = hyper::service::service_fn(|request| {
            has_begun.store(true, Ordering::Relaxed);
            let service = self.clone();
            async move { Ok::<_, Infallible>(service.respond(request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .max_buf_size(MAX_HEADERS.max(self.options.max_header_list as usize))
            .serve_connection(TokioIo::new(io), service);
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = shutdown.requested() => {
                connection.as_mut().graceful_shutdown();
                // A first head that does not come is no call to wait for.
                let nobody_calls = async {
                    shutdown.requested_and_late().await;
                    if has_begun.load(Ordering::Relaxed) {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    result = connection => result,
                    () = nobody_calls => return,
                }
            }
        };
        if let Err(error) = result {
            let peer = peer.as_ref().map(ToString::to_string);
            tracing::debug!(peer, %error, "a connection ended");
        }
    }

    async fn respond<B>(self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        if parts.method != Method::POST {
            let mut response = http_error(StatusCode::METHOD_NOT_ALLOWED);
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        let mut fields = http_fields::parse_fields(&parts.headers);
        // With the query: what is no path of a method over HTTP/2 is none here either.
        let path: Arc<str> = parts
            .uri
            .path_and_query()
            .map_or("", |path| path.as_str())
            .into();
        let codecs = self.router.codecs(&path);
        let is_right = |content_type: &ContentType| match self.router.takes(&path) {
            true => content_type.asks_for(codecs.request),
            // What has no handler is told so whatever its codec.
            false => content_type.is_grpc(),
        };
        if !fields.content_type.as_ref().is_some_and(is_right) {
            return http_error(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        let http1 = parts.version < Version::HTTP_2;
        if http1 && !takes_trailers(parts.version, &parts.headers) {
            return http_error(StatusCode::HTTP_VERSION_NOT_SUPPORTED);
        }
        let started = Instant::now();
        let mut report = Report {
            service: self.clone(),
            path: Arc::clone(&path),
            codec: codecs.response,
            http1,
            started,
            told: false,
        };
        let handler = match fields.take_error() {
            Some(status) => Err(status),
            None => self.router.route(&path),
        };
        let handler = match handler {
            Ok(handler) => handler,
            Err(status) => return report.refuse(status),
        };
        let Some(admission) = Admission::try_new(&self.load) else {
            return report.refuse(self.load.too_many());
        };
        let deadline = fields.timeout.map(Deadline::after);
        let call = IncomingCall {
            path: Arc::clone(&path),
            metadata: fields.metadata,
            response_metadata: Metadata::new(),
            extensions: Extensions::default(),
            deadline,
            peer: self.peer.clone(),
            encoding: fields.encoding,
            accept: fields.accept,
            compress: self.options.compress,
            limit: self.options.receive_limit,
            recv: ServerRecv::Boxed(Box::new(RequestBody::new(body, &self.load))),
        };
        match handler.by_kind() {
            Ok(handler) => {
                let outcome = guarded(&path, deadline, handler(call))
                    .await
                    .and_then(|outcome| outcome);
                drop(admission);
                match outcome {
                    Ok(single) => match hold(&self.load, single.message.len()) {
                        Ok(held) => {
                            report.finished(None);
                            single_response(single, held, codecs.response, http1)
                        }
                        Err(status) => report.refuse(status),
                    },
                    Err(status) => report.refuse(status),
                }
            }
            Err(handler) => {
                let (mut end, mut inbox) = outbox::pair();
                let running = handler(call, ServerSend::Boxed(Box::new(end.clone_handle())));
                let task = tokio::spawn(async move {
                    let Finished(outcome) = guarded(&path, deadline, running)
                        .await
                        .unwrap_or_else(|status| Finished(Err(status)));
                    drop(admission);
                    report.finished(outcome.as_ref().err());
                    // It is the first head, or it has no effect.
                    if let Err(status) = &outcome
                        && !status.leading_metadata().is_empty()
                    {
                        end.send_head(ResponseHead {
                            metadata: status.leading_metadata().clone(),
                            ..ResponseHead::default()
                        });
                    }
                    end.send_trailers(match outcome {
                        Ok(metadata) => Trailers::ok(metadata),
                        Err(status) => Trailers::error(status),
                    });
                });
                let task = AbortOnDrop(task.abort_handle());
                match poll_fn(|cx| inbox.poll_head(cx)).await {
                    Ok(head) => {
                        let mut response = Response::new(Body::stream(inbox, task, http1));
                        *response.headers_mut() =
                            http_fields::response_fields(&head, codecs.response);
                        if http1 {
                            http_fields::announce(response.headers_mut(), None);
                        }
                        response
                    }
                    Err(trailers) => trailers_only(&trailers, codecs.response),
                }
            }
        }
    }
}

/// Tells the observers how a call ended.
struct Report {
    service: RouterService,
    path: Arc<str>,
    codec: Subtype,
    http1: bool,
    started: Instant,
    told: bool,
}

impl Drop for Report {
    fn drop(&mut self) {
        if !self.told {
            let status = Status::cancelled("the client ended the call");
            self.finished(Some(&status));
        }
    }
}

impl Report {
    fn finished(&mut self, status: Option<&Status>) {
        self.told = true;
        outside("an observer");
        if self.service.options.observers.is_empty() {
            return;
        }
        let peer = self.service.peer.as_ref().map(ToString::to_string);
        let is_known = self.service.router.has(&self.path);
        let path = if is_known {
            &self.path
        } else {
            FinishedCall::OTHER
        };
        let call = FinishedCall::new(path, status, self.started.elapsed(), peer.as_deref(), 1);
        for observer in &self.service.options.observers {
            observer.call_finished(&call);
        }
    }

    fn refuse(mut self, status: Status) -> Response<Body> {
        self.finished(Some(&status));
        let unsupported = status.code() == Code::Unimplemented;
        let mut response = if status.leading_metadata().is_empty() {
            trailers_only(&Trailers::error(status), self.codec)
        } else {
            let head = ResponseHead {
                metadata: status.leading_metadata().clone(),
                ..ResponseHead::default()
            };
            let trailers = Trailers::error(status);
            whole_response(
                &head,
                Bytes::new(),
                &trailers,
                None,
                (self.codec, self.http1),
            )
        };
        if unsupported {
            response
                .headers_mut()
                .insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static(ACCEPT));
        }
        response
    }
}

/// Whether the status of a call can reach its client over HTTP/1.x: behind a chunked body, which
/// HTTP/1.0 does not have, and if it takes trailers (RFC 9110 section 6.5.1).
fn takes_trailers(version: Version, headers: &HeaderMap) -> bool {
    let codings = headers.get_all(TE).into_iter();
    let mut codings = codings
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    version == Version::HTTP_11
        && codings.any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// A response that is not gRPC's, which has a text for those who look at it.
fn http_error(status: StatusCode) -> Response<Body> {
    let text = match status {
        StatusCode::HTTP_VERSION_NOT_SUPPORTED => {
            "gRPC tells how a call ended in trailers, and this request does not take them: use HTTP/2, or send `te: trailers` with HTTP/1.1\n"
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            "this server speaks gRPC: the content-type is application/grpc, or has the codec of the method behind it, as application/grpc+proto\n"
        }
        _ => "this server speaks gRPC: every request is a POST\n",
    };
    let mut response = Response::new(Body::text(text));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

fn trailers_only(trailers: &Trailers, codec: Subtype) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let mut headers = http_fields::response_fields(&ResponseHead::default(), codec);
    http_fields::append_trailers(&mut headers, trailers);
    *response.headers_mut() = headers;
    response
}

/// Holds the budget for a large response.
fn hold(load: &Arc<Load>, length: usize) -> Result<Option<Held>, Status> {
    if length < HELD {
        return Ok(None);
    }
    let account = Account::new(load);
    let mut held = Held::new(&account);
    if held.set(length) {
        Ok(Some(held))
    } else {
        Err(account.too_much())
    }
}

fn single_response(
    single: Single,
    held: Option<Held>,
    codec: Subtype,
    http1: bool,
) -> Response<Body> {
    let head = ResponseHead {
        encoding: single.encoding,
        metadata: single.metadata,
    };
    let trailers = Trailers::ok(single.trailers);
    whole_response(&head, single.message, &trailers, held, (codec, http1))
}

/// A response of a head, a message or none, and trailers.
fn whole_response(
    head: &ResponseHead,
    message: Bytes,
    trailers: &Trailers,
    held: Option<Held>,
    (codec, http1): (Subtype, bool),
) -> Response<Body> {
    let mut fields = HeaderMap::with_capacity(2);
    http_fields::append_trailers(&mut fields, trailers);
    let announced = http1.then(|| fields.clone());
    let mut response = Response::new(Body::single(message, fields, held));
    *response.headers_mut() = http_fields::response_fields(head, codec);
    if let Some(trailers) = announced {
        http_fields::announce(response.headers_mut(), Some(&trailers));
    }
    response
}

impl<B> tower_service::Service<Request<B>> for RouterService
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.respond(request).await) })
    }
}
