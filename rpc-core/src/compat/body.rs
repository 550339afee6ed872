//! The body of a response.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::task::AbortHandle;

use super::fields;
use super::outbox::{Inbox, Next};
use crate::server::Held;

/// The body of a gRPC response.
pub struct Body(Kind);

enum Kind {
    Empty,
    Single {
        message: Option<Bytes>,
        trailers: Option<HeaderMap>,
        /// What the message takes until the trailers follow it, which is when it has been written.
        held: Option<Held>,
    },
    Stream {
        inbox: Inbox,
        /// Of its trailers those go out that were announced.
        http1: bool,
        _handler: AbortOnDrop,
    },
}

/// Ends a handler's task with the response that nobody reads any more.
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            Kind::Empty => "Body(empty)",
            Kind::Single { .. } => "Body(single)",
            Kind::Stream { .. } => "Body(stream)",
        })
    }
}

impl Body {
    pub(super) fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// A text for those who have not asked for gRPC.
    pub(super) fn text(text: &'static str) -> Self {
        Self(Kind::Single {
            message: Some(Bytes::from_static(text.as_bytes())),
            trailers: None,
            held: None,
        })
    }

    pub(super) fn single(message: Bytes, trailers: HeaderMap, held: Option<Held>) -> Self {
        Self(Kind::Single {
            message: Some(message).filter(|message| !message.is_empty()),
            trailers: Some(trailers),
            held,
        })
    }

    pub(super) fn stream(inbox: Inbox, handler: AbortOnDrop, http1: bool) -> Self {
        Self(Kind::Stream {
            inbox,
            http1,
            _handler: handler,
        })
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let next = match &mut this.0 {
            Kind::Empty => return Poll::Ready(None),
            Kind::Single {
                message,
                trailers,
                held,
            } => {
                let frame = message.take().map(Frame::data).or_else(|| {
                    *held = None;
                    trailers.take().map(Frame::trailers)
                });
                return Poll::Ready(frame.map(Ok));
            }
            Kind::Stream { inbox, http1, .. } => match inbox.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Next::Trailers(trailers)) => {
                    if *http1 && fields::has_metadata(&trailers) {
                        tracing::warn!(
                            "trailing metadata of a stream was left out: over HTTP/1.1 it would have to be announced before the first message"
                        );
                    }
                    Next::Trailers(trailers)
                }
                Poll::Ready(next) => next,
            },
        };
        Poll::Ready(match next {
            Next::Data(data) => Some(Ok(Frame::data(data))),
            Next::Trailers(trailers) => {
                this.0 = Kind::Empty;
                let mut headers = HeaderMap::with_capacity(4);
                fields::append_trailers(&mut headers, &trailers);
                Some(Ok(Frame::trailers(headers)))
            }
            Next::Reset => {
                this.0 = Kind::Empty;
                Some(Err(std::io::Error::other(
                    "the handler ended the stream abruptly",
                )))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Empty)
    }
}
