//! Length-prefixed messages: one flag byte, four length bytes, the message.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::compression::{self, Encoding, Unpacked, Unpacking};
use crate::codec::{Decoder, Encoder};
use crate::lock::outside;
use crate::{Code, DecodeError, Status};

pub(crate) const PREFIX: usize = 5;
/// What a receiver takes unless it is told otherwise.
pub(crate) const DEFAULT_RECEIVE_LIMIT: usize = 4 * 1024 * 1024;
/// The largest header list that it takes, likewise.
pub(crate) const MAX_HEADER_LIST: u32 = 16 * 1024;
/// Messages below this size do not get smaller by compression.
const COMPRESS_FROM: usize = 256;

/// Encodes a message with its prefix.
pub(crate) fn encode<T>(
    encoder: Encoder<T>,
    message: &T,
    encoding: Encoding,
) -> Result<Bytes, Status> {
    let length = encoder.length.map_or(0, |length| length(message));
    let mut buffer = BytesMut::with_capacity(PREFIX + length);
    append(encoder, message, encoding, &mut buffer)?;
    Ok(buffer.freeze())
}

/// Appends a message with its prefix.
pub(crate) fn encode_into<T>(
    encoder: Encoder<T>,
    message: &T,
    encoding: Encoding,
    buffer: &mut BytesMut,
) -> Result<(), Status> {
    let length = encoder.length.map_or(0, |length| length(message));
    buffer.reserve(PREFIX + length);
    append(encoder, message, encoding, buffer)
}

/// The same, where there is room for it.
fn append<T>(
    encoder: Encoder<T>,
    message: &T,
    encoding: Encoding,
    buffer: &mut BytesMut,
) -> Result<(), Status> {
    outside("a codec");
    let start = buffer.len();
    let body = start + PREFIX;
    buffer.put_bytes(0, PREFIX);
    (encoder.encode)(message, buffer);
    if encoding != Encoding::Identity
        && buffer.len() - start >= COMPRESS_FROM
        && let Some(packed) = compression::compress(encoding, &buffer[body..])
    {
        buffer.truncate(body);
        buffer.extend_from_slice(&packed);
        buffer[start] = 1;
    }
    let Ok(length) = u32::try_from(buffer.len() - body) else {
        buffer.truncate(start);
        return Err(Status::resource_exhausted(
            "a message of 4 GiB or more cannot be sent",
        ));
    };
    buffer[start + 1..body].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Whose setting the largest message is, for those who have to change it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Side {
    #[default]
    Client,
    Server,
}

impl Side {
    /// A limit with its owner and its setting.
    pub(crate) fn limit(self, octets: usize) -> String {
        let (owner, builder) = match self {
            Self::Client => ("client", "ChannelBuilder"),
            Self::Server => ("server", "ServerBuilder"),
        };
        format!("this {owner}'s limit of {octets} bytes ({builder}::max_receive_message_size)")
    }
}

/// A message up to this size is cheaper to copy than to share.
const SMALL: u32 = 1024;

/// Cuts a stream of chunks into messages; a message inside one chunk is not copied.
#[derive(Debug)]
pub(crate) struct MessageDecoder {
    /// Empty only when all are taken.
    first: Bytes,
    /// The chunks behind it: most of the time there are none, and no memory for them.
    rest: Option<Box<Rest>>,
    /// Whether the next message is compressed, and its length.
    header: Option<(bool, u32)>,
    /// No message is longer than 4 GiB.
    limit: u32,
    /// The length of the last message, as it came.
    last: u32,
    encoding: Encoding,
    side: Side,
}

/// Chunks behind the first one.
#[derive(Debug, Default)]
struct Rest {
    chunks: VecDeque<Bytes>,
    /// How long they are together.
    length: usize,
}

/// A length as the prefix has it.
fn octets(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// What comes next in a stream of messages.
pub(crate) enum Next {
    /// It has not arrived yet.
    Missing,
    Message(Bytes),
    /// A large one that is compressed.
    Packed(Box<Unpacking>),
}

impl MessageDecoder {
    pub(crate) fn new(encoding: Encoding, limit: usize) -> Self {
        Self {
            first: Bytes::new(),
            rest: None,
            header: None,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            last: 0,
            encoding,
            side: Side::Client,
        }
    }

    /// The limit is that of a server.
    pub(crate) fn on_server(mut self) -> Self {
        self.side = Side::Server;
        self
    }

    /// How long the last message was when it arrived.
    pub(crate) fn last(&self) -> usize {
        octets(self.last)
    }

    pub(crate) fn set_encoding(&mut self, encoding: Encoding) {
        self.encoding = encoding;
    }

    pub(crate) fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            if self.first.is_empty() {
                self.first = chunk;
            } else {
                let rest = self.rest.get_or_insert_default();
                rest.length += chunk.len();
                rest.chunks.push_back(chunk);
            }
        }
    }

    /// Does something with the next message where it is, if it is a small plain one in one chunk.
    pub(crate) fn with_small<R>(&mut self, act: impl FnOnce(&[u8]) -> R) -> Option<R> {
        if self.header.is_some() {
            return None;
        }
        let front = &mut self.first;
        let [0, l0, l1, l2, l3] = *front.first_chunk::<PREFIX>()? else {
            return None;
        };
        let announced = u32::from_be_bytes([l0, l1, l2, l3]);
        if announced > self.limit.min(SMALL) {
            return None;
        }
        let length = octets(announced);
        let result = act(front.get(PREFIX..PREFIX + length)?);
        self.last = announced;
        front.advance(PREFIX + length);
        self.move_up();
        Some(result)
    }

    /// The next whole message, decompressed whatever its size.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        Ok(match self.advance()? {
            Next::Missing => None,
            Next::Message(message) => Some(message),
            Next::Packed(unpacking) => Some(unpacking.finish()?),
        })
    }

    /// The next whole message.
    pub(crate) fn advance(&mut self) -> Result<Next, Status> {
        let (compressed, length) = match self.header {
            Some(header) => header,
            None => {
                if self.buffered() < PREFIX {
                    return Ok(Next::Missing);
                }
                let mut prefix = self.take(PREFIX);
                let flag = prefix.get_u8();
                let length = prefix.get_u32();
                if flag > 1 {
                    return Err(Status::internal(format!(
                        "a message starts with the flag byte {flag}; only 0 and 1 are defined"
                    )));
                }
                if length > self.limit {
                    return Err(Status::resource_exhausted(format!(
                        "a message of {length} bytes is larger than {}",
                        self.side.limit(octets(self.limit))
                    )));
                }
                if flag == 1 && self.encoding == Encoding::Identity {
                    return Err(Status::internal(
                        "a message is marked as compressed, and the call has no grpc-encoding",
                    ));
                }
                *self.header.insert((flag == 1, length))
            }
        };
        if self.buffered() < octets(length) {
            return Ok(Next::Missing);
        }
        self.header = None;
        self.last = length;
        let message = self.take(octets(length));
        if !compressed {
            return Ok(Next::Message(message));
        }
        Ok(
            match compression::unpack(self.encoding, message, octets(self.limit), self.side)? {
                Unpacked::Whole(message) => Next::Message(message),
                Unpacked::Large(unpacking) => Next::Packed(unpacking),
            },
        )
    }

    /// The stream is over: an error when that is in the middle of a message.
    pub(crate) fn finish(&self) -> Result<(), Status> {
        if self.first.is_empty() && self.header.is_none() {
            return Ok(());
        }
        Err(Status::internal(
            "the stream ended in the middle of a message",
        ))
    }

    /// How much has arrived and was not taken.
    fn buffered(&self) -> usize {
        let rest = self.rest.as_ref().map_or(0, |rest| rest.length);
        self.first.len() + rest
    }

    fn take(&mut self, length: usize) -> Bytes {
        if length == 0 {
            return Bytes::new();
        }
        if self.first.len() >= length {
            let piece = self.first.split_to(length);
            self.move_up();
            return piece;
        }
        let mut message = BytesMut::with_capacity(length);
        while message.len() < length && !self.first.is_empty() {
            let part = self.first.len().min(length - message.len());
            message.extend_from_slice(&self.first.split_to(part));
            self.move_up();
        }
        message.freeze()
    }

    /// Goes on with the next chunk once one is used up.
    fn move_up(&mut self) {
        if !self.first.is_empty() {
            return;
        }
        let Some(rest) = &mut self.rest else {
            self.first = Bytes::new();
            return;
        };
        self.first = rest.chunks.pop_front().unwrap_or_default();
        rest.length -= self.first.len();
        if rest.chunks.is_empty() {
            self.rest = None;
        }
    }
}

/// The message without its prefix, when these octets are one that is not compressed and nothing else.
pub(crate) fn plain_message(mut octets: Bytes, limit: usize) -> Result<Bytes, Bytes> {
    match octets.first_chunk::<PREFIX>() {
        Some([0, l0, l1, l2, l3]) => {
            let length = u32::from_be_bytes([*l0, *l1, *l2, *l3]) as usize;
            if length > limit || length + PREFIX != octets.len() {
                return Err(octets);
            }
            octets.advance(PREFIX);
            Ok(octets)
        }
        _ => Err(octets),
    }
}

/// Decodes one message by its codec.
#[inline]
pub(crate) fn decode<T>(decoder: &Decoder<T>, bytes: Bytes) -> Result<T, Status> {
    outside("a codec");
    let length = bytes.len();
    (decoder.decode)(bytes).map_err(|error| undecodable(decoder.subtype.name(), length, error))
}

/// Decodes one message that stays where it is.
#[inline]
pub(crate) fn decode_slice<T>(decoder: &Decoder<T>, octets: &[u8]) -> Result<T, Status> {
    outside("a codec");
    let outcome = match decoder.decode_slice {
        Some(decode) => decode(octets),
        None => (decoder.decode)(Bytes::copy_from_slice(octets)),
    };
    outcome.map_err(|error| undecodable(decoder.subtype.name(), octets.len(), error))
}

#[cold]
fn undecodable(codec: &str, length: usize, error: DecodeError) -> Status {
    Status::new(
        Code::Internal,
        format!("a message of {length} bytes does not decode as {codec}: {error}"),
    )
    .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Codec;

    fn framed(message: &[u8]) -> Bytes {
        encode(
            Codec::raw().encoder,
            &Bytes::copy_from_slice(message),
            Encoding::Identity,
        )
        .unwrap()
    }

    #[test]
    fn messages_come_out_whole_however_they_are_cut() {
        let messages: [&[u8]; 4] = [b"", b"a", &[9; 1000], b"tail"];
        let stream: Vec<u8> = messages
            .iter()
            .flat_map(|message| framed(message).to_vec())
            .collect();
        for size in [1, 2, 3, 4, 5, 6, 7, 100, 1005, stream.len()] {
            let mut decoder = MessageDecoder::new(Encoding::Identity, 1000);
            let mut out = Vec::new();
            for chunk in stream.chunks(size) {
                decoder.push(Bytes::copy_from_slice(chunk));
                while let Some(message) = decoder.next().unwrap() {
                    out.push(message);
                }
            }
            assert_eq!(out, messages, "chunks of {size}");
            assert!(decoder.finish().is_ok());
        }
    }

    #[test]
    fn a_message_inside_one_chunk_is_not_copied() {
        let chunk = framed(&[1; 100]);
        let mut decoder = MessageDecoder::new(Encoding::Identity, 1000);
        decoder.push(chunk.clone());
        let message = decoder.next().unwrap().unwrap();
        assert_eq!(message.as_ptr(), chunk[PREFIX..].as_ptr());
    }

    #[test]
    fn an_announced_length_past_the_limit_is_refused_before_any_byte_of_it() {
        let mut decoder = MessageDecoder::new(Encoding::Identity, 10);
        decoder.push(Bytes::from_static(&[0, 0, 0, 0, 11]));
        assert_eq!(decoder.next().unwrap_err().code(), Code::ResourceExhausted);
    }

    #[test]
    fn an_announced_length_claims_no_memory() {
        let mut decoder = MessageDecoder::new(Encoding::Identity, usize::MAX);
        decoder.push(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]));
        for arrived in 0..100 {
            assert_eq!(decoder.next().unwrap(), None);
            let chunks = decoder.rest.as_ref().map_or(0, |rest| rest.chunks.len());
            let held = decoder.first.len() + chunks;
            assert_eq!((held, decoder.buffered()), (arrived, arrived));
            decoder.push(Bytes::from_static(&[7]));
        }
    }

    #[test]
    fn bad_flags_are_internal() {
        for flag in [1, 2, 255] {
            let mut decoder = MessageDecoder::new(Encoding::Identity, 10);
            decoder.push(Bytes::copy_from_slice(&[flag, 0, 0, 0, 0]));
            assert_eq!(decoder.next().unwrap_err().code(), Code::Internal);
        }
    }

    #[test]
    fn an_end_mid_message_is_internal() {
        for cut in 1..7 {
            let mut decoder = MessageDecoder::new(Encoding::Identity, 10);
            decoder.push(framed(b"abc").slice(..cut));
            assert_eq!(decoder.next().unwrap(), None);
            assert_eq!(decoder.finish().unwrap_err().code(), Code::Internal);
        }
    }

    #[cfg(feature = "gzip")]
    #[test]
    fn compression_is_per_message() {
        let large = Bytes::from(vec![3u8; 10_000]);
        let small = Bytes::from_static(b"small");
        let mut decoder = MessageDecoder::new(Encoding::Gzip, 10_000);
        let packed = encode(Codec::raw().encoder, &large, Encoding::Gzip).unwrap();
        assert!(packed.len() < 200 && packed[0] == 1);
        decoder.push(packed);
        decoder.push(encode(Codec::raw().encoder, &small, Encoding::Gzip).unwrap());
        assert_eq!(decoder.next().unwrap().unwrap(), large);
        assert_eq!(decoder.next().unwrap().unwrap(), small);
    }
}
