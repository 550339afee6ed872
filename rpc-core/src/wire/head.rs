//! What the header and trailer fields of a call say.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use super::compression::{Encoding, EncodingSet};
use super::{binary, percent, timeout};
use crate::{Code, Deadline, Metadata, Status};

/// The fields that open a call.
#[derive(Debug, Default)]
pub(crate) struct RequestHead {
    pub(crate) path: Cow<'static, str>,
    pub(crate) deadline: Option<Deadline>,
    /// How many attempts a server may have processed before this one (gRFC A6).
    pub(crate) previous_attempts: u32,
    pub(crate) encoding: Encoding,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentType {
    Grpc,
    Other,
}

impl Fields {
    /// Takes one field; its name is lower case.
    pub(crate) fn field(&mut self, name: &str, value: &[u8]) {
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
            "grpc-status-details-bin" => {
                self.details = binary::decode(value).unwrap_or_default().into();
            }
            _ if crate::metadata::is_reserved(name) => {}
            _ if name.ends_with("-bin") => {
                // Several values may be joined by commas.
                for part in value.split(|byte| *byte == b',') {
                    match binary::decode(part.trim_ascii()) {
                        Some(bytes) => self.metadata.push_binary(name, &bytes),
                        None => self.fail(Status::internal(format!(
                            "metadata key {name:?} is not base64"
                        ))),
                    }
                }
            }
            _ => match std::str::from_utf8(value) {
                Ok(text) => self.metadata.push_text(name, text),
                Err(_) => self.fail(Status::internal(format!(
                    "metadata key {name:?} is not ASCII"
                ))),
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

/// `application/grpc`, alone or followed by `+` or `;`.
fn content_type(value: &[u8]) -> ContentType {
    match value.get(..16) {
        Some(start) if start.eq_ignore_ascii_case(b"application/grpc") => match value.get(16) {
            None | Some(b'+' | b';') => ContentType::Grpc,
            Some(_) => ContentType::Other,
        },
        _ => ContentType::Other,
    }
}

/// The status of a response that is not gRPC's.
///
/// Source: <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>.
pub(crate) fn status_of_http(http_status: u16, content_type: Option<&str>) -> Status {
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
            ("application/grpc+proto", ContentType::Grpc),
            ("Application/gRPC;charset=utf-8", ContentType::Grpc),
            ("application/grpc-web", ContentType::Other),
            ("application/json", ContentType::Other),
            ("", ContentType::Other),
        ] {
            assert_eq!(content_type(text.as_bytes()), expected, "{text}");
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
