//! Between header blocks and what they mean to a call.

use std::time::Duration;

use rpc_http2::Fields as List;
use rpc_http2::hpack::{Block, Template};

use crate::codec::Subtype;
use crate::transport::stream::StreamError;
use crate::wire::compression::{ACCEPT, Encoding};
use crate::wire::head::{ContentType, Fields, RequestHead, ResponseHead, Trailers, status_of_http};
use crate::wire::{binary, outcome, percent, timeout};
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
    let details = binary::encode(status.details());
    let text = outcome::text(status.message(), details.len());
    if !text.is_empty() {
        fields.push("grpc-message", text.as_bytes());
    }
    if !details.is_empty() {
        fields.push("grpc-status-details-bin", details);
    }
    push_all(fields, status.outgoing());
}

/// The same where the peer has said how large a header list it takes, with what goes out beside it.
///
/// What is too large for that is told in its place; a status that is no more than a text is cut. The
/// code goes out in any case, since the limit is advice (RFC 9113 section 6.5.2).
pub(crate) fn push_status_within(fields: &mut List, status: &Status, beside: usize, limit: usize) {
    push_status(fields, status);
    let size = fields.size().saturating_add(beside);
    if size <= limit {
        return;
    }
    fields.clear();
    let is_text = status.details().is_empty() && status.outgoing().next().is_none();
    let told = if is_text {
        status.clone()
    } else {
        let (code, text) = (status.code(), status.message());
        let what = format!("status of the call ({code}: {text}) with its details and metadata");
        too_large(&what, size, limit)
    };
    fields.push("grpc-status", told.code().as_str());
    let taken = beside.saturating_add(fields.size() + FIELD + "grpc-message".len());
    let room = limit.saturating_sub(taken).min(outcome::TEXT);
    let text = percent::encode_within(told.message(), room);
    if !text.is_empty() {
        fields.push("grpc-message", text.as_bytes());
    }
}

/// What each field of a header list counts beside its octets (RFC 9113 section 6.5.2).
const FIELD: usize = 32;

/// The status of a call of which something is larger than the peer says it takes.
pub(crate) fn too_large(what: &str, size: usize, limit: usize) -> Status {
    Status::resource_exhausted(format!(
        "the peer takes header lists of {limit} octets (its SETTINGS_MAX_HEADER_LIST_SIZE), and {size} is the size of the {what}"
    ))
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
    Head {
        head: ResponseHead,
        content_type: ContentType,
        /// The status in a head that does not end the stream.
        claim: Option<Box<Trailers>>,
    },
    TrailersOnly(Trailers),
}

/// Reads the head of a response.
///
/// Only a head that ends the stream is Trailers-Only ("Responses" of the protocol document). A status in
/// any other is a claim of which the trailers say the truth; it counts where none come.
pub(crate) fn client_head(
    block: Block<'_>,
    end: bool,
    limit: u32,
) -> Result<ClientHead, StreamError> {
    let mut fields = parse(block);
    let of = |wanted: &[u8]| {
        let found = block.fields().find(|(name, _)| *name == wanted);
        found.and_then(|(_, value)| std::str::from_utf8(value).ok())
    };
    let http_status = of(b":status")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    if block.oversized && http_status == 200 {
        return Err(StreamError::Protocol(oversized("head", limit)));
    }
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
    if let Some(status) = fields.take_error() {
        let status = match status.code() {
            Code::Unimplemented => Status::internal(status.message().to_owned()),
            _ => status,
        };
        return Err(StreamError::Protocol(status));
    }
    if end {
        return Ok(ClientHead::TrailersOnly(fields.into_trailers()));
    }
    let claim = fields
        .has_status()
        .then(|| Box::new(fields.clone().into_trailers()));
    if http_status != 200 {
        // What follows is no message of the call.
        let status = claim.and_then(|claim| claim.into_result().err());
        let status = status.unwrap_or_else(|| status_of_http(http_status, of(b"content-type")));
        return Err(StreamError::Protocol(status));
    }
    let head = ResponseHead {
        encoding: fields.encoding,
        metadata: fields.metadata,
    };
    let content_type = content_type.unwrap_or(ContentType::Grpc);
    Ok(ClientHead::Head {
        head,
        content_type,
        claim,
    })
}

/// Reads trailers.
pub(crate) fn trailers(block: Block<'_>, limit: u32) -> Trailers {
    let trailers = parse(block).into_trailers();
    if !block.oversized {
        return trailers;
    }
    let lost = oversized("trailers", limit);
    Trailers::error(match trailers.outcome {
        None => lost,
        Some(outcome) => {
            let ended = match outcome {
                Ok(()) => "OK".to_owned(),
                Err(status) => status.to_string(),
            };
            Status::resource_exhausted(format!("{}; the call ended with {ended}", lost.message()))
        }
    })
}

fn oversized(what: &str, limit: u32) -> Status {
    Status::resource_exhausted(format!(
        "the {what} of the response are more than the {limit} octets of header list (max_header_list_size of the channel) or the 128 fields that this client takes"
    ))
}

/// What a client has understood of heads that begin alike, by the slots of the engine's memory.
#[derive(Debug)]
pub(crate) struct KnownHeads {
    known: Vec<Option<(u64, KnownHead)>>,
    /// The largest header list that is taken.
    pub(crate) limit: u32,
}

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
    /// For a connection that takes header lists up to a size.
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            known: Vec::new(),
            limit,
        }
    }

    /// What a block is, if it was there before.
    pub(crate) fn find(&mut self, block: Block<'_>, trailers: bool) -> Option<KnownHead> {
        let prefix = block.prefix.filter(|_| block.rest.is_empty())?;
        if prefix.slot >= self.known.len() {
            self.known.resize(prefix.slot + 1, None);
        }
        let limit = self.limit;
        let place = self.known.get_mut(prefix.slot)?;
        match place {
            Some((serial, known)) if *serial == prefix.serial => Some(*known),
            _ => {
                let known = KnownHead::of(block, trailers, limit);
                *place = Some((prefix.serial, known));
                Some(known)
            }
        }
    }
}

impl KnownHead {
    fn of(block: Block<'_>, trailers: bool, limit: u32) -> Self {
        if trailers {
            let only_ok = block
                .fields()
                .all(|(name, value)| name == b"grpc-status" && value == b"0");
            return if only_ok { Self::Ok } else { Self::Other };
        }
        match client_head(block, false, limit) {
            Ok(ClientHead::Head {
                head,
                content_type,
                claim: None,
            }) if head.metadata.is_empty() => match content_type {
                ContentType::Grpc => Self::Plain(head.encoding),
                ContentType::Proto => Self::PlainProto(head.encoding),
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }
}
