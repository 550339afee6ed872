//! How messages become bytes, and what a method is: [`Codec`], [`Method`].

use std::borrow::Cow;
use std::error::Error;

use bytes::{Bytes, BytesMut};

use crate::stream::{Large, decode_apart};
use crate::wire::weight::{self, LIGHT};
use crate::{BoxFuture, Status};

/// A message that could not be decoded.
pub type DecodeError = Box<dyn Error + Send + Sync>;

type DecodeSlice<T> = fn(&[u8]) -> Result<T, DecodeError>;

type DecodeApart<T> = fn(Decoder<T>, Large) -> BoxFuture<'static, Result<T, Status>>;

/// How a message of type `T` becomes bytes and back; data, not a trait, so that one type can have many.
pub struct Codec<T> {
    pub(crate) encoder: Encoder<T>,
    pub(crate) decoder: Decoder<T>,
}

/// The half of a codec that the sending half of a stream has.
pub(crate) struct Encoder<T> {
    pub(crate) encode: fn(&T, &mut BytesMut),
    /// How long the encoding will be, where that is known before.
    pub(crate) length: Option<fn(&T) -> usize>,
}

/// The half of a codec that the receiving half of a stream has.
pub(crate) struct Decoder<T> {
    pub(crate) decode: fn(Bytes) -> Result<T, DecodeError>,
    /// Decodes what stays where it is, where that is cheaper.
    pub(crate) decode_slice: Option<DecodeSlice<T>>,
    /// Whether a message takes so long to decode that nobody should wait for it.
    pub(crate) is_heavy: fn(&[u8]) -> bool,
    /// Decodes one that does, or that is compressed, on a thread for what blocks.
    pub(crate) decode_apart: DecodeApart<T>,
    pub(crate) subtype: Subtype,
}

/// What stands behind `application/grpc+`, as ASCII in lower case: the name of a codec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Subtype(Option<&'static str>);

impl Subtype {
    /// The one that goes without saying.
    pub(crate) const PROTO: Self = Self(None);

    const fn new(name: &'static str) -> Self {
        let octets = name.as_bytes();
        assert!(
            !octets.is_empty() && octets.len() <= LONGEST_NAME,
            "the name of a codec has 1 to 64 characters"
        );
        let mut place = 0;
        while place < octets.len() {
            // Those of a token (RFC 9110 section 5.6.2), of which media types are made.
            assert!(
                matches!(octets[place], b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'+' | b'!' | b'#' | b'$' | b'&' | b'^'),
                "the name of a codec has a character outside a-z 0-9 - _ . + ! # $ & ^"
            );
            place += 1;
        }
        match octets {
            b"proto" => Self::PROTO,
            _ => Self(Some(name)),
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self.0 {
            Some(name) => name,
            None => "proto",
        }
    }

    /// The whole type of requests and responses.
    pub(crate) fn content_type(self) -> Cow<'static, str> {
        match self.0 {
            None => "application/grpc".into(),
            Some(name) => format!("application/grpc+{name}").into(),
        }
    }
}

/// More characters than this has no name of a codec.
pub(crate) const LONGEST_NAME: usize = 64;

/// The codecs of a method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Codecs {
    pub(crate) request: Subtype,
    pub(crate) response: Subtype,
}

impl<T: Send + 'static> Codec<T> {
    /// A codec from two functions and the name that stands in `content-type: application/grpc+name`.
    ///
    /// Clients send the name of the request's codec and servers that of the response's; for `proto`
    /// `application/grpc` stands alone. A server answers a request of another codec than the method's
    /// with HTTP 415 before its handler runs, where `application/grpc` alone is `proto`. A client fails
    /// a call with `INTERNAL` whose response names another codec, and takes one that names none.
    ///
    /// # Panics
    /// When the name is not 1 to 64 characters of `a-z 0-9 - _ . + ! # $ & ^`; in a constant that is an
    /// error of the compiler.
    ///
    /// Messages of more than 64 KiB are decoded on a thread for what blocks, since nobody knows how
    /// long that takes.
    #[must_use]
    pub const fn new(
        name: &'static str,
        encode: fn(&T, &mut BytesMut),
        decode: fn(Bytes) -> Result<T, DecodeError>,
    ) -> Self {
        Self {
            encoder: Encoder {
                encode,
                length: None,
            },
            decoder: Decoder {
                decode,
                decode_slice: None,
                is_heavy: |octets| octets.len() > LIGHT,
                decode_apart: |decoder, large| Box::pin(decode_apart(decoder, large)),
                subtype: Subtype::new(name),
            },
        }
    }
}

impl<T> Codec<T> {
    /// The name, such as `proto`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.decoder.subtype.name()
    }
}

impl<T: prost::Message + Default + 'static> Codec<T> {
    /// Protocol buffers by prost.
    ///
    /// A message with more than 64 KiB besides its long strings and bytes is decoded on a thread for
    /// what blocks: an octet of it may become a hundred octets of memory.
    #[must_use]
    pub const fn prost() -> Self {
        let mut codec = Self::new(
            "proto",
            |message, buffer| message.encode_raw(buffer),
            |bytes| T::decode(bytes).map_err(Into::into),
        );
        codec.decoder.decode_slice = Some(|octets| T::decode(octets).map_err(Into::into));
        codec.decoder.is_heavy =
            |octets| weight::is_heavy(octets, |probe| T::decode(probe).is_ok());
        codec.encoder.length = Some(T::encoded_len);
        codec
    }
}

impl Codec<Bytes> {
    /// The bytes as they are, for proxies and for messages encoded elsewhere.
    #[must_use]
    pub const fn raw() -> Self {
        let mut codec = Self::new(
            "proto",
            |message, buffer| buffer.extend_from_slice(message),
            Ok,
        );
        codec.decoder.is_heavy = |_| false;
        codec
    }
}

macro_rules! copies {
    ($($name:ident),*) => {$(
        // Derived, it would ask the same of the message.
        impl<T> Clone for $name<T> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<T> Copy for $name<T> {}
    )*};
}

copies!(Codec, Encoder, Decoder);

impl<T> std::fmt::Debug for Codec<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Codec").field(&self.name()).finish()
    }
}

/// Which sides of a call are streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MethodKind {
    /// One request, one response.
    Unary,
    /// One request, many responses.
    ServerStreaming,
    /// Many requests, one response.
    ClientStreaming,
    /// Many of both.
    BidiStreaming,
}

/// What calling a method twice does; from `idempotency_level` in the `.proto` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Idempotency {
    /// Nothing is promised: a call that may have been processed is never repeated.
    #[default]
    Unknown,
    /// Twice is as once: a failed call may be repeated.
    Idempotent,
    /// The call only reads: a failed call may be repeated.
    NoSideEffects,
}

impl Idempotency {
    /// Whether a call that may have been processed can be sent again.
    #[must_use]
    pub const fn is_repeatable(self) -> bool {
        !matches!(self, Self::Unknown)
    }
}

/// One method of a service: its path, its kind and its codecs.
#[derive(Clone, Debug)]
pub struct Method<Q, R> {
    path: Cow<'static, str>,
    kind: MethodKind,
    idempotency: Idempotency,
    pub(crate) request: Codec<Q>,
    pub(crate) response: Codec<R>,
}

macro_rules! kinds {
    ($($name:ident $kind:ident),*) => {$(
        #[doc = concat!("A method of kind [`MethodKind::", stringify!($kind), "`].")]
        #[must_use]
        pub const fn $name(path: &'static str, request: Codec<Q>, response: Codec<R>) -> Self {
            Self { path: Cow::Borrowed(path), kind: MethodKind::$kind, idempotency: Idempotency::Unknown, request, response }
        }
    )*};
}

impl<Q, R> Method<Q, R> {
    kinds!(unary Unary, server_streaming ServerStreaming, client_streaming ClientStreaming, bidi_streaming BidiStreaming);

    /// A method whose path is known only at run time, for proxies.
    #[must_use]
    pub fn dynamic(
        path: impl Into<String>,
        kind: MethodKind,
        request: Codec<Q>,
        response: Codec<R>,
    ) -> Self {
        Self {
            path: Cow::Owned(path.into()),
            kind,
            idempotency: Idempotency::Unknown,
            request,
            response,
        }
    }

    /// Marks the method as [`Idempotency::Idempotent`].
    #[must_use]
    pub const fn idempotent(mut self) -> Self {
        self.idempotency = Idempotency::Idempotent;
        self
    }

    /// Marks the method as [`Idempotency::NoSideEffects`].
    #[must_use]
    pub const fn no_side_effects(mut self) -> Self {
        self.idempotency = Idempotency::NoSideEffects;
        self
    }

    /// The path on the wire, `/package.Service/Method`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What `content-type` says of requests and responses.
    pub(crate) const fn codecs(&self) -> Codecs {
        Codecs {
            request: self.request.decoder.subtype,
            response: self.response.decoder.subtype,
        }
    }

    /// The path without a copy, when it is constant.
    pub(crate) fn path_cow(&self) -> Cow<'static, str> {
        self.path.clone()
    }

    /// Which sides are streams.
    #[must_use]
    pub const fn kind(&self) -> MethodKind {
        self.kind
    }

    /// What calling it twice does.
    #[must_use]
    pub const fn idempotency(&self) -> Idempotency {
        self.idempotency
    }
}

macro_rules! prost_kinds {
    ($($name:ident $function:ident $kind:ident),*) => {$(
        #[doc = concat!("A method of kind [`MethodKind::", stringify!($kind), "`] whose messages are prost's.")]
        #[must_use]
        pub const fn $name(path: &'static str) -> Self {
            Self::$function(path, Codec::prost(), Codec::prost())
        }
    )*};
}

impl<Q: prost::Message + Default + 'static, R: prost::Message + Default + 'static> Method<Q, R> {
    prost_kinds!(
        unary_prost unary Unary,
        server_streaming_prost server_streaming ServerStreaming,
        client_streaming_prost client_streaming ClientStreaming,
        bidi_streaming_prost bidi_streaming BidiStreaming
    );
}
