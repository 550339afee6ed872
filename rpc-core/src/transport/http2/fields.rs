//! Between header blocks and what they mean to a call.

use std::time::Duration;

use rpc_http2::Fields as List;
use rpc_http2::hpack::{Block, Template};

use crate::codec::Subtype;
use crate::transport::stream::StreamError;
use crate::wire::compression::{ACCEPT, Encoding};
use crate::wire::head::{ContentType, Fields, RequestHead, ResponseHead, Trailers, status_of_http};
use crate::wire::{binary, percent, timeout};
use crate::{Code, Metadata, MetadataValue, Status};

const AGENT: &str = concat!("rpc-core/", env!("CARGO_PKG_VERSION"));

/// What all requests of a method begin with.
pub(crate) fn request_template(
    path: &str,
    authority: &str,
    secure: bool,
    encoding: Encoding,
    codec: Subtype,
    own_agent: bool,
) -> Template {
    let mut fields = List::new();
    fields.push(":method", "POST");
    fields.push(":scheme", if secure { "https" } else { "http" });
    fields.push(":path", path);
    fields.push(":authority", authority);
    fields.push("te", "trailers");
    fields.push("content-type", &*codec.content_type());
    fields.push("grpc-accept-encoding", ACCEPT);
    if encoding != Encoding::Identity {
        fields.push("grpc-encoding", encoding.name());
    }
    if !own_agent {
        fields.push("user-agent", AGENT);
    }
    Template::new(fields)
}

/// What one request has beside its template.
pub(crate) fn push_request(fields: &mut List, head: &RequestHead, timeout: Option<Duration>) {
    push_metadata(fields, &head.metadata);
    if head.previous_attempts > 0 {
        let attempts = head.previous_attempts.to_string();
        fields.push("grpc-previous-rpc-attempts", attempts);
    }
    if let Some(timeout) = timeout {
        fields.push_with("grpc-timeout", |value| timeout::write(timeout, value));
    }
}

/// What all responses with an encoding and a codec begin with.
pub(crate) fn response_template(encoding: Encoding, codec: Subtype) -> Template {
    let mut fields = List::new();
    fields.push(":status", "200");
    fields.push("content-type", &*codec.content_type());
    if encoding != Encoding::Identity {
        fields.push("grpc-encoding", encoding.name());
    }
    Template::new(fields)
}

/// What ends a call that has succeeded.
pub(crate) fn ok_template() -> Template {
    Template::new([("grpc-status", "0")].into_iter().collect())
}

/// What ends a call that has failed.
pub(crate) fn push_status(fields: &mut List, status: &Status) {
    fields.push("grpc-status", status.code().as_str());
    if status.code() == Code::Ok {
        return;
    }
    if !status.message().is_empty() {
        let message = percent::encode(bounded(status.message()));
        fields.push("grpc-message", message.as_bytes());
    }
    if !status.details().is_empty() {
        fields.push("grpc-status-details-bin", binary::encode(status.details()));
    }
    push_all(fields, status.outgoing());
}

/// A longer message could pass a peer's limit on header lists and turn a failed call into a broken stream.
pub(crate) fn bounded(message: &str) -> &str {
    const LONGEST: usize = 4096;
    if message.len() <= LONGEST {
        return message;
    }
    &message[..message.floor_char_boundary(LONGEST)]
}

pub(crate) fn push_metadata(fields: &mut List, metadata: &Metadata) {
    if metadata.is_empty() {
        return;
    }
    push_all(fields, metadata.iter());
}

fn push_all<'a>(fields: &mut List, metadata: impl Iterator<Item = (&'a str, MetadataValue<'a>)>) {
    for (key, value) in metadata {
        match value {
            MetadataValue::Text(text) => fields.push(key, text),
            MetadataValue::Binary(bytes) => fields.push(key, binary::encode(bytes)),
        }
    }
}

/// A block has so many fields of the protocol at the most.
const OF_PROTOCOL: usize = 12;

/// Makes room at once for the metadata of a list that has much of it.
pub(crate) fn reserve(fields: &mut Fields, list: &List) {
    if list.len() > OF_PROTOCOL {
        fields.metadata.reserve(list.len(), list.octets().len());
    }
}

/// Reads all fields of a block.
pub(crate) fn parse(block: Block<'_>) -> Fields {
    let mut fields = Fields::default();
    reserve(&mut fields, block.rest);
    for (name, value) in block.fields() {
        take(&mut fields, name, value);
    }
    fields
}

/// Reads one field; the engine has checked its name.
pub(crate) fn take(fields: &mut Fields, name: &[u8], value: &[u8]) {
    if name.first() == Some(&b':') {
        return;
    }
    if let Ok(name) = std::str::from_utf8(name) {
        fields.field(name, value);
    }
}

/// What the head of a response says to a client.
#[derive(Debug)]
pub(crate) enum ClientHead {
    Head(ResponseHead, ContentType),
    TrailersOnly(Trailers),
}

/// Reads the head of a response.
pub(crate) fn client_head(block: Block<'_>, end: bool) -> Result<ClientHead, StreamError> {
    let mut fields = parse(block);
    let of = |wanted: &[u8]| {
        let found = block.fields().find(|(name, _)| *name == wanted);
        found.and_then(|(_, value)| std::str::from_utf8(value).ok())
    };
    let http_status = of(b":status")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let content_type = fields.content_type.take();
    let is_other = |content_type: &ContentType| !content_type.is_grpc();
    if content_type.as_ref().is_some_and(is_other)
        || content_type.is_none() && !fields.has_status()
        || http_status != 200 && !fields.has_status()
    {
        return Err(StreamError::Protocol(status_of_http(
            http_status,
            of(b"content-type"),
        )));
    }
    if block.oversized {
        return Err(StreamError::Protocol(oversized("head")));
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
    let head = ResponseHead {
        encoding: fields.encoding,
        metadata: fields.metadata,
    };
    Ok(ClientHead::Head(
        head,
        content_type.unwrap_or(ContentType::Grpc),
    ))
}

/// Reads trailers.
pub(crate) fn trailers(block: Block<'_>) -> Trailers {
    if block.oversized && !block.fields().any(|(name, _)| name == b"grpc-status") {
        return Trailers::error(oversized("trailers"));
    }
    parse(block).into_trailers()
}

fn oversized(what: &str) -> Status {
    Status::resource_exhausted(format!(
        "the {what} of the response is larger than 16 KiB or has more than 128 fields"
    ))
}

/// What a client has understood of heads that begin alike, by the slots of the engine's memory.
#[derive(Debug, Default)]
pub(crate) struct KnownHeads(Vec<Option<(u64, KnownHead)>>);

/// A whole block that is nothing but its prefix, understood.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KnownHead {
    /// A head without metadata, of which only the encoding is of interest to those whose codec it does
    /// not name.
    Plain(Encoding),
    /// The same of one that says `proto`.
    PlainProto(Encoding),
    /// Trailers that say OK and nothing else.
    Ok,
    /// Anything else.
    Other,
}

impl KnownHeads {
    /// What a block is, if it was there before.
    pub(crate) fn find(&mut self, block: Block<'_>, trailers: bool) -> Option<KnownHead> {
        let prefix = block.prefix.filter(|_| block.rest.is_empty())?;
        if prefix.slot >= self.0.len() {
            self.0.resize(prefix.slot + 1, None);
        }
        let place = self.0.get_mut(prefix.slot)?;
        match place {
            Some((serial, known)) if *serial == prefix.serial => Some(*known),
            _ => {
                let known = KnownHead::of(block, trailers);
                *place = Some((prefix.serial, known));
                Some(known)
            }
        }
    }
}

impl KnownHead {
    fn of(block: Block<'_>, trailers: bool) -> Self {
        if trailers {
            let only_ok = block
                .fields()
                .all(|(name, value)| name == b"grpc-status" && value == b"0");
            return if only_ok { Self::Ok } else { Self::Other };
        }
        match client_head(block, false) {
            Ok(ClientHead::Head(head, content_type)) if head.metadata.is_empty() => {
                match content_type {
                    ContentType::Grpc => Self::Plain(head.encoding),
                    ContentType::Proto => Self::PlainProto(head.encoding),
                    _ => Self::Other,
                }
            }
            _ => Self::Other,
        }
    }
}
