//! A client connection over the h2 crate, behind the seam.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use tokio::sync::watch;
use tokio::time::Instant;

use super::connector::Io;
use super::http_fields::{self, ClientHead, stream_error};
use super::stream::{ErrorCode, Event, RecvHalf, SendHalf, StreamError};
use crate::wire::head::{RequestHead, ResponseHead, Trailers};
use crate::{Deadline, Status};

const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const MAX_FRAME: u32 = 256 * 1024;
/// RELIABILITY: what a server may send in one header list.
const MAX_HEADER_LIST: u32 = 16 * 1024;

/// An open connection that takes calls.
pub(crate) struct Connection {
    requests: h2::client::SendRequest<Bytes>,
    authority: Authority,
    scheme: Scheme,
    usable: watch::Receiver<bool>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

/// Opens HTTP/2 on a byte stream and waits until the peer has shown that it speaks it.
pub(crate) async fn connect(
    io: Box<dyn Io>,
    authority: &str,
    secure: bool,
) -> io::Result<Connection> {
    let authority = Authority::try_from(authority)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let (requests, mut connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .enable_push(false)
        // Large messages cost a frame's work each 16 KiB otherwise.
        .max_frame_size(MAX_FRAME)
        .max_send_buffer_size(1024 * 1024)
        .max_concurrent_reset_streams(1024)
        .handshake::<_, Bytes>(io)
        .await
        .map_err(into_io)?;
    // A peer that is no HTTP/2 server fails here, not at the first call.
    let mut ping = connection.ping_pong();
    let (alive, usable) = watch::channel(true);
    // As long as there is a handle on it, h2 keeps a connection open.
    let mut probe = Some(requests.clone());
    let driver = async move {
        let mut connection = pin!(connection);
        let mut unheld = pin!(alive.closed());
        let result = poll_fn(|cx| {
            if probe.is_some() && unheld.as_mut().poll(cx).is_ready() {
                probe = None;
            }
            let polled = connection.as_mut().poll(cx);
            // A GOAWAY shows as an error of every new request while open calls go on.
            let mut unwatched = Context::from_waker(std::task::Waker::noop());
            if let Some(requests) = &mut probe
                && let Poll::Ready(Err(_)) = requests.poll_ready(&mut unwatched)
            {
                probe = None;
                alive.send_replace(false);
            }
            polled
        })
        .await;
        if let Err(error) = result {
            tracing::debug!(%error, "connection closed");
        }
    };
    let mut driver = Box::pin(driver);
    if let Some(ping) = &mut ping {
        let pong = ping.ping(h2::Ping::opaque());
        let mut pong = pin!(pong);
        let answered = poll_fn(|cx| {
            if let Poll::Ready(result) = pong.as_mut().poll(cx) {
                return Poll::Ready(result.map_err(into_io));
            }
            match driver.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "the peer closed the connection before it had answered as an HTTP/2 server",
                ))),
                Poll::Pending => Poll::Pending,
            }
        });
        answered.await?;
    }
    tokio::spawn(driver);
    let scheme = if secure { Scheme::HTTPS } else { Scheme::HTTP };
    Ok(Connection {
        requests,
        authority,
        scheme,
        usable,
    })
}

fn into_io(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error
            .into_io()
            .unwrap_or_else(|| io::ErrorKind::Other.into());
    }
    io::Error::other(error)
}

impl Connection {
    /// Opens a stream; the head goes out, the messages follow through the sending half.
    pub(crate) fn open(
        &self,
        head: &RequestHead,
        deadline: Option<Deadline>,
    ) -> Result<(Sender, Receiver), StreamError> {
        let path = PathAndQuery::try_from(head.path.as_str()).map_err(|error| {
            StreamError::Protocol(
                Status::invalid_argument(format!("the method path {:?} is not one", head.path))
                    .with_source(error),
            )
        })?;
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path);
        let uri = http::Uri::from_parts(parts).map_err(|error| {
            StreamError::Protocol(Status::internal("the target makes no URI").with_source(error))
        })?;
        let mut request = http::Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri;
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() =
            http_fields::request_fields(head, deadline.map(Deadline::remaining));
        let (response, stream) =
            self.requests
                .clone()
                .send_request(request, false)
                .map_err(|error| {
                    // Nothing was sent, whatever the reason.
                    StreamError::Refused(format!("the connection takes no more calls: {error}"))
                })?;
        Ok((
            Sender { stream },
            Receiver {
                state: ReceiverState::Head(response),
            },
        ))
    }

    /// Whether new calls can be opened.
    pub(crate) fn is_usable(&self) -> bool {
        *self.usable.borrow()
    }

    /// Waits until no new calls can be opened, because of a GOAWAY or because the connection broke.
    pub(crate) async fn unusable(&self) {
        let mut usable = self.usable.clone();
        // An error means that the driver is gone, which is the same.
        let _ = usable.wait_for(|usable| !usable).await;
    }
}

/// The sending half of a call.
pub(crate) struct Sender {
    stream: h2::SendStream<Bytes>,
}

impl SendHalf for Sender {
    fn send_head(&mut self, _head: ResponseHead) {}

    fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        _length: usize,
    ) -> Poll<Result<(), StreamError>> {
        if let Poll::Ready(reset) = self.stream.poll_reset(cx) {
            return Poll::Ready(Err(match reset {
                Ok(reason) => StreamError::Reset(ErrorCode(reason.into())),
                Err(error) => stream_error(error),
            }));
        }
        self.stream.reserve_capacity(1);
        while self.stream.capacity() == 0 {
            match self.stream.poll_capacity(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(stream_error(error))),
                Poll::Ready(None) => {
                    return Poll::Ready(Err(StreamError::Reset(ErrorCode::CANCEL)));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn send(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        self.stream.send_data(data, end).map_err(stream_error)
    }

    fn send_trailers(&mut self, _trailers: Trailers) {}

    fn reset(&mut self, code: ErrorCode) {
        self.stream.send_reset(code.0.into());
    }
}

/// The receiving half of a call.
pub(crate) struct Receiver {
    state: ReceiverState,
}

enum ReceiverState {
    Head(h2::client::ResponseFuture),
    Body(h2::RecvStream),
    Done,
}

impl RecvHalf for Receiver {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, StreamError>> {
        match &mut self.state {
            ReceiverState::Head(response) => {
                let response = match std::pin::Pin::new(response).poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(response)) => response,
                    Poll::Ready(Err(error)) => {
                        self.state = ReceiverState::Done;
                        return Poll::Ready(Err(stream_error(error)));
                    }
                };
                let (parts, body) = response.into_parts();
                match http_fields::client_head(
                    parts.status.as_u16(),
                    &parts.headers,
                    body.is_end_stream(),
                ) {
                    Ok(ClientHead::Head(head)) => {
                        self.state = ReceiverState::Body(body);
                        Poll::Ready(Ok(Event::Head(head)))
                    }
                    Ok(ClientHead::TrailersOnly(trailers)) => {
                        self.state = ReceiverState::Done;
                        Poll::Ready(Ok(Event::Trailers(trailers)))
                    }
                    Err(error) => {
                        self.state = ReceiverState::Done;
                        Poll::Ready(Err(error))
                    }
                }
            }
            ReceiverState::Body(body) => {
                match body.poll_data(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(data))) => {
                        // Fails only when the stream is over, and then there is nothing to give back.
                        let _ = body.flow_control().release_capacity(data.len());
                        return Poll::Ready(Ok(Event::Data(data)));
                    }
                    Poll::Ready(Some(Err(error))) => {
                        self.state = ReceiverState::Done;
                        return Poll::Ready(Err(stream_error(error)));
                    }
                    Poll::Ready(None) => {}
                }
                let event = match body.poll_trailers(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(Some(headers))) => {
                        Ok(Event::Trailers(http_fields::trailers(&headers)))
                    }
                    Poll::Ready(Ok(None)) => Ok(Event::End),
                    Poll::Ready(Err(error)) => Err(stream_error(error)),
                };
                self.state = ReceiverState::Done;
                Poll::Ready(event)
            }
            ReceiverState::Done => Poll::Ready(Ok(Event::End)),
        }
    }
}

/// How long a connection has to live for the next attempt to start without backoff.
pub(crate) fn lived_long(since: Instant) -> bool {
    since.elapsed() >= std::time::Duration::from_secs(1)
}
