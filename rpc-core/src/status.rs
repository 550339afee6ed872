//! The outcome of a call: [`Code`] and [`Status`].

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::causes::{self, cause_of};
use crate::{Metadata, MetadataValue};

/// What a server says about trying again: a number of milliseconds, or something else for no (gRFC A6).
pub(crate) const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The status codes of gRPC.
///
/// Source: <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// The call succeeded.
    Ok = 0,
    /// The caller cancelled the call.
    Cancelled = 1,
    /// An error that nothing more is known of.
    Unknown = 2,
    /// The request is wrong whatever the state of the system.
    InvalidArgument = 3,
    /// The deadline passed before the call completed.
    DeadlineExceeded = 4,
    /// A requested entity was not found.
    NotFound = 5,
    /// The entity to create exists.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A quota, limit or other resource is used up.
    ResourceExhausted = 8,
    /// The system is not in the state that the call needs.
    FailedPrecondition = 9,
    /// The call was aborted, typically by a concurrency conflict.
    Aborted = 10,
    /// The call went past a valid range.
    OutOfRange = 11,
    /// The method is not implemented.
    Unimplemented = 12,
    /// An invariant of the system is broken.
    Internal = 13,
    /// The service cannot be reached now; trying again may help.
    Unavailable = 14,
    /// Unrecoverable loss or corruption of data.
    DataLoss = 15,
    /// The caller's credentials are missing or wrong.
    Unauthenticated = 16,
}

impl Code {
    /// The code of a number on the wire; a number that gRPC does not define is [`Code::Unknown`].
    #[must_use]
    pub const fn from_i32(value: i32) -> Self {
        match value {
            0 => Self::Ok,
            1 => Self::Cancelled,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            10 => Self::Aborted,
            11 => Self::OutOfRange,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            15 => Self::DataLoss,
            16 => Self::Unauthenticated,
            _ => Self::Unknown,
        }
    }

    /// The name as the gRPC documents spell it, such as `DEADLINE_EXCEEDED`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        const NUMBERS: [&str; 17] = [
            "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15",
            "16",
        ];
        NUMBERS[self as usize]
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a call failed: a [`Code`], a message, and where it happened.
///
/// One pointer wide, so that `Result<T, Status>` stays small. A client's status names the
/// method, the endpoint and the attempt it came from, or the target when there was no endpoint to try.
///
/// `Display` tells all of it in one line, with every cause once. [`Error::source`] is therefore
/// nothing: whoever prints an error and its sources would print the causes again. To look at the
/// cause itself there is [`cause`](Self::cause).
///
/// ```
/// use rpc_core::{Code, Status};
/// let status = Status::not_found("no feature at 12,7");
/// assert_eq!(status.code(), Code::NotFound);
/// assert_eq!(status.to_string(), "NOT_FOUND: no feature at 12,7");
/// ```
#[derive(Clone)]
pub struct Status(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    message: Cow<'static, str>,
    details: Bytes,
    metadata: Metadata,
    leading: Metadata,
    origin: Origin,
    call_ended: bool,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

#[derive(Clone, Default)]
struct Origin {
    path: Option<Arc<str>>,
    endpoint: Option<Arc<str>>,
    /// What was called, where no endpoint was.
    target: Option<Arc<str>>,
    attempt: u32,
    /// Why there was no other attempt.
    last: Option<&'static str>,
}

macro_rules! constructors {
    ($($name:ident $code:ident),* $(,)?) => {$(
        #[doc = concat!("A status with [`Code::", stringify!($code), "`].")]
        #[must_use]
        pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
            Self::new(Code::$code, message)
        }
    )*};
}

impl Status {
    /// A status with a code and a message for people.
    #[must_use]
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            code,
            message: message.into(),
            details: Bytes::new(),
            metadata: Metadata::new(),
            leading: Metadata::new(),
            origin: Origin::default(),
            call_ended: false,
            source: None,
        }))
    }

    constructors! {
        cancelled Cancelled, unknown Unknown, invalid_argument InvalidArgument,
        deadline_exceeded DeadlineExceeded, not_found NotFound, already_exists AlreadyExists,
        permission_denied PermissionDenied, resource_exhausted ResourceExhausted,
        failed_precondition FailedPrecondition, aborted Aborted, out_of_range OutOfRange,
        unimplemented Unimplemented, internal Internal, unavailable Unavailable,
        data_loss DataLoss, unauthenticated Unauthenticated,
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The message for people; it crosses the wire percent-encoded as `grpc-message`.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The encoded `google.rpc.Status`, sent as `grpc-status-details-bin`; empty when there is none.
    #[must_use]
    pub fn details(&self) -> &Bytes {
        &self.0.details
    }

    /// Sets the encoded `google.rpc.Status`.
    #[must_use]
    pub fn with_details(mut self, details: Bytes) -> Self {
        self.0.details = details;
        self
    }

    /// The metadata that came, or goes, with the status in the trailers.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    /// The metadata to change.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.0.metadata
    }

    /// The metadata that came, or goes, in the head of a response before the call failed.
    ///
    /// On a client that is the head of a call of any kind, empty when there was none. A handler puts
    /// there what has to go ahead of its failure; it has no effect once a head was sent. See
    /// [`Metadata`] for where each kind of metadata is.
    #[must_use]
    pub fn leading_metadata(&self) -> &Metadata {
        &self.0.leading
    }

    /// The metadata of the head, to change.
    pub fn leading_metadata_mut(&mut self) -> &mut Metadata {
        &mut self.0.leading
    }

    /// Sets the metadata of the head.
    pub(crate) fn with_leading(mut self, metadata: Metadata) -> Self {
        self.0.leading = metadata;
        self
    }

    /// Keeps the error that caused this status; it stays in this process.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Whether a message could not be sent because its call has ended, and not because of the message.
    ///
    /// A server may answer before it has read all requests. Sending more then fails with this, while
    /// the outcome of the call, which may well be success, is with
    /// [`ClientStream::finish`](crate::ClientStream::finish) or with the
    /// [`RecvStream`](crate::RecvStream) of the responses. The code is that of the call when it has
    /// failed, and [`Code::Cancelled`] when it has succeeded.
    #[must_use]
    pub fn is_call_ended(&self) -> bool {
        self.0.call_ended
    }

    /// Marks a failure of sending as one of a call that has ended.
    pub(crate) fn of_ended_call(mut self) -> Self {
        self.0.call_ended = true;
        self
    }

    /// The error that caused this status, on the side where it happened.
    ///
    /// ```
    /// use std::io;
    /// use rpc_core::Status;
    /// let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    /// let status = Status::unavailable("no database").with_source(refused);
    /// let cause = status.cause().and_then(|cause| cause.downcast_ref::<io::Error>());
    /// assert_eq!(cause.unwrap().kind(), io::ErrorKind::ConnectionRefused);
    /// assert_eq!(status.to_string(), "UNAVAILABLE: no database: connection refused");
    /// ```
    #[must_use]
    pub fn cause(&self) -> Option<&(dyn Error + 'static)> {
        let source = self.0.source.as_ref()?;
        Some(&**source)
    }

    /// The message with all causes, each once: what `Display` tells but for the code and the place.
    #[must_use]
    pub fn explanation(&self) -> String {
        let mut text = self.message().to_owned();
        causes::append(&mut text, self.cause());
        text
    }

    /// The endpoint that the failed attempt was sent to, on a client.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.0.origin.endpoint.as_deref()
    }

    /// Which attempt failed, from 1; 0 where no attempt was made.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.origin.attempt
    }

    /// The path of the method that was called, on a client.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.0.origin.path.as_deref()
    }

    pub(crate) fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.0.metadata = metadata;
        self
    }

    /// Whether a call that this process made has failed so, or has caused this failure. Its channel has
    /// repeated it as often as that may help, so that whoever called this process must not do so
    /// again: one failure at the end of a chain of services would be repeated by all of them.
    pub(crate) fn is_of_a_call(&self) -> bool {
        let mut next: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = next {
            let status = error.downcast_ref::<Self>();
            if status.is_some_and(|status| status.0.origin.path.is_some()) {
                return true;
            }
            next = cause_of(error);
        }
        false
    }

    /// The metadata that goes out with it. A failure of a call that this process made says to whoever
    /// called it not to try again (gRFC A6), in place of what it says itself.
    pub(crate) fn outgoing(&self) -> impl Iterator<Item = (&str, MetadataValue<'_>)> {
        let stops = self.0.code == Code::Unavailable && self.is_of_a_call();
        let own = self.0.metadata.iter();
        let own = own.filter(move |(key, _)| !stops || *key != PUSHBACK);
        own.chain(stops.then_some((PUSHBACK, MetadataValue::Text("-1"))))
    }

    pub(crate) fn with_path(mut self, path: &str) -> Self {
        if self.0.origin.path.is_none() {
            self.0.origin.path = Some(path.into());
        }
        self
    }

    /// Says why there is no other attempt.
    pub(crate) fn with_last(mut self, why: Option<&'static str>) -> Self {
        self.0.origin.last = why;
        self
    }

    /// Names what was called, for a call that no endpoint was found for.
    pub(crate) fn with_target(mut self, target: &Arc<str>) -> Self {
        self.0.origin.target = Some(Arc::clone(target));
        self
    }

    /// What is told of it as the cause of another error; its own causes come after it.
    pub(crate) fn as_cause(&self) -> String {
        match self.0.origin.path {
            Some(_) => self.without_causes(),
            // A part of the same call.
            None => self.0.message.clone().into_owned(),
        }
    }

    fn without_causes(&self) -> String {
        let mut text = format!("{}: {}", self.0.code, self.0.message);
        let origin = &self.0.origin;
        let attempt = (origin.attempt > 0).then(|| origin.attempt.to_string());
        let target = origin
            .target
            .as_deref()
            .filter(|_| origin.endpoint.is_none());
        let places = [
            ("method ", origin.path.as_deref()),
            ("target ", target),
            ("endpoint ", origin.endpoint.as_deref()),
            ("attempt ", attempt.as_deref()),
            ("", origin.last),
        ];
        let mut before = " (";
        for (what, place) in places {
            if let Some(place) = place {
                text.push_str(&format!("{before}{what}{place}"));
                before = ", ";
            }
        }
        if before == ", " {
            text.push(')');
        }
        text
    }

    pub(crate) fn with_attempt(mut self, endpoint: &Arc<str>, attempt: u32) -> Self {
        self.0.origin.endpoint = Some(Arc::clone(endpoint));
        self.0.origin.attempt = attempt;
        self
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.without_causes();
        causes::append(&mut text, self.cause());
        f.write_str(&text)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Status")
            .field("code", &self.0.code)
            .field("message", &self.0.message)
            .field("path", &self.0.origin.path)
            .field("endpoint", &self.0.origin.endpoint)
            .field("attempt", &self.0.origin.attempt)
            .field("metadata", &self.0.metadata)
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

/// Its text has all causes; see [`Status::cause`].
impl Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_pointer_wide() {
        assert_eq!(size_of::<Status>(), size_of::<usize>());
        assert_eq!(size_of::<Result<(), Status>>(), size_of::<usize>());
    }

    #[test]
    fn codes_survive_the_wire() {
        for number in 0..17 {
            let code = Code::from_i32(number);
            assert_eq!(code as i32, number);
            assert_eq!(code.as_str(), number.to_string());
        }
        assert_eq!(Code::from_i32(99), Code::Unknown);
        assert_eq!(Code::from_i32(-1), Code::Unknown);
    }

    #[test]
    fn display_names_method_endpoint_attempt_and_cause() {
        let status = Status::unavailable("connection refused")
            .with_source(std::io::Error::from_raw_os_error(111))
            .with_path("/a.B/C")
            .with_attempt(&"127.0.0.1:9".into(), 2);
        let text = status.to_string();
        for part in [
            "UNAVAILABLE",
            "/a.B/C",
            "127.0.0.1:9",
            "attempt 2",
            "os error 111",
        ] {
            assert!(text.contains(part), "{part} missing in {text}");
        }
    }
}
