//! The seam between a call and the connection that carries it, one for both sides.

use std::error::Error;
use std::fmt;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::wire::head::{ResponseHead, Trailers};
use crate::{Code, Status};

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
}

/// The sending half of a stream. Dropping it before the end resets the stream.
pub(crate) trait SendHalf: Send {
    /// Opens the response; servers only.
    fn send_head(&mut self, head: ResponseHead);
    /// Waits until there is room for a message of this length.
    fn poll_ready(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<Result<(), StreamError>>;
    /// Queues a message whole.
    fn send(&mut self, data: Bytes, end: bool) -> Result<(), StreamError>;
    /// Ends the response; servers only.
    fn send_trailers(&mut self, trailers: Trailers);
    /// Ends the stream abruptly.
    fn reset(&mut self, code: ErrorCode);
}

/// The error codes of RFC 9113 section 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ErrorCode(pub(crate) u32);

impl ErrorCode {
    pub(crate) const REFUSED_STREAM: Self = Self(0x7);
    pub(crate) const CANCEL: Self = Self(0x8);
    pub(crate) const ENHANCE_YOUR_CALM: Self = Self(0xb);
    pub(crate) const INADEQUATE_SECURITY: Self = Self(0xc);

    fn name(self) -> &'static str {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        usize::try_from(self.0)
            .ok()
            .and_then(|index| NAMES.get(index))
            .copied()
            .unwrap_or("an unknown code")
    }

    /// The status of a stream that was reset with this code, by the table of the gRPC protocol document.
    fn status_code(self) -> Code {
        match self {
            Self::REFUSED_STREAM => Code::Unavailable,
            Self::CANCEL => Code::Cancelled,
            Self::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
            Self::INADEQUATE_SECURITY => Code::PermissionDenied,
            _ => Code::Internal,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a stream broke.
#[derive(Debug)]
pub(crate) enum StreamError {
    /// The peer said that it did not look at the call.
    Refused(String),
    /// The stream was reset.
    Reset(ErrorCode),
    /// The connection broke under the stream; the call may have been processed.
    Lost(Box<dyn Error + Send + Sync>),
    /// The head of the response is not one of gRPC's.
    Protocol(Status),
}

impl StreamError {
    /// Whether the peer cannot have processed the call.
    pub(crate) fn is_unprocessed(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    pub(crate) fn into_status(self) -> Status {
        match self {
            Self::Refused(why) => Status::unavailable(why),
            Self::Reset(code) => Status::new(
                code.status_code(),
                format!("the peer reset the stream with {code}"),
            ),
            Self::Lost(cause) => {
                Status::unavailable("the connection was lost during the call").with_source(cause)
            }
            Self::Protocol(status) => status,
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
                ErrorCode(code).status_code() as i32,
                status,
                "{}",
                ErrorCode(code)
            );
        }
        assert_eq!(ErrorCode(99).status_code(), Code::Internal);
    }
}
