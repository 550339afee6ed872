//! The seam between a call and the connection that carries it, one for both sides.

use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::client::Reached;
use crate::server::Account;
use crate::wire::head::{ResponseHead, Trailers};
use crate::{Code, Metadata, Status};

/// What arrives on a stream.
#[derive(Debug)]
pub(crate) enum Event {
    /// The head of a response; clients only.
    Head(ResponseHead),
    /// A piece of the messages.
    Data(Bytes),
    /// The end of a response.
    Trailers(Trailers),
    /// The end of the stream without trailers.
    End,
}

/// The receiving half of a stream. Dropping it before the end resets the stream.
pub(crate) trait RecvHalf: Send {
    /// The next event; room in the flow-control window is given back as data is taken.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, StreamError>>;
    /// Ends the call, whose deadline has passed, unless it has ended before; whether the deadline is
    /// what has ended it. Clients only.
    fn expire(&mut self) -> bool {
        false
    }
    /// Where large messages that are taken from it count; servers only.
    fn account(&self) -> Option<Arc<Account>> {
        None
    }
}

/// The sending half of a stream. Dropping it before the end resets the stream.
pub(crate) trait SendHalf: Send {
    /// Opens the response; servers only.
    fn send_head(&mut self, head: ResponseHead);
    /// Waits until there is room for a message of this length.
    fn poll_ready(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<Result<(), StreamError>>;
    /// Queues a message whole.
    fn send(&mut self, data: Bytes, end: bool) -> Result<(), StreamError>;
    /// Queues a small message that stays with its owner.
    fn send_copied(&mut self, data: &[u8]) -> Result<(), StreamError> {
        self.send(Bytes::copy_from_slice(data), false)
    }
    /// Whether the response has begun; clients only.
    fn has_begun(&self) -> bool {
        false
    }
    /// Ends the response; servers only.
    fn send_trailers(&mut self, trailers: Trailers);
    /// Ends the stream abruptly.
    fn reset(&mut self, code: ErrorCode);
}

pub(crate) use rpc_http2::ErrorCode;

/// The code of a call that is not wanted any more.
pub(crate) const CANCEL: ErrorCode = ErrorCode::CANCEL;

/// The status of a stream that was reset with a code, by the table of the gRPC protocol document.
fn status_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::REFUSED_STREAM => Code::Unavailable,
        ErrorCode::CANCEL => Code::Cancelled,
        ErrorCode::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        ErrorCode::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

/// Why a stream broke.
#[derive(Debug)]
pub(crate) enum StreamError {
    /// Nothing of the call was sent.
    Unsent(String),
    /// The peer said that it did not look at the call.
    Refused(String),
    /// The stream was reset.
    Reset(ErrorCode),
    /// The connection broke under the stream; the call may have been processed.
    Lost(Box<dyn Error + Send + Sync>),
    /// The peer did on the stream what HTTP/2 forbids.
    Violation(&'static str),
    /// The call's deadline has passed.
    Deadline,
    /// The head of the response is not one of gRPC's.
    Protocol(Status),
    /// A server has no memory for what arrives, or a head is more than a client's peer takes.
    Exhausted(Status),
    /// The response had begun with this metadata; clients only.
    Begun(Box<(Self, Metadata)>),
    /// The server has answered whole, and takes no more requests: why it failed if it did. Senders of
    /// clients only, whose receiving half has the answer.
    Answered(Option<Status>),
}

impl StreamError {
    /// How far the call got.
    pub(crate) fn reached(&self) -> Reached {
        match self {
            Self::Unsent(_) => Reached::Nothing,
            Self::Refused(_) => Reached::Library,
            Self::Lost(_) | Self::Deadline => Reached::Perhaps,
            Self::Begun(begun) => begun.0.reached(),
            Self::Reset(_)
            | Self::Violation(_)
            | Self::Protocol(_)
            | Self::Exhausted(_)
            | Self::Answered(_) => Reached::Server,
        }
    }

    /// The same after a head of a response, if there was one with metadata.
    pub(crate) fn after(self, head: Option<ResponseHead>) -> Self {
        match (self, head) {
            // Its status is made elsewhere.
            (Self::Deadline, _) => Self::Deadline,
            (error, Some(head)) if !head.metadata.is_empty() => {
                Self::Begun(Box::new((error, head.metadata)))
            }
            (error, _) => error,
        }
    }

    /// The code of its status.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Unsent(_) | Self::Refused(_) | Self::Lost(_) => Code::Unavailable,
            Self::Reset(code) => status_code(*code),
            Self::Violation(_) => Code::Internal,
            Self::Deadline => Code::DeadlineExceeded,
            Self::Protocol(status) | Self::Exhausted(status) => status.code(),
            Self::Begun(begun) => begun.0.code(),
            Self::Answered(status) => status.as_ref().map_or(Code::Cancelled, Status::code),
        }
    }

    /// The same error for somebody else.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Unsent(why) => Self::Unsent(why.clone()),
            Self::Refused(why) => Self::Refused(why.clone()),
            Self::Reset(code) => Self::Reset(*code),
            Self::Lost(cause) => Self::Lost(cause.to_string().into()),
            Self::Violation(what) => Self::Violation(what),
            Self::Deadline => Self::Deadline,
            Self::Protocol(status) => Self::Protocol(status.clone()),
            Self::Exhausted(status) => Self::Exhausted(status.clone()),
            Self::Begun(begun) => Self::Begun(Box::new((begun.0.again(), begun.1.clone()))),
            Self::Answered(status) => Self::Answered(status.clone()),
        }
    }

    pub(crate) fn into_status(self) -> Status {
        match self {
            Self::Unsent(why) | Self::Refused(why) => Status::unavailable(why),
            Self::Reset(code) => Status::new(
                status_code(code),
                format!("the peer reset the stream with {code}"),
            ),
            Self::Lost(cause) => {
                Status::unavailable(format!("the connection was lost during the call: {cause}"))
                    .with_source(cause)
            }
            Self::Violation(what) => {
                Status::internal(format!("the peer broke the protocol: {what}"))
            }
            Self::Deadline => Status::deadline_exceeded("the call did not end by its deadline"),
            Self::Protocol(status) | Self::Exhausted(status) | Self::Answered(Some(status)) => {
                status
            }
            Self::Begun(begun) => begun.0.into_status().with_leading(begun.1),
            Self::Answered(None) => {
                Status::cancelled("the server has answered already and takes no more requests")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_map_as_the_protocol_document_says() {
        let expected = [13, 13, 13, 13, 13, 13, 13, 14, 1, 13, 13, 8, 7, 13];
        for (code, status) in (0u32..).zip(expected) {
            assert_eq!(
                status_code(ErrorCode(code)) as i32,
                status,
                "{}",
                ErrorCode(code)
            );
        }
        assert_eq!(status_code(ErrorCode(99)), Code::Internal);
    }

    #[test]
    fn an_error_has_the_code_of_its_status() {
        for error in [
            StreamError::Unsent("u".to_owned()),
            StreamError::Refused("r".to_owned()),
            StreamError::Reset(CANCEL),
            StreamError::Lost("l".into()),
            StreamError::Violation("v"),
            StreamError::Deadline,
            StreamError::Protocol(Status::not_found("p")),
            StreamError::Exhausted(Status::resource_exhausted("e")),
            StreamError::Answered(Some(Status::aborted("a"))),
            StreamError::Answered(None),
            StreamError::Begun(Box::new((StreamError::Violation("v"), Metadata::new()))),
        ] {
            assert_eq!(
                error.code(),
                error.again().into_status().code(),
                "{error:?}"
            );
        }
    }
}
