//! The receiving half of a call: [`RecvStream`].

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;
use tokio::task::coop::{consume_budget, poll_proceed};
use tokio::time::{Instant, Sleep};

use super::apart::Large;
use crate::client::{AttemptEnd, OpenedRecv};
use crate::codec::Decoder;
use crate::server::{Held, ServerRecv};
use crate::transport::stream::{Event, RecvHalf, StreamError};
use crate::wire::compression::Encoding;
use crate::wire::message::{self, MessageDecoder, Next};
use crate::{BoxFuture, Code, Deadline, Metadata, Response, Status};

/// Messages from this size on count against the budget of a server while their handlers run.
const HELD: usize = 64 * 1024;

/// The messages that arrive in a call: requests in a handler, responses at a client.
///
/// Dropping it before the end cancels the call on a client.
pub struct RecvStream<T>(Box<Receiving<T>>);

/// What a [`RecvStream`] points to: handlers move their streams around, and each place to which one is
/// moved is room in the handler's future.
struct Receiving<T> {
    /// Shared by the streams of a method on a server.
    decoder: Arc<Decoder<T>>,
    messages: MessageDecoder,
    source: Source,
    /// In a box, since a server's stream that waits for a message has nothing of it.
    rare: Option<Box<Rare<T>>>,
}

/// What only a client has, or a stream with large messages, or one that has failed.
struct Rare<T> {
    /// A message that is being decompressed or decoded elsewhere.
    apart: Option<BoxFuture<'static, Result<T, Status>>>,
    /// Until it is known that the call has ended before.
    deadline: Option<Deadline>,
    /// For what no connection ends by the deadline: the start of the call, and messages decoded apart.
    sleep: Option<Pin<Box<Sleep>>>,
    headers: Option<Metadata>,
    trailers: Option<Metadata>,
    /// An error was given to the caller.
    reported: bool,
}

impl<T> Default for Rare<T> {
    fn default() -> Self {
        Self {
            apart: None,
            deadline: None,
            sleep: None,
            headers: None,
            trailers: None,
            reported: false,
        }
    }
}

enum Source {
    Server(ServerRecv),
    Starting(oneshot::Receiver<Result<OpenedRecv, Status>>),
    Open(Box<OpenedRecv>),
    /// Another attempt is being made because the last one failed before it delivered a message.
    Again(BoxFuture<'static, Result<OpenedRecv, Status>>),
    Failed(Status),
    Done,
}

impl<T> fmt::Debug for RecvStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvStream")
            .field("codec", &self.0.decoder.subtype.name())
            .finish_non_exhaustive()
    }
}

impl<T> RecvStream<T> {
    pub(crate) fn server(
        recv: ServerRecv,
        decoder: Arc<Decoder<T>>,
        encoding: Encoding,
        limit: usize,
    ) -> Self {
        Self::new(
            Source::Server(recv),
            decoder,
            MessageDecoder::new(encoding, limit).on_server(),
            None,
        )
    }

    pub(crate) fn client(
        started: oneshot::Receiver<Result<OpenedRecv, Status>>,
        decoder: Arc<Decoder<T>>,
        limit: usize,
        deadline: Option<Deadline>,
    ) -> Self {
        let messages = MessageDecoder::new(Encoding::Identity, limit);
        Self::new(Source::Starting(started), decoder, messages, deadline)
    }

    /// A stream of a call that could not be started.
    pub(crate) fn failed(decoder: Arc<Decoder<T>>, status: Status) -> Self {
        Self::new(
            Source::Failed(status),
            decoder,
            MessageDecoder::new(Encoding::Identity, 0),
            None,
        )
    }

    fn new(
        source: Source,
        decoder: Arc<Decoder<T>>,
        messages: MessageDecoder,
        deadline: Option<Deadline>,
    ) -> Self {
        let rare = deadline.map(|deadline| {
            Box::new(Rare {
                deadline: Some(deadline),
                sleep: Some(Box::pin(tokio::time::sleep_until(deadline.instant()))),
                ..Rare::default()
            })
        });
        Self(Box::new(Receiving {
            decoder,
            messages,
            source,
            rare,
        }))
    }

    /// The next message; nothing when the peer has ended its stream with success.
    ///
    /// # Errors
    /// On a client the status of the call; the first call reports a failure to start. In a
    /// handler `CANCELLED` when the client has gone, `INTERNAL` or `RESOURCE_EXHAUSTED` for a
    /// message that cannot be taken.
    ///
    /// # Cancel safety
    /// Cancel safe: no message is lost.
    pub fn recv(&mut self) -> impl Future<Output = Result<Option<T>, Status>> {
        poll_fn(|cx| self.poll_recv(cx))
    }

    /// The metadata that the server sent before its first message; a client waits for it.
    ///
    /// # Errors
    /// The status of the call when it ended without a head.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn headers(&mut self) -> Result<&Metadata, Status> {
        consume_budget().await;
        while self.rare().headers.is_none() {
            match poll_fn(|cx| self.poll_event(cx)).await? {
                true => {}
                false => break,
            }
        }
        Ok(self.rare().headers.get_or_insert_default())
    }

    /// The metadata after the last message, once the stream has ended; that of a call that has failed is
    /// in its status too.
    #[must_use]
    pub fn trailers(&self) -> Option<&Metadata> {
        if let Source::Failed(status) = &self.0.source {
            return Some(status.metadata());
        }
        self.0.rare.as_ref()?.trailers.as_ref()
    }

    /// [`recv`](Self::recv) for those who poll.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<T>, Status>> {
        let turn = ready!(poll_proceed(cx));
        let polled = self.poll_message(cx);
        if polled.is_ready() {
            turn.made_progress();
        }
        if let Poll::Ready(Err(_)) = polled {
            self.rare().reported = true;
        }
        polled
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<T>, Status>> {
        if let Some(status) = self.expire() {
            return Poll::Ready(Err(status));
        }
        loop {
            if let Some(rare) = &mut self.0.rare
                && let Some(apart) = &mut rare.apart
            {
                let Poll::Ready(message) = apart.as_mut().poll(cx) else {
                    return self.poll_deadline(cx).map_ok(|_| None);
                };
                rare.apart = None;
                return Poll::Ready(match message {
                    Ok(message) => Ok(Some(message)),
                    Err(status) => Err(self.fail(status)),
                });
            }
            let small = self
                .0
                .messages
                .with_small(|octets| message::decode_slice(&self.0.decoder, octets));
            let next = match small {
                Some(decoded) => decoded.map(Some),
                None => match self.0.messages.advance() {
                    Ok(Next::Missing) => Ok(None),
                    Ok(Next::Message(bytes)) if (self.0.decoder.is_heavy)(&bytes) => {
                        self.decode_apart(Large::Heavy(bytes));
                        continue;
                    }
                    Ok(Next::Message(bytes)) => message::decode(&self.0.decoder, bytes).map(Some),
                    Ok(Next::Packed(unpacking)) => {
                        self.decode_apart(Large::Packed(unpacking));
                        continue;
                    }
                    Err(status) => Err(status),
                },
            };
            match next {
                Ok(Some(message)) => return Poll::Ready(Ok(Some(message))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Err(self.fail(status))),
            }
            match self.poll_event(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Err(status)) => return Poll::Ready(Err(status)),
            }
        }
    }

    fn decode_apart(&mut self, large: Large) {
        let decoder = *self.0.decoder;
        self.rare().apart = Some((decoder.decode_apart)(decoder, large));
    }

    /// Holds the budget of the server for the last message, when it is a large one.
    pub(crate) fn hold(&self) -> Result<Option<Held>, Status> {
        let length = self.0.messages.last();
        let Source::Server(recv) = &self.0.source else {
            return Ok(None);
        };
        if length < HELD {
            return Ok(None);
        }
        let Some(account) = recv.account() else {
            return Ok(None);
        };
        let mut held = Held::new(&account);
        if held.set(length) {
            Ok(Some(held))
        } else {
            Err(account.too_much())
        }
    }

    /// Whether an error was given already.
    pub(crate) fn has_failed(&self) -> bool {
        self.0.rare.as_ref().is_some_and(|rare| rare.reported)
    }

    pub(crate) fn into_response(self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        let rare = self.0.rare.map(|rare| *rare).unwrap_or_default();
        response.metadata = rare.headers.unwrap_or_default();
        response.trailers = rare.trailers.unwrap_or_default();
        response
    }

    fn rare(&mut self) -> &mut Rare<T> {
        self.0.rare.get_or_insert_default()
    }

    /// Takes one event in; false when the stream has ended with success.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Status>> {
        loop {
            let opened = match &mut self.0.source {
                Source::Done => return Poll::Ready(Ok(false)),
                Source::Failed(status) => return Poll::Ready(Err(status.clone())),
                Source::Server(recv) => {
                    let event = match recv.poll_recv(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(event) => event,
                    };
                    return Poll::Ready(match event {
                        Ok(Event::Data(data)) => {
                            self.0.messages.push(data);
                            Ok(true)
                        }
                        Ok(_) => match self.0.messages.finish() {
                            Ok(()) => {
                                self.0.source = Source::Done;
                                Ok(false)
                            }
                            Err(status) => Err(self.fail(status)),
                        },
                        Err(StreamError::Exhausted(status)) => Err(self.fail(status)),
                        Err(error) => {
                            let status = Status::cancelled("the client ended the call")
                                .with_source(error.into_status());
                            Err(self.fail(status))
                        }
                    });
                }
                Source::Starting(started) => match Pin::new(started).poll(cx) {
                    Poll::Pending => None,
                    Poll::Ready(Ok(opened)) => Some(opened),
                    Poll::Ready(Err(_)) => Some(Err(crate::client::not_started())),
                },
                Source::Again(again) => match again.as_mut().poll(cx) {
                    Poll::Pending => None,
                    Poll::Ready(opened) => Some(opened),
                },
                Source::Open(opened) => match opened.recv.poll_recv(cx) {
                    Poll::Pending => None,
                    Poll::Ready(event) => match self.client_event(event) {
                        Some(outcome) => return Poll::Ready(outcome),
                        None => continue,
                    },
                },
            };
            match opened {
                Some(Ok(opened)) => self.0.source = Source::Open(Box::new(opened)),
                Some(Err(status)) => return Poll::Ready(Err(self.fail(status))),
                // The connection ends the call by its deadline.
                None if matches!(self.0.source, Source::Open(_)) => return Poll::Pending,
                None => return self.poll_deadline(cx),
            }
        }
    }

    /// Ends a call whose deadline has passed, whatever has arrived of it and was not taken. A call that
    /// had ended before is read to its end.
    fn expire(&mut self) -> Option<Status> {
        let rare = self.0.rare.as_mut()?;
        let deadline = rare.deadline?;
        let Source::Open(opened) = &mut self.0.source else {
            return None;
        };
        if Instant::now() < deadline.instant() {
            return None;
        }
        if !opened.recv.expire() {
            rare.deadline = None;
            return None;
        }
        let status = opened.plan.expired();
        Some(self.fail(status))
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Status>> {
        let rare = self.0.rare.as_mut();
        let Some(sleep) = rare.and_then(|rare| rare.sleep.as_mut()) else {
            return Poll::Pending;
        };
        if sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let status = match &self.0.source {
            Source::Open(opened) => opened.plan.expired(),
            _ => Status::deadline_exceeded("the call did not end by its deadline"),
        };
        Poll::Ready(Err(self.fail(status)))
    }

    /// Takes in what arrived; nothing when another attempt is made instead.
    fn client_event(&mut self, event: Result<Event, StreamError>) -> Option<Result<bool, Status>> {
        let failed = match event {
            Ok(Event::Head(head)) => {
                if let Source::Open(opened) = &mut self.0.source {
                    opened.body.commit();
                    opened.guard.answered();
                }
                self.rare().headers = Some(head.metadata);
                self.0.messages.set_encoding(head.encoding);
                return Some(Ok(true));
            }
            Ok(Event::Data(data)) => {
                self.0.messages.push(data);
                return Some(Ok(true));
            }
            Ok(Event::Trailers(trailers)) => match trailers.into_result() {
                Ok(trailers) => {
                    return Some(match self.0.messages.finish() {
                        Ok(()) => {
                            self.rare().trailers = Some(trailers);
                            self.end(None);
                            Ok(false)
                        }
                        Err(status) => Err(self.fail(status)),
                    });
                }
                Err(status) => status.into(),
            },
            Ok(Event::End) => {
                Status::unknown("the server ended the call without a grpc-status").into()
            }
            Err(StreamError::Deadline) => {
                let status = match &self.0.source {
                    Source::Open(opened) => opened.plan.expired(),
                    _ => StreamError::Deadline.into_status(),
                };
                return Some(Err(self.fail(status)));
            }
            Err(error) => crate::client::Failed::from(error),
        };
        let source = std::mem::replace(&mut self.0.source, Source::Done);
        let Source::Open(opened) = source else {
            return Some(Err(failed.status));
        };
        let OpenedRecv {
            mut plan,
            mut guard,
            body,
            recv,
        } = *opened;
        guard.end(failed.end());
        drop(guard);
        // Only a call whose requests are at hand can be made again, and only before the head of the
        // response: no message comes before that.
        let has_headers = self.rare().headers.is_some();
        if !body.can_resend() || has_headers {
            let status = self.with_headers(plan.annotated(failed.status));
            plan.report(Some(&status));
            self.0.source = Source::Failed(status.clone());
            return Some(Err(status));
        }
        drop(recv);
        self.0.source = Source::Again(Box::pin(async move {
            let again = match plan.after_until_deadline(failed).await {
                Ok(()) => plan.open_until_deadline().await,
                Err(status) => Err(status),
            };
            match again {
                Ok(halves) => Ok(OpenedRecv {
                    plan,
                    recv: halves.recv,
                    guard: halves.guard,
                    body: body.resend(halves.send),
                }),
                Err(status) => {
                    plan.report(Some(&status));
                    Err(status)
                }
            }
        }));
        None
    }

    /// Ends the stream with a failure and gives it back.
    fn fail(&mut self, status: Status) -> Status {
        let status = match &self.0.source {
            Source::Open(opened) => self.with_headers(opened.plan.annotated(status)),
            _ => status,
        };
        if let Some(rare) = &mut self.0.rare {
            rare.apart = None;
        }
        // What has arrived behind the failure, or too late, is no part of the call.
        self.0.messages = MessageDecoder::new(Encoding::Identity, 0);
        self.end(Some(&status));
        self.0.source = Source::Failed(status.clone());
        status
    }

    /// A failure with the head of the response, if there was one.
    fn with_headers(&self, status: Status) -> Status {
        match self.0.rare.as_ref().and_then(|rare| rare.headers.as_ref()) {
            Some(headers) if !headers.is_empty() => status.with_leading(headers.clone()),
            _ => status,
        }
    }

    fn end(&mut self, status: Option<&Status>) {
        if let Source::Open(opened) = &mut self.0.source {
            opened.guard.end(match status.map(Status::code) {
                Some(Code::DeadlineExceeded) => AttemptEnd::Expired,
                code => AttemptEnd::Answered(code.unwrap_or(Code::Ok)),
            });
            if status.is_none() {
                opened.plan.succeeded();
            }
            opened.plan.report(status);
        }
        self.0.source = Source::Done;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each stream that waits holds one of these.
    #[test]
    fn a_stream_that_waits_is_thirteen_words() {
        assert!(size_of::<Receiving<()>>() <= 13 * size_of::<u64>());
    }
}
