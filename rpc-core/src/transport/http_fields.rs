//! Between the `http` crate's types and ours.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT};

use super::stream::StreamError;
use crate::wire::compression::{ACCEPT, Encoding};
use crate::wire::head::{ContentType, Fields, RequestHead, ResponseHead, Trailers, status_of_http};
use crate::wire::{binary, percent, timeout};
use crate::{Code, Metadata, MetadataValue, Status};

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(crate) const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
pub(crate) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(crate) const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
pub(crate) const APPLICATION_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("rpc-core/", env!("CARGO_PKG_VERSION")));

pub(crate) fn parse_fields(headers: &HeaderMap) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in headers {
        fields.field(name.as_str(), value.as_bytes());
    }
    fields
}

/// The fields of a call that a client opens.
pub(crate) fn request_fields(head: &RequestHead, timeout: Option<Duration>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8 + head.metadata.len());
    headers.insert(TE, TRAILERS);
    headers.insert(CONTENT_TYPE, APPLICATION_GRPC);
    headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static(ACCEPT));
    if head.encoding != Encoding::Identity {
        headers.insert(
            GRPC_ENCODING,
            HeaderValue::from_static(head.encoding.name()),
        );
    }
    if head.metadata.get("user-agent").is_none() {
        headers.insert(USER_AGENT, AGENT);
    }
    append_metadata(&mut headers, &head.metadata);
    if head.previous_attempts > 0 {
        headers.insert(PREVIOUS_ATTEMPTS, head.previous_attempts.into());
    }
    if let Some(timeout) = timeout
        && let Ok(value) = HeaderValue::try_from(timeout::format(timeout))
    {
        headers.insert(GRPC_TIMEOUT, value);
    }
    headers
}

/// The fields of a response that a server opens.
pub(crate) fn response_fields(head: &ResponseHead) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(4 + head.metadata.len());
    headers.insert(CONTENT_TYPE, APPLICATION_GRPC);
    if head.encoding != Encoding::Identity {
        headers.insert(
            GRPC_ENCODING,
            HeaderValue::from_static(head.encoding.name()),
        );
    }
    append_metadata(&mut headers, &head.metadata);
    headers
}

/// The fields that end a response, into an empty map or, for a trailers-only response, its head.
pub(crate) fn append_trailers(headers: &mut HeaderMap, trailers: &Trailers) {
    append_metadata(headers, &trailers.metadata);
    let Some(status) = &trailers.status else {
        return;
    };
    headers.insert(
        GRPC_STATUS,
        HeaderValue::from_static(status.code().as_str()),
    );
    if status.code() == Code::Ok {
        return;
    }
    if !status.message().is_empty()
        && let Ok(value) = HeaderValue::from_str(&percent::encode(bounded(status.message())))
    {
        headers.insert(GRPC_MESSAGE, value);
    }
    if !status.details().is_empty()
        && let Ok(value) = HeaderValue::try_from(binary::encode(status.details()))
    {
        headers.insert(GRPC_DETAILS, value);
    }
    append_metadata(headers, status.metadata());
}

/// A longer message could pass a peer's limit on header lists and turn a failed call into a broken stream.
fn bounded(message: &str) -> &str {
    const LONGEST: usize = 4096;
    if message.len() <= LONGEST {
        return message;
    }
    &message[..message.floor_char_boundary(LONGEST)]
}

fn append_metadata(headers: &mut HeaderMap, metadata: &Metadata) {
    for (key, value) in metadata.iter() {
        let Ok(name) = HeaderName::from_bytes(key.as_bytes()) else {
            continue;
        };
        let value = match value {
            MetadataValue::Text(text) => HeaderValue::from_str(text),
            MetadataValue::Binary(bytes) => HeaderValue::try_from(binary::encode(bytes)),
        };
        if let Ok(value) = value {
            headers.append(name, value);
        }
    }
}

/// What the head of a response says to a client.
pub(crate) enum ClientHead {
    Head(ResponseHead),
    TrailersOnly(Trailers),
}

/// Reads the head of a response.
pub(crate) fn client_head(
    http_status: u16,
    headers: &HeaderMap,
    end: bool,
) -> Result<ClientHead, StreamError> {
    let mut fields = parse_fields(headers);
    if fields.content_type == Some(ContentType::Other)
        || fields.content_type.is_none() && !fields.has_status()
        || http_status != 200 && !fields.has_status()
    {
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        return Err(StreamError::Protocol(status_of_http(
            http_status,
            content_type,
        )));
    }
    if let Some(status) = fields.take_error() {
        let status = match status.code() {
            Code::Unimplemented => Status::internal(status.message().to_owned()),
            _ => status,
        };
        return Err(StreamError::Protocol(status));
    }
    if end || fields.has_status() {
        return Ok(ClientHead::TrailersOnly(fields.into_trailers()));
    }
    Ok(ClientHead::Head(ResponseHead {
        encoding: fields.encoding,
        metadata: fields.metadata,
    }))
}

/// Reads trailers.
pub(crate) fn trailers(headers: &HeaderMap) -> Trailers {
    parse_fields(headers).into_trailers()
}

/// An error of the h2 crate, as a stream sees it.
pub(crate) fn stream_error(error: h2::Error) -> StreamError {
    use super::stream::ErrorCode;
    if error.is_go_away() && error.is_remote() {
        // The peer's GOAWAY names a lower last stream: it did not look at this one (RFC 9113 section 6.8).
        return StreamError::Refused(
            "the server is going away and did not process the call".to_owned(),
        );
    }
    if error.is_io() {
        return StreamError::Lost(error.into());
    }
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) if error.is_remote() => {
            StreamError::Refused("the server refused the stream".to_owned())
        }
        Some(reason) if error.is_reset() => StreamError::Reset(ErrorCode(reason.into())),
        _ => StreamError::Lost(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_without_messages_is_trailers_only() {
        let mut headers = response_fields(&ResponseHead::default());
        append_trailers(&mut headers, &Trailers::error(Status::not_found("nö")));
        match client_head(200, &headers, true) {
            Ok(ClientHead::TrailersOnly(trailers)) => {
                let status = trailers.into_result().unwrap_err();
                assert_eq!((status.code(), status.message()), (Code::NotFound, "nö"));
            }
            _ => panic!("not trailers-only"),
        }
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let mut headers = HeaderMap::new();
        append_trailers(
            &mut headers,
            &Trailers::error(Status::internal("é".repeat(4000))),
        );
        let status = trailers(&headers).into_result().unwrap_err();
        assert_eq!(status.message().len(), 4096);
    }

    #[test]
    fn an_html_page_is_not_grpc() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
        let Err(error) = client_head(503, &headers, false) else {
            panic!("accepted")
        };
        let status = error.into_status();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("text/html"));
    }

    #[test]
    fn metadata_crosses() {
        let mut head = RequestHead::default();
        head.metadata.append("a", "1").unwrap();
        head.metadata.append("a", "2").unwrap();
        head.metadata.insert_bin("b-bin", [0, 255]).unwrap();
        let fields = parse_fields(&request_fields(&head, Some(Duration::from_millis(5))));
        assert_eq!(fields.metadata.get_all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(fields.metadata.get_bin("b-bin"), Some(&[0, 255][..]));
        assert_eq!(fields.timeout, Some(Duration::from_millis(5)));
    }
}
