//! Between the `http` crate's types and ours.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRAILER};

use crate::codec::Subtype;
use crate::wire::compression::Encoding;
use crate::wire::head::{Fields, ResponseHead, Trailers};
use crate::wire::{binary, outcome};
use crate::{Code, Metadata, MetadataValue};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(super) const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const APPLICATION_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

pub(super) fn parse_fields(headers: &HeaderMap) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in headers {
        fields.field(name.as_str(), value.as_bytes());
    }
    fields
}

/// The fields of a response that a server opens.
pub(super) fn response_fields(head: &ResponseHead, codec: Subtype) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(4 + head.metadata.len());
    let content_type = match codec {
        Subtype::PROTO => APPLICATION_GRPC,
        // Its characters are those of a field's value.
        _ => HeaderValue::from_str(&codec.content_type()).unwrap_or(APPLICATION_GRPC),
    };
    headers.insert(CONTENT_TYPE, content_type);
    if head.encoding != Encoding::Identity {
        headers.insert(
            GRPC_ENCODING,
            HeaderValue::from_static(head.encoding.name()),
        );
    }
    append_metadata(&mut headers, &head.metadata);
    headers
}

/// Whether trailers have more than a status.
pub(super) fn has_metadata(trailers: &Trailers) -> bool {
    let of_failure = match &trailers.outcome {
        Some(Err(status)) => !status.metadata().is_empty(),
        _ => false,
    };
    of_failure || !trailers.metadata.is_empty()
}

/// Announces the trailers of a response over HTTP/1.1 (RFC 9110 section 6.6.2): these, or those of a
/// stream, of which nobody knows how it will end.
pub(super) fn announce(headers: &mut HeaderMap, trailers: Option<&HeaderMap>) {
    let Some(trailers) = trailers else {
        for name in [GRPC_STATUS, GRPC_MESSAGE, GRPC_DETAILS] {
            headers.append(TRAILER, name.into());
        }
        return;
    };
    for name in trailers.keys() {
        headers.append(TRAILER, name.clone().into());
    }
}

/// The fields that end a response, into an empty map or, for a trailers-only response, its head.
pub(super) fn append_trailers(headers: &mut HeaderMap, trailers: &Trailers) {
    append_metadata(headers, &trailers.metadata);
    let Some(ended) = &trailers.outcome else {
        return;
    };
    let code = ended
        .as_ref()
        .map_or_else(crate::Status::code, |()| Code::Ok);
    headers.insert(GRPC_STATUS, HeaderValue::from_static(code.as_str()));
    let Err(status) = ended else {
        return;
    };
    let details = binary::encode(status.details());
    let text = outcome::text(status.message(), details.len());
    if !text.is_empty()
        && let Ok(value) = HeaderValue::from_str(&text)
    {
        headers.insert(GRPC_MESSAGE, value);
    }
    if !details.is_empty()
        && let Ok(value) = HeaderValue::try_from(details)
    {
        headers.insert(GRPC_DETAILS, value);
    }
    append_all(headers, status.outgoing());
}

fn append_metadata(headers: &mut HeaderMap, metadata: &Metadata) {
    append_all(headers, metadata.iter());
}

fn append_all<'a>(
    headers: &mut HeaderMap,
    metadata: impl Iterator<Item = (&'a str, MetadataValue<'a>)>,
) {
    for (key, value) in metadata {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    #[test]
    fn a_failure_has_its_message_and_details() {
        let mut headers = response_fields(&ResponseHead::default(), Subtype::PROTO);
        let status = Status::not_found("n\u{f6}").with_details(vec![1, 2].into());
        append_trailers(&mut headers, &Trailers::error(status));
        let status = parse_fields(&headers).into_trailers().into_result();
        let status = status.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::NotFound, "n\u{f6}")
        );
        assert_eq!(&status.details()[..], [1, 2]);
    }
}
