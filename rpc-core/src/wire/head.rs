//! What the header and trailer fields of a call say.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use rpc_http2::without_padding;

use super::compression::{Encoding, EncodingSet};
use super::{binary, percent, timeout};
use crate::codec::{Codecs, LONGEST_NAME, Subtype};
use crate::{Code, Deadline, Metadata, Status, metadata};

/// The fields that open a call.
#[derive(Debug, Default)]
pub(crate) struct RequestHead {
    pub(crate) path: Cow<'static, str>,
    pub(crate) deadline: Option<Deadline>,
    /// How many attempts a server may have processed before this one (gRFC A6).
    pub(crate) previous_attempts: u32,
    pub(crate) encoding: Encoding,
    pub(crate) codecs: Codecs,
    pub(crate) metadata: Metadata,
}

/// The fields that open a response.
#[derive(Debug, Default)]
pub(crate) struct ResponseHead {
    pub(crate) encoding: Encoding,
    pub(crate) metadata: Metadata,
}

/// The fields that end a response.
#[derive(Debug, Default)]
pub(crate) struct Trailers {
    /// Nothing when the peer sent no `grpc-status`.
    pub(crate) outcome: Option<Result<(), Status>>,
    /// What an OK call carries; the metadata of a failure is in its status.
    pub(crate) metadata: Metadata,
}

impl Trailers {
    pub(crate) fn ok(metadata: Metadata) -> Self {
        Self {
            outcome: Some(Ok(())),
            metadata,
        }
    }

    pub(crate) fn error(status: Status) -> Self {
        Self {
            outcome: Some(Err(status)),
            metadata: Metadata::new(),
        }
    }

    /// The same once more, when they are those of a call that has failed.
    pub(crate) fn failure(&self) -> Option<Self> {
        let Some(Err(status)) = &self.outcome else {
            return None;
        };
        Some(Self {
            outcome: Some(Err(status.clone())),
            metadata: self.metadata.clone(),
        })
    }

    /// The outcome of the call: its trailing metadata, or why it failed.
    pub(crate) fn into_result(self) -> Result<Metadata, Status> {
        match self.outcome {
            Some(Ok(())) => Ok(self.metadata),
            Some(Err(status)) => Err(status.with_metadata(self.metadata)),
            None => Err(Status::unknown(
                "the server ended the call without a grpc-status",
            )),
        }
    }
}

/// Collects the fields of a header block, in any order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields {
    pub(crate) metadata: Metadata,
    pub(crate) content_type: Option<ContentType>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) encoding: Encoding,
    pub(crate) accept: EncodingSet,
    code: Option<Code>,
    message: String,
    details: Bytes,
    error: Option<Status>,
}

/// What `content-type` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ContentType {
    /// `application/grpc` alone.
    Grpc,
    /// With `+proto`, which changes nothing for a request and makes sure of a response.
    Proto,
    /// With the name of another codec.
    Named(Box<str>),
    /// Not gRPC.
    Other,
}

impl ContentType {
    pub(crate) fn is_grpc(&self) -> bool {
        *self != Self::Other
    }

    /// Whether a request of this type has this codec.
    pub(crate) fn asks_for(&self, codec: Subtype) -> bool {
        match self {
            Self::Grpc | Self::Proto => codec == Subtype::PROTO,
            Self::Named(name) => name.eq_ignore_ascii_case(codec.name()),
            Self::Other => false,
        }
    }

    /// Whether a response of this type may have this codec: many servers never name it.
    pub(crate) fn may_be_of(&self, codec: Subtype) -> bool {
        *self == Self::Grpc || self.asks_for(codec)
    }
}

/// The status of a call whose response names another codec than the method has.
pub(crate) fn wrong_codec(content_type: &ContentType, codec: Subtype) -> Status {
    let named = match content_type {
        ContentType::Named(name) => name,
        _ => Subtype::PROTO.name(),
    };
    Status::internal(format!(
        "the server answered with content-type application/grpc+{named}, and the codec of the method's responses is {}",
        codec.name()
    ))
}

impl Fields {
    /// Takes one field of a head or of trailers, of either role; its name is lower case.
    ///
    /// White space around a value is none of it, and a value of metadata that gRPC does not allow is
    /// left out, see [`Metadata`]: neither is worth the call.
    pub(crate) fn field(&mut self, name: &str, value: &[u8]) {
        // The text of a status may have spaces anywhere ("Responses" of the protocol document).
        let value = match name {
            "grpc-message" => value,
            _ => without_padding(value),
        };
        match name {
            "content-type" => self.content_type = Some(content_type(value)),
            "grpc-timeout" => match timeout::parse(value) {
                Some(duration) => self.timeout = Some(duration),
                None => self.fail(Status::internal(format!(
                    "grpc-timeout {:?} is not at most 8 digits and one of H M S m u n",
                    String::from_utf8_lossy(value)
                ))),
            },
            "grpc-encoding" => {
                let name = String::from_utf8_lossy(value);
                match Encoding::from_name(&name) {
                    Some(encoding) => self.encoding = encoding,
                    None => self.fail(Status::unimplemented(format!(
                        "grpc-encoding {name:?} is not supported; supported: {}",
                        super::compression::ACCEPT
                    ))),
                }
            }
            "grpc-accept-encoding" => {
                if let Ok(list) = std::str::from_utf8(value) {
                    self.accept = EncodingSet::parse(list);
                }
            }
            "grpc-status" => {
                let number = std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse().ok());
                self.code = Some(number.map_or(Code::Unknown, Code::from_i32));
            }
            "grpc-message" => self.message = percent::decode(value),
            "grpc-status-details-bin" => match binary::decode(value) {
                Some(details) => self.details = details.into(),
                None => left_out(name, NO_BASE64),
            },
            _ if metadata::is_reserved(name) => {}
            _ if name.ends_with("-bin") => {
                // Several values may be joined by commas.
                for part in value.split(|byte| *byte == b',') {
                    match binary::decode(without_padding(part)) {
                        Some(bytes) => self.metadata.push_binary(name, &bytes),
                        None => left_out(name, NO_BASE64),
                    }
                }
            }
            _ => match metadata::text(value) {
                Some(text) => self.metadata.push_text(name, text),
                None => left_out(name, "it is not printable ASCII"),
            },
        }
    }

    /// Makes clones cheap.
    pub(crate) fn share(&mut self) {
        self.metadata.share();
    }

    /// The first field that could not be understood.
    pub(crate) fn take_error(&mut self) -> Option<Status> {
        self.error.take()
    }

    pub(crate) fn has_error(&self) -> bool {
        self.error.is_some()
    }

    pub(crate) fn has_status(&self) -> bool {
        self.code.is_some()
    }

    pub(crate) fn into_trailers(self) -> Trailers {
        let outcome = self.code.map(|code| match code {
            Code::Ok => Ok(()),
            _ => Err(Status::new(code, self.message).with_details(self.details)),
        });
        Trailers {
            outcome,
            metadata: self.metadata,
        }
    }

    fn fail(&mut self, status: Status) {
        self.error.get_or_insert(status);
    }
}

const NO_BASE64: &str = "it is not base64";

/// A value that is none is not worth the call, nor is it worth more than this.
#[cold]
fn left_out(key: &str, why: &str) {
    tracing::debug!(key, "a metadata value of the peer was left out: {why}");
}

/// `application/grpc`, alone or followed by `+` and a codec's name, or by `;`.
fn content_type(value: &[u8]) -> ContentType {
    const GRPC: &[u8] = b"application/grpc";
    let Some((start, rest)) = value.split_at_checked(GRPC.len()) else {
        return ContentType::Other;
    };
    if !start.eq_ignore_ascii_case(GRPC) {
        return ContentType::Other;
    }
    let rest = rest
        .split(|octet| *octet == b';')
        .next()
        .unwrap_or_default();
    match without_padding(rest) {
        [] => ContentType::Grpc,
        [b'+', name @ ..] if name.eq_ignore_ascii_case(b"proto") => ContentType::Proto,
        [b'+', name @ ..] if name.len() <= LONGEST_NAME => match std::str::from_utf8(name) {
            Ok(name) => ContentType::Named(name.into()),
            Err(_) => ContentType::Other,
        },
        _ => ContentType::Other,
    }
}

/// The status of a response that is not gRPC's.
///
/// Source: <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>.
pub(crate) fn status_of_http(http_status: u16, content_type: Option<&str>) -> Status {
    if http_status == 415 {
        return Status::unknown(
            "the peer answered HTTP 415: it does not speak gRPC there, or the method has another codec than this client's",
        );
    }
    let code = match http_status {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Status::new(
        code,
        format!(
            "the peer answered HTTP {http_status} with content-type {}, which is not gRPC",
            content_type.unwrap_or("(none)")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Codec;

    fn fields(list: &[(&str, &[u8])]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in list {
            fields.field(name, value);
        }
        fields
    }

    #[test]
    fn content_types() {
        for (text, expected) in [
            ("application/grpc", ContentType::Grpc),
            ("application/grpc+proto", ContentType::Proto),
            ("application/grpc+Proto ; v=1", ContentType::Proto),
            ("Application/gRPC;charset=utf-8", ContentType::Grpc),
            ("application/grpc ; charset=utf-8", ContentType::Grpc),
            ("application/grpc+json", ContentType::Named("json".into())),
            ("application/grpc+", ContentType::Named("".into())),
            ("application/grpcx", ContentType::Other),
            ("application/grpc-web", ContentType::Other),
            ("application/json", ContentType::Other),
            ("", ContentType::Other),
        ] {
            assert_eq!(content_type(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn codecs_are_matched_by_name() {
        const JSON: Subtype = Codec::<u8>::new("json", |_, _| (), |_| Ok(0))
            .decoder
            .subtype;
        for (text, proto, json, answers_json) in [
            ("application/grpc", true, false, true),
            ("application/grpc+proto", true, false, false),
            ("application/grpc+JSON", false, true, true),
            ("application/grpc+foo", false, false, false),
            ("application/json", false, false, false),
        ] {
            let content_type = content_type(text.as_bytes());
            assert_eq!(content_type.asks_for(Subtype::PROTO), proto, "{text}");
            assert_eq!(content_type.asks_for(JSON), json, "{text}");
            assert_eq!(content_type.may_be_of(JSON), answers_json, "{text}");
        }
    }

    #[test]
    fn trailers_become_a_status() {
        let trailers = fields(&[
            ("grpc-status", b"5"),
            ("grpc-message", b"not%20here %E2%98%BA"),
            ("grpc-status-details-bin", b"AQI"),
            ("x-extra", b"1"),
        ])
        .into_trailers();
        let status = trailers.into_result().unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), "not here \u{263a}");
        assert_eq!(&status.details()[..], [1, 2]);
        assert_eq!(status.metadata().get("x-extra"), Some("1"));
    }

    #[test]
    fn odd_statuses() {
        assert_eq!(
            fields(&[("grpc-status", b"77")])
                .into_trailers()
                .into_result()
                .unwrap_err()
                .code(),
            Code::Unknown
        );
        assert_eq!(
            fields(&[("grpc-status", b"x")])
                .into_trailers()
                .into_result()
                .unwrap_err()
                .code(),
            Code::Unknown
        );
        assert_eq!(
            fields(&[])
                .into_trailers()
                .into_result()
                .unwrap_err()
                .code(),
            Code::Unknown
        );
        assert!(
            fields(&[("grpc-status", b"0")])
                .into_trailers()
                .into_result()
                .is_ok()
        );
    }

    #[test]
    fn one_rule_for_the_values_of_metadata() {
        for (sent, kept) in [
            (&b"v w"[..], Some("v w")),
            (b" \tv w\t ", Some("v w")),
            (b" ", Some("")),
            (b"", Some("")),
            (b"v\xff", None),
            ("\u{fc}".as_bytes(), None),
            (b"a\tb", None),
            (b"\x1b[31m", None),
            (b"\x01", None),
            (b"\x7f", None),
        ] {
            let mut fields = fields(&[("k", sent), ("other", b"1")]);
            assert_eq!(fields.metadata.get("k"), kept, "{sent:?}");
            assert_eq!(fields.metadata.get("other"), Some("1"));
            assert!(fields.take_error().is_none());
        }
        for (sent, kept) in [
            (&b"AQ"[..], &[&[1u8][..]][..]),
            (b" AQ==\t", &[&[1]]),
            (b"AQ, * ,Ag==", &[&[1], &[2]]),
            (b"*", &[]),
            (b"\xff", &[]),
        ] {
            let mut fields = fields(&[("k-bin", sent)]);
            let values: Vec<_> = fields.metadata.get_all_bin("k-bin").collect();
            assert_eq!(values, kept, "{sent:?}");
            assert!(fields.take_error().is_none());
        }
    }

    #[test]
    fn white_space_around_the_fields_of_the_protocol_is_none_of_them() {
        let mut fields = fields(&[
            ("content-type", b" application/grpc\t"),
            ("grpc-timeout", b" 1S "),
            ("grpc-encoding", b"identity "),
            ("grpc-status", b" 5"),
            ("grpc-message", b" a "),
        ]);
        assert!(fields.take_error().is_none());
        assert_eq!(fields.content_type, Some(ContentType::Grpc));
        assert_eq!(fields.timeout, Some(Duration::from_secs(1)));
        let status = fields.into_trailers().into_result().unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::NotFound, " a "));
    }

    #[test]
    fn joined_binary_values_are_split() {
        let fields = fields(&[("k-bin", b"AQ, Ag==,")]);
        let values: Vec<_> = fields.metadata.get_all_bin("k-bin").collect();
        assert_eq!(values, [&[1u8][..], &[2], &[]]);
    }

    #[test]
    fn reserved_fields_are_not_metadata() {
        let fields = fields(&[
            ("te", b"trailers"),
            ("grpc-future", b"1"),
            ("user-agent", b"x"),
        ]);
        assert_eq!(
            fields
                .metadata
                .iter()
                .map(|(key, _)| key)
                .collect::<Vec<_>>(),
            ["user-agent"]
        );
    }

    #[test]
    fn bad_fields_are_reported_once() {
        let mut fields = fields(&[("grpc-timeout", b"1s"), ("grpc-encoding", b"br")]);
        assert_eq!(fields.take_error().unwrap().code(), Code::Internal);
        let mut unknown = Fields::default();
        unknown.field("grpc-encoding", b"br");
        assert_eq!(unknown.take_error().unwrap().code(), Code::Unimplemented);
    }

    #[test]
    fn http_statuses_map_as_the_document_says() {
        for (http, code) in [
            (400, Code::Internal),
            (401, Code::Unauthenticated),
            (403, Code::PermissionDenied),
            (404, Code::Unimplemented),
            (429, Code::Unavailable),
            (502, Code::Unavailable),
            (503, Code::Unavailable),
            (504, Code::Unavailable),
            (500, Code::Unknown),
            (200, Code::Unknown),
        ] {
            assert_eq!(status_of_http(http, None).code(), code);
        }
    }
}
